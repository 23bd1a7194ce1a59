"""`ContrastiveTuning`: a language model becomes a bi-encoder (LLaRA, arXiv 2312.15503, stage 2; llara.md 3.6)."""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

import headwater
from headwater.adapt.contrastive_data import Deck, to_train_and_check, training_queries
from headwater.adapt.contrastive_loss import ContrastiveLoss
from headwater.adapt.contrastive_steps import Bench, Development, judge_name, taught_scores
from headwater.adapt.folder import RECORD, begin
from headwater.adapt.parenting.processes import Team, team
from headwater.adapt.trainable import RATES, TRAINABLE, check_trainable, opened, save_tuned
from headwater.atomic import write_text
from headwater.data.documents import RankingExample
from headwater.errors import InputError, InsufficientMemoryError
from headwater.heads.detector import Progress, data_fingerprint
from headwater.model.adapter import require_peft
from headwater.model.lm import LanguageModel
from headwater.prompt.suffix import FILE, EmbeddingPrompt, check_pair, embedding_prompt
from headwater.rank.qr import QRRetriever
from headwater.search.embedder import Embedder, own_prompt, own_record
from headwater.search.mine import Judge

logger = logging.getLogger("headwater")

TEACHER = "teacher-{}.jsonl"  # one of each process
_CARD = """---
base_model: {name}
---
# {name} as a dense retriever

Tuned by headwater's contrastive tuning (LLaRA, stage 2) on {queries} queries with {negatives} negatives each
({steps} steps; the weights are those of step {best}). Queries and documents are embedded with prompts of their own,
kept in `headwater.json`; do not embed without them.

    embedder = headwater.Embedder("this folder")
    embedder.embed(["a question"], kind="query") @ embedder.embed(["a passage"], kind="document").T
"""


