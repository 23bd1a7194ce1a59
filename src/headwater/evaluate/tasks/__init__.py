"""Tasks: examples and scores. Each file knows its data and no system; `evaluate/bench/catalogue.py` names them."""
