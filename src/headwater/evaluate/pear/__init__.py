"""PEAR against its controls and rivals: questions, treatments, answers, and what the answers amount to."""
