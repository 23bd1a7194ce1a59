"""What the detectors on attention mass share: the loop over examples, the switches, the rule when to stop."""

from __future__ import annotations

import logging
import random
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import InitVar, dataclass, field, fields, replace
from typing import Any

import numpy as np
import torch

from headwater.data.documents import Document, RankingExample
from headwater.errors import InputError
from headwater.heads.detector import Detector, Progress, built_in_examples
from headwater.heads.mass import PreparedDocuments
from headwater.heads.stopping import StopRule
from headwater.heads.switches import MassSettings, Order, check_choice, prompt_order
from headwater.headset import Head, HeadScores
from headwater.model.lm import LanguageModel
from headwater.prompt import prompt_template

logger = logging.getLogger("headwater")
EVERY = 16  # examples between two looks of the stop rule (qrhead.md 5)
_SWITCHES = [switch.name for switch in fields(MassSettings)]


@dataclass
class MassDetector(Detector[RankingExample]):
    """Base of the detectors on attention mass: a subclass turns the document scores of every head into one number.

    Attributes:
        settings: switches of the document score. Each of them is a keyword of its own as well (`tail="query"`), which
            changes that one.
        order: of the documents in the prompt: "shuffled" by (seed, query id), "given" or "reversed".
        stop_when_stable: take the examples in an order drawn from the seed, bootstrap the top heads 200 times after
            every 16, and stop once their mean overlap was at least 0.9 twice running (so not before 32); provenance
            says `examples` (used), `examples_given`, `stable` and `overlaps`. Off by default, so that detectors are
            compared on the same examples; use it where examples are many or slow.
    """

    settings: MassSettings = field(default_factory=MassSettings, kw_only=True)
    order: Order = field(default="shuffled", kw_only=True)
    stop_when_stable: bool = field(default=False, kw_only=True)
    template: InitVar[str | None] = field(default=None, kw_only=True)
    instruction: InitVar[str | None] = field(default=None, kw_only=True)
    null_query: InitVar[str | None] = field(default=None, kw_only=True)
    calibrate: InitVar[bool | None] = field(default=None, kw_only=True)
    outlier_filter: InitVar[bool | None] = field(default=None, kw_only=True)
    tail: InitVar[str | None] = field(default=None, kw_only=True)
    doc_span: InitVar[str | None] = field(default=None, kw_only=True)
    reduce: InitVar[str | None] = field(default=None, kw_only=True)
    dedupe: InitVar[bool | None] = field(default=None, kw_only=True)
    max_doc_tokens: InitVar[int | None] = field(default=None, kw_only=True)
    overlap_idf: InitVar[bool | None] = field(default=None, kw_only=True)
    entropy: InitVar[float | None] = field(default=None, kw_only=True)

    def __post_init__(self, *switches: Any) -> None:
        """Put the switches given by keyword into the settings, which refuse unknown values."""
        given = {name: value for name, value in zip(_SWITCHES, switches, strict=True) if value is not None}
        self.settings = replace(self.settings, **given)
        check_choice("order", self.order)

    @abstractmethod
    def _measure(self, scores: torch.Tensor, grades: torch.Tensor) -> torch.Tensor:
        """One number per head from its document scores `[heads, documents]` (-inf: blank) and grades `[documents]`."""

    def score(
        self, lm: LanguageModel, examples: Sequence[RankingExample] | None = None, progress: Progress | None = None
    ) -> HeadScores:
        """Score every head; examples without a gold document are skipped.

        Returns:
            Scores `[layers, heads]`, with `samples` and `groups`; NaN for a head whose sliding window is shorter than a
            prompt.

        Raises:
            InputError: no example has a gold document.
            ContextOverflowError: an example does not fit what the model reads.
        """
        given = built_in_examples() if examples is None else list(examples)
        used = [
            example
            for example in given
            if any(
                grade > 0 and not (isinstance(document, Document) and document.blank)
                for grade, document in zip(example.grades(), example.documents, strict=True)
            )
        ]
        if not used:
            raise InputError("No example lists a relevant document, so there is nothing to find heads with.")
        rule, wanted = None, self._number_kept(lm.anatomy)
        if self.stop_when_stable:
            random.Random(f"{self.seed}:examples").shuffle(used)
            rule = StopRule(self.seed, EVERY)
        groups = [example.group or example.id or example.query for example in used]
        samples = np.full((len(used), lm.anatomy.num_layers, lm.anatomy.num_heads), np.nan)
        local: set[Head] = set()
        done = 0
        for done, example in enumerate(used, 1):
            samples[done - 1] = self._sample(lm, example, local)
            if progress is not None:
                progress(done, len(used))
            if rule is not None and rule.stable(_without(samples[:done], local), groups[:done], wanted):
                break
        if local:
            logger.warning("%d heads see only a window shorter than the prompts; they get no score.", len(local))
        samples = _without(samples[:done], local)
        settings = self.settings
        more: dict[str, Any] = {
            "prompt": prompt_template(lm.tokenizer, settings.template, settings.instruction).fingerprint,
            "local_heads": sorted(local),
        }
        if rule is not None:
            more |= {"examples_given": len(used), "stable": rule.settled, "overlaps": rule.overlaps}
        return HeadScores(samples.mean(0), self._provenance(lm, used[:done], **more), samples, groups[:done])

    def _sample(self, lm: LanguageModel, example: RankingExample, local: set[Head]) -> np.ndarray:
        """The numbers of one example, `[layers, heads]`; heads that could not see all of it are added to `local`."""
        documents = [d for d in example.documents if isinstance(d, Document)]
        order = prompt_order(self.order, len(documents), f"{self.seed}:{example.id or example.query}")
        heads = lm.anatomy.all_heads
        mass = PreparedDocuments(lm, documents, heads, self.settings, order).mass(example.query)
        local.update(mass.local)
        grades = torch.tensor(example.grades(), dtype=torch.float64)
        return lm.anatomy.grid(self._measure(mass.per_head().to("cpu", torch.float64), grades).tolist())


def _without(samples: np.ndarray, local: set[Head]) -> np.ndarray:
    """A copy of the samples in which some heads have none."""
    out = samples.copy()
    for layer, head in local:
        out[:, layer, head] = np.nan
    return out
