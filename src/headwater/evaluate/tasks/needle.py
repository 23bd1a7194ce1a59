"""A fact hidden in essays, at every depth of documents of every length."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from pathlib import Path

from headwater.data import world
from headwater.data.documents import Document
from headwater.data.text import read_text
from headwater.errors import FormatError, InputError
from headwater.evaluate.tasks.reading import ReadingTask
from headwater.evaluate.tasks.records import checked
from headwater.evaluate.tasks.task import ReadingItem
from headwater.search.chunk import passages

# Blank lines, and the places where an essay lost its line break: "... at work.We wouldn't ...", "... a half.[1]No ...".
_BREAK = re.compile(
    r"\n\s*\n|(?<=[a-z]{2}[.?!])(?=[A-Z\[])|(?<=[a-z]{2}[.?!]\")(?=[A-Z\[])|(?<=[a-z]{2}\.\n)(?=\[\d)|(?<=\d\])(?=[A-Z])"
)
_LONGEST = 1000  # characters of a paragraph; longer ones are cut, so that depths can be met


class NeedleGrid(ReadingTask):
    """Facts of the fact world hidden in foreign text, over lengths and depths (after Kamradt 2023, "Needle in a
    Haystack").

    Every item has one document. The facts, and the questions about them, are the same in every cell; a length takes the
    same text at every depth. Facets are ``length`` and ``depth``; the group is the country. EM is
    `headwater.data.world.exact_match`, for which signs and decimal points count.

    Args:
        paragraphs_folder: text files with the foreign text.
        lengths: of the documents at most, in units of `measure`.
        depths: shares of the paragraphs before the fact, 0 to 1.
        n: questions per cell.
        split: whose countries: "known", "development" or "held_out".
        measure: size of a text; words between white space by default. For tokens of a model pass
            ``lambda text: len(tokenizer(text).input_ids)``.

    Raises:
        InputError: for no or repeated lengths or depths, a depth outside 0 to 1, or n below 1.
    """

    def __init__(
        self,
        paragraphs_folder: str | Path,
        lengths: Sequence[int] = (512, 1024, 2048),
        depths: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0),
        n: int = 20,
        split: str = "held_out",
        measure: Callable[[str], int] | None = None,
    ) -> None:
        """Check the knobs."""
        super().__init__(match=world.exact_match)
        if n < 1:
            raise InputError(f"A cell needs at least 1 question, got {n}.")
        for name, values in (("lengths", lengths), ("depths", depths)):
            if not values or len(set(values)) < len(values):
                raise InputError(f"Give {name} without repetitions, at least one; got {tuple(values)}.")
        if not all(0 <= depth <= 1 for depth in depths):
            raise InputError(f"Depths are shares between 0 and 1, got {tuple(depths)}.")
        self.folder = Path(paragraphs_folder)
        self.lengths, self.depths = tuple(lengths), tuple(depths)
        self.n = n
        self.split = split
        self.measure = word_count if measure is None else measure

    def load(self) -> list[ReadingItem]:
        """Every question in every cell, length by length.

        Raises:
            InputError: there are no text files, or a fact and a paragraph do not fit into a length.
            FormatError: a file is not text, or all are blank.
        """
        hay = read_paragraphs(self.folder)
        cells = product(self.lengths, self.depths)
        return checked((item for length, depth in cells for item in self._cell(hay, length, depth)), self.folder)

    def _cell(self, hay: Sequence[str], length: int, depth: float) -> Iterator[ReadingItem]:
        for example in world.needle_examples(self.split, self.n, hay, length, depth, self.measure):
            yield ReadingItem(
                f"{length}/{depth:g}/{example.question.id}",
                example.question.country,
                example.question.text,
                example.documents,
                example.stated,
                gold=example.gold,
                facets={"length": str(length), "depth": f"{depth:g}"},
                unit=example.question.id,
            )


def word_count(text: str) -> int:
    """Words between white space."""
    return len(text.split())


def read_paragraphs(folder: str | Path) -> list[str]:
    """The paragraphs of all .txt files of a folder, each on one line and of at most 1,000 characters.

    Files go by name; SOURCE.txt and the like (names in capitals) are left out. Longer paragraphs are cut between
    sentences; those without any letter, such as the numbers of notes, are left out.

    Raises:
        InputError: there is no such folder, or no text in it.
        FormatError: a file is not text, or all are blank.
    """
    root = Path(folder)
    files = sorted(path for path in root.glob("*.txt") if not path.stem.isupper())
    if not files:
        raise InputError(f"{root} is no folder with .txt files; name one with text to hide facts in.")
    found = [short for file in files for part in _BREAK.split(read_text(file)) for short in _short(part)]
    if not found:
        raise FormatError(f"The .txt files of {root} are blank.")
    return found


def _short(paragraph: str) -> list[str]:
    """The paragraph on one line, in parts where it is too long; nothing of one without a letter, as a note's number."""
    if not any(character.isalpha() for character in paragraph):
        return []
    return [passage.text for passage in passages(Document(" ".join(paragraph.split())), _LONGEST)]
