"""`Embedder`: a language model as a dense retriever (LLaRA, arXiv 2312.15503; llara.md 3.9)."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from headwater.data.documents import Document, DocumentLike, as_documents, check_query
from headwater.errors import FormatError, InputError, InsufficientMemoryError, ModelError
from headwater.instrument.pooled import pooled_states
from headwater.model.adapter import CONFIG
from headwater.model.anatomy import text_config
from headwater.model.lm import TINY, LanguageModel, load
from headwater.prompt.suffix import FILE, EmbeddingPrompt, embedding_prompt, passage_text, read_prompt

logger = logging.getLogger("headwater")

Progress = Callable[[int, int], None]
KINDS = ("query", "document")
TOKENS_PER_BATCH = 8192


class Embedder:
    """Texts to vectors, with a language model that was adapted and tuned for it (or any other, untrained).

        embedder = hw.Embedder("tiny")
        embedder.embed(["capital of Peru"], kind="query") @ embedder.embed(["Lima is ..."], kind="document").T

    Attributes:
        lm: the model, with its adapter.
        prompt: what stands around a text, and where its embedding is taken.
        instruction: put in front of every query.
        dimension: size of a vector.
        name: what it was opened by, a folder by its full path.
    """

    def __init__(
        self,
        source: str | Path | LanguageModel,
        *,
        prompt: EmbeddingPrompt | None = None,
        instruction: str | None = None,
        dimension: int | None = None,
        tokens_per_batch: int = TOKENS_PER_BATCH,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
    ) -> None:
        """Open an embedder.

        Args:
            source: "tiny" (the embedder that ships with headwater); a folder that `hw.Llara` or
                `hw.ContrastiveTuning` wrote; any other model that `hw.load` takes, by name or loaded.
            prompt: None: the one in the folder, else `embedding_prompt(lm.tokenizer)`.
            instruction: None: the one in the folder, else none.
            dimension: keep the first so many dimensions, re-normalised (None: all).
            tokens_per_batch: of one forward pass; halved where a GPU runs out of memory.
            device: as in `hw.load`; a loaded model stays where it is.
            dtype: as in `hw.load`; "bfloat16" or "float16" for half precision. Vectors are float32 all the same.

        Raises:
            InputError: a dimension or a batch that cannot be.
            FormatError: the record in the folder is damaged.
            ModelError: the model cannot be loaded, or "tiny" has no embedder in this installation.
        """
        if isinstance(source, LanguageModel):
            self.lm, self.name = source, source.name
        else:
            folder = source != "tiny" and Path(source).is_dir()
            self.name = str(Path(source).resolve() if folder else source)
            self.lm = load(_tiny() if source == "tiny" else source, device=device, dtype=dtype)
        found = own_prompt(self.lm)
        if found is None and prompt is None:
            logger.info("%s was not made for embedding: expect poor vectors until it is tuned.", self.name)
        self.prompt = prompt or found or embedding_prompt(self.lm.tokenizer)
        if self.lm.max_length and self.prompt.max_length > self.lm.max_length:
            self.prompt = replace(self.prompt, max_length=self.lm.max_length)
        self.instruction = str(own_record(self.lm).get("instruction") or "") if instruction is None else instruction
        own = text_config(self.lm.model)
        width = int(getattr(own, "word_embed_proj_dim", None) or own.hidden_size)  # OPT projects its last states
        if dimension is not None and not 1 <= dimension <= width:
            raise InputError(f"dimension must lie between 1 and {width} for {self.name!r}, got {dimension}.")
        self.dimension = dimension or width
        if tokens_per_batch < 1:
            raise InputError(f"tokens_per_batch must be at least 1, got {tokens_per_batch}.")
        self.tokens_per_batch = tokens_per_batch

    @property
    def fingerprint(self) -> str:
        """Sixteen hex digits that change with the weights, the prompt, the instruction and the dimension."""
        parts = [self.lm.fingerprint, self.prompt.fingerprint, self.instruction, self.dimension]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]

    def embed(
        self, texts: Iterable[DocumentLike], kind: str = "document", progress: Progress | None = None
    ) -> np.ndarray:
        """Vectors of texts.

        Texts of like length run together; the order of the result is that of the texts.

        Args:
            texts: strings or documents (title and text). What does not fit the prompt is cut at its end.
            kind: "query" or "document"; they are asked in different words.
            progress: called with (texts done, texts in all).

        Returns:
            float32 `[texts, dimension]`, each of length one.

        Raises:
            InputError: an unknown kind, a blank text, or a single string in place of a list.
            InsufficientMemoryError: not even one text fits the memory.
        """
        rows = self.rows(texts, kind)
        out = np.zeros((len(rows), self.dimension), np.float32)
        order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
        budget, done = self.tokens_per_batch, 0
        while done < len(order):
            longest = len(rows[order[done]])
            places = order[done : done + max(1, budget // longest)]
            try:
                with torch.inference_mode():
                    vectors = self.encode([rows[i] for i in places], kind).cpu().numpy()
            except torch.OutOfMemoryError as error:
                if len(places) == 1:
                    raise InsufficientMemoryError(
                        f"A text of {longest} tokens does not fit the memory of {self.lm.device}: use a prompt with a "
                        "smaller max_length, half precision or a smaller model."
                    ) from error
                budget = max(longest, budget // 2)
                torch.cuda.empty_cache()
                continue
            out[places] = vectors
            done += len(places)
            if progress is not None:
                progress(done, len(order))
        return out

    def rows(self, texts: Iterable[DocumentLike], kind: str = "document") -> list[list[int]]:
        """Token ids of whole prompts. Raises what `embed` raises."""
        if kind not in KINDS:
            raise InputError(f"Unknown kind of text {kind!r}; use one of {', '.join(KINDS)}.")
        given = as_documents(texts)
        blank = next((i for i, document in enumerate(given) if document.blank), None)
        if blank is not None:
            raise InputError(f"Text {blank} is blank and has no embedding; leave it out.")
        before = self.instruction if kind == "query" else ""
        return self.prompt.encode([before + passage_text(document) for document in given], kind)

    def encode(self, rows: Sequence[Sequence[int]], kind: str) -> torch.Tensor:
        """Unit vectors of prompts, fp32 `[rows, dimension]`, in one forward pass; with gradients where autograd is on.

        Args:
            rows: token ids, of `rows`.
            kind: what they are.

        Raises:
            ModelError: NaN in a state, or an id at a slot that is none.
        """
        places = [self.prompt.pooled(len(row), kind) for row in rows]
        slots = self.prompt.slot_ids(kind)
        if slots and any(tuple(row[own.start : own.stop]) != slots for row, own in zip(rows, places, strict=True)):
            raise ModelError("The prompt of a text does not end with its slots; make it with Embedder.rows.")
        states = pooled_states(self.lm, rows, places)
        return torch.nn.functional.normalize(states[:, : self.dimension], dim=-1)

    def score(self, query: str, documents: Iterable[DocumentLike]) -> np.ndarray:
        """Cosine of every document with the query: float32 `[documents]`, input order, -inf for blank ones.

        Raises:
            InputError: a blank query.
        """
        given = as_documents(documents)
        own = self.embed([check_query(query)], "query")[0]
        scores = np.full(len(given), -np.inf, np.float32)
        places = [i for i, document in enumerate(given) if not document.blank]
        if places:
            scores[places] = self.embed([given[i] for i in places], "document") @ own
        return scores

    def record(self) -> dict[str, Any]:
        """What `headwater.json` keeps of an embedder."""
        return {"prompt": self.prompt.as_dict(), "instruction": self.instruction}


def own_prompt(lm: LanguageModel) -> EmbeddingPrompt | None:
    """The prompt beside the weights of a model that was made for embedding; None for any other."""
    return read_prompt(lm.name, lm.tokenizer) if Path(lm.name).is_dir() else None


def own_record(lm: LanguageModel) -> dict[str, Any]:
    """What `headwater.json` beside the weights of a model says; empty for a model that was not made for embedding.

    Raises:
        FormatError: the file is damaged.
    """
    path = Path(lm.name) / FILE
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise FormatError(f"{path} cannot be read as the record of an embedder ({error!r}).") from error


def embedded(documents: Sequence[Document]) -> list[int]:
    """Places of the documents that have an embedding: those that are not blank."""
    return [place for place, document in enumerate(documents) if not document.blank]


def _tiny() -> Path:
    """The embedder of the embedded model."""
    folder = TINY / "embedder"
    if not (folder / CONFIG).is_file():
        raise ModelError(
            "The embedded model has no embedder in this installation; make one with `headwater llara tune --output "
            "FOLDER` and give that folder."
        )
    return folder
