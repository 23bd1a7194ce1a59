"""PEAR's detector: the heads that suppress copying from the context."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch

from headwater.data.documents import RankingExample
from headwater.errors import InputError, ModelError
from headwater.heads.detector import Detector, Progress
from headwater.headset import HeadScores, HeadSet
from headwater.instrument.layer_replay import layer_replay
from headwater.instrument.outputs import ablated
from headwater.instrument.replay import Replayed, replay
from headwater.instrument.token_scores import centred_scores
from headwater.model.anatomy import Anatomy
from headwater.model.lm import LanguageModel
from headwater.model.memory import within_memory
from headwater.prompt.copying import CopyTask

logger = logging.getLogger("headwater")

Run = tuple[int, int]
RUNS: tuple[Run, ...] = ((100, 10), (100, 15), (100, 25), (100, 50))
OFFICIAL_RUNS: tuple[Run, ...] = ((20, 50), (40, 25), (80, 15), (100, 10))
CACHE_BYTES = 2 * 1024**3  # of keys and values of one pass in total mode
UNRANKED = 3.0  # a change below so many times its noise or standard error says nothing


def default_suppressors(anatomy: Anatomy) -> int:
    """30 of 1,024 heads, in proportion; at least one (pear.md 4)."""
    return max(1, round(len(anatomy.all_heads) * 30 / 1024))


@dataclass
class SuppressionHeads(Detector):
    """Heads that talk over the context (PEAR, arXiv 2409.19745; pear.md 3.1-3.5).

    A sequence of random tokens is said twice; each head's output at the last position but one of the copy is replaced,
    one head at a time. Where the logit of the right token RISES, the head suppresses copying. A head's score is the
    change of the mean centred logit over the clean one (`metric="ratio"`); positive means suppression. No documents and
    no labels are needed.

    Attributes:
        top_k: heads to keep (None: 30 of 1,024, in proportion).
        mode: "path": later heads keep their clean outputs. "total": they react. "everywhere": the head is replaced at
            all positions, one forward per head, for a few heads or small models; what a fold does.
        ablation: what replaces an output: "batch_mean", "sequence_mean" or "zero".
        runs: (sequences, block length) of each run; scores are combined over runs.
        metric: "ratio", or "difference" of centred logits.
        combine: over runs: "mean" of scores, "mean_rank" (negative), or "count" of runs with the head in the top.
        task: how sequences are drawn.
        min_copy_accuracy: a model that copies less cannot show which heads suppress copying.
        engine: "tokens": one token per head and sequence, any family. "layers": rows that begin at their head's layer,
            about twice as fast, mode "path" only.
        preset: "official" sets every switch to the released code's value (pear.md 4).
    """

    mode: Literal["path", "total", "everywhere"] = "path"
    ablation: Literal["batch_mean", "sequence_mean", "zero"] = "batch_mean"
    runs: Sequence[Run] = RUNS
    metric: Literal["ratio", "difference"] = "ratio"
    combine: Literal["mean", "mean_rank", "count"] = "mean"
    task: CopyTask = field(default_factory=CopyTask)
    min_copy_accuracy: float = 0.2
    engine: Literal["tokens", "layers"] = "tokens"
    preset: Literal["official"] | None = None

    def __post_init__(self) -> None:
        """Apply the preset; refuse unknown switches before any forward runs."""
        if self.preset == "official":
            self.runs, self.metric = OFFICIAL_RUNS, "difference"
            self.ablation, self.mode, self.combine = "batch_mean", "path", "mean"
            self.task = CopyTask(ids="all", distinct=False, begin="never")
        elif self.preset is not None:
            raise InputError(f"Unknown preset {self.preset!r}; the only one is 'official'.")
        for name, value, known in (
            ("mode", self.mode, ("path", "total", "everywhere")),
            ("ablation", self.ablation, ("batch_mean", "sequence_mean", "zero")),
            ("metric", self.metric, ("ratio", "difference")),
            ("combine", self.combine, ("mean", "mean_rank", "count")),
            ("engine", self.engine, ("tokens", "layers")),
        ):
            if value not in known:
                raise InputError(f"Unknown {name} {value!r}; use one of {', '.join(known)}.")
        if self.engine == "layers" and self.mode != "path":
            raise InputError(f"engine='layers' runs mode='path' only, got {self.mode!r}; use engine='tokens'.")
        self.runs = tuple((int(n), int(length)) for n, length in self.runs)
        if not self.runs or min(min(run) for run in self.runs) < 2:
            raise InputError("Give at least one run of two sequences and two tokens or more, as runs=[(100, 25)].")
        if not 0 <= self.min_copy_accuracy <= 1:
            raise InputError(f"min_copy_accuracy is a share between 0 and 1, got {self.min_copy_accuracy}.")

    def find(
        self, lm: LanguageModel, examples: Sequence[RankingExample] | None = None, progress: Progress | None = None
    ) -> HeadSet:
        """The heads that suppress most, best first; fewer than `top_k` where fewer suppress at all.

        Raises:
            HeadSetError: `top_k` is out of range.
            ModelError: the model does not copy, or no head suppresses.
        """
        wanted = self._checked_number(lm)
        scores = self.score(lm, examples, progress)
        ranked = scores.top(min(wanted, int(np.isfinite(scores.scores).sum())))
        changes = np.array(scores.provenance["change"])
        kept = [head for head in ranked.heads if changes[head] > 0]
        if not kept:
            raise ModelError(
                f"No head of {lm.name!r} suppresses copying: replacing any of them lowers the right logit."
            )
        if len(kept) < wanted:
            logger.warning("Only %d heads suppress copying, %d were asked for.", len(kept), wanted)
        unranked = [f"{layer}-{head}" for layer, head in kept if [layer, head] in scores.provenance["unranked"]]
        if unranked:
            logger.warning("Within noise, so that their order says little: %s.", ", ".join(unranked))
        return HeadSet(kept, scores=ranked.scores, provenance=ranked.provenance)

    def _number_kept(self, anatomy: Anatomy) -> int:
        return default_suppressors(anatomy) if self.top_k is None else self.top_k

    def score(
        self, lm: LanguageModel, examples: Sequence[RankingExample] | None = None, progress: Progress | None = None
    ) -> HeadScores:
        """Score every head; `examples` are not looked at, sequences are drawn by `seed`.

        Returns:
            Scores `[layers, heads]`, positive for suppression; provenance holds the change per run, standard errors,
            copy accuracy, noise, and the heads whose change lies within three times either ("unranked").

        Raises:
            ModelError: copy accuracy below `min_copy_accuracy`, or a clean score that is not positive.
            ContextOverflowError: blocks longer than the model reads.
        """
        per_run, errors, samples, clean, correct, noise = [], [], [], [], [], 0.0
        for number, (sequences, length) in enumerate(self.runs):
            ids = self.task.draw(lm, sequences, length, torch.Generator().manual_seed(self.seed * 1_000 + number))
            with within_memory("replaying heads"):
                found = self._run(lm, ids[:, :-1], ids[:, -1], progress, number)
            base = found.clean.double().mean().item()
            accuracy = found.correct.double().mean().item()
            if accuracy < self.min_copy_accuracy or base <= 0:
                raise ModelError(
                    f"{lm.name!r} copies {accuracy:.0%} of random tokens (blocks of {length}, mean centred logit "
                    f"{base:.2f}); at least {self.min_copy_accuracy:.0%} and a positive logit are needed to see which "
                    "heads suppress copying."
                )
            unit = base if self.metric == "ratio" else 1.0
            change = found.change.double().cpu() / unit
            per_run.append(lm.anatomy.grid(change.mean(1).tolist()))
            errors.append(lm.anatomy.grid((change.std(1) / sequences**0.5).tolist()))
            weight = sum(n for n, _ in self.runs) / (len(self.runs) * sequences)  # so that the mean is that of the runs
            samples += [lm.anatomy.grid(column.tolist()) for column in weight * change.T]
            clean.append(base)
            correct.append(accuracy)
            noise = max(noise, found.noise / abs(unit))
        change = np.mean(per_run, axis=0)
        spread = np.sqrt(np.sum(np.square(errors), axis=0)) / len(errors)
        doubtful = np.abs(change) < UNRANKED * np.maximum(spread, noise)
        provenance = self._provenance(
            lm,
            [],
            change=change.tolist(),
            per_run=[grid.tolist() for grid in per_run],
            errors=spread.tolist(),
            unranked=[[int(i) for i in head] for head in np.argwhere(doubtful)],
            clean=clean,
            copy_accuracy=correct,
            noise=noise,
            begin=len(self.task.first(lm)),
        )
        # of a rank or a count there is no sample of which it is the mean
        return HeadScores(
            self._combined(per_run, lm.anatomy), provenance, np.stack(samples) if self.combine == "mean" else None
        )

    def _run(
        self, lm: LanguageModel, ids: torch.Tensor, targets: torch.Tensor, progress: Progress | None, number: int
    ) -> Replayed:
        """One run by the one-token replay, or by one forward per head."""

        def step(done: int, total: int) -> None:
            if progress is not None:
                progress(number * total + done, len(self.runs) * total)

        if self.engine == "layers":
            return layer_replay(lm, ids, targets, ablation=self.ablation, progress=step)
        if self.mode != "everywhere":
            rows = max(256, 8 * len(ids))
            if self.mode == "total":  # every row holds a copy of its sequence's keys and values
                anatomy = lm.anatomy
                row = (
                    2 * anatomy.num_layers * anatomy.num_kv_heads * anatomy.head_dim * ids.shape[1] * lm.dtype.itemsize
                )
                rows = min(rows, max(2 * len(ids), CACHE_BYTES // row))
            return replay(lm, ids, targets, mode=self.mode, ablation=self.ablation, rows=rows, progress=step)
        heads = lm.anatomy.all_heads
        clean, correct = centred_scores(lm, ids, targets)
        change = torch.empty(len(heads), len(ids), dtype=clean.dtype)
        for place, head in enumerate(heads):
            with ablated(lm, [head], mode=self.ablation):
                change[place] = (centred_scores(lm, ids, targets)[0] - clean).cpu()
            step(place + 1, len(heads))
        return Replayed(heads, clean, change, correct, 0.0)

    def _combined(self, per_run: Sequence[np.ndarray], anatomy: Anatomy) -> np.ndarray:
        if self.combine == "mean":
            return np.mean(per_run, axis=0)
        if self.combine == "mean_rank":
            ranks = [(-grid).ravel().argsort(kind="stable").argsort().reshape(grid.shape) for grid in per_run]
            return np.where(np.isnan(per_run[0]), np.nan, -np.mean(ranks, axis=0))
        wanted = self._number_kept(anatomy)
        counts = np.zeros_like(per_run[0])
        for grid in per_run:
            for head in HeadScores(grid).top(min(wanted, int(np.isfinite(grid).sum()))).heads:
                counts[head] += grid[head] > 0
        return np.where(np.isnan(per_run[0]), np.nan, counts)
