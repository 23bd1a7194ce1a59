"""Where treatments are made: heads found and coefficients learned, each once, kept in the folder of the run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np

from headwater.adapt.pear import Pear
from headwater.adapt.text_kl import plain_texts
from headwater.evaluate.pear.settings import Settings
from headwater.heads.random_heads import RandomHeads
from headwater.heads.suppression import SuppressionHeads, default_suppressors
from headwater.headset import HeadScores, HeadSet
from headwater.model.lm import LanguageModel

Ablation = Literal["batch_mean", "sequence_mean"]
Order = Literal["suppressing", "helpful", "neutral", "shuffled"]
Progress = Callable[[str], Callable[[int, int], None]]
TEXTS = 20  # on which learning looks at text KL; the experiment measures its own


class Workshop:
    """Finds heads and learns coefficients for one model; what it made before is read from the folder.

    Attributes:
        lm: the model.
        settings: sizes and seeds.
        default_k: 30 of 1,024 heads in proportion.
    """

    def __init__(self, lm: LanguageModel, folder: Path, settings: Settings, progress: Progress) -> None:
        """Make the folder."""
        self.lm, self.settings = lm, settings
        self.default_k = default_suppressors(lm.anatomy)
        self._folder, self._progress = folder / "heads", progress
        self._folder.mkdir(parents=True, exist_ok=True)

    def scores(self, seed: int, ablation: Ablation = "batch_mean") -> HeadScores:
        """How much each head suppresses copying (`SuppressionHeads`), positive for suppression."""

        def find() -> HeadSet:
            chosen = self.settings
            detector = SuppressionHeads(
                runs=chosen.runs, seed=seed, ablation=ablation, min_copy_accuracy=chosen.min_copy_accuracy
            )
            found = detector.score(self.lm, progress=self._progress(f"finding heads: {ablation}, seed {seed}"))
            return found.top(int(np.isfinite(found.scores).sum()))

        kept = self.kept(f"found-{ablation}-{seed}", find)
        assert kept.scores is not None
        return HeadScores(kept.scores, kept.provenance)

    def heads(self, k: int, seed: int, order: Order = "suppressing", ablation: Ablation = "batch_mean") -> HeadSet:
        """The first k heads in an order of their scores.

        "suppressing": highest first, of which only those above zero, but at least one (so that a long run is not lost
        where no head suppresses: the tables mark it). "helpful": lowest first.
        "neutral": nearest to zero first. "shuffled": highest first after the scores were dealt out anew.
        """
        found = self.scores(seed, ablation)
        scores = found.scores
        if order == "helpful":
            return HeadScores(-scores, found.provenance).top(k)
        if order == "neutral":
            return HeadScores(-np.abs(scores), found.provenance).top(k)
        if order == "shuffled":
            dealt, places = scores.copy(), np.isfinite(scores)
            dealt[places] = np.random.default_rng(seed).permutation(scores[places])
            scores = dealt
        positive = int((np.nan_to_num(scores) > 0).sum())
        return HeadScores(scores, found.provenance).top(max(1, min(k, positive)))

    def random(self, k: int, seed: int) -> HeadSet:
        """As many random heads as `heads` gives, outside those."""
        own = self.heads(k, seed)
        return RandomHeads(len(own), seed, exclude=own).find(self.lm)

    def learned(self, heads: HeadSet | Literal["all"], seed: int) -> HeadSet:
        """Coefficients of these heads by `Pear`, all else equal."""
        chosen = None if heads == "all" else sorted(heads.heads)
        stem = hashlib.sha256(json.dumps([chosen, seed, self.settings.steps]).encode()).hexdigest()[:12]
        given: HeadSet | Literal["all"] = "all" if heads == "all" else HeadSet(heads.heads)

        def fit() -> HeadSet:
            named = "all heads" if chosen is None else f"{len(chosen)} heads"
            return self.pear(given, seed).fit(self.lm, self._progress(f"learning {named}, seed {seed}"))

        return self.kept(f"learned-{stem}", fit)

    def pear(self, heads: HeadSet | Literal["all"] | None, seed: int) -> Pear:
        """The learner, with the steps of this experiment."""
        steps = self.settings.steps
        return Pear(heads, steps=steps, seed=seed, schedule=max(steps, 2500), texts=plain_texts()[:TEXTS])

    def kept(self, stem: str, make: Callable[[], HeadSet]) -> HeadSet:
        """A set of the run's folder by the name of its file; made once."""
        path = self._folder / f"{stem}.json"
        if not path.exists():
            make().save(path)
        return HeadSet.load(path)
