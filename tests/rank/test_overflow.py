"""Lists that do not fit: windows find what one prompt would, and say what they did."""

from collections.abc import Iterator

import numpy as np
import pytest

import headwater as hw
from headwater.data.documents import Document
from headwater.errors import ContextOverflowError, InputError, InsufficientMemoryError
from headwater.model.memory import memory
from headwater.rank.overflow import ANCHORS, Room, anchors, slide, tournament, truncate
from models import random_lm


def numbers(n: int) -> list[Document]:
    return [Document(str((i * 37) % n), id=str(i)) for i in range(n)]


def relative(documents: list[Document]) -> np.ndarray:
    """Scores that only mean something within their window: shifted and stretched by its first document."""
    values = np.array([-1.0 if d.text in ANCHORS else float(d.text) for d in documents])
    if any(d.text in ANCHORS for d in documents):
        values[:3] = [-1.0, -2.0, -3.0]
    odd = len(documents) * 0.37 + float(values[-1] % 7)
    return (values * (1 + odd / 10) - odd).astype(np.float32)


def room(n: int, window: int) -> Room:
    return Room([10] * n, 10 * window + 5, 1000)


def test_tournament_finds_the_best_documents() -> None:
    documents = numbers(100)
    order, windows = tournament(documents, relative, room(100, 20), seed=0)
    best = [int(documents[place].text) for place, _ in order]
    assert sorted(best) == list(range(100))
    assert best[0] == 99
    assert len(set(best[:5]) & set(range(95, 100))) >= 4
    assert windows > 5
    assert order == tournament(documents, relative, room(100, 20), seed=0)[0]
    assert order != tournament(documents, relative, room(100, 20), seed=1)[0]


def test_anchors_undo_what_is_relative_to_a_window() -> None:
    documents = numbers(60)
    order, windows = anchors(documents, relative, room(60, 13), taken=30)
    assert windows == 6
    assert [int(documents[place].text) for place, _ in order] == list(range(59, -1, -1))


def test_slide_carries_the_best_to_the_front() -> None:
    documents = numbers(50)
    order, windows = slide(documents, relative, room(50, 10))
    assert int(documents[order[0][0]].text) == 49
    assert {int(documents[place].text) for place, _ in order[:5]} == set(range(45, 50))
    assert windows == 9
    assert sorted(place for place, _ in order) == list(range(50))


def test_documents_that_cannot_be_compared() -> None:
    tight = Room([100, 100, 100], 150, 1000)
    for call in (
        lambda: tournament(numbers(3), relative, tight, 0),
        lambda: slide(numbers(3), relative, tight),
        lambda: anchors(numbers(3), relative, tight, taken=120),
    ):
        with pytest.raises(ContextOverflowError, match="truncate"):
            call()
    with pytest.raises(ContextOverflowError, match="64 tokens"):
        truncate(numbers(3), tight, lambda d, cap: d)


def test_truncation_cuts_the_long_ones_to_one_length() -> None:
    cuts = {}

    def shorten(document: Document, cap: int) -> Document:
        cuts[document.id] = cap
        return document

    _, count = truncate(numbers(3), Room([100, 500, 500], 700, 1000), shorten)
    assert (count, cuts) == (2, {"1": 300, "2": 300})


@pytest.fixture(scope="module")
def documents() -> list[Document]:
    return [Document(f"Text {i} of some words. " * 6, id=str(i)) for i in range(30)]


@pytest.mark.parametrize("overflow", ["truncate", "tournament", "anchors", "slide"])
def test_a_long_list_on_a_model(overflow: str, documents: list[Document]) -> None:
    lm = random_lm(max_position_embeddings=3000)
    ranker = hw.QRRetriever(lm, heads="all", overflow=overflow)
    assert ranker.rank("which?", documents[:2]).strategy == "one prompt"
    ranking = ranker.rank("which?", [*documents, Document(" ", id="blank")])
    assert sorted(r.index for r in ranking) == list(range(31))
    assert (ranking[-1].id, ranking[-1].score) == ("blank", -np.inf)
    assert ranking.strategy == overflow
    assert ranking.windows == 1 if overflow == "truncate" else ranking.windows > 1
    assert (ranking.shortened > 0) == (overflow == "truncate")
    assert [r.index for r in ranker.rank_many(["which?"], documents, top_k=3)[0]] == [
        r.index for r in ranker.rank("which?", documents, top_k=3)
    ]
    with pytest.raises(ContextOverflowError):
        hw.QRRetriever(lm, heads="all").rank("which?", documents)


