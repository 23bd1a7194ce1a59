"""Lost in the Middle: the same question with the document that answers it at one place after the other."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from headwater.data.documents import Document
from headwater.data.files import read_documents
from headwater.errors import InputError
from headwater.evaluate.answers import contains
from headwater.evaluate.tasks.reading import ReadingTask
from headwater.evaluate.tasks.records import Record, checked, read_records
from headwater.evaluate.tasks.task import ReadingItem
from headwater.search.bm25 import BM25

SUB_SPAN_FIRST = ("sub-EM", "EM", "F1", "words", "abstained")  # the papers' headline


class GoldPosition(ReadingTask):
    """Questions of NQ-Open with the gold passage at each of several positions (Liu et al. 2024, "Lost in the Middle").

    The other documents are, best first, the BM25 hits that are not the gold passage and that hold none of the answers
    (the paper takes them from all of Wikipedia by Contriever, here they come from the folder). They are the same and in
    the same order at every position. Questions whose gold passage does not state an answer word for word are left out.
    The facet ``position`` counts from 1; the group is the question.

    Args:
        oracle_path: nq-open-oracle.jsonl.gz, with question, answers and the gold passage.
        passages_folder: where to take the other documents from: a BEIR folder, or what `read_documents` reads.
        documents: how many there are in all; 10, 20 or 30 in the paper.
        positions: of the gold document, from 1 (None: the first, those at each quarter, and the last; of 20: 1, 5, 10,
            15 and 20).
        n: number of questions, drawn by a fixed seed (None: all).

    Raises:
        InputError: for fewer than 2 documents or 1 question, or positions that are not among the documents.
    """

    def __init__(
        self,
        oracle_path: str | Path,
        passages_folder: str | Path,
        documents: int = 20,
        positions: Sequence[int] | None = None,
        n: int | None = None,
    ) -> None:
        """Check the knobs."""
        super().__init__()
        self.metrics = SUB_SPAN_FIRST
        if documents < 2:
            raise InputError(f"A position needs at least 2 documents, got {documents}.")
        if n is not None and n < 1:
            raise InputError(f"A position needs at least 1 question, got {n}.")
        self.positions = quarters(documents) if positions is None else tuple(positions)
        if not self.positions or not all(1 <= position <= documents for position in self.positions):
            raise InputError(f"Positions among {documents} documents are 1 to {documents}, got {self.positions}.")
        if len(set(self.positions)) < len(self.positions):
            raise InputError(f"A position stands twice in {self.positions}.")
        self.oracle_path, self.passages_folder = Path(oracle_path), Path(passages_folder)
        self.documents = documents
        self.n = n

    def load(self) -> list[ReadingItem]:
        """Every question at every position. Raises `InputError` and `FormatError` as `Task.load` says."""
        records = read_records(self.oracle_path)
        found = [(f"q{number}", record, _gold(record, f"q{number}")) for number, record in enumerate(records)]
        stated = [(name, record, gold) for name, record, gold in found if contains(gold.text, record.texts("answers"))]
        if len(stated) < len(found):
            self.notes.append(
                f"{len(found) - len(stated)} of {len(found)} gold passages do not state the answer word for word."
            )
        places: Sequence[int] = range(len(stated))
        if self.n is not None and self.n < len(stated):
            places = sorted(random.Random("headwater/gold position").sample(places, self.n))
        questions = [stated[place] for place in places]
        if len(questions) < len(stated):
            self.notes.append(f"{len(questions)} of {len(stated)} questions, drawn by a fixed seed.")
        search = BM25(read_documents(self.passages_folder).documents)
        return checked(
            (item for name, record, gold in questions for item in self._items(name, record, gold, search)),
            self.oracle_path,
        )

    def _items(self, name: str, record: Record, gold: Document, search: BM25) -> list[ReadingItem]:
        """One question at every position."""
        question, answers = record.text("question"), record.texts("answers")
        others = self._distractors(question, answers, gold, search)
        return [
            ReadingItem(
                f"{name}/{position}",
                name,
                question,
                (*others[: position - 1], gold, *others[position - 1 :]),
                answers,
                gold=(position - 1,),
                facets={"position": str(position)},
                unit=name,
            )
            for position in self.positions
        ]

    def _distractors(self, question: str, answers: Sequence[str], gold: Document, search: BM25) -> list[Document]:
        chosen: list[Document] = []
        for k in (4 * self.documents, len(search.documents)):  # nearly always the first is enough
            hits = (hit.document for hit in search.search(question, k))
            harmless = (hit for hit in hits if hit.text != gold.text and not contains(_words(hit), answers))
            chosen = list(islice(harmless, self.documents - 1))
            if len(chosen) == self.documents - 1:
                return chosen
        raise InputError(
            f"{self.passages_folder} has only {len(chosen)} passages without the answer to {question!r}, "
            f"{self.documents - 1} are needed; ask for fewer documents."
        )


def quarters(documents: int) -> tuple[int, ...]:
    """The first position, that at each quarter of the list, and the last."""
    return tuple(sorted({max(1, round(documents * share / 4)) for share in range(5)}))


def _words(document: Document) -> str:
    return f"{document.title or ''} {document.text}"


def _gold(record: Record, name: str) -> Document:
    for passage in record.records("ctxs"):
        if passage.yes("isgold"):
            return Document(passage.text("text"), id=f"{name}/oracle", title=passage.text("title"))
    raise record.wrong("no passage of 'ctxs' is marked as gold")


class KeyValue(ReadingTask):
    """The value of one of many random keys (Liu et al. 2024): reading by position, without any knowledge or language.

    Every pair is a document of its own, ``"key": "value"``. The facet ``position`` is the quarter of the list in which
    the asked pair stands, "1" to "4".

    Args:
        path: kv-retrieval-75_keys.jsonl.gz or its like.
        keys: number of pairs to keep (None: all). The others are dropped by a fixed seed; the order stays.

    Raises:
        InputError: for fewer than 1 key.
    """

    def __init__(self, path: str | Path, keys: int | None = None) -> None:
        """Check the knobs."""
        super().__init__()
        self.metrics = SUB_SPAN_FIRST
        if keys is not None and keys < 1:
            raise InputError(f"Give at least 1 key, got {keys}.")
        self.path = Path(path)
        self.keys = keys

    def load(self) -> list[ReadingItem]:
        """All records in the order of the file. Raises `InputError` and `FormatError` as `Task.load` says."""
        records = read_records(self.path)
        return checked((self._item(record, f"kv{number}") for number, record in enumerate(records)), self.path)

    def _item(self, record: Record, name: str) -> ReadingItem:
        key, value = record.text("key"), record.text("value")
        pairs = [_pair(record, each) for each in record.list("ordered_kv_records")]
        if [pair for pair in pairs if pair[0] == key] != [(key, value)]:
            raise record.wrong(f"the key {key!r} does not stand exactly once, with its value, among the pairs")
        kept = self._kept(pairs, (key, value), record)
        place = kept.index((key, value))
        documents = (Document(f'"{k}": "{v}"', id=f"{name}/{number}") for number, (k, v) in enumerate(kept))
        return ReadingItem(
            name,
            name,
            f'What is the value of the key "{key}"?',
            tuple(documents),
            (value,),
            gold=(place,),
            facets={"position": str(1 + 4 * place // len(kept))},
        )

    def _kept(self, pairs: list[tuple[str, str]], asked: tuple[str, str], record: Record) -> list[tuple[str, str]]:
        if self.keys is None or self.keys == len(pairs):
            return pairs
        if self.keys > len(pairs):
            raise record.wrong(f"there are {len(pairs)} pairs, {self.keys} are asked for")
        others = [place for place, pair in enumerate(pairs) if pair != asked]
        chosen = random.Random(f"headwater/keys/{asked[0]}/{self.keys}").sample(others, self.keys - 1)
        return [pairs[place] for place in sorted([*chosen, pairs.index(asked)])]


def _pair(record: Record, pair: object) -> tuple[str, str]:
    if not isinstance(pair, list) or len(pair) != 2:
        raise record.wrong("an element of 'ordered_kv_records' is not a pair of key and value")
    key, value = Record({"pair": pair}, record.where).texts("pair")
    return key, value
