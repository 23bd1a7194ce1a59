"""`Llara`: a language model is adapted to describe texts, before it becomes a retriever (arXiv 2312.15503)."""

from __future__ import annotations

import copy
import json
import logging
import math
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import headwater
from headwater.adapt.folder import RECORD, begin
from headwater.adapt.llara_loss import Examples, Steps, Weights, looked_at
from headwater.adapt.llara_plan import LlaraPlan, planned, write_adapted
from headwater.adapt.llara_texts import (
    Chunks,
    Cutting,
    Order,
    Split,
    Texts,
    chunk_store,
    split_chunks,
    strangers,
    text_fingerprint,
)
from headwater.adapt.trainable import TRAINABLE, check_trainable, opened
from headwater.data.documents import DocumentLike
from headwater.errors import HeadwaterError, InputError, InsufficientMemoryError
from headwater.heads.detector import Progress
from headwater.instrument.checkpointing import checkpointed
from headwater.instrument.joint import JOINTS, kernel_for
from headwater.instrument.vocabulary import check_projection
from headwater.model.adapter import refuse_adapted, require_peft, set_dropout
from headwater.model.lm import LanguageModel
from headwater.model.slots import added_tokens
from headwater.prompt.suffix import EmbeddingPrompt, embedding_prompt, slot_names

logger = logging.getLogger("headwater")

OBJECTIVES = {"code": (1.0, 0.05, 0.05), "paper": (0.0, 1.0, 1.0)}  # weights of LM, EBAE, EBAR
_RATES = {"lora": 1e-4, "full": 1e-5}
_PASSES = ("micro_batch", "joint", "checkpointing")  # how a step is computed, not what comes of it


