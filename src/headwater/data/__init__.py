"""Documents, ranking examples, file formats and the fact world."""
