"""Where questions come from: the fact world, SQuAD-format files, QED files, JSONL files of one's own."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from headwater.data.documents import Document
from headwater.data.fields import Record, distinct, read_record, read_records, read_source
from headwater.data.parenting.match import stated_in
from headwater.data.parenting.of_world import world_questions
from headwater.data.parenting.questions import (
    Passage,
    ProbeQuestion,
    QuestionSet,
    answer_type,
    start_of,
)
from headwater.data.parenting.reserved import reserved
from headwater.errors import FormatError, InputError

logger = logging.getLogger("headwater")
WORLD = "world"
JSONL = (
    '{"question": "..." or ["...", "..."], "answers": ["..."], "document": "..." or {"text": "...", "title": "..."}, '
    '"others": ["..."], "group": "...", "id": "..."}'
)


def question_set(name: str | Path) -> QuestionSet:
    """The questions at a name: "world", or a file, whose format shows in what it holds.

    A SQuAD-format file is one JSON object with "data" (version 1.1 or 2.0); a line of a QED file has "paragraph_text";
    a line of a file of one's own is `{"question", "answers", "document"}` (see `JSONL`).

    Args:
        name: "world" or a path.

    Raises:
        InputError: there is no such file.
        FormatError: it holds none of these; the message names the place.
    """
    if str(name) == WORLD:
        return world_questions()
    path = Path(name)
    if not path.is_file():
        raise InputError(f"There is no question file {str(path)!r}; give a file, or 'world' for the fact world.")
    if re.match(r'\s*\{\s*"(data|version|note)"', read_source(path)):
        found = _squad(read_record(path), _stem(path))
    else:
        records = read_records(path)
        found = (_qed if "paragraph_text" in records[0].fields else _own)(records, _stem(path))
    if not found.questions:
        raise FormatError(f"{path} holds no questions.")
    return found


def without(source: QuestionSet, texts: Iterable[str]) -> tuple[QuestionSet, int]:
    """A source less every group that has a passage which begins like one of these texts (120 letters and digits).

    Returns:
        The source, and how many groups were taken out.
    """
    starts = {start_of(text) for text in texts} - {""}
    out = {passage.group for passage in source.passages if passage.start in starts}
    questions = tuple(question for question in source.questions if question.group not in out)
    passages = tuple(passage for passage in source.passages if passage.group not in out)
    placed = {group: split for group, split in source.placed.items() if group not in out}
    return replace(source, questions=questions, passages=passages, placed=placed), len(out)


def _squad(record: Record, name: str) -> QuestionSet:
    """Articles of paragraphs (Rajpurkar et al. 2016, 2018); the group is the article."""
    questions: list[ProbeQuestion] = []
    passages: list[Passage] = []
    for article in record.records("data"):
        title = article.text("title")
        for number, paragraph in enumerate(article.records("paragraphs")):
            shown = Document(paragraph.text("context"), f"{name}/{title}/{number}", unquote(title).replace("_", " "))
            passages.append(Passage(shown, title))
            for each in paragraph.records("qas"):
                impossible = each.yes("is_impossible")
                answers = () if impossible else distinct(found.text("text") for found in each.records("answers"))
                if not answers and not impossible:
                    raise each.wrong("there is no answer, and the question is not marked as impossible")
                asked = (each.text("question"),)
                questions.append(_question(name, each.text("id"), title, asked, answers, shown))
    return _set(name, questions, passages)


def _qed(records: Sequence[Record], name: str) -> QuestionSet:
    """Natural questions with a paragraph (Lamm et al. 2021); the group is the page.

    Most pages have one paragraph here. Such a paragraph is cut in two where a sentence begins, as close to its middle
    as the answer allows: one part answers, the other is on the same topic.
    """
    paragraphs: dict[str, set[str]] = {}
    for record in records:
        paragraphs.setdefault(record.text("title_text"), set()).add(record.text("paragraph_text"))
    questions: list[ProbeQuestion] = []
    passages: dict[tuple[str, str], Passage] = {}
    left_out = 0
    for record in records:
        identifier, title = record.fields.get("example_id"), record.text("title_text")
        if isinstance(identifier, bool) or not isinstance(identifier, (int, str)):
            raise record.wrong("the field 'example_id' is missing or neither text nor a whole number")
        answers = _qed_answers(record)
        if not answers:
            left_out += 1
            continue
        text = record.text("paragraph_text")
        parts, gold = ([text], 0) if len(paragraphs[title]) > 1 else _halves(text, answers, record)
        for place, part in enumerate(parts):
            document = Document(part, f"{name}/{identifier}/{place}", title)
            passages.setdefault((title, part), Passage(document, title, whole=text))
        shown = passages[title, parts[gold]].document
        questions.append(_question(name, str(identifier), title, (record.text("question_text"),), answers, shown))
    if left_out:
        logger.info("%d lines of %s hold no answer in one piece and were left out.", left_out, name)
    return _set(name, questions, list(passages.values()))


def _qed_answers(record: Record) -> tuple[str, ...]:
    """Short answers: of all annotators where the file has them; perhaps none.

    Several spans are one answer, which counts where the paragraph states them in a row.
    """
    if "original_nq_answers" in record.fields:
        rows = [Record({"span": spans}, record.where).records("span") for spans in record.list("original_nq_answers")]
        spans = [distinct(span.text("string") for span in row) for row in rows]
    else:
        said = record.list("answer_text")
        spans = [distinct(text for text in said if isinstance(text, str) and text.strip())]
    whole = [row[0] for row in spans if len(row) == 1]
    forms = [form for row in spans if len(row) > 1 for form in (", ".join(row), " and ".join(row))]
    return distinct((*whole, *(form for form in forms if stated_in(record.text("paragraph_text"), form))))


def _halves(text: str, answers: Sequence[str], record: Record) -> tuple[list[str], int]:
    """The paragraph cut in two at the start of a sentence, and which part states an answer; whole where that fails."""
    starts = [at for at in record.fields.get("sentence_starts") or [] if isinstance(at, int) and 0 < at < len(text)]
    for at in sorted(starts, key=lambda at: abs(at - len(text) / 2)):
        parts = [text[:at].strip(), text[at:].strip()]
        holds = [stated_in(part, answers) for part in parts]
        if sum(holds) == 1 and min(map(len, parts)) >= 40:
            return parts, holds.index(True)
    return [text], 0


def _own(records: Sequence[Record], name: str) -> QuestionSet:
    """A user's own questions, one a line; without a group, those about one title or document are a group."""
    questions: list[ProbeQuestion] = []
    passages: dict[str, Passage] = {}
    known: dict[tuple[str, str], str] = {}

    def keep(text: str, title: str | None, group: str) -> Document:
        place = known.setdefault((group, text), f"{name}/{len(known)}")
        passages.setdefault(place, Passage(Document(text, place, title), group))
        return passages[place].document

    for number, record in enumerate(records, 1):
        if any(key not in record.fields for key in ("question", "answers", "document")):
            raise record.wrong(f"expected a line such as {JSONL}")
        asked = record.fields["question"]
        wordings = record.texts("question") if isinstance(asked, list) else (record.text("question"),)
        text, title = _document(record.fields["document"], record)
        group = _name(record, "group") or title or start_of(text) or text
        identifier = _name(record, "id") or f"line-{number}"
        shown = keep(text, title, group)
        for other in record.list("others") if "others" in record.fields else ():
            keep(*_document(other, record), group)
        questions.append(_question(name, identifier, group, wordings, record.texts("answers"), shown))
    return _set(name, questions, list(passages.values()))


