"""Chunks of texts with their target sets, kept on disk (llara.md 3.3): what LLaRA's adaptation reads.

A text is cut into chunks of so many words; the target of "summarize" is the set of tokens of the chunk itself, that of
"predict" the set of the next chunk of the same text. Texts are read one after another and tokenised once, into flat
files that are read in place, so that a corpus may be larger than the memory.
"""

from __future__ import annotations

import hashlib
import json
import logging
import random
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from headwater.atomic import write_text
from headwater.data.documents import Document, DocumentLike, check_text
from headwater.data.files import documents_in, find_files
from headwater.errors import FormatError, InputError
from headwater.prompt.suffix import EmbeddingPrompt

logger = logging.getLogger("headwater")

Texts = str | Path | Sequence[DocumentLike]
_META = "chunks.json"  # written last: a folder with it holds a whole store
_AT_ONCE = 256  # chunks that are tokenised together
_WORD = re.compile(r"\S+")
_NOT_A_WORD = re.compile(r"[\W_]+")


@dataclass(frozen=True)
class Cutting:
    """How texts become chunks.

    Attributes:
        words: of a chunk.
        text_tokens: of a chunk are read, those behind are not.
        target_tokens: of a chunk make its set of targets; of these, where a chunk is cut, those that are read.
        stopwords: "en", or another list of bm25s ("german", "french", ...), is left out of the targets; None: none.
    """

    words: int
    text_tokens: int
    target_tokens: int
    stopwords: str | None

    def stopped(self) -> frozenset[str]:
        """The stop words.

        Raises:
            InputError: there is no such list.
        """
        if self.stopwords is None:
            return frozenset()
        from bm25s import stopwords as lists

        name = "EN_PLUS" if self.stopwords == "en" else self.stopwords.upper()
        found = getattr(lists, f"STOPWORDS_{name}", None)
        if found is None:
            known = sorted(each.removeprefix("STOPWORDS_").lower() for each in dir(lists) if each.startswith("STOPW"))
            raise InputError(f"There are no stop words {self.stopwords!r}; use one of {', '.join(known)}, or none.")
        return frozenset(found)


def each_text(texts: Texts) -> Iterator[str]:
    """The texts that are not blank, one after another: of a file, a folder or a BEIR folder, or as they are given.

    Raises:
        InputError: no such path, or something that is no text.
        FormatError: a file that cannot be read as what it is.
    """
    if isinstance(texts, (str, Path)):
        for file, name in find_files(texts)[0]:
            yield from (document.text for document in documents_in(file, name) if document.text.strip())
        return
    for place, text in enumerate(texts):
        found = text.text if isinstance(text, Document) else check_text(text, f"Text {place}")
        if found.strip():
            yield found


def text_fingerprint(texts: Texts) -> str:
    """Sixteen hex digits that change with the texts.

    Raises:
        InputError: there are none.
    """
    digest, empty = hashlib.sha256(), True
    for text in each_text(texts):
        raw = text.encode("utf-8")
        digest.update(len(raw).to_bytes(8, "little"))
        digest.update(raw)
        empty = False
    if empty:
        raise InputError("There are no texts to adapt the model on.")
    return digest.hexdigest()[:16]


def chunks_of(text: str, words: int) -> Iterator[str]:
    """Slices of a text with so many words each; the last one may have fewer."""
    spans = ((match.start(), match.end()) for match in _WORD.finditer(text))
    while piece := list(islice(spans, words)):
        yield text[piece[0][0] : piece[-1][1]]


