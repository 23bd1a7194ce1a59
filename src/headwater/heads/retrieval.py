"""Retrieval heads: the heads that copy from the context while the model writes."""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from headwater.data.needle import (
    BUFFER,
    DEPTHS,
    NEW_TOKENS,
    Needle,
    NeedleCase,
    built_in_haystack,
    built_in_needles,
    lengths_for,
    needle_cases,
    needle_fingerprint,
    read_haystack,
    read_needles,
)
from headwater.data.rouge import rouge1_recall
from headwater.errors import ContextOverflowError, HeadSetError, InputError, NoAcceptedRunsError
from headwater.heads.copy_runs import CopyRun, decode_run, forced_run
from headwater.heads.detector import Detector, Progress
from headwater.heads.stopping import StopRule
from headwater.headset import HeadScores, HeadSet
from headwater.model.lm import LanguageModel
from headwater.prompt.needle import NeedlePrompt, needle_prompt

logger = logging.getLogger("headwater")
NeedleLike = NeedleCase | Needle
EVERY = 20  # accepted runs between two looks of the stop rule
RUNS, RUNS_PER_NEEDLE, NEEDLES = 30, 5, 4  # accepted runs that a set should rest on (retrieval_heads.md 5)
SILENT, WRONG = "said nothing", "did not give the answer"


