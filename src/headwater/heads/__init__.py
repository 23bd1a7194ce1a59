"""Head detectors: one published method = one file = one dataclass.

A new detector is a file here and a line in `DETECTORS`.
"""

from headwater.heads.detector import Detector
from headwater.heads.query_focused import QueryFocusedHeads
from headwater.heads.random_heads import RandomHeads

DETECTORS: dict[str, type[Detector]] = {
    "query-focused": QueryFocusedHeads,
    "random": RandomHeads,
}

__all__ = ["DETECTORS", "Detector", "QueryFocusedHeads", "RandomHeads"]
