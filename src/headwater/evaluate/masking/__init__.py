"""The masking experiment: tasks with heads taken out, beside random, layer-matched and bottom controls."""
