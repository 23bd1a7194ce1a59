"""The folder of `headwater parent data`: questions are dealt to splits, asked without documents, and made into sets."""

from __future__ import annotations

import logging
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headwater.data.documents import DocumentLike, as_documents
from headwater.data.lines import write_json
from headwater.data.parenting.build import ParentingSets, Sets, check_item
from headwater.data.parenting.folder import RECORD
from headwater.data.parenting.items import ParentingItem, items_fingerprint, save_items
from headwater.data.parenting.match import LONGEST
from headwater.data.parenting.questions import SPLITS, ProbeQuestion, QuestionSet
from headwater.data.parenting.records import ProbeRecord
from headwater.data.parenting.sources import WORLD, question_set, without
from headwater.data.parenting.splits import SHARES, deal_sets, measured, portions
from headwater.errors import InputError
from headwater.heads.detector import Progress
from headwater.prompt import prompt_template
from headwater.prompt.prompt import INTRO
from headwater.read.probe import ClosedBookProbe

if TYPE_CHECKING:
    from headwater.model.lm import LanguageModel

logger = logging.getLogger("headwater")
Source = str | Path | QuestionSet


@dataclass(frozen=True)
class Prepared:
    """Questions before they are asked.

    Attributes:
        sources: all of them.
        splits: (source, group) -> split.
        questions: split -> questions to ask, in the order in which they are asked first.
        record: what of this goes into `data.json`.
    """

    sources: tuple[QuestionSet, ...]
    splits: Mapping[tuple[str, str], str]
    questions: Mapping[str, Sequence[ProbeQuestion]]
    record: Mapping[str, Any]


def prepare(
    train: Sequence[Source] = (WORLD,),
    evaluate: Sequence[Source] = (),
    sets: ParentingSets | None = None,
    questions: int | None = None,
    shares: Sequence[float] = SHARES,
    avoid: Iterable[DocumentLike] = (),
) -> Prepared:
    """Read the sources and deal their groups; needs no model.

    Args:
        train: sources whose groups are dealt to train, development and test: "world", files (`question_set`), or
            question sets of one's own.
        evaluate: sources that only evaluate; what they share with a training source is left out of training.
        sets: tells whether questions without answers are of use. Default: `ParentingSets()`.
        questions: at most so many are asked, dealt to the splits by their shares; those of groups that their source
            has placed (countries that no text of the embedded model names) come last. None: all.
        shares: of groups, of train, development and test.
        avoid: texts that measure something else: groups of training sources with a passage that begins like one of
            them are left out.

    Raises:
        InputError: no sources, one that may not train, one that is given twice, or numbers that cannot be.
        FormatError: a file that is no question file.
    """
    sets = sets or ParentingSets()
    if not train and not evaluate:
        raise InputError("There are no questions: give a training source, or one to evaluate with.")
    if questions is not None and questions < 1:
        raise InputError(f"At least 1 question has to be asked, got {questions}.")
    texts = [document.text for document in as_documents(avoid)]
    named: dict[str, Any] = {}
    own: list[QuestionSet] = []
    taken = 0
    for each in train:
        found, out = without(_source(each, named), texts)
        own.append(found)
        taken += out
    others = [_source(each, named) for each in evaluate]
    splits, shared = deal_sets(own, others, shares, sets.seed)
    chosen: dict[str, list[ProbeQuestion]] = {split: [] for split in SPLITS}
    for source in (*own, *others):
        for question in source.questions:
            split = splits.get((source.name, question.group))
            if split is not None and (question.answers or sets.robust != "known"):
                chosen[split].append(question)
    dealt = shares if sum(shares[1:]) > 0 or not others else (shares[0], *measured(shares))
    limits = _limits(questions, dealt, {split: len(each) for split, each in chosen.items()})
    placed = {
        question.id for source in (*own, *others) for question in source.questions if question.group in source.placed
    }
    for split, asked in chosen.items():
        random.Random(f"headwater/parenting/asked/{split}/{sets.seed}").shuffle(asked)
        asked.sort(key=lambda question: question.id in placed)
        del asked[limits[split] :]
    record = {
        "sources": [_described(source, named, use) for use, each in _uses(own, others) for source in each],
        "shares": list(shares),
        "groups": _groups(splits),
        "left_out": {"groups shared with an evaluation source": shared, "groups of texts to avoid": taken},
    }
    return Prepared((*own, *others), splits, chosen, record)


