"""What every treatment says to every question, kept on disk question by question."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from headwater.evaluate.files import Lines
from headwater.evaluate.pear.questions import Item
from headwater.evaluate.pear.rows import Ask
from headwater.headset import HeadSet
from headwater.read.reader import Reader

Step = Callable[[int, int], None]
Said = dict[str, list[str]]


class Answers:
    """Answers by test, treatment and question; those on disk are not asked again."""

    def __init__(self, folder: Path, reader: Reader) -> None:
        """Keep the reader of the batched treatments."""
        self._folder, self._reader = folder / "answers", reader

    def together(
        self,
        test: str,
        items: Sequence[Item],
        sets: Mapping[str, HeadSet | None],
        sizes: Mapping[str, int],
        step: Step,
    ) -> Said:
        """Answers of head sets, all sets that a question is for in one batch.

        Args:
            test: name of the file.
            items: the questions.
            sets: treatment -> coefficients; equal ones are run once.
            sizes: treatment -> it is asked the first so many questions.
            step: progress.
        """
        lines = Lines(self._folder / f"{test}.jsonl")
        for place, item in enumerate(items):
            step(place, len(items))
            said = dict(lines.done.get(item.id, {}).get("said", {}))
            wanted = {name: heads for name, heads in sets.items() if place < sizes[name] and name not in said}
            if not wanted:
                continue
            alike: dict[object, list[str]] = {}
            for name, heads in wanted.items():
                alike.setdefault(content(heads), []).append(name)
            unlike = [wanted[names[0]] for names in alike.values()]
            found = self._reader.read_scaled(unlike, item.question, item.documents)
            for names, answer in zip(alike.values(), found, strict=True):
                said |= dict.fromkeys(names, answer.text)
            lines.add({"id": item.id, "group": item.group, "said": said})
        step(len(items), len(items))
        return {name: [lines.done[item.id]["said"][name] for item in items[: sizes[name]]] for name in sets}

    def missing(self, test: str, items: Sequence[Item], name: str) -> list[Item]:
        """Questions that a treatment that is read alone has not answered."""
        done = self._alone(test, name).done
        return [item for item in items if item.id not in done]

    def alone(self, test: str, items: Sequence[Item], name: str, ask: Ask | None, step: Step) -> list[str]:
        """Answers of one treatment, question by question; `ask` may be None where none is missing."""
        lines = self._alone(test, name)
        for place, item in enumerate(items):
            step(place, len(items))
            if item.id not in lines.done:
                assert ask is not None
                lines.add({"id": item.id, "group": item.group, "said": ask(item.question, item.documents)})
        step(len(items), len(items))
        return [str(lines.done[item.id]["said"]) for item in items]

    def _alone(self, test: str, name: str) -> Lines:
        stem = "".join(c if c.isalnum() else "-" for c in f"{test}-{name}")
        return Lines(self._folder / f"{stem}.jsonl")


def content(heads: HeadSet | None) -> tuple[object, ...]:
    """What makes two treatments the same: heads with coefficients other than 1."""
    if heads is None or heads.coefficients is None:
        return ()
    return tuple(sorted((head, c) for head, c in zip(heads.heads, heads.coefficients, strict=True) if c != 1))
