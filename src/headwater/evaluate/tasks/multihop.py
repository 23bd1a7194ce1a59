"""HotpotQA and MuSiQue: questions that need several paragraphs, among paragraphs that do not help."""

from __future__ import annotations

from pathlib import Path

from headwater.data.documents import Document
from headwater.evaluate.tasks.reading import ReadingTask
from headwater.evaluate.tasks.records import Record, checked, distinct, read_records
from headwater.evaluate.tasks.task import ReadingItem


class HotpotQa(ReadingTask):
    """Two-hop questions with ten paragraphs of Wikipedia each (Yang et al. 2018, distractor setting).

    Every paragraph is a document; gold are those that hold a supporting fact. The facet ``type`` is "bridge" or
    "comparison". The group is the question.

    Args:
        path: a .json file in HotpotQA's format.
    """

    def __init__(self, path: str | Path) -> None:
        """Keep the path."""
        super().__init__()
        self.path = Path(path)

    def load(self) -> list[ReadingItem]:
        """All questions in the order of the file. Raises `InputError` and `FormatError` as `Task.load` says."""
        return checked((_hotpot(record) for record in read_records(self.path)), self.path)


class MuSiQue(ReadingTask):
    """Questions of two to four hops with twenty paragraphs each (Trivedi et al. 2022, MuSiQue-Ans).

    Every paragraph is a document; gold are the supporting ones. The aliases of the answer count as right. The facet
    ``hops`` is the number of single questions that this one was made of. The group is the question.

    Args:
        path: a .json or .jsonl file in MuSiQue's format.
    """

    def __init__(self, path: str | Path) -> None:
        """Keep the path."""
        super().__init__()
        self.path = Path(path)

    def load(self) -> list[ReadingItem]:
        """All questions in the order of the file. Raises `InputError` and `FormatError` as `Task.load` says."""
        return checked((_musique(record) for record in read_records(self.path)), self.path)


def _hotpot(record: Record) -> ReadingItem:
    name, titles, documents = record.text("_id"), [], []
    for place, paragraph in enumerate(record.list("context")):
        if not isinstance(paragraph, list) or len(paragraph) != 2:
            raise record.wrong(f"paragraph {place + 1} of 'context' is not a pair of title and sentences")
        inside = Record({"title": paragraph[0], "sentences": paragraph[1]}, f"{record.where}, paragraph {place + 1}")
        sentences = inside.list("sentences")
        if not all(isinstance(sentence, str) for sentence in sentences):
            raise inside.wrong("a sentence is not text")
        titles.append(inside.text("title"))
        documents.append(Document("".join(sentences), id=f"{name}/{place}", title=titles[-1]))
    named = [fact[0] if isinstance(fact, list) and fact else None for fact in record.list("supporting_facts")]
    if not named or any(title not in titles for title in named):
        raise record.wrong("the supporting facts name no paragraph, or one that is not in 'context'")
    return ReadingItem(
        name,
        name,
        record.text("question"),
        tuple(documents),
        (record.text("answer"),),
        gold=tuple(place for place, title in enumerate(titles) if title in named),
        facets={"type": record.text("type")},
    )


def _musique(record: Record) -> ReadingItem:
    name, paragraphs = record.text("id"), record.records("paragraphs")
    documents = [
        Document(paragraph.text("paragraph_text"), id=f"{name}/{place}", title=paragraph.text("title"))
        for place, paragraph in enumerate(paragraphs)
    ]
    gold = tuple(place for place, paragraph in enumerate(paragraphs) if paragraph.yes("is_supporting"))
    if record.fields.get("answerable") is False:
        raise record.wrong("the question has no answer; give a file of MuSiQue-Ans, not of MuSiQue-Full")
    if not gold:
        raise record.wrong("no paragraph is marked as supporting")
    return ReadingItem(
        name,
        name,
        record.text("question"),
        tuple(documents),
        distinct([record.text("answer"), *record.texts("answer_aliases")]),
        gold=gold,
        facets={"hops": str(len(record.list("question_decomposition")))},
    )
