"""The rows of the PEAR tables: what is done to the model in each (pear.md 8.1 and 8.2).

A row is a name and a way to treat the model, one per seed: a head set whose coefficients scale heads while the model
runs (None: nothing), or, where other weights or another way of decoding are needed, a context that yields a function of
(question, documents). To add a rival, add a `Row` to `rows`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Literal

from headwater.adapt.copy_adapter import copying_adapter
from headwater.data.documents import Document
from headwater.errors import MissingExtraError
from headwater.evaluate.pear.workshop import Workshop
from headwater.headset import HeadSet
from headwater.model.adapter import require_peft
from headwater.model.lm import LanguageModel
from headwater.read.context_aware import ContextAwareReader
from headwater.read.reader import Reader

Ask = Callable[[str, Sequence[Document]], str]
Scale = Callable[[Workshop, int], HeadSet | None]
VANILLA, PEAR, RANDOM, EVERY = "vanilla", "PEAR", "random heads, trained", "all heads, trained (SEAL-H)"
SEQUENCE_MEAN, ZEROED, ADAPTER = "PEAR, sequence mean", "top heads zeroed", "rank-1 LoRA on the output projections"
CONTRAST = "context-aware decoding (CAD)"


@dataclass(frozen=True)
class Row:
    """One row.

    Attributes:
        name: as the tables show it.
        scale: (workshop, seed) -> coefficients; None for rows that are read alone.
        alone: (workshop, seed) -> a context that yields what answers questions.
        seeds: how many: "one", "some" or "all" of `Settings`.
        decisive: asked all questions, not only the first ones.
        cost: at inference.
    """

    name: str
    scale: Scale | None = None
    alone: Callable[[Workshop, int], AbstractContextManager[Ask]] | None = None
    seeds: Literal["one", "some", "all"] = "one"
    decisive: bool = False
    cost: str = "none"


def rows(workshop: Workshop, k: int) -> list[Row]:
    """Every row of the tables with k heads; with another default number, that one's two main rows as well."""
    found = [
        Row(VANILLA, lambda shop, seed: None, decisive=True),
        Row(PEAR, lambda shop, seed: shop.learned(shop.heads(k, seed), seed), seeds="all", decisive=True),
        Row(SEQUENCE_MEAN, lambda shop, seed: _sequence_mean(shop, k, seed), seeds="some"),
        Row(RANDOM, lambda shop, seed: shop.learned(shop.random(k, seed), seed), seeds="all", decisive=True),
        Row("shuffled scores, trained", lambda shop, seed: _ordered(shop, k, seed, "shuffled"), seeds="some"),
        Row("most helpful heads, trained", lambda shop, seed: _ordered(shop, k, seed, "helpful")),
        Row("heads nearest to zero, trained", lambda shop, seed: _ordered(shop, k, seed, "neutral")),
        Row(ZEROED, lambda shop, seed: constant(shop.heads(k, seed), 0.0)),
        *(_constant_row(k, value) for value in workshop.settings.constants),
        Row(EVERY, lambda shop, seed: shop.learned("all", seed), seeds="some", decisive=True),
    ]
    default = workshop.default_k
    if k != default:
        found += [
            Row(f"{PEAR} (K={default})", lambda shop, seed: shop.learned(shop.heads(default, seed), seed), seeds="all"),
            Row(
                f"random heads, trained (K={default})",
                lambda shop, seed: shop.learned(shop.random(default, seed), seed),
                seeds="some",
            ),
        ]
    if _peft():
        found.append(Row(ADAPTER, alone=_adapter))
    found.append(Row(CONTRAST, alone=_contrast, cost="a second pass per token, two caches"))
    return found


def constant(heads: HeadSet, value: float) -> HeadSet:
    """The heads, all with one coefficient."""
    return replace(heads, coefficients=[value] * len(heads))


def reading(lm: LanguageModel, new_tokens: int) -> Ask:
    """Answers of a model as it is."""
    reader = Reader(lm, new_tokens)
    return lambda question, documents: reader.read_scaled([None], question, documents)[0].text


def contrasting(lm: LanguageModel, weight: float, new_tokens: int) -> Ask:
    """Answers of context-aware decoding; without documents there is nothing to contrast."""
    reader = ContextAwareReader(lm, weight, new_tokens)

    def ask(question: str, documents: Sequence[Document]) -> str:
        return (reader.read(question, documents) if documents else reader.recall(question)).text

    return ask


def _constant_row(k: int, value: float) -> Row:
    return Row(f"top heads at {value}", lambda shop, seed: constant(shop.heads(k, seed), value), decisive=True)


def _ordered(shop: Workshop, k: int, seed: int, order: Literal["helpful", "neutral", "shuffled"]) -> HeadSet:
    """As many heads as the suppressing ones, from another order."""
    count = len(shop.heads(k, seed))
    return shop.learned(shop.heads(count, seed, order), seed)


def _sequence_mean(shop: Workshop, k: int, seed: int) -> HeadSet:
    return shop.learned(shop.heads(k, seed, ablation="sequence_mean"), seed)


@contextmanager
def _adapter(shop: Workshop, seed: int) -> Iterator[Ask]:
    with copying_adapter(shop.lm, shop.pear(None, seed)) as tuned:
        yield reading(tuned, shop.settings.new_tokens)


@contextmanager
def _contrast(shop: Workshop, seed: int) -> Iterator[Ask]:
    yield contrasting(shop.lm, shop.choices[CONTRAST], shop.settings.new_tokens)


def _peft() -> bool:
    """Whether adapters can be trained here: peft is an extra."""
    try:
        require_peft()
    except MissingExtraError:
        return False
    return True
