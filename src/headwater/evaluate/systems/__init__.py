"""Systems: what is measured on tasks. Each knows no task; `evaluate/bench/catalogue.py` names them."""
