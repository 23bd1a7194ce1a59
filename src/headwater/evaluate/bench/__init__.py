"""The benchmark: its configuration, the names of tasks and methods, running, summing up, tables and the page."""