def test_a_window_size_can_be_asked_for(documents: list[Document]) -> None:
    ranking = hw.QRRetriever(random_lm(), heads="all", overflow="slide", window=2).rank("which?", documents[:4])
    assert (ranking.strategy, ranking.windows) == ("slide", 3)


def test_plan_counts_what_the_prompt_takes(documents: list[Document]) -> None:
    lm = random_lm()
    ranker = hw.QRRetriever(lm, heads="1-0")
    plan = ranker.plan("which?", documents[:2])
    here = lm.anatomy
    assert plan.memory.keys_values == 2 * 2 * here.num_kv_heads * here.head_dim * 4 * plan.memory.tokens
    assert plan.memory.weights == sum(p.numel() * 4 for p in lm.model.parameters())
    assert plan.fits
    assert not ranker.plan("which?", documents).fits


def test_what_fits_the_context_but_not_the_memory_is_ranked_in_windows(
    documents: list[Document], monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = random_lm(max_position_embeddings=8000)
    one = memory(lm, 1, 1)
    half = (one.keys_values + one.activations) * 2000
    monkeypatch.setattr("headwater.model.memory.free_bytes", lambda device: half)
    ranking = hw.QRRetriever(lm, heads="1-0", overflow="tournament").rank("which?", documents)
    assert ranking.windows > 2
    with pytest.raises(InsufficientMemoryError):
        hw.QRRetriever(lm, heads="1-0").rank("which?", documents)


def test_memory_that_is_not_there(documents: list[Document], monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from headwater.instrument.prefix import SharedPrefix

    ranker = hw.QRRetriever(random_lm(), heads="1-0")
    monkeypatch.setattr("headwater.model.memory.free_bytes", lambda device: 1000)
    with pytest.raises(InsufficientMemoryError, match=r"keys and values .* free 1000 B.*tournament"):
        ranker.rank("which?", documents[:2])
    monkeypatch.setattr("headwater.model.memory.free_bytes", lambda device: None)

    def full(*_: object) -> Iterator[None]:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
        yield

    monkeypatch.setattr(SharedPrefix, "attentions", full)
    with pytest.raises(InsufficientMemoryError, match="ran out of memory"):
        ranker.rank("which?", documents[:2])


def test_bad_settings() -> None:
    with pytest.raises(InputError, match="Unknown overflow"):
        hw.QRRetriever(random_lm(), heads="all", overflow="cut")
    with pytest.raises(InputError, match="at least 2"):
        hw.QRRetriever(random_lm(), heads="all", overflow="slide", window=1)


def test_fitted_documents_are_what_truncation_reads() -> None:
    lm = random_lm(max_position_embeddings=512)
    documents = [Document(f"{i} " + "word " * (8 + 12 * i), id=str(i)) for i in range(4)]
    cutting, plain = hw.QRRetriever(lm, "all", overflow="truncate"), hw.QRRetriever(lm, "all")
    fitted = plain.fitted("which word?", [*documents, Document(" ")])
    assert fitted[-1].text == " "
    cut = [new.text != old.text for new, old in zip(fitted, documents, strict=False)]
    assert cut == [False, False, True, True]
    assert all(old.text.startswith(new.text) for new, old in zip(fitted, documents, strict=False))
    ranking = cutting.rank("which word?", documents)
    assert ranking.shortened == 2
    by_place = {r.index: r.score for r in ranking}
    np.testing.assert_allclose(plain.score("which word?", fitted[:4]), [by_place[i] for i in range(4)], atol=1e-7)
    assert plain.fitted("which word?", documents[:2]) == documents[:2]
    with pytest.raises(ContextOverflowError, match="cut to 64 tokens"):
        plain.fitted("which word?", documents * 5)