def make_data(
    lm: LanguageModel,
    prepared: Prepared,
    output: str | Path,
    probe: ClosedBookProbe | None = None,
    sets: ParentingSets | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Ask the questions and write the sets.

    The folder gets `probe.jsonl` with `probe.json` (what answers depend on), `train/`, `development/` and `test/` with
    a file per set that holds anything, and `data.json`, written last. `asked` (development and test) holds every
    question without documents, known or not: accuracy and abstention are measured on it. Called again after an
    interruption it asks only what was not answered; with other sets it asks nothing again.

    Args:
        lm: the model that will be tuned.
        prepared: from `prepare`, with the same `sets`.
        output: the folder.
        probe: how questions are asked. Default: `ClosedBookProbe()`.
        sets: how sets are built. Default: `ParentingSets()`.
        progress: called with questions done and in all.

    Returns:
        What `data.json` holds.

    Raises:
        InputError: the folder holds something else, or the probe of another model or setting.
        ModelError: a model that thinks before it answers.
    """
    probe, sets, folder = probe or ClosedBookProbe(), sets or ParentingSets(), Path(output)
    take_folder(folder)
    every = [question for each in prepared.questions.values() for question in each]
    probed = probe.run(lm, every, folder, progress)
    built, dropped = sets.build(prepared.sources, prepared.splits, probed, _Fits(lm, probe.template))
    for each in built.values():
        for items in each.values():
            for item in items:
                check_item(item)
    (folder / RECORD).unlink(missing_ok=True)
    _write(built, folder)
    record = {
        "made": "headwater parent data",
        "model": lm.provenance(),
        "probe": {**probe.made_with(lm), "asked": len(probed), "labels": _labels(prepared, probed)},
        "sets": {**asdict(sets), "documents": list(sets.documents)},
        **prepared.record,
        "counts": _each(built, len),
        "fingerprints": _each(built, items_fingerprint),
        "dropped": dict(sorted(dropped.items())),
    }
    write_json(folder / RECORD, record)
    for split, each in built.items():
        empty = [kind for kind, items in each.items() if not items]
        if empty:
            logger.warning("No items in %s of %s: %s.", ", ".join(empty), split, _why(record, split, empty))
    return record


def take_folder(folder: Path) -> None:
    """Make the folder, or find one of this kind.

    Raises:
        InputError: it cannot be made, or holds something else.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        taken = any(folder.iterdir()) and not (folder / "probe.json").is_file()
    except OSError as error:
        raise InputError(f"Cannot use the folder {folder}: {error.strerror or error}.") from error
    if taken:
        raise InputError(f"The folder {folder} is not empty; give a new one.")


class _Fits:
    """Whether prompt and target of an item, or the longest answer, are within what a model reads."""

    def __init__(self, lm: LanguageModel, template: str) -> None:
        self._limit = lm.max_length
        self._template = own = prompt_template(lm.tokenizer, template, instruction="answer")
        # Twice the instruction: that of extraction is longer.
        self._around = len(own.header) + len(own.suffix) + len(own.encode(INTRO)) + 2 * len(own.tail("?"))

    def __call__(self, item: ParentingItem) -> bool:
        texts = [item.question, *(f"{d.title or ''}\n{d.text}" for d in item.documents)]
        around = self._around + 8 * len(item.documents)

        def needed(length: Callable[[str], int]) -> int:
            return sum(length(text) for text in texts) + max(length(item.target), LONGEST) + around

        if not self._limit or needed(lambda text: len(text.encode())) <= self._limit:
            return True  # a token is at least a byte
        return needed(lambda text: len(self._template.encode(text))) <= self._limit


def _source(given: Source, named: dict[str, Any]) -> QuestionSet:
    found = given if isinstance(given, QuestionSet) else question_set(given)
    named[found.name] = None if isinstance(given, QuestionSet) or given == WORLD else str(given)
    return found


def _uses(own: Sequence[QuestionSet], others: Sequence[QuestionSet]) -> list[tuple[str, Sequence[QuestionSet]]]:
    return [("train", own), ("evaluate", others)]


def _described(source: QuestionSet, named: Mapping[str, Any], use: str) -> dict[str, Any]:
    return {
        "name": source.name,
        "path": named[source.name],
        "use": use,
        "fingerprint": source.fingerprint,
        "questions": len(source.questions),
        "passages": len(source.passages),
        "groups": len(source.groups),
        "development_set_of": source.reserved,
    }


def _limits(questions: int | None, shares: Sequence[float], there: Mapping[str, int]) -> dict[str, int]:
    """How many questions of each split are asked, by the shares of those that hold any."""
    if questions is None:
        return dict(there)
    parts = [share if there[split] else 0.0 for split, share in zip(SPLITS, shares, strict=True)]
    whole = sum(parts)
    if not whole:
        return dict.fromkeys(SPLITS, 0)
    return dict(zip(SPLITS, portions(questions, [part / whole for part in parts]), strict=True))


def _groups(splits: Mapping[tuple[str, str], str]) -> dict[str, dict[str, list[str]]]:
    """Split -> source -> groups."""
    out: dict[str, dict[str, list[str]]] = {split: {} for split in SPLITS}
    for (source, group), split in sorted(splits.items()):
        out[split].setdefault(source, []).append(group)
    return {split: each for split, each in out.items() if each}


def _write(built: Sets, folder: Path) -> None:
    """The sets; those of an earlier call go."""
    for split in SPLITS:
        shutil.rmtree(folder / split, ignore_errors=True)
        for kind, items in built.get(split, {}).items():
            if items:
                save_items(items, folder / split / f"{kind}.jsonl")


def _each(built: Sets, count: Any) -> dict[str, dict[str, Any]]:
    return {split: {kind: count(items) for kind, items in each.items()} for split, each in built.items() if each}


def _labels(prepared: Prepared, probed: Mapping[str, ProbeRecord]) -> dict[str, dict[str, int]]:
    return {
        split: dict(sorted(Counter(probed[question.id].label for question in each).items()))
        for split, each in prepared.questions.items()
        if each
    }


def _why(record: Mapping[str, Any], split: str, kinds: Sequence[str]) -> str:
    """What the model said to the questions of a split, and what kept items from being made."""
    said = [f"{count} {name}" for name, count in record["probe"]["labels"].get(split, {}).items()]
    starts = tuple(f"{split}/{kind}: " for kind in kinds)
    kept = [f"{count} x {name}" for name, count in record["dropped"].items() if name.startswith(starts)]
    return "; ".join([f"the questions asked are {', '.join(said) or 'none'}", *kept])
