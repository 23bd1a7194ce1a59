"""The experiment on copying heads of several models: needles, figures, pairs, a whole run with a planted copier."""

import json

import numpy as np
import pytest
import torch
from recipes.tiny import universal
from recipes.tiny.small import build

import headwater as hw
from headwater.data.needle import NeedleCase, built_in_haystack
from headwater.errors import InputError
from models import random_lm
from planted_copier import COPIER, NEEDLES, copier_lm


def test_needles_are_new_with_every_seed_and_stand_in_no_text():
    first, second = universal.needles(0, 9), universal.needles(1, 9)
    assert first == universal.needles(0, 9)
    assert len({needle.name for needle in first}) == 9
    assert not {needle.answer for needle in first} & {needle.answer for needle in second}
    for needle in first:
        NeedleCase(needle, built_in_haystack("detection"), 256, 0.5)  # refuses an answer that the text holds
        assert needle.statement.endswith(f" {needle.answer}.")


def test_seeds_ask_about_different_relations():
    asked = [tuple(n.name.split("/")[1] for n in universal.needles(seed, 3)) for seed in range(3)]
    assert [name for seed in asked for name in seed] == [*universal.RELATIONS, universal.RELATIONS[0]]


def grid(*copying):
    out = np.full((2, 10), 0.05)
    for place, value in enumerate(copying):
        out[1, place] = value
    return out.tolist()


def test_figures_of_one_model():
    found = {"retrieval": [grid(0.9, 0.6), grid(0.8, 0.2), None], "query-focused": [grid(1, 2), grid(3, 1), grid(0, 5)]}
    row = universal.described({**found, "accepted": [7, 8, 0], "cases": 9})
    assert (row["heads"], row["k"]) == (20, 2)
    assert row["above"] == {"0.1": [0.1, 0.1], "0.5": [0.1, 0.05]}
    assert row["best"] == [0.9, 0.8]
    assert row["concentration"] == pytest.approx([1.5 / 2.4, 1.0 / 1.9])
    assert row["retrieval, seeds"]["overlap"] == 1
    assert row["retrieval, seeds"]["pairs"] == 1
    assert row["query-focused, seeds"]["pairs"] == 3
    assert row["chance"]["mean"] == pytest.approx(0.2)


def test_a_model_that_finds_nothing_has_a_row():
    silent = {"retrieval": [None, None], "query-focused": [grid(1), grid(1)], "accepted": [0, 0], "cases": 9}
    row = universal.described(silent)
    assert "above" not in row
    made = {"seeds": 2, "needles": 1, "examples": 3, "command": "c", "date": "2026-01-01"}
    pairs = {"a → b": universal.compared(silent, silent)}
    written = universal.tables({"models": {"x": row}, "pairs": pairs, "made": made})
    assert "| x | 0 of 18 | - | - | - | - | - | 1.00 |" in written["universal"]
    assert "| a → b | - | - | 1.00 (1.00 to 1.00; chance 0.10" in written["intrinsic"]


def test_pairs_are_compared_seed_by_seed():
    before = {"retrieval": [grid(0.9, 0.6), None, grid(0.9, 0.6)], "query-focused": [grid(1, 2)] * 3}
    after = {"retrieval": [grid(0.9, 0, 0.6), grid(1), grid(0.9, 0.6)], "query-focused": [grid(1, 2)] * 3}
    row = universal.compared(before, after)
    assert row["retrieval"]["pairs"] == 2
    assert (row["retrieval"]["overlap"], row["retrieval"]["overlap_low"]) == (0.75, 0.5)
    assert row["query-focused"]["overlap"] == 1
    other = {"retrieval": [np.zeros((3, 10)).tolist()] * 3, "query-focused": [grid(1, 2)] * 3}
    with pytest.raises(InputError, match="one shape"):
        universal.compared(before, other)


def test_pairs_are_written_with_an_equals_sign():
    assert universal.pairs_of(["runs/read=runs/know"]) == {"read → know": ("runs/read", "runs/know")}
    for text in ("a", "=a", "a="):
        with pytest.raises(ValueError, match="BEFORE=AFTER"):
            universal.pairs_of([text])


def test_two_pairs_of_one_name_are_refused():
    with pytest.raises(ValueError, match="two pairs are called a → b"):
        universal.pairs_of(["x/a=y/b", "z/a=w/b"])


def test_a_folder_without_variants_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["x", "--models", str(tmp_path), "--work", str(tmp_path / "work")])
    with pytest.raises(SystemExit):
        universal.main()
    assert "holds none of the variants" in capsys.readouterr().err


def test_first_weights_are_those_a_variant_began_with(tmp_path):
    trained = random_lm()
    (tmp_path / "variant.json").write_text(json.dumps({"architecture": "gpt2", "seed": 3}), encoding="utf-8")
    first = universal.first_weights(str(tmp_path), trained)
    wanted = build("gpt2", trained.model.config.vocab_size, 3).state_dict()
    assert all(torch.equal(weight, wanted[name]) for name, weight in first.model.state_dict().items())


def test_a_whole_run_finds_the_copier_and_goes_on(tmp_path, monkeypatch, capsys):
    page = tmp_path / "page.md"
    page.write_text("".join(f"<!-- begin: {n} -->\n<!-- end: {n} -->\n" for n in ("universal", "intrinsic")), "utf-8")
    lm = copier_lm()
    monkeypatch.setattr(universal.hw, "load", lambda *_, **__: lm)
    monkeypatch.setattr(universal, "needles", lambda seed, count: NEEDLES[seed : seed + count])
    for name, value in {"LENGTHS": (180,), "DEPTHS": (0.5,)}.items():
        monkeypatch.setattr(universal, name, value)
    words = ["x", "--seeds", "2", "--needles", "2", "--examples", "2", "--pair", "tiny=tuned", "--page", str(page)]
    words += ["--work", str(tmp_path / "work"), "--output", str(tmp_path / "out.json")]
    monkeypatch.setattr("sys.argv", words)
    universal.main()
    result = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert result["made"]["command"] == "python -m recipes.tiny.universal --pair tiny=tuned"
    row = result["models"]["tiny"]
    assert row["accepted"] == [2, 2]
    assert row["best"][0] > 0.7
    assert result["pairs"]["tiny → tuned"]["retrieval"]["overlap"] == 1
    lines = [json.loads(line) for line in (tmp_path / "work" / "scores.jsonl").read_text("utf-8").splitlines()]
    copying = [np.array(line["scores"]) for line in lines if "/retrieval/" in line["id"]]
    assert all(np.unravel_index(grid.argmax(), grid.shape) == COPIER for grid in copying)
    assert "| tiny | 4 of 4 |" in page.read_text(encoding="utf-8")
    monkeypatch.setattr(hw.RetrievalHeads, "score", None)
    monkeypatch.setattr(hw.QueryFocusedHeads, "score", None)
    universal.main()
    assert "done" in capsys.readouterr().out
