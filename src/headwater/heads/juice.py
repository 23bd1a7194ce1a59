"""JuICE: heads to turn up and heads to turn down, so that one of two competing answers becomes likelier."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from headwater.data.conflict import ConflictLike, conflict_fingerprint, read_conflicts
from headwater.errors import InputError, ModelError
from headwater.heads.conflict_prompts import Kind, Toward, prompts_for
from headwater.heads.detector import Detector, Progress
from headwater.headset import Head, HeadScores, HeadSet
from headwater.instrument.scaled_logits import scaled_log_probabilities
from headwater.model.anatomy import Anatomy
from headwater.model.lm import LanguageModel

EXAMPLES = 4  # conflicts, each in three prompts
KINDS: tuple[Kind, ...] = ("clean", "sentence", "documents")
TOKENS = 8192  # of one pass


def default_juice_heads(anatomy: Anatomy) -> int:
    """Heads of each list: 10, in proportion to the 208 of Gemma-2-2B in smaller models; at least one."""
    return max(1, min(10, round(10 * len(anatomy.all_heads) / 208)))


@dataclass
class JuiceHeads(Detector[ConflictLike]):
    """Heads that JuICE turns up and down (arXiv 2503.10996; pear.md 8.2).

    For every head, gain x is tried on three prompts of each example: the question alone ("clean"), beside the one
    sentence that states the other answer ("sentence": swapped sentence), beside the whole documents ("documents":
    coherent conflict). x times the head's own output is added to it at all positions, which is a coefficient of 1 + x;
    what counts is the change of the probability of the wanted answer's next token. The wanted answer is what is true
    for "clean", and the documents' for the others (`toward="memory"`: what is true, always). A head is turned up if its
    mean change under `boosts` is positive in all three kinds, turned down if that under `cuts` (x = -cut) is; each list
    is ranked by the sum over kinds. A head of both lists stays where its sum is larger.

    `find` gives one `HeadSet`: heads to turn up, best first, then those to turn down, with coefficients 1 + `boost` and
    1 - `cut`. It can be used in two ways: "JuICE once", `hw.scaled` or `hw.fold`, at no cost; "JuICE twice",
    `JuiceReader` or `headwater.instrument.twice.twice`, two runs per token, as published. `juiced` gives the set other
    coefficients; the authors choose both of 0 to 5 on development questions. The set has seen conflicts: say so.

    Attributes:
        top_k: heads of each list at most (None: 10, fewer in small models: `default_juice_heads`).
        boost: g of the coefficients.
        cut: q of the coefficients.
        boosts: gains tried for heads to turn up.
        cuts: gains tried, with a minus, for heads to turn down.
        toward: the answer that is wanted: "context" or "memory".
        template: as for `Reader`.
    """

    boost: float = 1.0
    cut: float = 1.0
    boosts: Sequence[float] = (1.0, 3.0, 5.0, 10.0, 30.0)
    cuts: Sequence[float] = (1.0, 2.0, 5.0)
    toward: Toward = "context"
    template: str = "auto"

    def __post_init__(self) -> None:
        """Refuse unknown switches before any forward runs; lists are kept as JSON would give them back."""
        self.boosts, self.cuts = list(self.boosts), list(self.cuts)
        _check(self.boost, self.cut)
        for name, gains in (("boosts", self.boosts), ("cuts", self.cuts)):
            if not gains or not all(math.isfinite(gain) and gain > 0 for gain in gains):
                raise InputError(f"{name} are gains above 0, at least one, got {gains}.")
        if self.toward not in ("context", "memory"):
            raise InputError(f"Unknown toward {self.toward!r}; use context or memory.")

    def read_examples(self, path: str | Path) -> Sequence[ConflictLike]:
        """The conflicts of a .jsonl file (`headwater.data.conflict.read_conflicts`)."""
        return read_conflicts(path)

    def find(
        self, lm: LanguageModel, examples: Sequence[ConflictLike] | None = None, progress: Progress | None = None
    ) -> HeadSet:
        """Both lists as one set with coefficients; provenance names them ("boosted", "cut").

        Raises:
            HeadSetError: `top_k` is out of range.
            ModelError: no head helps in all kinds of prompts.
            InputError, ContextOverflowError: as `score`.
        """
        wanted = self._checked_number(lm)
        scores = self.score(lm, examples, progress)
        up, down = (np.array(scores.provenance[name]) for name in ("up", "down"))
        up_sum, down_sum = up.sum(0), down.sum(0)
        ups, downs = _helps(up), _helps(down)
        boosted = _best(up_sum, ups & ~(downs & (down_sum > up_sum)), wanted)
        cut = _best(down_sum, downs & ~(ups & (up_sum >= down_sum)), wanted)
        if not boosted and not cut:
            raise ModelError(
                f"No head of {lm.name!r}, turned up or down, makes the wanted answer likelier in all kinds of prompts."
            )
        provenance = {**scores.provenance, "boosted": boosted, "cut": cut}
        return juiced(HeadSet([*boosted, *cut], None, scores.scores, provenance), self.boost, self.cut)

    def _number_kept(self, anatomy: Anatomy) -> int:
        return default_juice_heads(anatomy) if self.top_k is None else self.top_k

    def score(
        self, lm: LanguageModel, examples: Sequence[ConflictLike] | None = None, progress: Progress | None = None
    ) -> HeadScores:
        """Try every head.

        Args:
            lm: a loaded model.
            examples: `ConflictExample`s or `hw.world.conflict_examples` (None: 4 built-in ones about known countries,
                those first that the model answers right when asked alone).
            progress: called with (prompts done, prompts in all).

        Returns:
            Scores `[layers, heads]`: the sum over kinds of the mean change when the head is turned up, minus that when
            it is turned down; positive where it should be turned up. Samples (one per example) and groups. Provenance
            holds the parts, `[kinds, layers, heads]`: "up" and "down".

        Raises:
            InputError: no conflicts, none whose answers part, or documents without a sentence that states the answer.
            ContextOverflowError: a prompt longer than the model reads.
        """
        prompts = prompts_for(lm, examples, self.template, EXAMPLES)
        up, down = [], []  # of each example [kinds, layers, heads]
        for done, example in enumerate(prompts.examples):
            parts = []
            for number, kind in enumerate(KINDS):
                built = prompts.build(example, kind)
                wanted = built.memory if kind == "clean" or self.toward == "memory" else built.context
                parts.append(self._changes(lm, built.ids, wanted))
                if progress is not None:
                    progress(done * len(KINDS) + number + 1, len(prompts.examples) * len(KINDS))
            up.append(np.stack([part[0] for part in parts]))
            down.append(np.stack([part[1] for part in parts]))
        samples = np.stack(up).sum(1) - np.stack(down).sum(1)
        provenance = self._provenance(lm, []) | {
            "examples": len(samples),
            "data": conflict_fingerprint(prompts.examples),
            "kinds": list(KINDS),
            "up": np.mean(up, axis=0).tolist(),
            "down": np.mean(down, axis=0).tolist(),
            **prompts.record(),
        }
        return HeadScores(samples.mean(0), provenance, samples, [str(example.group) for example in prompts.examples])

    def _changes(self, lm: LanguageModel, ids: list[int], wanted: int) -> tuple[np.ndarray, np.ndarray]:
        """Mean change of the probability of a token when a head is turned up, and down; both `[layers, heads]`."""
        heads = lm.anatomy.all_heads
        factors = [*(1 + gain for gain in self.boosts), *(1 - gain for gain in self.cuts)]
        sets = [HeadSet([head], [factor]) for head in heads for factor in factors]
        logs = scaled_log_probabilities(lm, ids, [None, *sets], [wanted], rows=max(1, TOKENS // len(ids)))
        chances = logs[:, 0].exp()
        change = (chances[1:] - chances[0]).view(len(heads), len(factors))
        parts = change[:, : len(self.boosts)].mean(1), change[:, len(self.boosts) :].mean(1)
        return lm.anatomy.grid(parts[0].tolist()), lm.anatomy.grid(parts[1].tolist())


def juiced(found: HeadSet, boost: float, cut: float) -> HeadSet:
    """A set of `JuiceHeads` with other coefficients: 1 + `boost` and 1 - `cut`.

    Raises:
        InputError: a set of another method, or gains that are negative or not finite.
    """
    _check(boost, cut)
    lists = [found.provenance.get(name) for name in ("boosted", "cut")]
    if None in lists:
        raise InputError("This head set does not say which heads JuICE turns up and which down; find it by JuiceHeads.")
    up, down = ({(int(layer), int(head)) for layer, head in one or []} for one in lists)
    strange = next((head for head in found.heads if head not in up | down), None)
    if strange is not None:
        raise InputError(f"Head {strange[0]}-{strange[1]} is in neither list of this set; find it by JuiceHeads.")
    return replace(found, coefficients=[1 + boost if head in up else 1 - cut for head in found.heads])


def _check(boost: float, cut: float) -> None:
    for name, gain in (("boost", boost), ("cut", cut)):
        if not (math.isfinite(gain) and gain >= 0):
            raise InputError(f"{name} is a gain of 0 or more, got {gain}.")


def _helps(changes: np.ndarray) -> np.ndarray:
    """Where the change is positive in every kind, bool `[layers, heads]`."""
    found: np.ndarray = (np.nan_to_num(changes, nan=-1.0) > 0).all(0)
    return found


def _best(sums: np.ndarray, allowed: np.ndarray, count: int) -> list[Head]:
    """The allowed heads with the largest sums; ties go to the lower (layer, head)."""
    if not allowed.any():
        return []
    kept = np.where(allowed, sums, np.nan)
    return list(HeadScores(kept).top(min(count, int(allowed.sum()))).heads)