@dataclass
class RetrievalHeads(Detector[NeedleLike]):
    """Retrieval heads (Wu et al., arXiv 2404.15574; retrieval_heads.md 3).

    A fact is hidden in a long text and asked for. While the model answers, a head has a hit when the position it
    attends to most lies in the answer part of the needle and holds the token that is being produced. A run's score is
    the share of answer positions with a hit; a head's score is the mean over the runs in which the model gave the
    answer. "Retrieval heads" are those with a score of at least 0.1. Heads are (layer, head), 0-based; scores are
    `[layer, head]`.

    Ten runs fix the order for given needles, another needle changes it: have more needles rather than more depths.

    Attributes:
        top_k: heads to keep (None: all with a score of at least `threshold`).
        threshold: score of a retrieval head.
        repeat: "once" counts a position once; "count" counts every hit, as the released code does (scores may pass 1).
        span: where hits count: "answer", the part of the needle that answers, or "needle", all of it, as the paper
            writes (the score is then a share of the whole sentence).
        accept: a run counts if the response holds more than this share of the answer's stemmed words (ROUGE-1 recall).
        run: "decode" lets the model write; "forced" puts the answer there and reads it in one forward, where only
            tokens that the model would have chosen count: quicker, and another quantity.
        max_new_tokens: of a response; it ends at a line break behind some text, or at the end of the turn.
        template: prompt of the cases: "auto", "chat", "base" or "book" (see `headwater.prompt.needle.needle_prompt`).
        lengths: tokens of the cases made from needles (None: `headwater.data.needle.lengths_for` the model).
        depths: of these cases.
        haystack: file or folder with the text of these cases (None: the built-in one).
        buffer: tokens of a case's length kept for question, template and answer.
        stop_when_stable: bootstrap the set by needle after every 20 accepted runs, and stop once its mean overlap was
            at least 0.9 twice running and there are 30 runs, of at least 4 needles with 5 each. Off by default, so that
            all cases are read; provenance says `stable` and `overlaps` either way.
    """

    threshold: float = 0.1
    repeat: Literal["once", "count"] = "once"
    span: Literal["answer", "needle"] = "answer"
    accept: float = 0.5
    run: Literal["decode", "forced"] = "decode"
    max_new_tokens: int = NEW_TOKENS
    template: str = "auto"
    lengths: Sequence[int] | None = field(default=None, kw_only=True)
    depths: Sequence[float] = field(default=DEPTHS, kw_only=True)
    haystack: str | None = field(default=None, kw_only=True)
    buffer: int = field(default=BUFFER, kw_only=True)
    stop_when_stable: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        """Refuse unknown switches before any forward runs; lists are kept as JSON would give them back."""
        self.lengths = None if self.lengths is None else list(self.lengths)
        self.depths = list(self.depths)
        known = {"repeat": ("once", "count"), "span": ("answer", "needle"), "run": ("decode", "forced")}
        for name, values in known.items():
            if getattr(self, name) not in values:
                raise InputError(f"Unknown {name} {getattr(self, name)!r}; use {' or '.join(map(repr, values))}.")
        if not (0 <= self.accept < 1 and self.threshold >= 0 and self.max_new_tokens >= 1 and self.buffer >= 0):
            raise InputError(
                "accept is a share of at least 0 and below 1, threshold and buffer are not negative, max_new_tokens is "
                f"at least 1; got {self.accept}, {self.threshold}, {self.buffer} and {self.max_new_tokens}."
            )

    def read_examples(self, path: str | Path) -> list[NeedleLike]:
        """The needles of a .jsonl file (`headwater.data.needle.read_needles`); `score` lays them over its grid."""
        return list(read_needles(path))

    def cases(self, lm: LanguageModel, examples: Sequence[NeedleLike] | None = None) -> list[NeedleCase]:
        """The cases to read: needles (None: the built-in ones) at every length and depth, cases as they are.

        Raises:
            InputError: no examples, or what `needle_cases` refuses.
        """
        given: Sequence[NeedleLike] = built_in_needles("detection") if examples is None else list(examples)
        if not given:
            raise InputError("There are no needle cases, so there is nothing to find heads with.")
        bare = [needle for needle in given if isinstance(needle, Needle)]
        made: list[NeedleCase] = []
        if bare:
            hay = built_in_haystack("detection") if self.haystack is None else read_haystack(self.haystack)
            lengths = self.lengths or lengths_for(lm.max_length, self.max_new_tokens, self.buffer)
            made = needle_cases(bare, hay, lengths, self.depths, self.seed)
        return [case for case in given if isinstance(case, NeedleCase)] + made

    def find(
        self, lm: LanguageModel, examples: Sequence[NeedleLike] | None = None, progress: Progress | None = None
    ) -> HeadSet:
        """Score every head and keep the best `top_k`, or all of at least `threshold`, best first.

        Raises:
            HeadSetError: `top_k` is not between 1 and the number of heads, or no head reaches the threshold.
        """
        if self.top_k is not None:
            return super().find(lm, examples, progress)
        found = self.score(lm, examples, progress)
        if not (np.nan_to_num(found.scores, nan=-1.0) >= self.threshold).any():
            raise HeadSetError(
                f"No head of {lm.name!r} copies often enough: the best score is {np.nanmax(found.scores):.3f}, below "
                f"{self.threshold}; give top_k or a lower threshold."
            )
        return found.top(self._wanted(found.scores))

    def score(
        self, lm: LanguageModel, examples: Sequence[NeedleLike] | None = None, progress: Progress | None = None
    ) -> HeadScores:
        """Score every head on needle cases, those of all needles taking turns.

        Args:
            lm: a loaded model.
            examples: cases, or needles that are laid over `lengths` and `depths` (None: the built-in needles).
            progress: called with (cases done, cases in all).

        Returns:
            Scores `[layers, heads]`, samples (one per accepted run) and groups (needles). NaN for a head whose sliding
            window never held any of the span; where it did in some runs, the others count 0. Provenance holds the share
            of runs with a hit (`frequency`), the mean attention at hits (`weight`), scores per needle, and the
            rejected runs with their responses.

        Raises:
            NoAcceptedRunsError: the model answered no case.
            InputError: a needle longer than its case, or less text than a case is long.
            ContextOverflowError: a case is longer than the model reads.
        """
        cases = _taking_turns(self.cases(lm, examples), self.seed)
        rule = StopRule(self.seed, EVERY)
        runs: list[CopyRun] = []
        groups: list[str] = []
        rejected: list[dict[str, Any]] = []
        done = 0
        for done, case in enumerate(cases, 1):
            run = self._read(lm, case)
            recall = rouge1_recall(case.answer, run.response)
            if recall > self.accept:
                runs.append(run)
                groups.append(case.name)
                if len(runs) % EVERY == 0:
                    samples = self._samples(lm, runs)
                    settled = rule.stable(samples, groups, self._wanted(samples.mean(0)))
                    if settled and self.stop_when_stable and _enough(groups):
                        break
            else:
                reason = WRONG if run.response else SILENT
                rejected.append({"case": case.id, "reason": reason, "recall": recall, "response": run.response})
            if progress is not None:
                progress(done, len(cases))
        if not runs:
            raise _none_accepted(lm, rejected)
        if not _enough(groups):
            logger.warning(
                "%d runs of %d needles were accepted; %d are wanted, of at least %d needles with %d each.",
                len(runs), len(set(groups)), RUNS, NEEDLES, RUNS_PER_NEEDLE,
            )  # fmt: skip
        samples = self._samples(lm, runs)
        named = np.array(groups)
        provenance = self._provenance(lm, []) | {
            "examples": len(runs),
            "data": needle_fingerprint(cases),
            "cases": {"given": len(cases), "read": done, "accepted": dict(Counter(groups)), "rejected": rejected},
            "grid": {"lengths": sorted({c.length for c in cases}), "depths": sorted({c.depth for c in cases})},
            "needles": {case.name: case.needle.statement for case in cases},
            "enough": _enough(groups),
            "stable": rule.settled if rule.overlaps else None,
            "overlaps": rule.overlaps,
            "frequency": _listed((np.nan_to_num(samples) > 0).mean(0)),
            "weight": _listed(_grid(lm, _weights(runs))),
            "per_needle": {name: _listed(samples[named == name].mean(0)) for name in sorted(set(groups))},
        }
        return HeadScores(samples.mean(0), provenance, samples, groups)

    def _wanted(self, scores: np.ndarray) -> int:
        """How many heads the set will hold, at least one."""
        above = int((np.nan_to_num(scores, nan=-1.0) >= self.threshold).sum())
        return max(1, above) if self.top_k is None else self.top_k

    def _read(self, lm: LanguageModel, case: NeedleCase) -> CopyRun:
        """One run."""
        prompt: NeedlePrompt = needle_prompt(lm.tokenizer, case, self.template, self.buffer)
        room = len(prompt.continuation) if self.run == "forced" else self.max_new_tokens
        needed = len(prompt.ids) + room
        if lm.max_length is not None and needed > lm.max_length:
            raise ContextOverflowError(
                f"The case {case.id} takes {len(prompt.ids)} tokens and {room} for the answer, but {lm.name} reads "
                f"{lm.max_length}; take shorter cases.",
                tokens=needed,
                limit=lm.max_length,
            )
        span = prompt.answer if self.span == "answer" else prompt.needle
        if self.run == "forced":
            return forced_run(lm, prompt, span)
        return decode_run(lm, prompt, span, self.max_new_tokens)

    def _samples(self, lm: LanguageModel, runs: Sequence[CopyRun]) -> np.ndarray:
        """Scores of accepted runs, `[runs, layers, heads]`; NaN for heads that never saw a needle."""
        values = torch.stack([run.once if self.repeat == "once" else run.count for run in runs])
        blind = ~torch.stack([run.saw for run in runs]).any(0)
        return np.stack([_grid(lm, value.masked_fill(blind, torch.nan)) for value in values])


