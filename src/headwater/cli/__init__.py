"""The command line: one file per group, thin."""
