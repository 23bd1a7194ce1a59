"""The masking experiment on a model with one known reading head: what is lost without it, controls, files, refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import headwater as hw
from headwater.errors import HeadSetError, InputError, InsufficientMemoryError
from headwater.evaluate.bench import catalogue
from headwater.evaluate.bench.report import write_bench_report
from headwater.evaluate.masking.cells import cells, default_sizes, order_of
from headwater.evaluate.masking.rows import label, lines
from headwater.evaluate.masking.run import run
from headwater.evaluate.masking.settings import Settings, built_in_reference
from headwater.evaluate.tasks.perplexity import Perplexity
from headwater.headset import parse_heads
from headwater.model.lm import LanguageModel
from headwater.read.reader import Reader
from models import random_lm
from planted_reader import FILLERS, READER, Values, reading_lm


@pytest.fixture(autouse=True)
def tasks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    text = tmp_path / "plain.txt"
    text.write_text("\n\n".join(" ".join(FILLERS[i : i + 6]) for i in range(4)), encoding="utf-8")
    monkeypatch.setitem(catalogue.FORMS, "values", Values)
    monkeypatch.setitem(catalogue.FORMS, "plain", lambda: Perplexity(text, words=10))


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return reading_lm()


def scored(first: tuple[int, int] = READER) -> hw.HeadSet:
    """A set of one listed head with scores of all: that head, then all others in order."""
    scores = np.linspace(0.5, 0.1, 8).reshape(2, 4)
    scores[first] = 1.0
    return hw.HeadSet([first], scores=scores)


def settings(**changes: Any) -> Settings:
    return Settings(**{"tasks": ("values",), "sizes": (1, 2), "seeds": (0, 1), **changes})


def means(summary: dict[str, Any]) -> dict[tuple[str, int], float]:
    return {(label(row), row["k"]): row["mean"] for row in summary["rows"]}


@pytest.mark.parametrize("phase", ["all", "decode"])
@pytest.mark.parametrize("mode", ["zero", "reference_mean", "uniform"])
def test_only_the_reading_head_is_missed(lm: LanguageModel, tmp_path: Path, mode: Any, phase: Any) -> None:
    reference = (" ".join(FILLERS),) if mode == "reference_mean" else None
    wanted = settings(mode=mode, phase=phase, reference=reference, sizes=(1, 2) if mode == "zero" else (1,))
    summary = run(lm, {"qr": scored(), "wu": scored((0, 3))}, tmp_path / "run", wanted)
    found = means(summary)
    assert found["unmasked", 0] == 1.0
    for k in wanted.sizes or ():
        assert found["top of qr", k] == (1.0 if mode == "uniform" else 0.0), "uniform is not a removal"
        assert found["random (2 draws)", k] == 1.0
        assert found["layer-matched (2 draws)", k] == 1.0
        assert found["bottom", k] == 1.0
        assert found["top of wu", k] == 1.0
    assert all((row["mode"], row["phase"]) == (mode, phase) for row in summary["rows"])
    assert all(f"{mode}, {phase}" in name for name in summary["tasks"]["values"]["systems"] if name != "unmasked")


def test_differences_are_paired_with_the_whole_model_and_the_top(lm: LanguageModel, tmp_path: Path) -> None:
    summary = run(lm, {"qr": scored(), "wu": scored((0, 3))}, tmp_path, settings(sizes=(1,)))
    rows = {label(row): row for row in summary["rows"]}
    assert rows["top of qr"]["minus_unmasked"]["mean"] == -1.0
    assert rows["top of qr"]["minus_top"] is None
    assert rows["unmasked"]["minus_unmasked"] is None
    for name in ("random (2 draws)", "layer-matched (2 draws)", "bottom", "top of wu"):
        assert rows[name]["minus_unmasked"]["mean"] == 0.0
        assert rows[name]["minus_top"]["mean"] == 1.0
        assert rows[name]["minus_top"]["p_holm"] >= rows[name]["minus_top"]["p"]
    assert rows["top of qr"]["minus_random"]["mean"] == -1.0
    assert rows["top of wu"]["minus_random"]["mean"] == rows["bottom"]["minus_random"]["mean"] == 0.0
    assert rows["random (2 draws)"]["minus_random"] is None
    for name in ("top of qr", "random (2 draws)", "layer-matched (2 draws)", "bottom", "top of wu"):
        assert (rows[name]["n"], rows[name]["groups"]) == (4, 2)
    drawn = lines(summary["rows"])
    assert drawn["top of qr"] == {"0": rows["unmasked"], "1": rows["top of qr"]}


def test_every_mask_sees_the_same_items_and_is_kept(lm: LanguageModel, tmp_path: Path) -> None:
    summary = run(lm, {"qr": scored()}, tmp_path, settings(limit=3))
    files = sorted(path.stem for path in (tmp_path / "queries" / "values").glob("*.jsonl"))
    masks = [f"{role}-{k}-zero-all" for k in (1, 2) for role in ("qr-top", "bottom")]
    masks += [f"{role}-{k}-zero-all-seed{s}" for k in (1, 2) for role in ("random", "layer-matched") for s in range(2)]
    assert files == sorted([*masks, "unmasked"])
    ids = set()
    for path in (tmp_path / "queries" / "values").glob("*.jsonl"):
        records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        ids.add(tuple(record["id"] for record in records))
        assert all(record["cost"]["tokens"] > 0 for record in records)
    assert len(ids) == 1
    assert len(next(iter(ids))) == 3
    heads = json.loads((tmp_path / "heads" / "qr-top-2-zero-all.json").read_text(encoding="utf-8"))
    assert heads == {"heads": "1-2 0-0"}
    top = summary["tasks"]["values"]["systems"]["random 2, zero, all"]
    assert set(top["settings"]["heads"]) == {"0", "1"}
    assert json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))["rows"]
    written = write_bench_report(tmp_path)
    assert any(path.name == "report.html" for path in written)


@pytest.mark.parametrize("phase", ["all", "decode"])
def test_an_interrupted_run_goes_on_and_ends_the_same(
    lm: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, phase: Any
) -> None:
    wanted = settings(phase=phase, sizes=(1,))
    whole = run(lm, {"qr": scored()}, tmp_path / "whole", wanted)
    own = {name: getattr(Reader, name) for name in ("read", "read_scaled", "read_without")}
    calls = []

    def broken(name: str) -> Any:
        def read(*arguments: Any, **more: Any) -> Any:
            calls.append(name)
            if len(calls) == 3:
                raise KeyboardInterrupt
            return own[name](*arguments, **more)

        return read

    for name in own:
        monkeypatch.setattr(Reader, name, broken(name))
    with pytest.raises(KeyboardInterrupt):
        run(lm, {"qr": scored()}, tmp_path / "part", wanted)
    assert run(lm, {"qr": scored()}, tmp_path / "part", wanted)["rows"] == whole["rows"]
    done = len(calls)
    run(lm, {"qr": scored()}, tmp_path / "part", wanted)
    assert len(calls) == done, "a finished run reads nothing again"
    assert set(calls) == {"read_scaled" if phase == "all" else "read_without"}


@pytest.mark.parametrize("phase", ["all", "decode"])
def test_reading_together_gives_what_single_runs_give(tmp_path: Path, phase: Any) -> None:
    other = random_lm(max_position_embeddings=2048)
    heads = hw.HeadSet([(0, 0)], scores=np.random.default_rng(0).random((4, 8)))
    run(other, {"qr": heads}, tmp_path, settings(phase=phase, sizes=(2, 5), seeds=(0,), limit=2))
    items = {item.id: item for item in Values().load()}
    reader, said = Reader(other), set()
    for path in sorted((tmp_path / "queries" / "values").glob("*.jsonl")):
        listed = json.loads((tmp_path / "heads" / f"{path.stem}.json").read_text(encoding="utf-8"))["heads"]
        for line in path.read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            item = items[record["id"]]
            with hw.ablated(other, parse_heads(listed) if listed else [], "zero", phase):
                assert record["output"] == reader.read(item.question, item.documents).text
            said.add((record["id"], record["output"]))
    assert len(said) > 4, "masks that change nothing show nothing"


def test_closed_book_and_text_take_the_same_masks(lm: LanguageModel, tmp_path: Path) -> None:
    closed = {"task": "values", "name": "closed-book"}
    summary = run(lm, {"qr": scored()}, tmp_path, settings(tasks=(closed, "plain"), sizes=(1,), seeds=(0,)))
    rows = [row for row in summary["rows"] if row["task"] == "closed-book"]
    assert {row["mean"] for row in rows} == {0.0}, "nothing stands in the question"
    text = {label(row): row for row in summary["rows"] if row["task"] == "plain"}
    assert text["top of qr"]["metric"] == "bits per byte"
    assert text["top of qr"]["lower_is_better"]
    assert text["unmasked"]["mean"] == text["bottom"]["mean"]
    decoded = run(
        lm, {"qr": scored()}, tmp_path / "d", settings(tasks=(closed,), sizes=(1,), phase="decode", controls=False)
    )
    assert {row["mean"] for row in decoded["rows"]} == {0.0}


def test_orders_are_nested_and_controls_stay_outside() -> None:
    lm = random_lm()
    heads = hw.HeadSet([(3, 3), (0, 1)], scores=np.random.default_rng(1).random((4, 8)))
    order = order_of(heads)
    assert order[:2] == [(3, 3), (0, 1)]
    assert sorted(order) == lm.anatomy.all_heads
    rest = [heads.scores[head] for head in order[2:]]
    assert rest == sorted(rest, reverse=True)
    found, missing = cells(lm, {"a": heads}, (1, 2, 4), True, range(5))
    assert not missing
    for cell in found:
        for draw in cell.draws:
            assert len(set(draw)) == cell.k
            if cell.role == "top":
                assert list(draw) == order[: cell.k]
            else:
                assert not set(draw) & set(order[: 2 * cell.k if cell.role != "bottom" else cell.k])
            if cell.role == "layer-matched":
                assert sorted(layer for layer, _ in draw) == sorted(layer for layer, _ in order[: cell.k])
    (bottom,) = [cell for cell in found if cell.name == "bottom 4"]
    assert bottom.draws == [order[:-5:-1]]
    assert default_sizes(lm.anatomy) == (1,)


def test_random_heads_differ_where_few_are_left() -> None:
    lm, heads = random_lm(), hw.HeadSet([(0, 0)], scores=np.random.default_rng(2).random((4, 8)))
    for k, outside in ((8, 16), (10, 20), (11, 11), (16, 16)):  # of 32: more than K are left outside the top 2K, or not
        found, _ = cells(lm, {"a": heads}, (k,), True, range(3))
        (drawn,) = [cell for cell in found if cell.role == "random"]
        assert not {head for draw in drawn.draws for head in draw} & set(order_of(heads)[:outside])
        if k < 16:
            assert len({tuple(sorted(draw)) for draw in drawn.draws}) == 3


def test_random_heads_are_in_the_top_of_no_set() -> None:
    lm, draw = random_lm(), np.random.default_rng(3)
    sets = {name: hw.HeadSet([(0, 0)], scores=draw.random((4, 8))) for name in "ab"}
    first, other = (order_of(heads) for heads in sets.values())
    for k, outside in ((4, [*first[:8], *other[:4]]), (9, [*first[:9], *other[:9]]), (14, first[:14])):
        found, _ = cells(lm, sets, (k,), True, range(4))
        drawn = {head for cell in found if cell.role == "random" for draw in cell.draws for head in draw}
        assert drawn
        assert not drawn & set(outside)
    assert set(other[:14]) & drawn, "too few are left outside both"


def test_masks_are_read_in_parts_where_memory_is_short(lm: LanguageModel, tmp_path: Path, monkeypatch: Any) -> None:
    whole, sizes = run(lm, {"qr": scored()}, tmp_path / "whole", settings(sizes=(1,))), []
    own = Reader.read_scaled

    def narrow(self: Reader, sets: Any, *arguments: Any) -> Any:
        sizes.append(len(sets))
        if len(sets) > 2:
            raise InsufficientMemoryError("too many")
        return own(self, sets, *arguments)

    monkeypatch.setattr(Reader, "read_scaled", narrow)
    assert run(lm, {"qr": scored()}, tmp_path / "parts", settings(sizes=(1,)))["rows"] == whole["rows"]
    assert 2 in sizes


def test_controls_that_cannot_be_are_named(lm: LanguageModel, tmp_path: Path) -> None:
    bare = hw.HeadSet([(1, 2), (1, 0), (1, 1), (0, 0)])
    summary = run(lm, {"own": bare}, tmp_path, settings(sizes=(1, 2)))
    gaps = {row["system"]: row["why"] for row in summary["not_run"]}
    assert "without scores" in gaps["bottom 1"]
    assert "2 heads of layer 1 cannot be drawn: 1 are left" in gaps["layer-matched 2"]
    assert ("random (2 draws)", 2) in means(summary)
    found, missing = cells(lm, {"a": scored()}, (5,), True, (0,))
    assert [cell.role for cell in found] == ["top"]
    assert [gap.name for gap in missing] == ["random 5", "layer-matched 5", "bottom 5"]


def test_a_prompt_that_never_fits_is_said(tmp_path: Path) -> None:
    small = random_lm(max_position_embeddings=16)
    scores = hw.HeadSet([(0, 0)], scores=np.ones((4, 8)))
    for phase in ("all", "decode"):
        summary = run(small, {"a": scores}, tmp_path / phase, settings(phase=phase, controls=False))
        assert not summary["tasks"]
        assert "reads 16" in summary["not_run"][0]["why"]


def test_bad_input(lm: LanguageModel, tmp_path: Path) -> None:
    for changes, match in (
        ({"mode": "batch_mean"}, "Unknown mode"),
        ({"phase": "prompt"}, "Unknown phase"),
        ({"mode": "reference_mean"}, "needs reference texts"),
        ({"reference": ("x",)}, "no other mode"),
        ({"tasks": ()}, "at least one task"),
        ({"seeds": (1, 1)}, "without repetitions"),
    ):
        with pytest.raises(InputError, match=match):
            settings(**changes)
    for changes, error, match in (
        ({"tasks": ("nothing",)}, InputError, "There is no task"),
        ({"tasks": ("perplexity",)}, InputError, "give --data"),
        ({"tasks": ("world-ranking",)}, InputError, "task of ranking"),
        ({"tasks": ("plain",), "phase": "decode"}, InputError, "generates nothing"),
        ({"tasks": ("values", "values")}, InputError, "one name"),
        ({"sizes": ()}, InputError, "got none"),
        ({"sizes": (0,)}, InputError, "from 1 on"),
        ({"sizes": (9,)}, HeadSetError, "K is 9, but .* has 8 heads"),
    ):
        with pytest.raises(error, match=match):
            run(lm, {"qr": scored()}, tmp_path / "x", settings(**changes))
    with pytest.raises(HeadSetError, match="top 2 is not known"):
        run(lm, {"qr": hw.HeadSet([READER])}, tmp_path / "x", settings())
    with pytest.raises(HeadSetError, match="5-0 is not in this model"):
        run(lm, {"qr": hw.HeadSet([(5, 0), (0, 0)])}, tmp_path / "x", settings())
    with pytest.raises(InputError, match="have one name"):
        run(lm, {"a b": scored(), "a-b": scored()}, tmp_path / "x", settings())
    with pytest.raises(InputError, match="at least one head set"):
        run(lm, {}, tmp_path / "x", settings())
    assert not (tmp_path / "x").exists(), "nothing is written before all is checked"
    run(lm, {"qr": scored()}, tmp_path / "y", settings(controls=False, sizes=(1,)))
    with pytest.raises(InputError, match="mode='zero'"):
        run(lm, {"qr": scored()}, tmp_path / "y", settings(mode="uniform"))
    with pytest.raises(InputError, match="heads='1-2'"):
        run(lm, {"qr": scored((0, 3))}, tmp_path / "y", settings(controls=False, sizes=(1,)))


def test_the_built_in_reference_is_text() -> None:
    texts = built_in_reference()
    assert len(texts) > 30
    assert all(text.strip() for text in texts)
