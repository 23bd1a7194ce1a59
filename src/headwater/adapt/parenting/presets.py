"""Presets: a whole column of parenting.md 4 at once, never over a switch that was set by hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from headwater.errors import InputError


def take_preset(method: Any, presets: Mapping[str, Mapping[str, Any]]) -> None:
    """Set the switches of a method's preset, if it has one that is known.

    Args:
        method: a dataclass with a field `preset`.
        presets: switches by preset.

    Raises:
        InputError: a switch that was given a value of its own beside the preset.
    """
    defaults = {field.name: field.default for field in fields(method)}
    for name, value in presets.get(method.preset or "", {}).items():
        given = _plain(getattr(method, name))
        if given not in (_plain(defaults[name]), _plain(value)):
            raise InputError(
                f"preset={method.preset!r} sets {name} to {value!r}, but {name}={given!r} was given: leave one of the "
                "two out."
            )
        setattr(method, name, value)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