@dataclass
class Llara:
    """Adaptation of a language model to dense retrieval without labels (LLaRA, arXiv 2312.15503; llara.md 3).

    Behind a text stand two tails, neither of which sees the other. The state at the slot of the first has to name the
    tokens of the text itself (EBAE), that of the second those of the next passage (EBAR), as sets; beside them goes the
    model's own next-token loss. No labels, no pairs: any texts will do. `ContrastiveTuning` comes behind it.

    Attributes:
        slots: "single" (the end token) or "eight" (eight added tokens, as in the released code).
        wording: of "single", "v2" or "v1".
        pair: roles of query and document when embedding, see `EmbeddingPrompt`.
        max_length: tokens of text and both tails together, and of a prompt when embedding.
        objective: "code" (weights 1, 0.05, 0.05; mean over a set) or "paper" (0, 1, 1; sum over a set).
        w_lm: weight of the next-token loss (None: that of the objective).
        w_ae: of EBAE, as `w_lm`.
        w_ar: of EBAR, as `w_lm`. The control without slots is w_lm=1, w_ae=0, w_ar=0.
        permute_targets: a control: the sets are permuted, so that every chunk gets those of another text.
        stopwords: left out of the sets: "en", another list of bm25s ("german", ...), or None.
        chunk_words: texts are cut into chunks of so many words.
        trainable: "lora" or "full".
        rank: of the adapter, on all linear maps of the decoder layers.
        alpha: the adapter is scaled by alpha / rank.
        dropout: of the adapter's input.
        learning_rate: the highest, after a warm-up over a tenth of the steps; AdamW, linear decay (None: 1e-4 for
            "lora", 1e-5 for "full").
        epochs: passes over the chunks.
        steps: optimizer steps instead of epochs.
        batch: chunks of a step, over all processes.
        micro_batch: of them in one forward pass, at most (of 1: two where the processes do not divide the batch).
        packing: short chunks share a row of `max_length` tokens.
        joint: how the tails are read, see `headwater.instrument.joint`: "mask4d", "flex", "branch" or "separate".
        checkpointing: less memory, more time.
        held_out: chunks of other texts whose losses are looked at (of a tenth of the texts at most); what else these
            texts hold is not trained on, see `LlaraPlan`.
        every: steps between two looks, and between checkpoints.
        seed: of the adapter, the order of the chunks, and what is held out.
    """

    slots: str = "single"
    wording: str = "v2"
    pair: str = "n2s"
    max_length: int = 512
    objective: str = "code"
    w_lm: float | None = None
    w_ae: float | None = None
    w_ar: float | None = None
    permute_targets: bool = False
    stopwords: str | None = "en"
    chunk_words: int = 490
    trainable: str = "lora"
    rank: int = 64
    alpha: float = 16.0
    dropout: float = 0.1
    learning_rate: float | None = None
    epochs: int = 1
    steps: int | None = None
    batch: int = 32
    micro_batch: int = 8
    packing: bool = False
    joint: str = "mask4d"
    checkpointing: bool = False
    held_out: int = 32
    every: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot train before any model runs."""
        for name in ("max_length", "chunk_words", "rank", "epochs", "batch", "micro_batch", "every"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if self.steps is not None and self.steps < 1:
            raise InputError(f"steps must be at least 1, got {self.steps}.")
        for name in ("alpha", "learning_rate"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise InputError(f"{name} must be above 0, got {value}.")
        if not 0 <= self.dropout < 1 or self.held_out < 0:
            raise InputError(f"dropout ({self.dropout}) lies in 0..1, held_out ({self.held_out}) is not below 0.")
        for name, known in (("objective", tuple(OBJECTIVES)), ("trainable", TRAINABLE), ("joint", JOINTS)):
            if getattr(self, name) not in known:
                raise InputError(f"{name} is one of {', '.join(known)}, got {getattr(self, name)!r}.")
        weights = self.weights
        given = (weights.lm, weights.summarize, weights.predict)
        if not all(math.isfinite(each) and each >= 0 for each in given) or not any(given):
            raise InputError(f"The weights w_lm, w_ae, w_ar are at least 0, and one is above it; got {given}.")
        if self.packing and self.joint in ("branch", "separate"):
            raise InputError(f"packing does not go with joint={self.joint!r}; use 'mask4d' or 'flex'.")
        if self.checkpointing and self.joint == "branch":
            raise InputError("joint='branch' keeps a cache, which checkpointing drops; use joint='mask4d'.")
        self._cutting(1).stopped()

    @property
    def weights(self) -> Weights:
        """What the loss is made of."""
        lm, ae, ar = OBJECTIVES[self.objective]
        return Weights(
            lm if self.w_lm is None else self.w_lm,
            ae if self.w_ae is None else self.w_ae,
            ar if self.w_ar is None else self.w_ar,
            summed=self.objective == "paper",
        )

    def plan(self, lm: LanguageModel, texts: Texts | Iterable[DocumentLike]) -> LlaraPlan:
        """What `adapt` will do, without running the model; raises what `adapt` raises about settings and texts."""
        given = _again(texts)
        with self._prompted(lm) as (_, prompt), tempfile.TemporaryDirectory() as folder:
            chunks = self._chunks(given, prompt, text_fingerprint(given), Path(folder) / "texts")
            split = self._split(chunks)
            if self.permute_targets:
                strangers(chunks, split.train, self.seed)
            return planned(chunks, split, prompt, self.batch, self.epochs, self.steps)

    def adapt(
        self,
        lm: LanguageModel,
        texts: Texts | Iterable[DocumentLike],
        output: str | Path = "adapted",
        progress: Progress | None = None,
    ) -> Path:
        """Train, and write a folder that `headwater.load`, `ContrastiveTuning` and `Embedder` open.

        It holds a peft adapter (or, of "full", a checkpoint), `headwater.json` (the prompt and what made it),
        `tuning.json` (settings, losses on held-out chunks by step) and a card. Called again after an interruption,
        training goes on behind the last checkpoint, also with another `micro_batch`, `joint` or `checkpointing`. `lm`
        itself is left as it was.

        Args:
            lm: a loaded model without an adapter. Several processes (`accelerate launch`) each load their own.
            texts: strings or documents, or the path of a text file, a folder of files or a BEIR folder, which is read
                piece by piece and may be larger than the memory. Long ones are best: a chunk learns from the next.
            output: the folder; created if missing, and empty or from the same call.
            progress: called with (steps done, steps).

        Returns:
            The folder.

        Raises:
            InputError: no texts, no text with a following passage where only EBAR is trained, or the folder holds
                something else.
            ModelError: a model that cannot be trained so, or a loss that is NaN or infinite (named, with the step).
            InsufficientMemoryError: a forward pass does not fit; a smaller `micro_batch` or `max_length` helps.
            MissingExtraError: peft is not installed.
        """
        require_peft()
        from headwater.adapt.training import main_process

        given, folder, base = _again(texts), Path(output), lm.provenance()
        whole = folder.resolve()
        parts = self._parts(int(os.environ.get("WORLD_SIZE", "1")))
        data = text_fingerprint(given)
        kept = whole.parent / f".{whole.name}.texts"
        with self._prompted(lm) as (own, prompt):
            config = self._config(lm, base["fingerprint"], prompt, data)
            if (main_process() or (folder / RECORD).exists()) and begin(folder, config, whole=None):
                logger.info("%s holds this adaptation already.", folder)
                return folder
            with _taken_back(folder, kept) if main_process() else nullcontext():
                check_projection(own)
                chunks = self._chunks(given, prompt, data, kept)
                split = self._split(chunks)
                other = strangers(chunks, split.train, self.seed) if self.permute_targets else None
                plan = planned(chunks, split, prompt, self.batch, self.epochs, self.steps)
                tokens = _ids(prompt) if self.slots == "eight" else ()
                with opened(own, self.trainable, self.rank, self.alpha, self.dropout, self.seed, tokens) as tuned:
                    width = self.max_length if self.packing else None
                    examples = Examples(tuned, prompt, chunks, self.weights, self.joint, width, other)
                    done = self._train(examples, split, plan.steps, parts, folder / "checkpoints", progress)
                    if main_process():
                        passes = {name: getattr(self, name) for name in _PASSES}
                        result = {**vars(done), "plan": vars(plan), "passes": passes}
                        write_adapted(folder, tuned, prompt, base, config, result)
                        _forget(kept)
        return folder

    def _parts(self, processes: int) -> int:
        """Forward passes of a step over all processes: as few as hold `micro_batch` chunks each at most."""
        if self.batch < processes:
            raise InputError(f"{processes} processes cannot share a batch of {self.batch} chunks.")
        parts = math.ceil(self.batch / (self.micro_batch * processes)) * processes
        return min(parts, self.batch // processes * processes)

    def _train(
        self, examples: Examples, split: Split, steps: int, parts: int, checkpoints: Path, progress: Progress | None
    ) -> Any:
        """All steps, with looks at the held-out chunks in between; those have their own targets in any case."""
        from headwater.adapt.training import Schedule, train

        lm = examples.lm
        own = copy.copy(examples)
        own.strangers = {}
        cut = Steps(examples, Order(split.train, self.seed), self.batch, parts)
        rate = self.learning_rate or _RATES[self.trainable]
        schedule = Schedule(steps, parts, rate, 0.1, min(self.every, steps), 1, self.seed, in_order=True)

        def loss(number: int) -> torch.Tensor:
            set_dropout(lm, True)
            return cut.loss(number)

        def look() -> dict[str, float]:
            set_dropout(lm, False)
            return looked_at(own, split.held_out, self.micro_batch)

        validate = look if split.held_out else None
        try:
            with checkpointed(lm) if self.checkpointing else nullcontext():
                return train(lm, loss, steps * parts, schedule, checkpoints, validate, progress=progress)
        except torch.OutOfMemoryError as error:
            raise InsufficientMemoryError(
                f"Adaptation ran out of memory with {math.ceil(self.batch / parts)} chunks of {self.max_length} tokens "
                "at a time: give a smaller micro_batch or max_length, or checkpointing."
            ) from error

    @contextmanager
    def _prompted(self, lm: LanguageModel) -> Iterator[tuple[LanguageModel, EmbeddingPrompt]]:
        """The model with slot tokens and the kernel that is needed, and the prompt; on leaving it is as before."""
        refuse_adapted(lm)
        check_trainable(lm, self.trainable)
        if lm.max_length and self.max_length > lm.max_length:
            raise InputError(f"max_length is {self.max_length}, {lm.name!r} reads {lm.max_length}.")
        with kernel_for(lm, self.joint), added_tokens(lm, slot_names() if self.slots == "eight" else ()) as own:
            yield own, embedding_prompt(own.tokenizer, self.slots, self.wording, self.pair, self.max_length)

    def _cutting(self, room: int) -> Cutting:
        return Cutting(self.chunk_words, room, self.max_length, self.stopwords)

    def _chunks(self, texts: Texts, prompt: EmbeddingPrompt, fingerprint: str, folder: Path) -> Chunks:
        """The texts cut; room is what both tails leave, whichever of them are trained, so that arms read the same."""
        return chunk_store(texts, prompt, self._cutting(prompt.room("summarize", "predict")), fingerprint, folder)

    def _split(self, chunks: Chunks) -> Split:
        split = split_chunks(chunks, self.held_out, self.seed)
        following = sum(chunks.next(number) is not None for number in split.train)
        if self.weights.predict and not following:
            sentence = "No text has a second chunk, so nothing follows any: give longer texts or a smaller chunk_words"
            if not (self.weights.lm or self.weights.summarize):
                raise InputError(f"{sentence}.")
            logger.warning("%s. EBAR learns nothing from them.", sentence)
        return split

    def _config(self, lm: LanguageModel, fingerprint: str, prompt: EmbeddingPrompt, data: str) -> dict[str, Any]:
        """What makes two trainings the same."""
        config = {
            "method": type(self).__name__,
            **{name: value for name, value in vars(self).items() if name not in _PASSES},
            "model": lm.name,
            "fingerprint": fingerprint,
            "dtype": str(lm.dtype),
            "prompt": prompt.fingerprint,
            "headwater": headwater.__version__,
            "data": data,
        }
        found: dict[str, Any] = json.loads(json.dumps(config))
        return found


def _again(texts: Texts | Iterable[DocumentLike]) -> Texts:
    """Texts that can be read more than once."""
    if isinstance(texts, (str, Path, list, tuple)):
        return texts
    return list(texts)


@contextmanager
def _taken_back(folder: Path, kept: Path) -> Iterator[None]:
    """An error before the first checkpoint leaves nothing of the training behind."""
    try:
        yield
    except HeadwaterError:
        if not any(folder.glob("checkpoints/checkpoint-*")):
            _forget(kept)
            shutil.rmtree(folder / "checkpoints", ignore_errors=True)
            (folder / RECORD).unlink(missing_ok=True)
            with suppress(OSError):
                folder.rmdir()
        raise


def _forget(kept: Path) -> None:
    """Remove the chunks on disk."""
    shutil.rmtree(kept, ignore_errors=True)
    kept.with_name(f"{kept.name}.lock").unlink(missing_ok=True)


def _ids(prompt: EmbeddingPrompt) -> tuple[int, ...]:
    """Ids of all slot tokens."""
    return tuple(sorted({*prompt.slot_ids("summarize"), *prompt.slot_ids("predict")}))
