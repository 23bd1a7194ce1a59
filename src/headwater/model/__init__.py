"""Loading a language model, and where things are inside it."""
