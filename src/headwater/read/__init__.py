"""Reading: an answer out of documents."""
