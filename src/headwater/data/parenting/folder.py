"""The folder of `headwater parent data`, read back: sets by split, and the record of how they were made."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headwater.data.parenting.items import KINDS, ParentingItem, items_fingerprint, load_items
from headwater.data.parenting.questions import SPLITS
from headwater.errors import FormatError, InputError

RECORD = "data.json"
Sets = Mapping[str, Sequence[ParentingItem]]


@dataclass(frozen=True)
class ParentingData:
    """Sets of items ("a", "r", "c", "agree", "empty") by split.

    Attributes:
        train: what is trained and mined on.
        development: what a step is chosen on.
        test: what is measured on, last of all.
        record: `data.json`: settings, model, sources, counts; empty where the sets come from elsewhere.
    """

    train: Sets
    development: Sets = field(default_factory=dict)
    test: Sets = field(default_factory=dict)
    record: Mapping[str, Any] = field(default_factory=dict)

    def fingerprints(self, split: str = "train") -> dict[str, str]:
        """Fingerprint of each set of a split that holds anything."""
        return {name: items_fingerprint(items) for name, items in getattr(self, split).items() if items}

    @property
    def model(self) -> str | None:
        """Fingerprint of the model that was probed; None where that is not known."""
        found = self.record.get("model")
        own = found.get("fingerprint") if isinstance(found, Mapping) else None
        return None if own is None else str(own)

    @property
    def probe(self) -> Mapping[str, Any]:
        """How the model was probed ("prompt", "instruction" and more); empty where that is not known."""
        found = self.record.get("probe")
        return found if isinstance(found, Mapping) else {}


def read_data(source: str | Path) -> ParentingData:
    """Read a folder that `headwater parent data` wrote.

    Raises:
        InputError: there is no such folder, it holds no sets, or sets that cannot be used (`as_data`).
        FormatError: a file in it is damaged.
    """
    folder = Path(source)
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder}; `headwater parent data` makes one.")
    path = folder / RECORD
    try:
        record = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    except (OSError, ValueError) as error:
        raise FormatError(f"{path} cannot be read ({error}); make the folder again.") from error
    if not isinstance(record, dict):
        raise InputError(f"{folder} has no {RECORD}, so it is not a whole folder of `headwater parent data`.")
    splits = {
        split: {kind: load_items(path) for kind in KINDS if (path := folder / split / f"{kind}.jsonl").is_file()}
        for split in SPLITS
    }
    if not any(splits["train"].values()):
        raise InputError(f"{folder} holds no training items.")
    return _checked(ParentingData(**splits, record=record))


def as_data(source: ParentingData | str | Path | Mapping[str, Any]) -> ParentingData:
    """Data as it is, a folder, or a mapping: split -> set -> items, or set -> items, which are then trained on.

    Raises:
        InputError: something else, an unknown split or set, a set that holds something else than items of its kind, or
            a group that is both in training and in another split.
    """
    if isinstance(source, ParentingData):
        return _checked(source)
    if isinstance(source, (str, Path)):
        return read_data(source)
    if not isinstance(source, Mapping):
        raise InputError(
            f"Parenting takes the folder of `headwater parent data` or sets of items, not {type(source).__name__}."
        )
    splits = dict(source) if set(source) & set(SPLITS) else {"train": source}
    odd = next((name for name in splits if name not in SPLITS), None)
    if odd is not None:
        raise InputError(f"Unknown split {odd!r}; the splits are {', '.join(SPLITS)}.")
    return _checked(ParentingData(**splits))


def _checked(data: ParentingData) -> ParentingData:
    """The data, if its items are where they belong."""
    groups: dict[str, set[str]] = {}
    for split in SPLITS:
        sets = getattr(data, split)
        if not isinstance(sets, Mapping):
            raise InputError(f"The split {split!r} takes sets by name, not {type(sets).__name__}.")
        for name, items in sets.items():
            if name not in KINDS:
                raise InputError(f"Unknown set {name!r}; the sets are {', '.join(KINDS)}.")
            if not isinstance(items, Sequence) or not all(isinstance(item, ParentingItem) for item in items):
                raise InputError(f"The set {name!r} of {split} takes a list of ParentingItem objects.")
            odd = next((item for item in items if item.kind != name), None)
            if odd is not None:
                raise InputError(f"The item {odd.id!r} of kind {odd.kind!r} is in the set {name!r} of {split}.")
        groups[split] = {item.group for items in sets.values() for item in items}
    for split in SPLITS[1:]:
        shared = sorted(groups["train"] & groups[split])
        if shared:
            raise InputError(
                f"The group {shared[0]!r} is in training and in {split}, which then says nothing: keep it in one split."
            )
    return data
