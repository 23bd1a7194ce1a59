"""What stands beside a question: noise of the same topic and of others, and edited paragraphs."""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from headwater.data.documents import Document
from headwater.data.parenting.items import OFF_TOPIC, SAME_TOPIC, ItemDocument
from headwater.data.parenting.match import any_in, stated_in, tokens
from headwater.data.parenting.questions import PHRASE, Editor, Passage, ProbeQuestion

_TRIES = 40  # random passages or values that are looked at before there is none
Edit = tuple[Document, tuple[str, ...]]


class Pool:
    """The passages of one source in one split, and the answers that may stand for each other there."""

    def __init__(
        self, passages: Iterable[Passage], questions: Iterable[ProbeQuestion], editor: Editor | None = None
    ) -> None:
        """Sort them once."""
        self.passages = tuple(passages)
        self._editor = editor
        self._by_id: dict[str | None, Passage] = {passage.document.id: passage for passage in self.passages}
        self._by_group: defaultdict[str, list[Passage]] = defaultdict(list)
        self._by_field: defaultdict[str, list[Passage]] = defaultdict(list)
        for passage in self.passages:
            self._by_group[passage.group].append(passage)
            for name in passage.fields:
                self._by_field[name].append(passage)
        self._values: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
        for question in questions:
            if question.answers and question.type != PHRASE:
                self._values[question.type].append((question.group, question.answers[0]))

    @property
    def edits(self) -> bool:
        """Whether the source makes its own edited documents."""
        return self._editor is not None

    def paragraph(self, question: ProbeQuestion) -> Document:
        """The paragraph that a question was asked about."""
        return self._by_id[question.paragraph].document

    def beside(
        self, question: ProbeQuestion, count: int, avoid: Sequence[str], draw: random.Random, both: bool = False
    ) -> list[ItemDocument]:
        """At most `count` documents without any of the answers to `avoid`, half of them on the same topic.

        On the same topic are other passages of the same group and, where the source knows the kind of fact asked for,
        passages of other groups that state one of this kind, in turn. Where there are too few, others fill up.

        Args:
            question: what they stand beside; its own paragraph is not among them.
            count: how many.
            avoid: answers that none of them may state.
            draw: makes the choice.
            both: at least one of each role, or none at all.
        """
        near = count // 2 + (count % 2 and draw.randrange(2))
        if both:
            near = min(max(near, 1), count - 1)
        same = self._near(question, near, avoid, draw)
        off = self._far(question, count - len(same), avoid, draw)
        if both and not (same and off):
            return []
        found = [shown(passage.document, SAME_TOPIC) for passage in same]
        found += [shown(passage.document, OFF_TOPIC) for passage in off]
        draw.shuffle(found)
        return found

    def edited(self, question: ProbeQuestion, avoid: Sequence[str], draw: random.Random) -> Edit | None:
        """The paragraph with another answer in place of the true one, and the ways to write that answer.

        None where the answer does not stand there literally, where there is no other answer of its type, or where what
        comes out still states one of the answers to `avoid`.
        """
        known = (*question.answers, *avoid)
        edit = self._editor or self._replaced
        for _ in range(_TRIES if question.answers else 0):
            found = edit(question, draw)
            if found is None:
                return None
            if not any(_overlap(new, old) for new in found[1] for old in known):
                return found if says(found[0], found[1]) and not says(found[0], known) else None
        return None

    def _near(self, question: ProbeQuestion, count: int, avoid: Sequence[str], draw: random.Random) -> list[Passage]:
        own = [p for p in self._by_group[question.group] if p.document.id != question.paragraph]
        own = [p for p in own if not question.field or question.field not in p.fields]
        siblings = [p for p in self._by_field[question.field] if p.group != question.group] if question.field else []
        draw.shuffle(own)
        siblings = draw.sample(siblings, min(len(siblings), _TRIES))
        out: list[Passage] = []
        while len(out) < count and (own or siblings):
            for kind in (own, siblings):
                while kind:
                    passage = kind.pop()
                    if not says(passage.document, avoid):
                        out.append(passage)
                        break
        return out[:count]

    def _far(self, question: ProbeQuestion, count: int, avoid: Sequence[str], draw: random.Random) -> list[Passage]:
        out: list[Passage] = []
        for _ in range(_TRIES * count):
            if len(out) == count:
                break
            passage = draw.choice(self.passages)
            related = passage.group == question.group or (question.field and question.field in passage.fields)
            if not related and passage not in out and not says(passage.document, avoid):
                out.append(passage)
        return out

    def _replaced(self, question: ProbeQuestion, draw: random.Random) -> Edit | None:
        """Every literal occurrence of the answer replaced by a value of the same type of another group."""
        document, answer = self.paragraph(question), question.answers[0]
        pattern = _literal(answer)
        if not pattern.search(document.text):
            return None
        values = self._values[question.type]
        for _ in range(_TRIES if values else 0):
            group, value = draw.choice(values)
            if group == question.group or says(document, (value,)) or stated_in(question.wordings[0], value):
                continue
            text = pattern.sub(value.replace("\\", r"\\"), document.text)
            return Document(text, f"{document.id}/edited", document.title), (value,)
        return None


def pools(
    passages: Iterable[Passage],
    questions: Iterable[ProbeQuestion],
    splits: Mapping[str, str],
    editor: Editor | None = None,
) -> dict[str, Pool]:
    """Split -> pool of one source; nothing stands in two of them.

    Args:
        passages: of the source; those of groups without a split are left out.
        questions: of the source.
        splits: group -> split.
        editor: of the source.
    """
    texts: defaultdict[str, list[Passage]] = defaultdict(list)
    asked: defaultdict[str, list[ProbeQuestion]] = defaultdict(list)
    for passage in passages:
        if passage.group in splits:
            texts[splits[passage.group]].append(passage)
    for question in questions:
        if question.group in splits:
            asked[splits[question.group]].append(question)
    return {split: Pool(texts[split], asked[split], editor) for split in texts}


def shown(document: Document, role: str) -> ItemDocument:
    """A document as an item holds it."""
    return ItemDocument(document.text, role, document.title, document.id)


def says(document: Document | ItemDocument, answers: Iterable[str]) -> bool:
    """Whether title or text state one of the answers."""
    return stated_in(f"{document.title or ''}\n{document.text}", answers)


def _overlap(one: str, other: str) -> bool:
    """Whether one answer stands within the other, so that an output cannot be told to hold only one of them."""
    return any_in(tokens(one), other) or any_in(tokens(other), one)


def _literal(answer: str) -> re.Pattern[str]:
    """The answer as whole words and whole numbers: not the 5 of 3.5, 5:30 or 1,500."""
    first = r"(?<!\w)(?<!\d[.,:])" if answer[:1].isascii() else ""
    last = r"(?!\w)(?![.,:]\d)" if answer[-1:].isascii() else ""
    return re.compile(first + re.escape(answer) + last)
