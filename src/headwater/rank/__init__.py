"""Ranking documents with attention heads."""
