"""Parenting: split the weights by capability, then tune each part with its own losses."""
