"""QRHead: the heads whose attention goes from a query to the documents that answer it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch

from headwater.errors import InputError
from headwater.heads.mass_detector import MassDetector


@dataclass
class QueryFocusedHeads(MassDetector):
    """Query-focused retrieval heads (arXiv 2506.09944, eq. 2-4; qrhead.md 3.4).

    Every head scores every document by its calibrated attention mass. The head's score is the mean over examples of
    the mass on the gold documents (`metric="mass"`; at most 1, around 0 for a head that does not care about the query),
    or of the nDCG@10 of the ranking by that head alone (`metric="ndcg"`). Heads are (layer, head), 0-based; scores are
    `[layer, head]`.

    Attributes:
        metric: "mass" or "ndcg".
    """

    metric: Literal["mass", "ndcg"] = "mass"

    def __post_init__(self, *switches: Any) -> None:
        """Refuse an unknown metric before any forward runs."""
        super().__post_init__(*switches)
        if self.metric not in ("mass", "ndcg"):
            raise InputError(f"Unknown metric {self.metric!r}; use 'mass' or 'ndcg'.")

    def _measure(self, scores: torch.Tensor, grades: torch.Tensor) -> torch.Tensor:
        if self.metric == "ndcg":
            return ndcg(scores, grades, 10)
        gold = scores[:, grades > 0]
        return torch.where(gold.isfinite(), gold, 0.0).sum(-1)


def ndcg(scores: torch.Tensor, grades: torch.Tensor, k: int) -> torch.Tensor:
    """nDCG@k of several rankings of the same documents at once, trec_eval's linear gain.

    Args:
        scores: `[rankings, documents]`; ties keep the input order.
        grades: `[documents]`, at least one positive.
        k: cut-off.

    Returns:
        `[rankings]`.
    """
    discount = 1 / torch.log2(torch.arange(2, len(grades) + 2, dtype=grades.dtype))
    discount[k:] = 0
    order = scores.argsort(dim=-1, descending=True, stable=True)
    ideal = (grades.sort(descending=True).values * discount).sum()
    return (grades[order] * discount).sum(-1) / ideal
