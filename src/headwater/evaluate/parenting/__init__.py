"""Parenting against plain tuning and its controls: rows, trainings, answers, and what the answers amount to."""
