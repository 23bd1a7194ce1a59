"""Every error a user can meet, in one place.

Each message says what was wrong, where, and what to do about it. The command line prints the message alone and exits
with 1 (the work failed) or 2 (wrong usage); nothing below raises a bare exception on bad input.
"""

from __future__ import annotations

from typing import Any


class HeadwaterError(Exception):
    """Base of every public error of headwater."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel between processes with everything that stands beside the sentence."""
        return _again, (type(self), self.args, dict(vars(self)))


def _again(kind: type[HeadwaterError], sentence: tuple[Any, ...], beside: dict[str, Any]) -> HeadwaterError:
    """An error as it was, whatever its own `__init__` asks for."""
    error: HeadwaterError = Exception.__new__(kind, *sentence)
    vars(error).update(beside)
    return error


class InputError(HeadwaterError, ValueError):
    """An argument, a query, a document or an example cannot be used as given."""


class FormatError(InputError):
    """A file or folder does not hold what its format promises."""


class ModelError(HeadwaterError):
    """A model could not be loaded, or lacks a part that the call needs (the message names the part)."""


class HeadSetError(InputError):
    """A head set is malformed or does not fit the model."""


class ContextOverflowError(InputError):
    """A prompt is longer than the model can read.

    Attributes:
        tokens: length of the prompt.
        limit: what the model reads.
    """

    def __init__(self, message: str, *, tokens: int, limit: int) -> None:
        """Keep the two numbers beside the sentence, for callers that shorten their lists."""
        super().__init__(message)
        self.tokens = tokens
        self.limit = limit


class InsufficientMemoryError(HeadwaterError, MemoryError):
    """A prompt that the model could read does not fit the memory of its device."""


class LocalHeadError(InputError):
    """A ranking head sees only a sliding window shorter than the prompt, so early documents would get nothing."""


class NoAcceptedRunsError(HeadwaterError):
    """The model answered no needle case, so nothing says which heads copy.

    Attributes:
        reasons: how many runs were rejected for each reason.
        responses: what the model said in some of them.
    """

    def __init__(self, message: str, *, reasons: dict[str, int], responses: list[str]) -> None:
        """Keep the counts and the responses beside the sentence."""
        super().__init__(message)
        self.reasons = reasons
        self.responses = responses


class UnreliableUnitsError(HeadwaterError):
    """Mined twice, on disjoint data, the units of a model rank too differently to be sorted into classes.

    Attributes:
        reliability: Spearman correlation between the two halves of each set, and between the sets.
    """

    def __init__(self, message: str, *, reliability: dict[str, float]) -> None:
        """Keep the correlations beside the sentence."""
        super().__init__(message)
        self.reliability = reliability


class NonFiniteAttentionError(HeadwaterError):
    """An attention row held NaN or infinity, or did not sum to one.

    Attributes:
        layer: 0-based layer of the first bad row.
        head: 0-based query head of the first bad row.
    """

    def __init__(self, message: str, *, layer: int, head: int) -> None:
        """Keep the layer and the head beside the sentence."""
        super().__init__(message)
        self.layer = layer
        self.head = head


class SearchIndexError(HeadwaterError):
    """An index on disk cannot be opened, read or written."""


class MissingExtraError(HeadwaterError, ImportError):
    """A feature needs an optional package; the message names the extra and the command that installs it."""
