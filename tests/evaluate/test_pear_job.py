"""The PEAR experiment on a random model, small: every row and table is there, a second run asks nothing."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headwater.adapt.pear import Pear
from headwater.errors import InputError
from headwater.evaluate import pear_job
from headwater.evaluate.pear import questions, rows
from headwater.evaluate.pear.settings import Settings
from headwater.evaluate.pear_tables import tables
from headwater.evaluate.tables import fill_page
from headwater.heads.suppression import SuppressionHeads
from headwater.headset import HeadScores
from headwater.read.reader import Reader
from models import random_lm

SMALL = Settings(
    questions=3,
    long=3,
    first=2,
    places=2,
    alone=2,
    development=2,
    few=2,
    many=3,
    noise=1,
    seeds=2,
    some=1,
    sizes=(2,),
    constants=(0.5,),
    weights=(0.5,),
    steps=1,
    runs=((4, 3),),
    min_copy_accuracy=0.0,
    text_tokens=60,
    new_tokens=3,
)
FACTS = [("France", "capital"), ("Peru", "currency"), ("Kenya", "capital")]
PAGE = Path(__file__).parents[2] / "docs" / "results" / "pear.md"


def known(*_: Any) -> tuple[list[Any], list[Any], dict[str, int]]:
    return FACTS[:2], FACTS[2:], {"asked": 9, "tested": 2, "development": 1, "guessed": 0.25}


def found(self: SuppressionHeads, *_: Any, **__: Any) -> HeadScores:
    """A random model does not copy, so nothing could be found."""
    scores = np.random.default_rng(self.seed).normal(size=(2, 8))
    provenance = {"copy_accuracy": [0.5, 0.7], "noise": 0.0, "unranked": [], "ablation": self.ablation}
    return HeadScores(scores, provenance)


@pytest.fixture(scope="module", autouse=True)
def small_parts():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SuppressionHeads, "score", found)
        patch.setattr("headwater.adapt.pear.HELD_OUT", 2)
        yield


@pytest.fixture(scope="module")
def lm():
    return random_lm(layers=2, max_position_embeddings=8192)


@pytest.fixture(scope="module")
def finished(lm, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "pear"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(questions, "known_facts", known)
        return folder, pear_job.run(lm, folder, SMALL)


def test_every_row_is_measured(finished) -> None:
    _, summary = finished
    named = set(summary["rows"])
    wanted = {rows.VANILLA, rows.PEAR, rows.RANDOM, rows.EVERY, rows.SEQUENCE_MEAN, rows.ZEROED, rows.CONTRAST}
    wanted |= {"top heads at 0.5", "shuffled scores, trained", "most helpful heads, trained"}
    assert wanted <= named
    results = summary["results"]
    assert named == set(results[questions.FEW]["rows"]) == set(results[questions.CLOSED]["rows"])
    assert results[questions.FEW]["rows"][rows.PEAR]["n"] == 3
    assert results[questions.FEW]["rows"][rows.ZEROED]["n"] == 2
    json.dumps(summary, allow_nan=False)


def test_treatments_are_what_they_say(finished, lm) -> None:
    _, summary = finished
    treated, k = summary["treatments"], summary["k"]["reported"]
    heads = treated[rows.PEAR][0]["heads"].split(",")
    assert treated[rows.VANILLA] == [
        {"id": "vanilla/0", "heads": "", "coefficients": [], "below_one": None, "text_kl": 0.0}
    ]
    assert len(heads) <= k
    assert treated[rows.ZEROED][0]["heads"].split(",") == heads
    assert set(treated[rows.ZEROED][0]["coefficients"]) == {0.0}
    assert set(treated["top heads at 0.5"][0]["coefficients"]) == {0.5}
    assert set(treated[rows.RANDOM][0]["heads"].split(",")).isdisjoint(heads)
    assert len(treated[rows.RANDOM][0]["heads"].split(",")) == len(heads)
    assert len(treated[rows.EVERY][0]["coefficients"]) == len(lm.anatomy.all_heads)
    assert treated[rows.ZEROED][0]["text_kl"] > 0
    assert len(treated[rows.PEAR]) == 2


def test_every_table_is_on_the_page(finished, tmp_path: Path) -> None:
    _, summary = finished
    written = tables(summary)
    page = tmp_path / "pear.md"
    page.write_text(PAGE.read_text(encoding="utf-8"), encoding="utf-8")
    fill_page(page, written)
    text = page.read_text(encoding="utf-8")
    for name, table in written.items():
        assert f"<!-- begin: {name} -->\n{table}\n" in text or name == "short"
    assert "| vanilla * |" in text
    other = tables({**summary, "label": "pear-gpt2"})
    assert set(other) == {f"pear-gpt2-{name}" for name in written}
    for variant in ("gpt2", "bloom", "llama-weak", "llama-even", "llama-strong"):
        assert f"<!-- begin: pear-{variant}-short -->" in text


def test_a_second_run_asks_nothing(finished, lm, monkeypatch) -> None:
    folder, summary = finished

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("nothing is left to do")

    monkeypatch.setattr(Reader, "read_scaled", never)
    monkeypatch.setattr(Reader, "read", never)
    monkeypatch.setattr(questions, "known_facts", never)
    monkeypatch.setattr("headwater.evaluate.pear.workshop.Pear.fit", never)
    monkeypatch.setattr("headwater.evaluate.pear.rows.copying_adapter", never)
    again = pear_job.run(lm, folder, SMALL)
    assert again["results"] == summary["results"]
    with pytest.raises(InputError, match="another output folder"):
        pear_job.run(lm, folder, Settings(questions=5))


def test_a_model_that_knows_nothing(lm, tmp_path: Path, monkeypatch) -> None:
    counts = {"asked": 9, "tested": 0, "development": 0, "guessed": 0.25}
    monkeypatch.setattr(questions, "known_facts", lambda *_: ([], [], counts))
    summary = pear_job.run(lm, tmp_path, SMALL)
    assert "left out" in summary["rivals"]
    assert questions.CLOSED not in summary["results"]
    assert questions.ASKED in summary["results"], "facts as they come are asked all the same"
    written = tables(summary)
    assert any("knows none of these facts" in text for text in written.values())
    assert "25.0%" in written[f"{tmp_path.name}-sizes"]


def test_other_heads_under_the_same_name_are_refused(finished, lm, tmp_path: Path) -> None:
    folder = tmp_path / "pear"
    shutil.copytree(finished[0], folder)
    path = folder / "treatments.jsonl"
    path.write_text(path.read_text(encoding="utf-8").replace("[0.5", "[0.4"), encoding="utf-8")
    with pytest.raises(InputError, match=r"'top heads at 0\.5' with other heads or coefficients; delete"):
        pear_job.run(lm, folder, SMALL)
    shutil.rmtree(folder)
    shutil.copytree(finished[0], folder)
    for learned in (folder / "heads").glob("learned-*.json"):
        learned.unlink()
    with pytest.MonkeyPatch.context() as patch:
        own = Pear.__post_init__

        def faster(self: Pear) -> None:
            own(self)
            self.learning_rate, self.warmup = 0.5, 0

        patch.setattr(Pear, "__post_init__", faster)
        with pytest.raises(InputError, match="holds answers of 'PEAR 1' with other heads"):
            pear_job.run(lm, folder, SMALL)


def test_more_than_half_of_the_heads_are_refused_at_once(lm, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="give 8 or less"):
        pear_job.run(lm, tmp_path / "new", replace(SMALL, top_k=9))
    assert not (tmp_path / "new").exists()
    with pytest.raises(InputError, match="top_k must be at least 1"):
        replace(SMALL, top_k=0)


def test_a_model_of_which_no_head_suppresses_is_marked(finished) -> None:
    _, summary = finished
    detected = {name: [{**one, "suppressing": 0} for one in seeds] for name, seeds in summary["detected"].items()}
    written = tables({**summary, "detected": detected})
    assert "none suppresses; the nearest: " in written["heads"]
    assert "| PEAR (no head suppresses in 2 of 2 seeds) * |" in written["reading"]
    assert "no head suppresses" not in tables(summary)["reading"]
