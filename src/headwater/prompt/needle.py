"""The prompt of a needle case, as token pieces whose spans are recorded while building (retrieval_heads.md 3.1).

Nothing is searched for in the finished prompt: the needle is a piece of its own, and so is the answer inside it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from headwater.data.needle import BUFFER, NeedleCase
from headwater.errors import InputError
from headwater.prompt.prompt import INTRO, PromptTemplate, prompt_template

BOOK = "book"
BACK = 256  # tokens the needle may move back to stand after a sentence
_ENDS = re.compile(r"[.!?\u2026][\"'\u2019\u201d)\]]*$|[\u3002\uff01\uff1f][\u300d\u300f\uff09]*$")


@dataclass(frozen=True)
class NeedlePrompt:
    """The prompt of one case.

    Attributes:
        ids: token ids, up to where the answer begins.
        needle: half-open token span of the statement.
        answer: half-open token span of the answer inside it.
        continuation: the answer's tokens as they would go on behind the prompt.
        depth: share of the text's tokens that really stand before the needle.
        after_sentence: whether the needle stands between sentences; False where none ends within 256 tokens.
    """

    ids: list[int]
    needle: tuple[int, int]
    answer: tuple[int, int]
    continuation: list[int]
    depth: float
    after_sentence: bool


def needle_prompt(tokenizer: Any, case: NeedleCase, template: str = "auto", buffer: int = BUFFER) -> NeedlePrompt:
    """Build the prompt of a case: text, needle, text, question.

    The text is cut to `case.length - buffer` tokens less those of the needle. The needle goes to `depth` of it, moved
    back to just after the last sentence end; depth 1 is the end of the text, wherever that is.

    Args:
        tokenizer: the model's tokenizer.
        case: what is hidden where.
        template: headwater's own answer prompt with the text as its one document, by "auto", "chat" or "base" (see
            `headwater.prompt.prompt_template`): the only one that the embedded model knows, and the default. "book" is
            the published one: `Based on the content of the book, Question: ... Answer:` behind the text, and for chat
            models the text between `<book>` and `</book>` in the same user turn.
        buffer: tokens of the case's length that are kept for question, template and answer.

    Raises:
        InputError: a needle longer than the case, or less text than the case is long; an unknown template.
    """
    frame = _frame(tokenizer, case, template)
    room = case.length - buffer - sum(len(piece) for piece in frame.needle(case, " ", ""))
    if room < 1:
        raise InputError(
            f"The needle {case.name!r} does not fit a case of {case.length} tokens, of which {buffer} are kept for the "
            "question and the answer; give longer cases or a shorter needle."
        )
    ids, texts = frame.text(case, room)
    at, after_sentence = _place(texts, case.depth)
    following = "".join(texts[at : at + 8])
    gap = frame.lead if at == 0 else "\n" if following.startswith("\n") else " "
    closing = "" if not following or following[0].isspace() else "\n" if at == 0 else " "
    pieces = frame.needle(case, gap, closing)
    before = [*frame.before, *ids[:at]]
    inside = [token for piece in pieces for token in piece]
    answer = len(before) + len(pieces[0])
    return NeedlePrompt(
        [*before, *inside, *ids[at:], *frame.after],
        (len(before), len(before) + len(inside)),
        (answer, answer + len(pieces[1])),
        frame.continuation(case.answer),
        at / len(ids),
        after_sentence,
    )


@dataclass(frozen=True)
class _Frame:
    """What stands around the text."""

    template: PromptTemplate
    before: list[int]
    after: list[int]
    lead: str  # in front of the first text

    def needle(self, case: NeedleCase, gap: str, closing: str) -> list[list[int]]:
        """The statement in three pieces: up to the answer, the answer with the space before it, the rest.

        A line break before it is not the answer's.
        """
        text = gap + case.needle.statement + closing
        at = text.index(case.answer, len(gap))
        start, end = len(text[:at].rstrip(" ")), at + len(case.answer)
        return [self.template.encode(part) for part in (text[:start], text[start:end], text[end:])]

    def continuation(self, answer: str) -> list[int]:
        """With a space before the answer where the prompt ends in a word or a colon."""
        end = str(self.template.tokenizer.decode(self.after[-8:], skip_special_tokens=True))
        return self.template.encode(answer if not end or end[-1].isspace() else f" {answer}")

    def text(self, case: NeedleCase, room: int) -> tuple[list[int], list[str]]:
        """The first `room` tokens of the case's paragraphs, one on a line, and the text behind each."""
        ids: list[int] = []
        texts: list[str] = []
        for paragraph in case.rotated:
            piece = ("\n" if ids else self.lead) + paragraph.strip()
            ids += self.template.encode(piece)
            texts += self.template.token_texts(piece)
            if len(ids) >= room:
                return ids[:room], texts[:room]
        raise InputError(
            f"A case of {case.length} tokens needs {room} tokens of text, and there are {len(ids)}; give more text or "
            "shorter cases."
        )


def _frame(tokenizer: Any, case: NeedleCase, template: str) -> _Frame:
    own = prompt_template(tokenizer, "auto" if template == BOOK else template, instruction="answer")
    if template != BOOK:
        start = [*own.header, *own.encode(INTRO), *own.encode(own.separator), *own.encode("[1]")]
        return _Frame(own, start, [*own.encode(own.separator), *own.tail(case.question)], " ")
    chat = own.name == "chat"
    tail = f"Based on the content of the book, Question: {case.question}\nAnswer:"
    before = [*own.header, *own.encode("<book>")] if chat else list(own.header)
    after = [*own.encode("</book>\n" + tail), *own.suffix] if chat else own.encode("\n" + tail)
    return _Frame(own, before, after, "")


def _place(texts: list[str], depth: float) -> tuple[int, bool]:
    """Where among the text's tokens the needle goes, and whether a sentence ends there."""
    wanted = int(len(texts) * depth)
    lowest = wanted if depth == 1 else max(0, wanted - BACK)
    for at in range(wanted, lowest - 1, -1):
        if at == 0 or _between(texts, at):
            return at, True
    return wanted, False


def _between(texts: list[str], at: int) -> bool:
    """Whether a sentence ends before the token `at`."""
    ended = "".join(texts[max(0, at - 4) : at])
    following = "".join(texts[at : at + 8])
    if following.startswith("\n"):  # a paragraph ends
        return True
    found = _ENDS.search(ended)
    return found is not None and (not following or following[0].isspace() or ord(found[0][0]) > 0x3000)