@dataclass
class ContrastiveTuning:
    """Contrastive tuning of an embedder, with the passages of all queries of a step, of all processes, as negatives.

    The loss is InfoNCE over cosines (llara.md 3.6), mixed with the distillation of a teacher's scores where there is
    one. With development examples the weights of the best nDCG@10 on them are kept.

    Attributes:
        trainable: "lora" or "full". A model that carries an adapter (one that `Llara` adapted) has that one trained on.
        rank: of the adapter.
        alpha: the adapter is scaled by alpha / rank.
        dropout: of the adapter's input.
        learning_rate: the highest, after a warm-up over a tenth of the steps; AdamW, linear decay. None: 1e-4, and
            1e-5 of "full".
        epochs: how often each query is trained on.
        steps: optimizer steps instead of epochs.
        batch: queries of a step, over all processes (fewer where there are fewer queries).
        chunk: texts encoded at a time (GradCache: the memory of one chunk, at the price of encoding twice); None: all.
        negatives: of each query, drawn from its documents without a grade; None: as many as every query has, at
            most 15.
        temperature: of the softmax over cosines.
        dimensions: also train the first so many dimensions (Matryoshka), for example (256, 128, 64).
        mask_known: known positives of a query are never its negatives.
        mask_margin: nor are passages whose cosine is above the positive's by more than this (None: they are).
        teacher: scores for (query, documents), as `QRRetriever(lm).score` or `CrossEncoderModel(name).scores`; "qr":
            the `QRRetriever` of the model itself, before it is tuned.
        distill: share of the distillation in the loss, 0 to 1; needs a teacher.
        teacher_temperature: of the teacher's scores (None: 0.01 for "qr", else 1).
        pair: roles of query and document, see `EmbeddingPrompt` (None: the model's own, "n2s" for a new one).
        instruction: put in front of every query, here and when the embedder is used (None: the model's own, if any).
        query_length: most tokens of a query with its prompt, in training; at most max_length.
        document_length: the same of a document.
        max_length: the same of both when the embedder is used (less where the model reads less).
        every: steps between validations, and between checkpoints.
        patience: validations without a new best until training stops.
        seed: of the adapter's first values, the order of the queries, and what is drawn for them.
    """

    trainable: str = "lora"
    rank: int = 64
    alpha: float = 16.0
    dropout: float = 0.1
    learning_rate: float | None = None
    epochs: int = 1
    steps: int | None = None
    batch: int = 64
    chunk: int | None = None
    negatives: int | None = None
    temperature: float = 0.01
    dimensions: tuple[int, ...] = ()
    mask_known: bool = True
    mask_margin: float | None = None
    teacher: Judge | str | None = None
    distill: float = 0.0
    teacher_temperature: float | None = None
    pair: str | None = None
    instruction: str | None = None
    query_length: int = 64
    document_length: int = 160
    max_length: int = 512
    every: int = 50
    patience: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot train before any model runs."""
        for name in ("rank", "epochs", "batch", "every", "patience", "query_length", "document_length", "max_length"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}.")
        for name in ("steps", "chunk"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}.")
        for name in ("alpha", "learning_rate", "temperature", "teacher_temperature"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise InputError(f"{name} must be above 0, got {value}.")
        if self.trainable not in TRAINABLE:
            raise InputError(f"trainable is one of {', '.join(TRAINABLE)}, got {self.trainable!r}.")
        if not 0 <= self.dropout < 1 or not 0 <= self.distill <= 1:
            raise InputError(f"dropout ({self.dropout}) lies in 0..1, distill ({self.distill}) too.")
        if (self.teacher is None) != (self.distill == 0):
            raise InputError("Distillation needs both a teacher and distill above 0.")
        if isinstance(self.teacher, str) and self.teacher != "qr":
            raise InputError(f"teacher is 'qr' or gives scores for (query, documents), got {self.teacher!r}.")
        if self.negatives is not None and self.negatives < 0:
            raise InputError(f"negatives cannot be below 0, got {self.negatives}.")
        longest = max(self.query_length, self.document_length)
        if longest > self.max_length:
            raise InputError(
                f"query_length and document_length go up to max_length ({self.max_length}), got {longest}."
            )
        if self.mask_margin is not None and not (math.isfinite(self.mask_margin) and self.mask_margin >= 0):
            raise InputError(f"mask_margin must be at least 0, got {self.mask_margin}.")
        if not isinstance(self.dimensions, Sequence) or not all(isinstance(size, int) for size in self.dimensions):
            raise InputError(f"dimensions are whole numbers, such as (128, 64), got {self.dimensions!r}.")
        self.dimensions = tuple(self.dimensions)
        if self.pair is not None:
            check_pair(self.pair)

    def fit(
        self,
        lm: LanguageModel,
        train: Sequence[RankingExample] | None = None,
        output: str | Path = "embedder",
        development: Sequence[RankingExample] | None = None,
        progress: Progress | None = None,
    ) -> Path:
        """Train, and write a folder that `headwater.Embedder` opens.

        It holds a peft adapter (or, of "full", a checkpoint), `headwater.json` (the prompt and what made it),
        `tuning.json` (settings and log) and a card. Called again after an interruption, training goes on behind the
        last checkpoint. `lm` itself is left as it was.

        Args:
            lm: a loaded model, plain or adapted by `Llara`. Several processes (`accelerate launch`) each load
                their own.
            train: queries with gold documents and negatives, such as `headwater llara mine` writes (None: questions
                about the known countries of the fact world).
            output: the folder; created if missing, and empty or from the same call.
            development: examples to choose the best step on, over the documents of all of them (None: a tenth of the
                groups of `train`; for the built-in examples, questions about the development countries). An empty
                list: the last step is kept.
            progress: called with (steps done, steps).

        Returns:
            The folder.

        Raises:
            InputError: nothing to train on, too few negatives, `development` without a gold document, processes
                started for different trainings, or the folder holds something else.
            ModelError: a model that cannot be trained, or a loss that is NaN or infinite.
            InsufficientMemoryError: a batch does not fit; `chunk` helps.
            MissingExtraError: peft is not installed.
        """
        require_peft()
        processes = int(os.environ.get("WORLD_SIZE", "1"))
        examples, checks = to_train_and_check(train, development, self.seed)
        queries, negatives = training_queries(examples, self.negatives)
        share = min(self.batch, len(queries)) // processes
        if share < 1:
            raise InputError(f"{processes} processes cannot share a batch of {min(self.batch, len(queries))} queries.")
        steps = self.steps or math.ceil(self.epochs * len(queries) / (share * processes))
        deck = Deck(queries, share, negatives, self.seed)
        carries, base = check_trainable(lm, self.trainable), lm.provenance()
        under = own_record(lm).get("base_fingerprint") if carries else base["fingerprint"]
        embedder = Embedder(lm, prompt=self._prompt(lm), instruction=self.instruction)
        if self.dimensions and not 1 <= min(self.dimensions) <= max(self.dimensions) <= embedder.dimension:
            raise InputError(f"dimensions must lie between 1 and {embedder.dimension}, got {self.dimensions}.")
        folder = Path(output)
        config = self._config(embedder, examples, checks, negatives, steps, share * processes)
        with team(lm) as group:
            group.agree(config)
            if group.share(lambda: begin(folder, config, whole=None)):
                logger.info("%s holds this embedder already.", folder)
                return folder
            made = {"base": base, "base_fingerprint": under}
            self._train(embedder, deck, checks, folder, group, config, made, progress)
        return folder

    def _train(
        self,
        embedder: Embedder,
        deck: Deck,
        checks: Sequence[RankingExample],
        folder: Path,
        group: Team,
        config: dict[str, Any],
        made: dict[str, Any],
        progress: Progress | None,
    ) -> None:
        """All steps; the first process writes the folder, and the others wait for it."""
        from headwater.adapt.training import Schedule
        from headwater.adapt.training import train as run

        lm, steps = embedder.lm, int(config["steps"])
        batches = steps * group.size
        taught = {}
        if self.teacher is not None:
            judge: Judge = QRRetriever(lm).score if isinstance(self.teacher, str) else self.teacher
            own = range(group.rank, batches, group.size)  # as the training deals them
            taught = taught_scores(judge, deck, own, folder / TEACHER.format(group.rank))
        objective = ContrastiveLoss(
            self.temperature,
            tuple(sorted({embedder.dimension, *self.dimensions}, reverse=True)),
            self.mask_known,
            self.mask_margin,
            self.distill,
            self.teacher_temperature or (0.01 if self.teacher == "qr" else 1.0),
        )
        every, rate = min(self.every, steps), self.learning_rate or RATES[self.trainable]
        schedule = Schedule(steps, group.size, rate, 0.1, every, self.patience, self.seed, in_order=True)
        with opened(lm, self.trainable, self.rank, self.alpha, self.dropout, self.seed) as tuned:
            student = Embedder(tuned, prompt=embedder.prompt, instruction=embedder.instruction)
            lengths = self.query_length, self.document_length
            bench = Bench(student, deck, objective, taught, lengths, self.chunk, self.dropout)
            quality = Development(student, checks)
            try:
                done = run(
                    tuned,
                    bench.loss,
                    batches,
                    schedule,
                    folder / "checkpoints",
                    quality.measured if checks else None,
                    "ndcg@10" if checks else "",
                    progress,
                )
            except torch.OutOfMemoryError as error:
                raise InsufficientMemoryError(
                    f"Training ran out of memory with {deck.share} queries and {deck.share * (1 + deck.negatives)} "
                    "documents at a time: give a smaller chunk (GradCache), batch or document_length."
                ) from error
            finally:
                lm.model.eval()
            if done.best == 0:
                logger.warning("No step was better than the model itself on the development examples.")
            result = {**vars(done), "queries": len(deck.queries)}
            group.share(lambda: self._write(folder, student, made, config, result))

    def _prompt(self, lm: LanguageModel) -> EmbeddingPrompt:
        """The prompt of the finished embedder: the model's own where it has one."""
        found = own_prompt(lm) or embedding_prompt(lm.tokenizer)
        longest = min(self.max_length, lm.max_length or self.max_length)
        prompt = replace(found, max_length=longest, pair=self.pair or found.pair)
        for kind, length in (("query", self.query_length), ("document", self.document_length)):
            replace(prompt, max_length=min(length, longest)).room(kind)
        return prompt

    def _config(
        self,
        embedder: Embedder,
        examples: Sequence[RankingExample],
        development: Sequence[RankingExample],
        negatives: int,
        steps: int,
        batch: int,
    ) -> dict[str, Any]:
        """What makes two trainings the same."""
        lm = embedder.lm
        config = {
            "method": type(self).__name__,
            **vars(self),
            "instruction": embedder.instruction,
            "teacher": judge_name(self.teacher) if callable(self.teacher) else self.teacher,
            "negatives": negatives,
            "steps": steps,
            "batch": batch,
            "model": lm.name,
            "fingerprint": lm.fingerprint,
            "dtype": str(lm.dtype),
            "prompt": embedder.prompt.fingerprint,
            "headwater": headwater.__version__,
            "examples": len(examples),
            "data": data_fingerprint(examples),
            "development": data_fingerprint(development) if development else None,
        }
        found: dict[str, Any] = json.loads(json.dumps(config))
        return found

    def _write(
        self, folder: Path, student: Embedder, base: dict[str, Any], config: dict[str, Any], result: dict[str, Any]
    ) -> None:
        """Weights, prompt, card; the record last; then the checkpoints are no longer needed."""
        made = {**student.record(), "method": config["method"], **base, "data": config["data"], "seed": self.seed}
        card = _CARD.format(name=base["base"]["model"], **config | result)
        save_tuned(student.lm, folder, {FILE: json.dumps(made, indent=1) + "\n", "README.md": card})
        write_text(folder / RECORD, json.dumps({"config": config, "result": result}, indent=1) + "\n")
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        for path in folder.glob(TEACHER.format("*")):
            path.unlink()
