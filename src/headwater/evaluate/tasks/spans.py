"""Exact spans of text that answer a question: how much of them the retrieved chunks hold, and how much else."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import ClassVar

from headwater.data.documents import Document
from headwater.data.text import read_text
from headwater.errors import FormatError, InputError
from headwater.evaluate.tasks.records import Record, checked
from headwater.evaluate.tasks.task import SearchItem, Task
from headwater.search.chunk import Span, passages

COLUMNS = ("question", "references", "corpus_id")
Spans = Mapping[str, Sequence[Span]]  # corpus -> character ranges


class ChunkSpans(Task):
    """Chunking and retrieval together, over five corpora (Smith & Troynikov 2024, "Evaluating Chunking Strategies for
    Retrieval").

    All chunks of all corpora are searched at once. Scores compare the characters of the best chunks, each counted once,
    with those of the reference spans: "recall@5" and "recall@10", the share of the reference that was retrieved;
    "precision@5", the share of what was retrieved that is reference; "IoU@5", intersection over union. White
    space does not count, and the paper counts tokens where this counts characters, which need no tokenizer. The facet
    ``corpus`` names the corpus of the question; the group is the question.

    A reference whose offsets do not hold its text is looked up in the corpus; where it stands nowhere, or more than
    once, it is left out, which the notes say.

    Args:
        folder: with questions_df.csv (question, references as JSON with content, start_index and end_index, corpus_id)
            and corpora/<corpus_id>.md.
        max_chars: size of a chunk at most, as in `headwater.search.chunk.passages`.
        overlap: characters at most, of those, that a chunk repeats from the text before it.

    Raises:
        InputError: for an overlap below 0 or not below max_chars.
    """

    kind: ClassVar[str] = "search"
    metrics: tuple[str, ...] = ("recall@5", "recall@10", "precision@5", "IoU@5")

    def __init__(self, folder: str | Path, max_chars: int = 1000, overlap: int = 0) -> None:
        """Check the knobs."""
        super().__init__()
        if not 0 <= overlap < max_chars:
            raise InputError(f"The overlap must be at least 0 and below max_chars, got {overlap} of {max_chars}.")
        self.folder = Path(folder)
        self.max_chars = max_chars
        self.overlap = overlap
        self._chunks: list[Document] = []
        self._solid: dict[str, list[int]] = {}  # corpus -> characters before each place that are no white space
        self._places: dict[str, tuple[str, Span]] = {}
        self._references: dict[str, tuple[str, list[Span]]] = {}

    @property
    def corpus(self) -> Sequence[Document]:
        """The chunks, after `load`; ``start`` and ``end`` in their metadata are offsets in the corpus."""
        return self._chunks

    def load(self) -> list[SearchItem]:
        """Every question with at least one usable reference.

        Raises:
            InputError: a file is missing.
            FormatError: a column, a corpus or a field of a reference is missing or of the wrong kind.
        """
        path = self.folder / "questions_df.csv"
        rows = list(_rows(path))
        self._chunks, self._places, self._references = [], {}, {}
        corpora = self.folder / "corpora"
        names = {row[2] for row in rows} | {file.stem for file in corpora.glob("*.md")}
        texts = {name: read_text(corpora / f"{name}.md") for name in sorted(names)}
        for name, text in texts.items():
            self._chunk(name, text)
        items, moved, lost = [], 0, 0
        for number, (question, references, corpus) in enumerate(rows):
            spans: list[Span] = []
            for reference in references:
                span, exact = _place(reference, texts[corpus])
                moved += span is not None and not exact
                lost += span is None
                spans += [] if span is None else [span]
            if spans:
                items.append(SearchItem(f"{number}", f"{number}", question, facets={"corpus": corpus}))
                self._references[f"{number}"] = (corpus, _merged(spans))
        self.notes.append(f"{len(self._chunks):,} chunks.")
        self._say(len(rows) - len(items), moved, lost)
        return checked(items, path)

    def relevant(self, item: SearchItem) -> list[str]:
        """Ids of the chunks that hold some of the reference, those with most of it first."""
        corpus, reference = self._references[item.id]
        share = {
            chunk: self._common({name: [span]}, {corpus: reference}) for chunk, (name, span) in self._places.items()
        }
        return sorted((chunk for chunk in share if share[chunk]), key=lambda chunk: -share[chunk])

    def score(self, item: SearchItem, output: Sequence[str]) -> dict[str, float]:
        """The four metrics of one ranking of chunk ids, best first; without chunks all are 0.

        Raises:
            InputError: for an id that is none of a chunk.
        """
        unknown = [name for name in output if name not in self._places]
        if unknown:
            raise InputError(f"There is no chunk {unknown[0]!r} in {self.folder}.")
        corpus, reference = self._references[item.id]
        wanted = {corpus: reference}
        scores = {}
        for k in (5, 10):
            found = self._characters(output[:k])
            scores[f"recall@{k}"] = self._common(found, wanted) / self._length(wanted)
        found = self._characters(output[:5])
        common = self._common(found, wanted)
        scores["precision@5"] = common / self._length(found) if found else 0.0
        scores["IoU@5"] = common / (self._length(found) + self._length(wanted) - common)
        return scores

    def _chunk(self, name: str, text: str) -> None:
        self._solid[name] = [0, *accumulate(not character.isspace() for character in text)]
        for passage in passages(Document(text, id=name), self.max_chars - self.overlap):
            start, end = _reach_back(text, passage.start, self.overlap), passage.end
            chunk = f"{name}/{start}-{end}"
            self._chunks.append(
                Document(text[start:end], id=chunk, metadata={"corpus": name, "start": start, "end": end})
            )
            self._places[chunk] = (name, (start, end))

    def _characters(self, chunks: Iterable[str]) -> dict[str, list[Span]]:
        """The characters of some chunks, as ranges without overlap."""
        found: dict[str, list[Span]] = {}
        for chunk in chunks:
            corpus, span = self._places[chunk]
            found.setdefault(corpus, []).append(span)
        return {corpus: _merged(spans) for corpus, spans in found.items()}

    def _length(self, spans: Spans) -> int:
        return sum(self._size(corpus, *span) for corpus, each in spans.items() for span in each)

    def _common(self, found: Spans, wanted: Spans) -> int:
        """Characters in both; neither side overlaps itself."""
        return sum(
            self._size(corpus, max(start, begin), min(end, stop))
            for corpus, spans in wanted.items()
            for begin, stop in spans
            for start, end in found.get(corpus, ())
        )

    def _size(self, corpus: str, start: int, end: int) -> int:
        """Characters of a range that are no white space; 0 where it ends before it starts."""
        return max(0, self._solid[corpus][end] - self._solid[corpus][start])

    def _say(self, dropped: int, moved: int, lost: int) -> None:
        if moved:
            self.notes.append(f"References found by their text, elsewhere than their offsets say: {moved}.")
        if lost:
            self.notes.append(f"References left out, as they stand nowhere in their corpus or more than once: {lost}.")
        if dropped:
            self.notes.append(f"Questions left out, as they have no reference left: {dropped}.")


def _rows(path: Path) -> Iterator[tuple[str, Sequence[Record], str]]:
    """Question, references and corpus of every row."""
    rows = csv.DictReader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        missing = [column for column in COLUMNS if column not in (rows.fieldnames or ())]
        if missing:
            raise FormatError(f"{path}: the column {missing[0]!r} is missing.")
        for row in rows:
            record = Record(row, f"{path}, line {rows.line_num}")
            try:
                references = json.loads(record.text("references"))
            except (ValueError, RecursionError) as error:
                raise record.wrong(f"the references are not valid JSON ({error})") from None
            yield (
                record.text("question"),
                Record({"references": references}, record.where).records("references"),
                _file_name(record),
            )
    except csv.Error as error:
        raise FormatError(f"{path}, line {rows.line_num}: not valid CSV ({error}).") from error


def _file_name(record: Record) -> str:
    name = record.text("corpus_id")
    if Path(name).name != name:
        raise record.wrong(f"the corpus {name!r} is not a plain file name")
    return name


def _place(reference: Record, text: str) -> tuple[Span | None, bool]:
    """Where a reference stands, and whether it is where its offsets say."""
    content = reference.text("content")
    start, end = reference.fields.get("start_index"), reference.fields.get("end_index")
    if not isinstance(start, int) or not isinstance(end, int):
        raise reference.wrong("the fields 'start_index' and 'end_index' must be whole numbers")
    if 0 <= start < end and text[start:end] == content:
        return (start, end), True
    found = text.find(content)
    if found < 0 or text.find(content, found + 1) >= 0:
        return None, False
    return (found, found + len(content)), False


def _reach_back(text: str, start: int, overlap: int) -> int:
    """The first start of a word among the `overlap` characters before `start`."""
    for place in range(max(0, start - overlap), start):
        if not text[place].isspace() and (place == 0 or text[place - 1].isspace()):
            return place
    return start


def _merged(spans: Iterable[Span]) -> list[Span]:
    """The same characters as ranges in order, without overlap."""
    merged: list[Span] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged
