"""The knobs of a detector given as text, as a command line does: names and kinds are read from its class."""

from __future__ import annotations

import inspect
import types
from collections.abc import Mapping, Sequence
from dataclasses import InitVar
from typing import Any, Literal, Union, get_args, get_origin

from headwater.errors import InputError
from headwater.heads.detector import Detector

_UNKNOWN = object()


def knobs(kind: type[Detector[Any]]) -> dict[str, Any]:
    """The keywords of a detector's constructor and their types."""
    types_of: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        if base is not object:
            types_of.update(inspect.get_annotations(base, eval_str=True))
    names = list(inspect.signature(kind).parameters)
    return {name: t.type if isinstance(t := types_of[name], InitVar) else t for name in names}


def configured(kind: type[Detector[Any]], given: Mapping[str, str], **known: Any) -> Detector[Any]:
    """A detector whose knobs are given as text.

    Args:
        kind: its class.
        given: knob -> value: numbers, true or false, one of the values that a knob knows, lists with commas, `none`
            where a knob may be left to the detector.
        known: knobs as they are.

    Raises:
        InputError: a knob that the detector does not have (it names those it has), or a value it cannot take.
    """
    kinds = knobs(kind)
    values = dict(known)
    for name, text in given.items():
        if name not in kinds:
            raise InputError(f"{kind.__name__} has no switch {name!r}; it has {', '.join(kinds)}.")
        value = _value(kinds[name], text)
        if value is _UNKNOWN:
            raise InputError(f"{text!r} is no value for {name} of {kind.__name__} ({_named(kinds[name])}).")
        values[name] = value
    return kind(**values)


def _value(kind: Any, text: str) -> Any:
    """The text as a value of that type, or `_UNKNOWN`."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        if type(None) in parts and text.lower() == "none":
            return None
        found = (_value(part, text) for part in parts if part is not type(None))
        return next((value for value in found if value is not _UNKNOWN), _UNKNOWN)
    if origin is Literal:
        return text if text in parts else _UNKNOWN
    if origin in (Sequence, list, tuple) and parts and parts[0] in (int, float, str):
        values = [_value(parts[0], part.strip()) for part in text.split(",")]
        return _UNKNOWN if _UNKNOWN in values else tuple(values)
    if kind is bool:
        return {"true": True, "false": False}.get(text.lower(), _UNKNOWN)
    if kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            return _UNKNOWN
    return text if kind is str else _UNKNOWN


def _named(kind: Any) -> str:
    """What a knob takes, in words."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return " or ".join("none" if part is type(None) else _named(part) for part in parts)
    if origin is Literal:
        return ", ".join(parts)
    if origin in (Sequence, list, tuple) and parts and parts[0] in (int, float, str):
        of = {int: "whole numbers", float: "numbers", str: "texts"}
        return f"{of[parts[0]]} with commas"
    plain = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    return plain.get(kind, "only from Python")
