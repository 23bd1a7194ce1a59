"""`ParentingItem`: one example of a Parenting set, as it stands in the files of `headwater parent data` (3.1)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from headwater.data.documents import check_query, check_text
from headwater.data.lines import write_page
from headwater.data.records import json_lines
from headwater.errors import FormatError, InputError

ADHERE, RESIST, EXTRACT, AGREE, EMPTY = "a", "r", "c", "agree", "empty"
KINDS = (ADHERE, RESIST, EXTRACT, AGREE, EMPTY)
GOLD, EDITED, SAME_TOPIC, OFF_TOPIC = "gold", "edited", "same_topic", "off_topic"
RELEVANT = (GOLD, EDITED)
# How extraction targets call the roles.
ROLES = {GOLD: "relevant", EDITED: "relevant", SAME_TOPIC: "same topic", OFF_TOPIC: "other topic"}
KNOWN, UNKNOWN, WRONG = "known", "unknown", "wrong"


@dataclass(frozen=True)
class ItemDocument:
    """A document of an item and what it is there for.

    Attributes:
        text: the body.
        role: "gold" (states the true answer), "edited" (states another one in its place), "same_topic" or "off_topic"
            (state neither).
        title: shown on a line of its own before the text.
        id: where it comes from.

    Raises:
        InputError: an unknown role, or something that is no text.
    """

    text: str
    role: str
    title: str | None = None
    id: str | None = None

    def __post_init__(self) -> None:
        """Check once."""
        check_text(self.text, "The text of a document")
        if self.role not in ROLES:
            raise InputError(f"Unknown role {self.role!r} of a document; the roles are {', '.join(ROLES)}.")
        for name in ("title", "id"):
            if getattr(self, name) is not None:
                check_text(getattr(self, name), f"The {name} of a document")


@dataclass(frozen=True)
class ParentingItem:
    """A question, what is shown beside it, and what the model should say (parenting.md 3.1).

    Attributes:
        id: ``<id of the source question>#<wording>/<kind>``, so that it leads back to the source.
        group: what must not be parted between training and test: an article, a country.
        kind: "a" (documents against memory), "r" (noise), "c" (document extraction), "agree" (documents say what the
            model remembers), "empty" (no documents).
        question: the question.
        documents: what is shown, in this order.
        target: what the model learns to say.
        gold: true answers, aliases among them; empty where the source knows none.
        memory: what the model said without documents, greedily.
        probe: the record of that probe: "greedy", "samples", "label" ("known", "unknown", "wrong").
        stated: what the documents state, where that is not `gold` (an edited document).

    Raises:
        InputError: an unknown kind, a blank question or id, or parts of the wrong type.
    """

    id: str
    group: str
    kind: str
    question: str
    documents: tuple[ItemDocument, ...]
    target: str
    gold: tuple[str, ...]
    memory: str = ""
    probe: Mapping[str, Any] = field(default_factory=dict, hash=False)
    stated: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check once; lists become tuples."""
        if self.kind not in KINDS:
            raise InputError(f"Unknown kind {self.kind!r} of an item; the kinds are {', '.join(KINDS)}.")
        check_query(self.question)
        for name in ("id", "group", "target", "memory"):
            check_text(getattr(self, name), f"The {name} of an item")
        if not self.id or not self.group:
            raise InputError(f"The item {self.id!r} about {self.question!r} needs an id and a group.")
        for name in ("documents", "gold", "stated"):
            found = getattr(self, name)
            if isinstance(found, str) or not isinstance(found, Sequence):
                raise InputError(f"The {name} of the item {self.id!r} must be a list.")
            object.__setattr__(self, name, tuple(found))
        for answer in (*self.gold, *self.stated):
            check_text(answer, f"An answer of the item {self.id!r}")
        if not all(isinstance(document, ItemDocument) for document in self.documents):
            raise InputError(f"The documents of the item {self.id!r} must be ItemDocument objects.")
        if not isinstance(self.probe, Mapping):
            raise InputError(f"The probe of the item {self.id!r} must be a mapping.")

    @property
    def source(self) -> str:
        """Id of the source question."""
        return self.id.rpartition("#")[0] or self.id

    @property
    def in_documents(self) -> tuple[str, ...]:
        """Answers that the documents state: empty where they state none."""
        if not any(document.role in RELEVANT for document in self.documents):
            return ()
        return self.stated or self.gold

    @property
    def in_memory(self) -> tuple[str, ...]:
        """Answers from memory: what the model said, and where that was right all true answers."""
        said = (self.memory,) if self.memory else ()
        return (*said, *self.gold) if self.probe.get("label") == KNOWN else said

    @property
    def right(self) -> tuple[str, ...]:
        """Answers that count as right: what the documents state, else what is remembered, else the true ones."""
        return self.in_documents or self.in_memory or self.gold

    def record(self) -> dict[str, Any]:
        """The item as JSON."""
        out = asdict(self)
        out["docs"] = [dict(each) for each in out.pop("documents")]
        out["probe"] = dict(self.probe)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in out.items()}

    @classmethod
    def from_record(cls, record: Mapping[str, Any], where: str = "an item") -> ParentingItem:
        """An item from JSON.

        Raises:
            FormatError: a field is missing, unknown or of the wrong type; the message says where.
        """
        values = dict(record)
        shown = values.pop("docs", None)
        if not isinstance(shown, list) or not all(isinstance(each, Mapping) for each in shown):
            raise FormatError(f"{where}: the field 'docs' is missing or not a list of objects.")
        try:
            return cls(documents=tuple(ItemDocument(**each) for each in shown), **values)
        except TypeError as error:
            reason = str(error).partition("() ")[2] or str(error)
            raise FormatError(f"{where}: not an item of a Parenting set ({reason}).") from None
        except InputError as error:
            raise FormatError(f"{where}: {error}") from error


