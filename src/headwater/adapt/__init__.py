"""What changes weights: coefficients of heads, adapters, tuned models."""
