"""Data for Parenting: questions to probe a model with, and the training and test sets built from what it said."""