class Chunks:
    """A store on disk: token ids and target set of every chunk.

    Attributes:
        starts: number of the first chunk of each text, and behind the last one the number of all, `[texts + 1]`.
        article: number of the text of each chunk.
    """

    def __init__(self, folder: Path) -> None:
        """Open what `build` wrote.

        Raises:
            FormatError: it is damaged.
        """
        try:
            self.meta = json.loads((folder / _META).read_text(encoding="utf-8"))
            self._tokens, self._targets = (_in_place(folder / f"{name}.u32") for name in ("tokens", "targets"))
            offsets = np.load(folder / "offsets.npy", allow_pickle=False)
            self.starts: np.ndarray = np.load(folder / "starts.npy", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise FormatError(f"The texts kept in {folder} are damaged ({error}); delete that folder.") from error
        self._token_ends, self._target_ends = offsets
        self.article = np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts))

    def __len__(self) -> int:
        """How many chunks there are."""
        return len(self.article)

    def ids(self, number: int) -> list[int]:
        """Token ids of a chunk."""
        return _part(self._tokens, self._token_ends, number)

    def size(self, number: int) -> int:
        """How many tokens a chunk has."""
        return int(self._token_ends[number + 1] - self._token_ends[number])

    def targets(self, number: int | None) -> list[int]:
        """Target set of a chunk; of none, none."""
        return [] if number is None else _part(self._targets, self._target_ends, number)

    def next(self, number: int) -> int | None:
        """The following chunk of the same text."""
        return number + 1 if number + 1 < self.starts[self.article[number] + 1] else None


def _in_place(path: Path) -> np.ndarray:
    """The numbers of a file, read where they are used."""
    return np.memmap(path, np.uint32, "r") if path.stat().st_size else np.zeros(0, np.uint32)


def _part(values: np.ndarray, ends: np.ndarray, number: int) -> list[int]:
    found: list[int] = values[ends[number] : ends[number + 1]].tolist()
    return found


def chunk_store(texts: Texts, prompt: EmbeddingPrompt, cutting: Cutting, fingerprint: str, folder: Path) -> Chunks:
    """The chunks of texts, from a folder where they are kept already, else read now.

    Several processes may call this at once: one of them reads.

    Args:
        texts: what to cut.
        prompt: tokenises.
        cutting: how.
        fingerprint: of the texts, by `text_fingerprint`.
        folder: of the store; one of other texts or another cutting is replaced.

    Raises:
        InputError: no chunk has a token, or the folder cannot be written.
        FormatError: a file cannot be read as what it is, or the store is damaged.
    """
    wanted = {**asdict(cutting), "texts": fingerprint, "prompt": prompt.fingerprint}
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f"{folder.name}.lock")):
            if _made_of(folder) != wanted:
                shutil.rmtree(folder, ignore_errors=True)
                _build(texts, prompt, cutting, folder)
                write_text(folder / _META, json.dumps({"made_of": wanted}) + "\n")
    except OSError as error:
        raise InputError(f"Cannot keep the texts in {folder}: {error.strerror or error}.") from error
    return Chunks(folder)