def extraction_target(documents: Sequence[ItemDocument]) -> str:
    """The target of document extraction (3.1.4): a line `[i] role` per document, then the relevant text verbatim.

    Raises:
        InputError: not exactly one of the documents is relevant.
    """
    relevant = [document.text.strip() for document in documents if document.role in RELEVANT]
    if len(relevant) != 1:
        raise InputError(f"Document extraction needs exactly one relevant document, got {len(relevant)}.")
    lines = [f"[{place}] {ROLES[document.role]}" for place, document in enumerate(documents, 1)]
    return "\n".join([*lines, *relevant])


def save_items(items: Iterable[ParentingItem], path: str | Path) -> Path:
    """Write items, one JSON object per line, whole or not at all; the folder is made.

    Raises:
        InputError: the file cannot be written.
    """
    lines = [json.dumps(item.record(), ensure_ascii=False, allow_nan=False) + "\n" for item in items]
    return write_page(path, "".join(lines))


def load_items(path: str | Path) -> list[ParentingItem]:
    """Read items; an empty file holds none.

    Raises:
        InputError: there is no such file.
        FormatError: a line that is no item, or an id that stands twice.
    """
    source = Path(path)
    if not source.is_file():
        raise InputError(f"There is no file of items {source}; `headwater parent data` makes them.")
    out: dict[str, ParentingItem] = {}
    for line, record in json_lines(source):
        item = ParentingItem.from_record(record, f"{source}, line {line}")
        if item.id in out:
            raise FormatError(f"{source}, line {line}: the id {item.id!r} stands twice; ids must be unique.")
        out[item.id] = item
    return list(out.values())


def items_fingerprint(items: Iterable[ParentingItem]) -> str:
    """Sixteen hex digits that change with any field of any item, and with their order."""
    digest = hashlib.sha256()
    for item in items:
        digest.update(json.dumps(item.record(), sort_keys=True, ensure_ascii=False).encode() + b"\n")
    return digest.hexdigest()[:16]
