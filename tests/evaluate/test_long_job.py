"""The experiment on long texts, small: its choices are those of the rankers, its figures those of its records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import headwater as hw
from headwater.data.documents import as_documents
from headwater.errors import InputError
from headwater.evaluate import long_job
from headwater.evaluate.long_job import Settings, gold_chunks
from headwater.evaluate.long_rankers import Rankers
from headwater.evaluate.long_summary import ALL, DRAWN, FIRST, KEYWORDS, ORACLE, QR, SMALL
from headwater.evaluate.long_tables import tables
from headwater.read.reader import Reader, Reading
from headwater.search.chunk import passages
from models import random_lm
from planted import PLANTED, planted_examples, planted_lm

SMALL_RUN = Settings(
    questions=4,
    lengths=(1500,),
    kept=(1, 3),
    control_kept=(3,),
    near=5,
    examples=2,
    candidates=3,
    scorer_candidates=2,
    random_sets=2,
    overflow=("tournament", "anchors"),
    costed=1,
    top_k=3,
)
BIG: dict[str, Any] = {"layers": 2, "max_position_embeddings": 4096}


def short_answers(self: Reader, question: str, documents: Any = (), on_text: Any = None) -> Reading:
    """Instead of 32 tokens of a random model: the last sentence of what it was given, after one forward."""
    shown = as_documents(documents)
    ids = self._documents_and(question, shown) if shown else self._alone(question)
    import torch

    self.lm.model(torch.tensor([ids]))
    said = shown[-1].text.split(" is ")[-1].rstrip(".") if shown else "nothing"
    return Reading(said, len(ids), True)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("long")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Reader, "read", short_answers)
        patch.setattr(Reader, "recall", short_answers)
        scorer = random_lm(layers=1, max_position_embeddings=900)
        summary = long_job.run(random_lm(**BIG), folder, SMALL_RUN, scorer=scorer)
    lines = (folder / "text-1500.jsonl").read_text(encoding="utf-8").splitlines()
    return folder, summary, [json.loads(line) for line in lines]


def test_every_table_is_written(finished: Any) -> None:
    _, summary, _ = finished
    json.dumps(summary, allow_nan=False)
    written = tables(summary)
    assert set(written) == {"long_recall", "long_answers", "long_differences", "long_costs", "long_made"}
    small = [f"{SMALL}, {name}" for name in ("tournament", "anchors")]
    for name in (QR, ALL, "random heads", *small, FIRST, DRAWN, KEYWORDS, ORACLE):
        assert written["long_recall"].count(f"| {name} |") == 1
        assert written["long_answers"].count(f"| {name} |") == 1
    assert "| 1,500 tokens | full context |" in written["long_costs"]
    assert "with 3 documents each; the smaller model's with 2 |" in written["long_made"]
    assert {line.count("|") for line in written["long_answers"].splitlines()} == {6}


def test_figures_are_those_of_the_records(finished: Any) -> None:
    _, summary, records = finished
    result = summary["results"]["1500"]
    for k in (1, 3):
        for name in (QR, KEYWORDS, ORACLE):
            hits = [set(record["gold"]) <= set(record["orders"][name][:k]) for record in records]
            reads = [record["reads"][",".join(map(str, sorted(record["orders"][name][:k])))] for record in records]
            row = result["systems"][name][str(k)]
            assert row["recall"]["mean"] == np.mean(hits)
            assert row["answer"]["mean"] == np.mean([read["right"] for read in reads])
            assert row["tokens"] == np.mean([read["tokens"] for read in reads])
        drawn = [
            np.mean([set(r["gold"]) <= set(r["orders"][f"random heads {i}"][:k]) for r in records]) for i in (0, 1)
        ]
        assert result["systems"]["random heads"][str(k)]["recall"]["mean"] == pytest.approx(np.mean(drawn))
        assert result["systems"][ORACLE][str(k)]["recall"]["mean"] == 1
    assert [record["read_of_random"][-1] for record in records] == ["0", "1", "0", "1"]
    for name in (FIRST, DRAWN, "random heads"):
        assert "answer" not in result["systems"][name]["1"]
        assert 0 <= result["systems"][name]["3"]["answer"]["mean"] <= 1
    assert result["ranking"][QR]["n"] == 1
    assert result["ranking"][f"{SMALL}, anchors"]["n"] == 4
    assert result["ranking"][QR]["tokens"] > 1500
    gap = result["differences"][ORACLE]["1"]["recall to BM25"]["mean"]
    assert gap == pytest.approx(1 - result["systems"][KEYWORDS]["1"]["recall"]["mean"])


def test_a_second_run_goes_on(finished: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, summary, _ = finished
    monkeypatch.setattr(Rankers, "orders", lambda *_: pytest.fail("ranked again"))
    monkeypatch.setattr("headwater.heads.QueryFocusedHeads.score", lambda *_: pytest.fail("detected again"))
    scorer = random_lm(layers=1, max_position_embeddings=900)
    again = long_job.run(random_lm(**BIG), folder, SMALL_RUN, scorer=scorer)
    assert again["results"] == summary["results"]
    with pytest.raises(InputError, match="another output folder"):
        long_job.run(random_lm(**BIG), folder, SMALL_RUN)


def test_a_text_longer_than_the_model_is_cut_and_ranked_in_windows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Reader, "read", short_answers)
    monkeypatch.setattr(Reader, "recall", short_answers)
    few: dict[str, Any] = {"kept": (1,), "control_kept": (1,), "near": 5, "examples": 2, "candidates": 3, "top_k": 3}
    settings = Settings(questions=2, lengths=(1500,), random_sets=1, costed=1, **few)
    lm = random_lm(layers=1, max_position_embeddings=1000)
    summary = long_job.run(lm, tmp_path, settings)
    result = summary["results"]["1500"]
    assert result["shortened"] == 2
    assert result["windows"] == {QR: 2, ALL: 2}
    assert f"1,500 tokens, {QR}: 2 of 2" in tables(summary)["long_made"]
    records = [json.loads(line) for line in (tmp_path / "text-1500.jsonl").read_text(encoding="utf-8").splitlines()]
    for record in records:
        assert sorted(record["orders"][QR]) != []
        assert record["reads"]["full context"]["tokens"] <= 1000 - 32
        assert record["reads"]["full context"]["tokens"] > 1000 - 32 - 20
    assert f"2 texts cut at the end for the {long_job.FULL}" in tables(summary)["long_made"]


def test_rankers_order_as_each_of_them_alone() -> None:
    lm = planted_lm()
    sets = {QR: hw.HeadSet([PLANTED]), ALL: hw.HeadSet(lm.anatomy.all_heads), "random heads 0": hw.HeadSet([(0, 0)])}
    rankers = Rankers(lm, sets, ("tournament",))
    rankers.add(lm, sets[QR])
    for example in planted_examples(6):
        documents = as_documents(example.documents)
        orders, costs, ways = rankers.orders(example.query, documents)
        assert orders[QR][0] == orders[SMALL][0] == example.relevant[0]  # type: ignore[index]
        for name, heads in sets.items():
            ranked = hw.QRRetriever(lm, heads).rank(example.query, documents)
            assert orders[name] == [each.index for each in ranked]
        assert list(costs) == [SMALL]
        assert set(ways.values()) == {"one prompt"}
        assert costs[SMALL]["tokens"] > 0
    spent = rankers.costs(example.query, documents)
    assert spent[QR]["flops"] < spent[ALL]["flops"], "the planted head is not in the last layer"


def test_the_chunks_that_answer() -> None:
    text = "One first thing is here.\n\nThe capital of Norland is a very long name indeed.\n\nAnother thing is there."
    sentence = "The capital of Norland is a very long name indeed."
    start = text.index(sentence)
    document = hw.Document(text, metadata={"start": start, "end": start + len(sentence)})
    assert gold_chunks(document, 60) == [1]
    split = gold_chunks(document, 26)
    assert len(split) == 2
    shown = passages(document, 26)
    assert " ".join(shown[place].text for place in split) == sentence


@pytest.mark.parametrize(
    "wrong",
    [
        {"lengths": ()},
        {"kept": (0, 1)},
        {"control_kept": (2,)},
        {"questions": 0},
        {"overflow": ("raise",)},
        {"overflow": ()},
        {"costed": 0},
    ],
)
def test_bad_settings(wrong: Any) -> None:
    with pytest.raises(InputError):
        Settings(**wrong)