def _taking_turns(cases: Sequence[NeedleCase], seed: int) -> list[NeedleCase]:
    """One case of each needle after the other, those of a needle shuffled: the first runs are of all needles."""
    by_needle: dict[str, list[NeedleCase]] = {}
    for case in cases:
        by_needle.setdefault(case.name, []).append(case)
    for name, own in by_needle.items():
        random.Random(f"headwater/retrieval/{name}/{seed}").shuffle(own)
    return [case for turn in zip_longest(*by_needle.values()) for case in turn if case is not None]


def _enough(groups: Sequence[str]) -> bool:
    """Whether there are 30 accepted runs, of 4 needles with 5 each (retrieval_heads.md 5)."""
    full = sum(count >= RUNS_PER_NEEDLE for count in Counter(groups).values())
    return len(groups) >= RUNS and full >= NEEDLES


def _none_accepted(lm: LanguageModel, rejected: Sequence[dict[str, Any]]) -> NoAcceptedRunsError:
    reasons = dict(Counter(run["reason"] for run in rejected))
    said = [run["response"][:120] for run in rejected if run["response"]][:3]
    counts = ", ".join(f"{reason}: {count}" for reason, count in reasons.items())
    heard = f" It said, for example, {', '.join(map(repr, said))}." if said else ""
    return NoAcceptedRunsError(
        f"{lm.name!r} answered none of {len(rejected)} needle cases ({counts}), so nothing says which heads copy."
        f"{heard} Take shorter lengths, another template, or a model that answers questions.",
        reasons=reasons,
        responses=said,
    )


def _weights(runs: Sequence[CopyRun]) -> torch.Tensor:
    """Mean attention at the hits of every head over the runs in which it has any, 0 without."""
    weight = torch.stack([run.weight for run in runs])
    return weight.sum(0) / (weight > 0).sum(0).clamp(min=1)


def _grid(lm: LanguageModel, values: torch.Tensor) -> np.ndarray:
    return lm.anatomy.grid(values.tolist())


def _listed(grid: np.ndarray) -> list[list[float | None]]:
    """A grid for JSON; None where there is no number."""
    return [[round(float(value), 4) if np.isfinite(value) else None for value in row] for row in grid]
