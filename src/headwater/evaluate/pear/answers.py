"""What every treatment says to every question, kept on disk question by question."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from headwater.errors import InputError
from headwater.evaluate.files import Lines
from headwater.evaluate.pear.questions import Item
from headwater.evaluate.pear.rows import Ask
from headwater.headset import HeadSet
from headwater.read.reader import Reader

Step = Callable[[int, int], None]
Said = dict[str, list[str]]


class Answers:
    """Answers by test, treatment and question; those on disk are not asked again.

    What each treatment was stands beside its answers: a name that means something else by now is refused.
    """

    def __init__(self, folder: Path, reader: Reader) -> None:
        """Keep the reader of the batched treatments."""
        self._folder, self._reader = folder / "answers", reader
        self._made = Lines(self._folder / "made.jsonl")

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

        Raises:
            InputError: answers on disk are those of another treatment of this name.
        """
        for name, heads in sets.items():
            self._same(test, name, content(heads))
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

    def alone(
        self, test: str, items: Sequence[Item], name: str, ask: Ask | None, step: Step, made: object = None
    ) -> list[str]:
        """Answers of one treatment, question by question; `ask` may be None where none is missing.

        Args:
            test: name of the file, with the treatment's.
            items: the questions.
            name: of the treatment.
            ask: what answers.
            step: progress.
            made: what the treatment is, for JSON.

        Raises:
            InputError: answers on disk are those of another treatment of this name.
        """
        self._same(test, name, made)
        lines = self._alone(test, name)
        for place, item in enumerate(items):
            step(place, len(items))
            if item.id not in lines.done:
                assert ask is not None
                lines.add({"id": item.id, "group": item.group, "said": ask(item.question, item.documents)})
        step(len(items), len(items))
        return [str(lines.done[item.id]["said"]) for item in items]

    def _same(self, test: str, name: str, made: object) -> None:
        """Refuse answers of a treatment that was another one; keep what a new one is."""
        digest = hashlib.sha256(json.dumps(made).encode()).hexdigest()[:16]
        kept = self._made.done.get(f"{test}/{name}")
        if kept is None:
            self._made.add({"id": f"{test}/{name}", "made": digest})
        elif kept["made"] != digest:
            raise InputError(
                f"{self._folder} holds answers of {name!r} with other heads, coefficients or settings; delete that "
                "folder and treatments.jsonl beside it, or give another output folder."
            )

    def _alone(self, test: str, name: str) -> Lines:
        stem = "".join(c if c.isalnum() else "-" for c in f"{test}-{name}")
        return Lines(self._folder / f"{stem}.jsonl")


def content(heads: HeadSet | None) -> tuple[object, ...]:
    """What makes two treatments the same: heads with coefficients other than 1."""
    if heads is None or heads.coefficients is None:
        return ()
    return tuple(sorted((head, c) for head, c in zip(heads.heads, heads.coefficients, strict=True) if c != 1))
