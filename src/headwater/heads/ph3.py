"""PH3: heads that are pruned so that the model follows its documents (or its memory)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from headwater.data.conflict import ConflictLike, conflict_fingerprint, read_conflicts
from headwater.errors import InputError, ModelError
from headwater.heads.conflict_prompts import ConflictPrompt, Toward, prompts_for
from headwater.heads.detector import Detector, Progress
from headwater.headset import HeadScores, HeadSet
from headwater.instrument.replay import replay
from headwater.instrument.scaled_logits import scaled_log_probabilities
from headwater.model.anatomy import Anatomy
from headwater.model.lm import LanguageModel
from headwater.model.memory import within_memory

EXAMPLES = 32  # built-in conflicts
MOST = 15  # heads that the pruning experiments of arXiv 2503.10996 go up to
CACHE_BYTES = 2 * 1024**3  # of keys and values of one pass in total mode


@dataclass
class Ph3Heads(Detector[ConflictLike]):
    """Heads whose removal moves the model towards its documents: PH3-style (arXiv 2402.18154; pear.md 8.2).

    On prompts whose documents contradict memory, each head's output is taken out, one head at a time, and

        score = mean over prompts of the change of y[context] - y[memory],

    y being the logits behind the prompt and the two tokens those at which the answers part. The best heads are "memory
    heads"; pruning is `HeadSet(found.heads[:k], [0.0] * k)` in `hw.scaled` or `hw.fold(..., zeros=True)`, k of 1 to 15
    chosen on development questions. In the style of PH3, not its code: path patching runs on our replay (pear.md 3.3
    and 3.4), at the last prompt token. Unlike `SuppressionHeads` it sees conflicts: say so beside results.

    Attributes:
        top_k: heads to keep (None: 15); of these, heads whose removal does move the model.
        mode: "path": later heads keep their clean outputs, as in path patching. "total": they react. "everywhere": the
            head is zeroed at all positions, which is what pruning does.
        ablation: what replaces an output: "zero", as pruning does; "sequence_mean", its mean over the prompt (not
            everywhere). Prompts differ in length, so there is no batch mean.
        toward: "context", or "memory" for the heads whose removal moves the model to what it remembers.
        template: as for `Reader`.
    """

    mode: Literal["path", "total", "everywhere"] = "path"
    ablation: Literal["zero", "sequence_mean"] = "zero"
    toward: Toward = "context"
    template: str = "auto"

    def __post_init__(self) -> None:
        """Refuse unknown switches before any forward runs."""
        for name, value, known in (
            ("mode", self.mode, ("path", "total", "everywhere")),
            ("ablation", self.ablation, ("zero", "sequence_mean")),
            ("toward", self.toward, ("context", "memory")),
        ):
            if value not in known:
                raise InputError(f"Unknown {name} {value!r}; use one of {', '.join(known)}.")
        if self.mode == "everywhere" and self.ablation != "zero":
            raise InputError("mode='everywhere' zeroes heads, as pruning does; leave ablation='zero'.")

    def read_examples(self, path: str | Path) -> Sequence[ConflictLike]:
        """The conflicts of a .jsonl file (`headwater.data.conflict.read_conflicts`)."""
        return read_conflicts(path)

    def find(
        self, lm: LanguageModel, examples: Sequence[ConflictLike] | None = None, progress: Progress | None = None
    ) -> HeadSet:
        """The heads whose removal moves the model most, best first; fewer than `top_k` where fewer do.

        Raises:
            HeadSetError: `top_k` is out of range.
            ModelError: no head's removal moves the model that way.
        """
        wanted = self._checked_number(lm)
        found = self.score(lm, examples, progress)
        moving = int((np.nan_to_num(found.scores, nan=-1.0) > 0).sum())
        if not moving:
            raise ModelError(f"The removal of no head moves {lm.name!r} towards its {self.toward}.")
        return found.top(min(wanted, moving))

    def _number_kept(self, anatomy: Anatomy) -> int:
        return min(MOST, len(anatomy.all_heads)) if self.top_k is None else self.top_k

    def score(
        self, lm: LanguageModel, examples: Sequence[ConflictLike] | None = None, progress: Progress | None = None
    ) -> HeadScores:
        """Score every head on conflicts.

        Args:
            lm: a loaded model.
            examples: `ConflictExample`s or `hw.world.conflict_examples` (None: 32 built-in ones about known countries,
                those first that the model answers right when asked alone).
            progress: called with (examples done, examples in all).

        Returns:
            Scores `[layers, heads]` in logits, samples (one per example) and groups. Provenance holds standard errors,
            the mean of y[context] - y[memory] before, the share of prompts in which the documents' token is ahead, and
            how many examples were left out because their answers do not part.

        Raises:
            InputError: no conflicts, or none whose answers part.
            ContextOverflowError: a prompt longer than the model reads.
        """
        prompts = prompts_for(lm, examples, self.template, EXAMPLES)
        sign = 1.0 if self.toward == "context" else -1.0
        before, samples = [], []
        for done, example in enumerate(prompts.examples, 1):
            with within_memory("replaying heads"):
                clean, change = self._changes(lm, prompts.build(example))
            before.append(clean)
            samples.append(lm.anatomy.grid((sign * change).tolist()))
            if progress is not None:
                progress(done, len(prompts.examples))
        grid = np.stack(samples)
        provenance = self._provenance(lm, []) | {
            "examples": len(samples),
            "data": conflict_fingerprint(prompts.examples),
            "before": float(np.mean(before)),
            "follows": float(np.mean(np.array(before) > 0)),
            "errors": (grid.std(0) / len(grid) ** 0.5).tolist(),
            **prompts.record(),
        }
        return HeadScores(grid.mean(0), provenance, grid, [str(example.group) for example in prompts.examples])

    def _changes(self, lm: LanguageModel, prompt: ConflictPrompt) -> tuple[float, torch.Tensor]:
        """y[context] - y[memory] of one prompt, and how it changes without each head, float64 `[heads]`."""
        heads = lm.anatomy.all_heads
        if self.mode == "everywhere":
            sets = [None, *(HeadSet([head], [0.0]) for head in heads)]
            logs = scaled_log_probabilities(lm, prompt.ids, sets, [prompt.context, prompt.memory])
            ahead = logs[:, 0] - logs[:, 1]  # what the softmax is divided by cancels
            return float(ahead[0]), ahead[1:] - ahead[0]
        anatomy, rows = lm.anatomy, 256
        if self.mode == "total":  # every row holds a copy of the prompt's keys and values
            token = 2 * anatomy.num_layers * anatomy.num_kv_heads * anatomy.head_dim * lm.dtype.itemsize
            rows = min(rows, max(2, CACHE_BYTES // (token * len(prompt.ids))))
        found = replay(
            lm,
            torch.tensor([prompt.ids]),
            torch.tensor([prompt.context]),
            against=torch.tensor([prompt.memory]),
            mode=self.mode,
            ablation=self.ablation,
            rows=rows,
        )
        return float(found.clean[0]), found.change[:, 0].double().cpu()
