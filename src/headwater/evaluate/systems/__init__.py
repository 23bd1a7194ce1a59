"""Systems: what is measured on tasks. Each knows no task; `headwater.evaluate.catalogue` names them."""
