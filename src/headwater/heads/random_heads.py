"""Random heads: the control that every claim about a head set stands beside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from headwater.data.documents import RankingExample
from headwater.errors import HeadSetError
from headwater.heads.detector import Detector, Progress
from headwater.headset import HeadScores, HeadSet, HeadsLike, as_heads
from headwater.instrument.rows import by_layer
from headwater.model.anatomy import Anatomy
from headwater.model.lm import LanguageModel


@dataclass
class RandomHeads(Detector):
    """Heads drawn uniformly without replacement: every head gets a uniform random score, NaN where it is ruled out.

    Attributes:
        top_k: heads to draw (None: as many as `like` has, else as many as a detector would keep).
        seed: of the draw.
        exclude: heads that are never drawn.
        like: heads whose layers are matched: as many heads of each layer are drawn (retrieval_heads.md 8).
    """

    seed: int = 0
    exclude: HeadSet | HeadsLike = field(default=(), kw_only=True)
    like: HeadSet | HeadsLike | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        """Keep plain pairs, and check how many are drawn.

        Raises:
            HeadSetError: something that is not a list of heads, or a `top_k` other than the number of heads in `like`.
        """
        self.exclude = as_heads(self.exclude)
        if self.like is None:
            return
        self.like = as_heads(self.like)
        if not self.like or self.top_k not in (None, len(self.like)):
            raise HeadSetError(
                f"like= holds {len(self.like)} heads and top_k is {self.top_k}: give at least one head to match, and "
                "leave top_k out."
            )

    def score(
        self, lm: LanguageModel, examples: Sequence[RankingExample] | None = None, progress: Progress | None = None
    ) -> HeadScores:
        """Draw a score for every head that may be drawn; `examples` are not looked at.

        Returns:
            Scores `[layers, heads]` between 0 and 1; NaN for excluded heads, with `like` for all but the heads drawn.

        Raises:
            HeadSetError: a head that the model does not have, or fewer heads left than are wanted.
        """
        anatomy, excluded = lm.anatomy, list(dict.fromkeys(as_heads(self.exclude)))
        if excluded:
            by_layer(excluded, anatomy)
        drawn = anatomy.grid(np.random.default_rng(self.seed).random(len(anatomy.all_heads)).tolist())
        for head in excluded:
            drawn[head] = np.nan
        if self.like is not None:
            drawn = _matched(drawn, {layer: len(members) for layer, members in by_layer(self.like, anatomy).items()})
        wanted = self._number_kept(anatomy)
        left = int(np.isfinite(drawn).sum())
        if left < wanted:
            raise HeadSetError(
                f"{wanted} heads cannot be drawn: {left} of the {len(anatomy.all_heads)} are left outside the "
                f"{len(excluded)} excluded ones."
            )
        return HeadScores(drawn, self._provenance(lm, []))

    def _number_kept(self, anatomy: Anatomy) -> int:
        """As many heads as are matched; settled here, so that `dataclasses.replace` may match others."""
        return super()._number_kept(anatomy) if self.like is None else len(as_heads(self.like))


def _matched(drawn: np.ndarray, counts: dict[int, int]) -> np.ndarray:
    """The scores of the highest `counts[layer]` heads of each layer, NaN elsewhere."""
    out = np.full_like(drawn, np.nan)
    for layer, count in counts.items():
        order = np.argsort(-np.nan_to_num(drawn[layer], nan=-1.0), kind="stable")[:count]
        if not np.isfinite(drawn[layer, order]).all():
            raise HeadSetError(
                f"{count} heads of layer {layer} cannot be drawn: {int(np.isfinite(drawn[layer]).sum())} are left "
                "outside the excluded ones."
            )
        out[layer, order] = drawn[layer, order]
    return out