def _made_of(folder: Path) -> Any:
    """What the store in a folder was made of; None where there is no whole one."""
    try:
        return json.loads((folder / _META).read_text(encoding="utf-8"))["made_of"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _build(texts: Texts, prompt: EmbeddingPrompt, cutting: Cutting, folder: Path) -> None:
    """Cut, tokenise and write."""
    stopped, special = cutting.stopped(), set(prompt.tokenizer.all_special_ids)
    pieces = ((text, piece) for text, whole in enumerate(each_text(texts)) for piece in chunks_of(whole, cutting.words))
    ends: tuple[list[int], list[int]] = ([0], [0])
    owners: list[int] = []
    folder.mkdir(parents=True)
    with open(folder / "tokens.u32", "wb") as tokens, open(folder / "targets.u32", "wb") as targets:
        while group := list(islice(pieces, _AT_ONCE)):
            plain = [piece for _, piece in group]
            rows = prompt.text_ids(plain)
            sets = prompt.text_ids(_without(piece, stopped) for piece in plain) if stopped else rows
            for (owner, _), row, target in zip(group, rows, sets, strict=True):
                if not row:
                    continue
                named, read = set(target[: cutting.target_tokens]) - special, row[: cutting.text_tokens]
                parts = read, sorted(named if len(read) == len(row) else named & set(read))
                for part, file, own in zip(parts, (tokens, targets), ends, strict=True):
                    file.write(np.asarray(part, np.uint32).tobytes())
                    own.append(own[-1] + len(part))
                owners.append(owner)
    if not owners:
        raise InputError("The texts hold no token to adapt the model on.")
    changes = np.flatnonzero(np.diff(owners)) + 1
    np.save(folder / "starts.npy", np.concatenate([[0], changes, [len(owners)]]))
    np.save(folder / "offsets.npy", np.array(ends))


def _without(text: str, stopped: frozenset[str]) -> str:
    """The words of a text that are not stop words, with blanks between them."""
    words = _NOT_A_WORD.sub(" ", text).split()
    return " ".join(word for word in words if word.lower() not in stopped)


@dataclass(frozen=True)
class Split:
    """Which chunks are trained on, and which are only looked at.

    Attributes:
        train: numbers of chunks.
        held_out: numbers of chunks of other texts, not always of all theirs.
    """

    train: list[int]
    held_out: list[int]


def split_chunks(chunks: Chunks, held_out: int, seed: int) -> Split:
    """Hold out random chunks of random texts, of a tenth of the texts at most.

    The other chunks of these texts are left out of both lists, so that nothing looked at was trained on. To leave out
    few, texts of more than `held_out` chunks come last.
    """
    texts, draw = len(chunks.starts) - 1, random.Random(f"{seed}:held out")
    order = draw.sample(range(texts), texts)
    order.sort(key=lambda text: chunks.starts[text + 1] - chunks.starts[text] > held_out)
    out: list[int] = []
    chosen: set[int] = set()
    for text in order[: texts // 10]:
        if len(out) >= held_out:
            break
        chosen.add(text)
        out += range(chunks.starts[text], chunks.starts[text + 1])
    train = [number for number, text in enumerate(chunks.article.tolist()) if text not in chosen]
    return Split(train, sorted(draw.sample(out, min(held_out, len(out)))))


def strangers(chunks: Chunks, train: Sequence[int], seed: int) -> dict[int, int]:
    """For every chunk one of another text, whose targets it gets in the control with permuted targets.

    A permutation: of the chunks with a following one, and of those without, so that the sets stay the same ones.

    Raises:
        InputError: there is only one text, or one holds too many of the chunks.
    """
    draw = random.Random(f"{seed}:strangers")
    found: dict[int, int] = {}
    for followed in (True, False):
        group = [number for number in train if (chunks.next(number) is not None) == followed]
        texts = [int(chunks.article[number]) for number in group]
        place = {text: draw.random() for text in sorted(set(texts))}
        group = sorted(draw.sample(group, len(group)), key=lambda number: place[int(chunks.article[number])])
        most = max(Counter(texts).values(), default=0)
        if 2 * most > len(group):
            raise InputError(
                "Targets can only be permuted across texts: give at least two, none of which holds more than half of "
                "the chunks that are trained on."
            )
        found |= zip(group, [*group[most:], *group[:most]], strict=True)  # text by text, so `most` leads to another
    return found


class Order:
    """The numbers in a random order, then in another one, and so on; any place of it can be looked up."""

    def __init__(self, numbers: Sequence[int], seed: int) -> None:
        """Keep what is to be shuffled."""
        self._numbers, self._seed = list(numbers), seed
        self._turn, self._shuffled = -1, list[int]()

    def __getitem__(self, place: int) -> int:
        """The number at a place, from 0 without end."""
        turn, within = divmod(place, len(self._numbers))
        if turn != self._turn:
            self._turn = turn
            self._shuffled = random.Random(f"{self._seed}:{turn}").sample(self._numbers, len(self._numbers))
        return self._shuffled[within]
