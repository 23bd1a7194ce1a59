"""QED: questions of Natural Questions with the paragraph of Wikipedia that answers them."""

from __future__ import annotations

from pathlib import Path

from headwater.data.documents import Document
from headwater.evaluate.tasks.reading import ReadingTask
from headwater.evaluate.tasks.records import Record, checked, distinct, read_records
from headwater.evaluate.tasks.task import ReadingItem


class Qed(ReadingTask):
    """Natural questions about one paragraph, read from a QED file (Lamm et al. 2021).

    Every item has one document and the short answers of all annotators of Natural Questions. Where an annotator marked
    several spans, the answer is all of them, separated by commas or with "and" before the last. The group is the title
    of the page.

    Args:
        path: a .jsonlines file, for example qed-dev.jsonlines.
    """

    def __init__(self, path: str | Path) -> None:
        """Keep the path."""
        super().__init__()
        self.path = Path(path)

    def load(self) -> list[ReadingItem]:
        """All questions in the order of the file. Raises `InputError` and `FormatError` as `Task.load` says."""
        return checked((_item(record) for record in read_records(self.path)), self.path)


def _item(record: Record) -> ReadingItem:
    name, title = record.fields.get("example_id"), record.text("title_text")
    if isinstance(name, bool) or not isinstance(name, (int, str)):
        raise record.wrong("the field 'example_id' is missing or neither text nor a whole number")
    answers = [answer for spans in _annotations(record) for answer in _joined(spans)]
    if not answers:
        raise record.wrong("the field 'original_nq_answers' holds no answer")
    shown = Document(record.text("paragraph_text"), id=str(name), title=title)
    return ReadingItem(str(name), title, record.text("question_text"), (shown,), distinct(answers), gold=(0,))


def _annotations(record: Record) -> list[tuple[str, ...]]:
    """The spans that each annotator marked."""
    return [
        distinct(span.text("string") for span in Record({"span": spans}, record.where).records("span"))
        for spans in record.list("original_nq_answers")
    ]


def _joined(spans: tuple[str, ...]) -> list[str]:
    if len(spans) < 2:
        return list(spans)
    return [", ".join(spans), f"{', '.join(spans[:-1])} and {spans[-1]}"]
