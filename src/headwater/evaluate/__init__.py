"""Measuring: metrics, statistics, experiments and reports."""
