"""QRHead: the heads whose attention goes from a query to the documents that answer it."""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch

from headwater.data.documents import Document, RankingExample
from headwater.errors import InputError
from headwater.heads.detector import Detector, Progress, built_in_examples
from headwater.heads.mass import MassSettings, PreparedDocuments
from headwater.headset import Head, HeadScores
from headwater.model.lm import LanguageModel
from headwater.prompt import prompt_template

logger = logging.getLogger("headwater")


@dataclass
class QueryFocusedHeads(Detector):
    """Query-focused retrieval heads (arXiv 2506.09944, eq. 2-4; qrhead.md 3.4).

    Every head scores every document by its calibrated attention mass. The head's score is the mean over examples of
    the mass on the gold documents (`metric="mass"`), or of the nDCG@10 of the ranking by that head alone
    (`metric="ndcg"`). Heads are (layer, head), 0-based; scores are `[layer, head]`.

    Attributes:
        metric: "mass" or "ndcg".
        settings: switches of the document score.
    """

    metric: Literal["mass", "ndcg"] = "mass"
    settings: MassSettings = field(default_factory=MassSettings)

    def __post_init__(self) -> None:
        """Refuse an unknown metric before any forward runs."""
        if self.metric not in ("mass", "ndcg"):
            raise InputError(f"Unknown metric {self.metric!r}; use 'mass' or 'ndcg'.")

    def score(
        self, lm: LanguageModel, examples: Sequence[RankingExample] | None = None, progress: Progress | None = None
    ) -> HeadScores:
        """Score every head. Documents are shuffled by (seed, query id); examples without a gold document are skipped.

        Returns:
            Scores `[layers, heads]`; for "mass" at most 1, around 0 for a head that does not care about the query; NaN
            for a head whose sliding window is shorter than a prompt.

        Raises:
            InputError: no example has a gold document.
            ContextOverflowError: an example does not fit what the model reads.
        """
        given = built_in_examples() if examples is None else list(examples)
        used = [example for example in given if any(grade > 0 for grade in example.grades())]
        if not used:
            raise InputError("No example lists a relevant document, so there is nothing to find heads with.")
        heads = lm.anatomy.all_heads
        prompt = prompt_template(lm.tokenizer, self.settings.template, self.settings.instruction).fingerprint
        samples = np.zeros((len(used), lm.anatomy.num_layers, lm.anatomy.num_heads))
        local: set[Head] = set()
        for done, example in enumerate(used):
            documents = [d for d in example.documents if isinstance(d, Document)]
            order = list(range(len(documents)))
            random.Random(f"{self.seed}:{example.id or example.query}").shuffle(order)
            mass = PreparedDocuments(lm, documents, heads, self.settings, order).mass(example.query)
            local.update(mass.local)
            grades = torch.tensor(example.grades(), dtype=torch.float64)
            samples[done] = lm.anatomy.grid(self._measure(mass.per_head().to("cpu", torch.float64), grades).tolist())
            if progress is not None:
                progress(done + 1, len(used))
        if local:
            for layer, head in local:
                samples[:, layer, head] = np.nan
            logger.warning("%d heads see only a window shorter than the prompts; they get no score.", len(local))
        groups = [example.group or example.id or example.query for example in used]
        provenance = self._provenance(lm, used, prompt=prompt, local_heads=sorted(local))
        return HeadScores(samples.mean(0), provenance, samples, groups)

    def _measure(self, scores: torch.Tensor, grades: torch.Tensor) -> torch.Tensor:
        """One number per head from its document scores `[heads, documents]`."""
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
