"""SQuAD: a paragraph of Wikipedia, questions about it, and in version 2.0 questions that it does not answer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

from headwater.data.documents import Document
from headwater.evaluate.tasks.reading import ReadingTask
from headwater.evaluate.tasks.records import Record, checked, distinct, read_record
from headwater.evaluate.tasks.task import ReadingItem


class Squad(ReadingTask):
    """Questions about one paragraph, read from a SQuAD file (1.1: Rajpurkar et al. 2016; 2.0: 2018).

    Every item has one document, the paragraph under the title of its article, and all different gold answers. The
    impossible questions of version 2.0 have no answers, so abstaining is right; a file with such questions has the
    facet ``answerable``, "yes" or "no". The group is the article.

    Args:
        path: a .json file in SQuAD's format, for example dev-v2.0.json.
    """

    def __init__(self, path: str | Path) -> None:
        """Keep the path."""
        super().__init__()
        self.path = Path(path)

    def load(self) -> list[ReadingItem]:
        """All questions in the order of the file. Raises `InputError` and `FormatError` as `Task.load` says."""
        articles = read_record(self.path).records("data")
        questions = [found for article in articles for found in self._questions(article)]
        split = any(question.yes("is_impossible") for question, _, _ in questions)
        return checked((_item(question, group, shown, split) for question, group, shown in questions), self.path)

    def _questions(self, article: Record) -> Iterator[tuple[Record, str, Document]]:
        """Question, article and paragraph."""
        name = article.text("title")
        for number, paragraph in enumerate(article.records("paragraphs")):
            title = unquote(name).replace("_", " ")
            shown = Document(paragraph.text("context"), id=f"{name}/{number}", title=title)
            for question in paragraph.records("qas"):
                yield question, name, shown


def _item(question: Record, group: str, shown: Document, split: bool) -> ReadingItem:
    impossible = question.yes("is_impossible")
    answers = () if impossible else distinct(answer.text("text") for answer in question.records("answers"))
    if not answers and not impossible:
        raise question.wrong("there is no answer, and the question is not marked as impossible")
    return ReadingItem(
        question.text("id"),
        group,
        question.text("question"),
        (shown,),
        answers,
        gold=() if impossible else (0,),
        facets={"answerable": "no" if impossible else "yes"} if split else {},
    )
