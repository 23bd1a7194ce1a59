"""What every head detector shares: the two verbs, the default number of heads, the provenance of the result."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from headwater.data import world
from headwater.data.documents import Document, RankingExample
from headwater.data.formats import read_examples
from headwater.errors import HeadSetError
from headwater.headset import HeadScores, HeadSet
from headwater.model.anatomy import Anatomy
from headwater.model.lm import LanguageModel

Progress = Callable[[int, int], None]
Example = TypeVar("Example")
BUILT_IN_EXAMPLES = 64


def default_top_k(anatomy: Anatomy) -> int:
    """2.4 % of the heads, between 8 and 16; 32 for models of more than 4,000 heads (qrhead.md 5).

    At least 8, because the heads of a small model share the work: on development countries 8 of the embedded model's 48
    rank better than 2, 4 or all (docs/results/main.md).
    """
    total = len(anatomy.all_heads)
    return 32 if total > 4000 else min(16, max(8, round(0.024 * total)), total)


def built_in_examples() -> list[RankingExample]:
    """Questions about the development countries of the fact world, each with 20 candidate documents."""
    return world.ranking_examples("development", BUILT_IN_EXAMPLES)


def data_fingerprint(examples: Sequence[RankingExample]) -> str:
    """Sixteen hex digits over queries, documents and grades."""
    digest = hashlib.sha256()
    for example in examples:
        documents = [(d.title, d.text) for d in example.documents if isinstance(d, Document)]
        digest.update(json.dumps([example.query, documents, example.grades()]).encode())
    return digest.hexdigest()[:16]


@dataclass
class Detector(ABC, Generic[Example]):
    """Base of the head detectors: a subclass scores every head, `find` keeps the best.

    Most detectors look at `RankingExample`s; one that looks at something else says so (`Detector[NeedleCase]`) and
    overrides `read_examples`.

    Attributes:
        top_k: heads to keep (None: `default_top_k`).
        seed: of everything that is shuffled or drawn.
    """

    top_k: int | None = None
    seed: int = field(default=0, kw_only=True)

    @abstractmethod
    def score(
        self, lm: LanguageModel, examples: Sequence[Example] | None = None, progress: Progress | None = None
    ) -> HeadScores:
        """Score every query head of the model.

        Args:
            lm: a loaded model.
            examples: what the heads are scored on (None: built-in ones), mostly queries with gold documents.
            progress: called with (examples done, examples in all).
        """

    def read_examples(self, path: str | Path) -> Sequence[Example]:
        """The examples in a file: ranking examples, one JSON object a line.

        Raises:
            InputError: there is no such file.
            FormatError: a line that is no example.
        """
        found: Sequence[Any] = read_examples(path)
        return found

    def find(
        self, lm: LanguageModel, examples: Sequence[Example] | None = None, progress: Progress | None = None
    ) -> HeadSet:
        """Score every head and keep the best `top_k`, best first.

        Raises:
            HeadSetError: `top_k` is not between 1 and the number of heads of the model, or fewer heads got a score.
        """
        wanted = self._checked_number(lm)
        return self.score(lm, examples, progress).top(wanted)

    def _checked_number(self, lm: LanguageModel) -> int:
        """How many heads `find` keeps; refused where the model does not have as many."""
        total, wanted = len(lm.anatomy.all_heads), self._number_kept(lm.anatomy)
        if not 1 <= wanted <= total:
            raise HeadSetError(f"top_k must be between 1 and the {total} heads of {lm.name!r}, got {wanted}.")
        return wanted

    def _number_kept(self, anatomy: Anatomy) -> int:
        """How many heads `find` keeps of a model."""
        return default_top_k(anatomy) if self.top_k is None else self.top_k

    def _provenance(self, lm: LanguageModel, examples: Sequence[RankingExample], **more: Any) -> dict[str, Any]:
        return {
            "method": type(self).__name__,
            "settings": asdict(self),
            **lm.provenance(),
            "examples": len(examples),
            "data": data_fingerprint(examples) if examples else None,
            **more,
        }
