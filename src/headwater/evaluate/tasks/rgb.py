"""RGB: recent news, passages that state the answer, and the same passages with the answer exchanged."""

from __future__ import annotations

import random
from pathlib import Path

from headwater.data.documents import Document
from headwater.errors import InputError
from headwater.evaluate.answers import contains
from headwater.evaluate.tasks.reading import ReadingTask
from headwater.evaluate.tasks.records import Record, checked, distinct, read_records
from headwater.evaluate.tasks.task import ReadingItem

DOCUMENTS = ("right", "wrong", "negative", "mixed")


class Rgb(ReadingTask):
    """Counterfactual robustness (Chen et al. 2024, "Benchmarking Large Language Models in RAG", file en_fact.json).

    In every passage of kind "wrong" the answer of a right passage was replaced by a false one. The true answer is right
    even there, as in the paper; "others" is how often the false one is given. What is shown:

    - "right": passages that state the answer, at most `count`.
    - "wrong": their edited copies instead.
    - "negative": at most `count` passages that do not state the answer. Abstaining is right, and "others" is how often
      the answer comes from memory. Negative passages that hold an answer after all are left out here and in "mixed".
    - "mixed": one edited passage among unedited other ones, filled up with negative ones to `count` and shuffled by a
      fixed seed. Questions with a single passage to edit are left out.

    Args:
        path: en_fact.json, one JSON object per line.
        documents: "right", "wrong", "negative" or "mixed".
        count: number of passages.

    Raises:
        InputError: for other kinds, or a count below 1 (below 2 for "mixed").
    """

    def __init__(self, path: str | Path, documents: str = "right", count: int = 5) -> None:
        """Check the knobs."""
        super().__init__(others=True)
        if documents not in DOCUMENTS:
            raise InputError(f"The documents of Rgb are {', '.join(DOCUMENTS)}; there are no {documents!r} ones.")
        if count < 1 + (documents == "mixed"):
            raise InputError(f"{count} {documents} documents are too few; give at least {1 + (documents == 'mixed')}.")
        self.path = Path(path)
        self.documents = documents
        self.count = count

    def load(self) -> list[ReadingItem]:
        """All questions that have such passages. Raises `InputError` and `FormatError` as `Task.load` says."""
        records = read_records(self.path)
        items = [item for item in map(self._item, records) if item is not None]
        if len(items) < len(records):
            self.notes.append(
                f"{len(records) - len(items)} of {len(records)} questions lack passages for {self.documents!r}."
            )
        short = sum(len(item.documents) < self.count for item in items)
        if short:
            self.notes.append(f"{short} of {len(items)} questions have fewer than {self.count} passages.")
        return checked(items, self.path)

    def _item(self, record: Record) -> ReadingItem | None:
        name = record.fields.get("id")
        if isinstance(name, bool) or not isinstance(name, (int, str)):
            raise record.wrong("the field 'id' is missing or neither text nor a whole number")
        answers, false = _answers(record), record.text("fakeanswer").strip()
        documents, gold = self._shown(record, f"{name}", answers)
        if not documents:
            return None
        negative = self.documents == "negative"
        return ReadingItem(
            str(name),
            str(name),
            record.text("query"),
            documents,
            answers=() if negative else answers,
            others=answers if negative else (false,),
            gold=gold,
        )

    def _shown(
        self, record: Record, name: str, answers: tuple[str, ...]
    ) -> tuple[tuple[Document, ...], tuple[int, ...]]:
        """The documents and the places of the right ones."""
        right, wrong, negative = (
            [Document(text, id=f"{name}/{kind}/{place}") for place, text in enumerate(record.texts(kind))]
            for kind in ("positive", "positive_wrong", "negative")
        )
        if len(right) != len(wrong):
            raise record.wrong(f"{len(right)} passages but {len(wrong)} edited copies")
        harmless = [document for document in negative if not contains(document.text, answers)]
        if self.documents == "mixed":
            return self._mixed(right, wrong, harmless, name)
        shown = {"right": right, "wrong": wrong, "negative": harmless}[self.documents][: self.count]
        return tuple(shown), tuple(range(len(shown))) if self.documents == "right" else ()

    def _mixed(
        self, right: list[Document], wrong: list[Document], negative: list[Document], name: str
    ) -> tuple[tuple[Document, ...], tuple[int, ...]]:
        """One edited passage, and never its own original beside it."""
        if len(right) < 2:
            return (), ()
        draw = random.Random(f"headwater/rgb/{name}/{self.count}")
        edited = draw.randrange(len(wrong))
        true = [*right[:edited], *right[edited + 1 :]]
        shown = [wrong[edited], *true, *negative][: self.count]
        draw.shuffle(shown)
        return tuple(shown), tuple(place for place, document in enumerate(shown) if document in true)


def _answers(record: Record) -> tuple[str, ...]:
    """The answer, or all spellings of it where there is a list of spellings."""
    found = record.fields.get("answer")
    if not isinstance(found, list):
        return (record.text("answer").strip(),)
    if len(found) != 1:
        raise record.wrong(f"the field 'answer' lists {len(found)} answers that would all be needed, expected one")
    return distinct(text.strip() for text in Record({"answer": found[0]}, record.where).texts("answer"))
