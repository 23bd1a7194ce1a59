"""Tasks: examples and scores. Each file knows its data and no system; `headwater.evaluate.catalogue` names them."""
