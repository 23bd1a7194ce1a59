"""The only room that touches model internals."""
