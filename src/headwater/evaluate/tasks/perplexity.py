"""How well a model predicts text: bits per byte and perplexity over windows of a file."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from headwater.data.text import read_text
from headwater.errors import FormatError, InputError
from headwater.evaluate.tasks.records import checked
from headwater.evaluate.tasks.task import Task, TextItem, TextLoss

# "# Title" of markdown, " = Title = " and " = = Section = = " of WikiText.
_HEADING = re.compile(r"\s*(?P<mark>#+(?= )|=(?: ?=)*(?=.*=\s*$))\s*(?P<title>.*?)[\s=#]*$")
_WORD = re.compile(r"\S+")
Span = tuple[int, int]


class Perplexity(Task):
    """Loss of a language model on a text file, for example WikiText-2 (Merity et al. 2017).

    The file is read in windows of whole paragraphs, at most `words` words long. Headings stay with what follows, and a
    heading of the first level begins a new window. A longer paragraph is cut between lines, a longer line between words
    into parts of about the same length. A single word left over joins the window before it: alone it might be a single
    token, which a model without a begin token cannot predict. The white space between windows is not predicted. The
    group is the last heading of the first level, with its number; in a file without any, every window is its own.

    Scores: "bits per byte", comparable between tokenizers, and "perplexity" per token, which is not. Over all windows
    losses, bytes and tokens are summed before they are divided: "bits per byte (all)" and "perplexity (all)".

    Args:
        path: a text file.
        words: size of a window at most, words between white space.

    Raises:
        InputError: for fewer than 2 words.
    """

    kind: ClassVar[str] = "text"
    metrics: tuple[str, ...] = ("bits per byte", "perplexity")
    lower_is_better: ClassVar[frozenset[str]] = frozenset(
        {"bits per byte", "perplexity", "bits per byte (all)", "perplexity (all)"}
    )

    def __init__(self, path: str | Path, words: int = 300) -> None:
        """Check the knobs."""
        super().__init__()
        if words < 2:
            raise InputError(f"A window needs at least 2 words, got {words}.")
        self.path = Path(path)
        self.words = words

    def load(self) -> list[TextItem]:
        """The windows in the order of the file.

        Raises:
            InputError: the file is missing.
            FormatError: it is not text, or blank.
        """
        text = read_text(self.path)
        found = windows(text, self.words)
        if not found:
            raise FormatError(f"{self.path} is blank.")
        return checked(
            (
                TextItem(f"{number}", window.article or f"{number}", text[window.start : window.end])
                for number, window in enumerate(found)
            ),
            self.path,
        )

    def score(self, item: TextItem, output: TextLoss) -> dict[str, float]:
        """Bits per byte and perplexity of one window.

        Raises:
            InputError: for a loss that is no number, or of no tokens or bytes.
        """
        _check(output, item.id)
        return {"bits per byte": _bits_per_byte(output), "perplexity": _perplexity(output)}

    def finish(self, records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """The two figures over all windows; "output" of a record is nats, tokens and bytes. Raises as `score`."""
        if not records:
            return {}
        losses = [TextLoss(*record["output"]) for record in records]
        for record, loss in zip(records, losses, strict=True):
            _check(loss, str(record["id"]))
        total = TextLoss(
            math.fsum(loss.nats for loss in losses), sum(x.tokens for x in losses), sum(x.bytes for x in losses)
        )
        return {"bits per byte (all)": _bits_per_byte(total), "perplexity (all)": _perplexity(total)}


@dataclass
class Window:
    """Characters `start` to `end` of a text, and the last heading of the first level with its number."""

    start: int
    end: int
    article: str
    opens: bool  # begins with a heading of the first level


def windows(text: str, words: int) -> list[Window]:
    """Cut a text into windows as `Perplexity` says; together they hold every word of it once, in order."""

    def size(start: int, end: int) -> int:
        return len(_WORD.findall(text, start, end))

    packed: list[Window] = []
    for part in _parts(text, words):
        if packed and not part.opens and size(packed[-1].start, part.end) <= words:
            packed[-1].end = part.end
        else:
            packed.append(part)
    found: list[Window] = []
    for window in packed:
        alone = size(window.start, window.end) == 1
        if found and alone and size(found[-1].start, found[-1].end) <= words:
            found[-1].end = window.end
        else:
            found.append(window)
    return found


def _blocks(text: str) -> Iterator[tuple[Window, list[Span]]]:
    """Paragraphs, each with the headings above it; and their lines, the first of them with the headings."""
    block: Window | None = None
    lines: list[Span] = []
    articles, article, body, at = 0, "", False, 0
    for line in text.splitlines(keepends=True):
        start, end = at + len(line) - len(line.lstrip()), at + len(line.rstrip())
        at += len(line)
        heading = _HEADING.match(line)
        first = heading is not None and len(heading["mark"].replace(" ", "")) == 1
        if block and ((body and (heading or not line.strip())) or first):
            yield block, lines
            block, body = None, False
        if not line.strip():
            continue
        if heading and first:
            articles += 1
            article = f"{articles}. {heading['title']}"
        if block is None:
            block, lines = Window(start, end, article, first), [(start, end)]
        elif body:
            lines.append((start, end))
        else:
            lines[-1] = (lines[-1][0], end)
        block.end = end
        body = body or heading is None
    if block:
        yield block, lines


def _parts(text: str, words: int) -> Iterator[Window]:
    """Blocks, those that are too long in lines, those that are too long in parts of about the same length."""
    for block, lines in _blocks(text):
        whole = len(_WORD.findall(text, block.start, block.end)) <= words
        for start, end in [(block.start, block.end)] if whole else lines:
            spans = [match.span() for match in _WORD.finditer(text, start, end)]
            count = math.ceil(len(spans) / words)
            for number in range(count):
                part = spans[len(spans) * number // count : len(spans) * (number + 1) // count]
                opens = block.opens and part[0][0] == block.start
                yield Window(part[0][0], part[-1][1], block.article, opens)


def _check(loss: TextLoss, name: str) -> None:
    if not math.isfinite(loss.nats) or loss.tokens < 1 or loss.bytes < 1:
        raise InputError(f"Window {name}: a loss needs finite nats and at least 1 token and byte, got {tuple(loss)}.")


def _bits_per_byte(loss: TextLoss) -> float:
    return loss.nats / math.log(2) / loss.bytes


def _perplexity(loss: TextLoss) -> float:
    return math.exp(loss.nats / loss.tokens)
