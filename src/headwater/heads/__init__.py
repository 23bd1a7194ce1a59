"""Head detectors: one published method = one file = one dataclass.

A new detector is a file here and a line in `DETECTORS`. Classes are imported on first use, so that the command line can
list their names without waiting for PyTorch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headwater.heads.detector import Detector


class _Detectors(Mapping[str, "type[Detector[Any]]"]):
    """Name of a method -> its class."""

    def __init__(self, places: Mapping[str, str]) -> None:
        self._places = places

    def __getitem__(self, name: str) -> type[Detector[Any]]:
        module, _, kind = self._places[name].rpartition(".")
        found: type[Detector[Any]] = getattr(import_module(f"headwater.heads.{module}"), kind)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


DETECTORS = _Detectors(
    {
        "contrastive": "contrastive.ContrastiveHeads",
        "juice": "juice.JuiceHeads",
        "ph3": "ph3.Ph3Heads",
        "query-focused": "query_focused.QueryFocusedHeads",
        "random": "random_heads.RandomHeads",
        "retrieval": "retrieval.RetrievalHeads",
        "suppression": "suppression.SuppressionHeads",
    }
)


def __getattr__(name: str) -> Any:
    """`Detector`, and the detectors by the names of their classes."""
    if name == "Detector":
        return import_module("headwater.heads.detector").Detector
    for method, place in DETECTORS._places.items():
        if place.rpartition(".")[2] == name:
            return DETECTORS[method]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
