"""Random heads: the control that every claim about a head set stands beside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from headwater.data.documents import RankingExample
from headwater.heads.detector import Detector, Progress
from headwater.headset import HeadScores
from headwater.model.lm import LanguageModel


@dataclass
class RandomHeads(Detector):
    """Heads drawn uniformly without replacement: every head gets a uniform random score.

    Attributes:
        top_k: heads to draw (None: as many as a detector would keep).
        seed: of the draw.
    """

    seed: int = 0

    def score(
        self, lm: LanguageModel, examples: Sequence[RankingExample] | None = None, progress: Progress | None = None
    ) -> HeadScores:
        """Draw a score for every head; `examples` are not looked at."""
        drawn = np.random.default_rng(self.seed).random(len(lm.anatomy.all_heads))
        return HeadScores(lm.anatomy.grid(drawn.tolist()), self._provenance(lm, []))
