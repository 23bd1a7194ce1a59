"""What the readers of task files share: the fields of `headwater.data.fields`, and items that are told apart."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

from headwater.data.fields import Record, distinct, read_record, read_records, read_source
from headwater.errors import FormatError
from headwater.evaluate.tasks.task import Item

__all__ = ["Record", "checked", "distinct", "read_record", "read_records", "read_source"]

ItemT = TypeVar("ItemT", bound=Item)


def checked(items: Iterable[ItemT], path: Path) -> list[ItemT]:
    """The items, if there are any and no id stands twice.

    Raises:
        FormatError: otherwise.
    """
    found, seen = list(items), set()
    if not found:
        raise FormatError(f"{path} holds no usable example.")
    for item in found:
        if item.id in seen:
            raise FormatError(f"{path}: the id {item.id!r} stands twice; ids must be unique.")
        seen.add(item.id)
    return found
