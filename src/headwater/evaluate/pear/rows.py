"""The rows of the PEAR tables: what is done to the model in each (pear.md 8.1 and 8.2).

A row is a name and a way to treat the model, one per seed: a head set whose coefficients scale heads while the model
runs (None: nothing), or, where other weights or another way of decoding are needed, a context that yields a function of
(question, documents). A control is a `Row` in `rows`; what is tuned on development questions first is one of the rivals
(`headwater.evaluate.pear.rivals`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from headwater.adapt.copy_adapter import copying_adapter
from headwater.data.documents import Document
from headwater.errors import MissingExtraError
from headwater.evaluate.pear.workshop import Progress, Workshop
from headwater.headset import HeadSet
from headwater.model.adapter import require_peft
from headwater.model.lm import LanguageModel
from headwater.read.context_aware import ContextAwareReader
from headwater.read.reader import Reader

Ask = Callable[[str, Sequence[Document]], str]
Scale = Callable[[Workshop, int], HeadSet | None]
VANILLA, PEAR, RANDOM = "vanilla", "PEAR", "random heads, trained"
EVERY = "all heads, trained (as SEAL-H, on our proxy)"
SEQUENCE_MEAN, ZEROED, ADAPTER = "PEAR, sequence mean", "top heads zeroed", "rank-1 LoRA on the output projections"
CONTRAST = "context-aware decoding (CAD)"


@dataclass(frozen=True)
class Row:
    """One row.

    Attributes:
        name: as the tables show it.
        scale: (workshop, seed) -> coefficients; None for rows that are read alone.
        alone: (workshop, seed) -> a context that yields what answers questions.
        made: what a row that is read alone depends on beside the run's configuration and the seed, for JSON.
        seeds: how many: "some" or "all" of `Settings`; "none" where nothing is drawn, so that there is one treatment.
        decisive: asked all questions, not only the first ones.
        cost: at inference.
    """

    name: str
    scale: Scale | None = None
    alone: Callable[[Workshop, int], AbstractContextManager[Ask]] | None = None
    made: object = None
    seeds: Literal["none", "some", "all"] = "none"
    decisive: bool = False
    cost: str = "none"


def rows(workshop: Workshop, k: int, weight: float, progress: Progress) -> list[Row]:
    """Every row of the tables but the rivals that are tuned.

    Args:
        workshop: of which settings and the default number of heads are looked at.
        k: heads; with another default number, that one's two main rows come as well.
        weight: of context-aware decoding.
        progress: told of the learning of adapters.
    """
    found = [
        Row(VANILLA, lambda shop, seed: None, decisive=True),
        Row(PEAR, lambda shop, seed: shop.learned(shop.heads(k, seed), seed), seeds="all", decisive=True),
        Row(SEQUENCE_MEAN, lambda shop, seed: _sequence_mean(shop, k, seed), seeds="some"),
        Row(RANDOM, lambda shop, seed: shop.learned(shop.random(k, seed), seed), seeds="all", decisive=True),
        Row("shuffled scores, trained", lambda shop, seed: _ordered(shop, k, seed, "shuffled"), seeds="some"),
        Row("most helpful heads, trained", lambda shop, seed: _ordered(shop, k, seed, "helpful"), seeds="some"),
        Row("heads nearest to zero, trained", lambda shop, seed: _ordered(shop, k, seed, "neutral"), seeds="some"),
        Row(ZEROED, lambda shop, seed: constant(shop.heads(k, seed), 0.0), seeds="some"),
        *(_constant_row(k, value) for value in workshop.settings.constants),
        Row(EVERY, lambda shop, seed: shop.learned("all", seed), seeds="some", decisive=True),
    ]
    default = workshop.default_k
    if k != default:
        found += [
            Row(
                f"{PEAR} (K={default})", lambda shop, seed: shop.learned(shop.heads(default, seed), seed), seeds="some"
            ),
            Row(
                f"random heads, trained (K={default})",
                lambda shop, seed: shop.learned(shop.random(default, seed), seed),
                seeds="some",
            ),
        ]
    if _peft():
        found.append(Row(ADAPTER, alone=partial(_adapter, progress), seeds="some"))
    cost = "a second pass per token, two caches"
    found.append(Row(CONTRAST, alone=lambda shop, seed: _contrast(shop, weight), made=weight, cost=cost))
    return found


def constant(heads: HeadSet, value: float) -> HeadSet:
    """The heads, all with one coefficient."""
    return replace(heads, coefficients=[value] * len(heads))


def reading(lm: LanguageModel, new_tokens: int) -> Ask:
    """Answers of a model as it is."""
    reader = Reader(lm, new_tokens)
    return lambda question, documents: reader.read_scaled([None], question, documents)[0].text


def asking(reader: Reader) -> Ask:
    """What a reader answers, with documents or, where there are none, without."""

    def ask(question: str, documents: Sequence[Document]) -> str:
        return (reader.read(question, documents) if documents else reader.recall(question)).text

    return ask


def contrasting(lm: LanguageModel, weight: float, new_tokens: int) -> Ask:
    """Answers of context-aware decoding; without documents there is nothing to contrast."""
    return asking(ContextAwareReader(lm, weight, new_tokens))


def _constant_row(k: int, value: float) -> Row:
    def scale(shop: Workshop, seed: int) -> HeadSet:
        return constant(shop.heads(k, seed), value)

    return Row(f"top heads at {value}", scale, seeds="some")


def _ordered(shop: Workshop, k: int, seed: int, order: Literal["helpful", "neutral", "shuffled"]) -> HeadSet:
    """As many heads as the suppressing ones, from another order."""
    count = len(shop.heads(k, seed))
    return shop.learned(shop.heads(count, seed, order), seed)


def _sequence_mean(shop: Workshop, k: int, seed: int) -> HeadSet:
    return shop.learned(shop.heads(k, seed, ablation="sequence_mean"), seed)


@contextmanager
def _adapter(progress: Progress, shop: Workshop, seed: int) -> Iterator[Ask]:
    step = progress(f"learning an adapter, seed {seed}")
    with copying_adapter(shop.lm, shop.pear(None, seed), progress=step) as tuned:
        yield reading(tuned, shop.settings.new_tokens)


@contextmanager
def _contrast(shop: Workshop, weight: float) -> Iterator[Ask]:
    yield contrasting(shop.lm, weight, shop.settings.new_tokens)


def _peft() -> bool:
    """Whether adapters can be trained here: peft is an extra."""
    try:
        require_peft()
    except MissingExtraError:
        return False
    return True