def _document(given: object, where: Record) -> tuple[str, str | None]:
    """Text and title of a document that is text or an object."""
    record = where if isinstance(given, str) else Record(given if isinstance(given, Mapping) else {}, where.where)
    text = given if isinstance(given, str) and given.strip() else record.text("text")
    title = record.fields.get("title") if record is not where else None
    if title is not None and not isinstance(title, str):
        raise where.wrong("the title of a document is not text")
    return text, title


def _name(record: Record, key: str) -> str | None:
    found: Any = record.fields.get(key)
    if found is None:
        return None
    if isinstance(found, bool) or not isinstance(found, (int, str)) or not str(found).strip():
        raise record.wrong(f"the field {key!r} is blank, or neither text nor a whole number")
    return str(found)


def _question(
    name: str, identifier: str, group: str, wordings: tuple[str, ...], answers: tuple[str, ...], shown: Document
) -> ProbeQuestion:
    kind = answer_type(answers[0]) if answers else ""
    return ProbeQuestion(f"{name}/{identifier}", group, wordings, answers, str(shown.id), type=kind)


def _set(name: str, questions: Sequence[ProbeQuestion], passages: Sequence[Passage]) -> QuestionSet:
    try:
        return QuestionSet(
            name, tuple(questions), tuple(passages), reserved(p.whole or p.document.text for p in passages)
        )
    except InputError as error:
        raise FormatError(str(error)) from error


def _stem(path: Path) -> str:
    """The file's name without what says its type."""
    return re.sub(r"(\.(jsonl?|jsonlines|gz))+$", "", path.name)
