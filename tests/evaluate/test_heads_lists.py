"""Head sets on other collections, what ranking costs, lists of a length: on models with known or random heads."""

import json
from dataclasses import replace

import numpy as np
import pytest

import headwater as hw
from headwater.errors import InputError
from headwater.evaluate import heads_cost, heads_lists
from headwater.evaluate.heads_found import lengths_of, lists_of_length
from headwater.evaluate.heads_lists import collections, own_heads, ranked_collection
from headwater.evaluate.heads_settings import ALL, QR, RANDOM, Settings
from headwater.evaluate.heads_tables import tables
from headwater.evaluate.main_job import no_progress
from headwater.evaluate.questions import KEYWORDS, head_scorer
from headwater.headset import HeadSet
from headwater.prompt import prompt_template
from models import random_lm
from planted import PLANTED, planted_examples, planted_lm

SMALL = Settings(collection_questions=6, collection_depth=4, collection_examples=4, shuffles=2, cost_questions=2)


def write(folder, split, examples, run):
    """A BEIR folder of ranking examples; the run lists the relevant document last."""
    (folder / "qrels").mkdir(parents=True)
    corpus, queries, rows, listed = [], [], [], []
    for example in examples:
        gold = f"{example.id}-{example.relevant[0]}"
        names = [f"{example.id}-{place}" for place in range(len(example.documents))]
        corpus += [{"_id": n, "text": d.text} for n, d in zip(names, example.documents, strict=True)]
        queries.append({"_id": example.id, "text": example.query})
        rows.append(f"{example.id}\t{gold}\t1")
        order = [*[name for name in names if name != gold][:3], gold]
        listed += [f"{example.id} Q0 {name} {i + 1} {9 - i} bm25" for i, name in enumerate(order)]
    (folder / "corpus.jsonl").write_text("\n".join(map(json.dumps, corpus)), encoding="utf-8")
    (folder / "queries.jsonl").write_text("\n".join(map(json.dumps, queries)), encoding="utf-8")
    (folder / "qrels" / f"{split}.tsv").write_text("\n".join(["query\tdocument\tscore", *rows]), encoding="utf-8")
    if run:
        (folder / "runs").mkdir()
        (folder / "runs" / "bm25.trec").write_text("\n".join(listed), encoding="utf-8")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for place, name in enumerate(("msmarco_dl19", "msmarco_dl20")):
        write(folder / "ir" / name, "full", planted_examples(5, 6, seed=place), run=True)
    write(folder / "ir" / "nq_oracle_ir", "test", planted_examples(24, 4, seed=3), run=False)
    return folder


@pytest.fixture(scope="module")
def lm():
    return planted_lm()


@pytest.fixture
def sets():
    every = [(layer, head) for layer in range(3) for head in range(4)]
    return {
        QR: HeadSet([PLANTED]),
        ALL: HeadSet(every),
        f"{RANDOM} 0": HeadSet([(0, 0)]),
        f"{RANDOM} 1": HeadSet([(2, 1)]),
    }


def test_heads_are_found_on_other_queries_and_passages_than_they_rank(data):
    found = collections(data, SMALL)
    assert [each.name for each in found] == ["nq", "dl19", "dl20"]
    nq = found[0]
    assert len(nq.items) == 6
    assert 1 <= len(nq.examples) <= 4
    assert not {e.id for e in nq.examples} & {item.id for item in nq.items}
    gold = {name for item in nq.items for name in nq.task.relevant(item)}
    assert not gold & {name for e in nq.examples for name in e.relevant}
    assert [item.id for item in collections(data, SMALL)[0].items] == [item.id for item in nq.items]
    assert not found[1].examples


def test_missing_data_is_said(tmp_path):
    with pytest.raises(InputError, match=r"corpus\.jsonl is missing"):
        collections(tmp_path, SMALL)
    with pytest.raises(InputError, match="no data folder"):
        collections(tmp_path / "missing", SMALL)


def test_the_planted_head_ranks_in_every_order(lm, data, sets, tmp_path):
    dl = collections(data, SMALL)[1]
    found = ranked_collection(lm, tmp_path, dl, sets, SMALL, no_progress)
    assert found["n"] == 5
    assert found["cut"] == 0
    assert found["found"] == 1
    assert all(interval["mean"] == 1 for interval in found["sets"][QR].values())
    assert found[KEYWORDS]["mean"] == pytest.approx(1 / np.log2(5), abs=1e-6)  # the relevant one is the fourth
    assert set(found["minus"][QR]) == {"reversed", "shuffled"}
    for order, gaps in found["minus"][QR].items():
        assert gaps[KEYWORDS]["mean"] == pytest.approx(1 - 1 / np.log2(5), abs=1e-6)
        assert gaps[ALL]["mean"] == pytest.approx(1 - found["sets"][ALL][order]["mean"])
        assert QR not in gaps
        assert found["minus"][RANDOM][order][QR]["mean"] == pytest.approx(1 - found["sets"][RANDOM][order]["mean"])
    assert set(found["sets"][RANDOM]) == {"reversed", "given", "shuffled"}
    lines = [json.loads(line) for line in (tmp_path / "collection-dl19.jsonl").read_text(encoding="utf-8").splitlines()]
    for item, line in zip(dl.items, lines, strict=True):  # the slow way: a ranker per set and order
        for name, heads in sets.items():
            for order in ("reversed", "given"):
                ranked = hw.QRRetriever(lm, heads, order=order).rank(item.query, item.documents)
                value = dl.task.score(item, [r.id for r in ranked])["nDCG@10"]
                assert line["values"][name][order] == pytest.approx(value, abs=1e-6)
    taus = [line["tau"][name][order] for line in lines for name in sets for order in ("given", "shuffled 0")]
    assert all(-1 <= tau <= 1 for tau in taus)


def test_a_stopped_collection_goes_on(lm, data, sets, tmp_path, monkeypatch):
    dl = collections(data, SMALL)[1]
    whole = ranked_collection(lm, tmp_path, dl, sets, SMALL, no_progress)
    path = tmp_path / "collection-dl19.jsonl"
    path.write_text("".join(path.read_text(encoding="utf-8").splitlines(keepends=True)[:3]), encoding="utf-8")
    asked = []

    def counted(*arguments):
        asked.append(arguments[2])
        return head_scorer(*arguments)

    monkeypatch.setattr(heads_lists, "head_scorer", counted)
    assert ranked_collection(lm, tmp_path, dl, sets, SMALL, no_progress) == whole
    assert len(asked) == 2 * 4
    first = dl.items[0]
    swapped = replace(first, documents=[*first.documents[1:], hw.Document("new", id=first.documents[0].id)])
    grades = {name: {**row, "another": 1} for name, row in dl.task.grades.items()}
    for other in (replace(dl, items=[swapped, *dl.items[1:]]), replace(dl, items=dl.items[1:])):
        with pytest.raises(InputError, match="another output folder"):
            ranked_collection(lm, tmp_path, other, sets, SMALL, no_progress)
    with pytest.raises(InputError, match="sets="):
        ranked_collection(lm, tmp_path, dl, {**sets, QR: HeadSet([(2, 2)])}, SMALL, no_progress)
    monkeypatch.setattr(dl.task, "grades", grades)
    with pytest.raises(InputError, match="items="):
        ranked_collection(lm, tmp_path, dl, sets, SMALL, no_progress)


def test_a_query_without_candidates_counts_zero(lm, data, sets, tmp_path):
    dl = collections(data, SMALL)[1]
    empty = replace(dl.items[0], documents=())
    found = ranked_collection(lm, tmp_path, replace(dl, items=[empty, *dl.items[1:]]), sets, SMALL, no_progress)
    assert found["sets"][QR]["reversed"]["mean"] == pytest.approx(0.8)
    assert found["found"] == pytest.approx(0.8)


def test_own_heads_are_found_once(lm, data, tmp_path, monkeypatch):
    nq = collections(data, SMALL)[0]
    first = own_heads(lm, tmp_path, nq, SMALL, no_progress)
    assert first.top(1).heads == [PLANTED]
    monkeypatch.setattr(heads_lists.QueryFocusedHeads, "score", None)
    np.testing.assert_array_equal(own_heads(lm, tmp_path, nq, SMALL, no_progress).scores, first.scores)
    with pytest.raises(InputError, match="another output folder"):
        own_heads(lm, tmp_path, replace(nq, examples=nq.examples[1:]), SMALL, no_progress)


def test_deep_heads_cost_more_and_everyone_reads_the_same(tmp_path, monkeypatch):
    lm = random_lm()
    sets = {"shallow": HeadSet([(0, 0)]), f"{RANDOM} 0": HeadSet([(1, 0)]), "deep": HeadSet([(0, 1), (3, 2)])}
    documents = [hw.Document(f"word {i} " * 4) for i in range(4)]
    lists = {"short": [("which?", documents[:2]), ("what?", documents[:2])], "long": [("which?", documents)]}
    found = heads_cost.costs(lm, tmp_path, sets, lists, SMALL, no_progress)
    assert found["layers"] == {"shallow": 1, f"{RANDOM} 0": 2, "deep": 4}
    for row in found["lists"].values():
        assert row["sets"]["shallow"]["flops"] < row["sets"][f"{RANDOM} 0"]["flops"] < row["sets"]["deep"]["flops"]
    assert found["lists"]["short"]["tokens"] < found["lists"]["long"]["tokens"] <= 512
    monkeypatch.setattr(heads_cost, "measured", None)
    assert heads_cost.costs(lm, tmp_path, sets, lists, SMALL, no_progress) == found


@pytest.mark.parametrize("split", ["development", "held_out"])
def test_lists_fill_their_length_and_hold_the_shorter_ones(split):
    lm = random_lm(max_position_embeddings=4096)
    template = prompt_template(lm.tokenizer)
    lists = lists_of_length(lm, split, 3, (900, 2500), seed=0)
    for short, long in zip(lists[900], lists[2500], strict=True):
        assert short.query == long.query
        for example, length in ((short, 900), (long, 2500)):
            assert sum(example.grades()) == 1
            tail = max(len(template.tail(text)) for text in (example.query, "N/A"))
            used = len(template.prefix(example.documents).ids) + tail
            assert length - 450 < used <= length
        assert {d.id for d in short.documents} < {d.id for d in long.documents}
        kept = [d for d in long.documents if d in short.documents]
        assert list(short.documents) == kept, "in the same order"


def test_gold_stands_anywhere_in_short_lists():
    lists = lists_of_length(random_lm(max_position_embeddings=8192), "development", 40, (900, 8000), seed=0)[900]
    places = [example.grades().index(1.0) / (len(example.documents) - 1) for example in lists]
    assert 0.35 < np.mean(places) < 0.65
    assert places.count(1.0) < 20
    assert places.count(0.0) < 20


def test_lengths_that_the_model_does_not_read_are_left_out():
    assert lengths_of(random_lm(max_position_embeddings=2048), Settings()) == (512, 1024, 2048)
    with pytest.raises(InputError, match="reads 256 tokens"):
        lengths_of(random_lm(max_position_embeddings=256), Settings())


def test_the_order_of_the_scorer_is_that_of_the_ranker(lm):
    example = planted_examples(1, 5, seed=9)[0]
    for order in ("reversed", "given"):
        found = head_scorer(lm, {"a": HeadSet([(0, 1)])}, order)(example.query, list(example.documents))["a"]
        slow = hw.QRRetriever(lm, [(0, 1)], order=order).score(example.query, example.documents)
        np.testing.assert_allclose(found, slow, atol=1e-7)


def test_sets_rank_with_the_switches_they_were_found_with(lm):
    examples = planted_examples(4, 5, seed=2)
    sets = {
        QR: hw.QueryFocusedHeads(top_k=2).find(lm, examples),
        "contrastive": hw.ContrastiveHeads(top_k=2).find(lm, examples),
        "body": hw.QueryFocusedHeads(top_k=3, doc_span="body", null_query="").find(lm, examples),
        "weighted": HeadSet([(0, 1), (2, 0)], [0.2, 3.0]),
    }
    example = planted_examples(1, 5, seed=9)[0]
    found = head_scorer(lm, sets)(example.query, list(example.documents))
    assert list(found) == list(sets)
    for name, heads in sets.items():
        slow = hw.QRRetriever(lm, heads).score(example.query, example.documents)
        np.testing.assert_allclose(found[name], slow, atol=1e-7)
    other = hw.QRRetriever(lm, sets["contrastive"].heads).score(example.query, example.documents)
    assert not np.allclose(found["contrastive"], other, atol=1e-5), "the switches change nothing here"


def test_tables_of_collections_and_costs(lm, data, sets, tmp_path):
    found = {
        each.name: ranked_collection(lm, tmp_path, each, sets, SMALL, no_progress) for each in collections(data, SMALL)
    }
    empty = {"k": 1, "chance": {"mean": 0.1, "high": 1}, "pairs": {}}
    result = {"sets": {}, "differences": {}}
    row = {m: {"mean": 0.5, "low": 0.4, "high": 0.6} for m in ("nDCG@10", "R@1")}
    result["sets"] = {ALL: row, QR: row, **{f"{n} examples, draw 0": row for n in (8, 16, 32, 64, 128)}}
    summary = {
        "top_k": 1,
        "results": {
            "20 candidates": result,
            "50 candidates": result,
            "lengths": {"512": {**result, "documents": 9.0, "known": 0.25}},
        },
        "collections": found,
        "cost": {"layers": {QR: 2}, "lists": {"20": {"tokens": 99, "sets": {QR: {"flops": 2e9, "seconds": 0.1}}}}},
        "masked": {},
        "overlap": empty,
        "stability": {},
        "not_run": {},
        "config": {"fingerprint": "x"},
        "made": {"command": "c", "model": "m", "versions": {}, "machine": {"threads": 3}, "date": "2026-01-01T"},
    }
    written = tables(summary)
    assert "| query-focused | best last | 1.000 [1.000, 1.000] |" in written["collections"]
    assert "| query-focused | shuffled | 1.000 [1.000, 1.000] |" in written["collections"]
    assert "**dl20**: 5 queries" in written["collections"]
    assert written["orders"].count("\n") == 1 + 3 * 3
    assert "best last minus shuffled" in written["orders"]
    assert "| query-focused | 2 | 2.0 G, 0.10 s |" in written["cost"]
    assert "Measured on: threads 3." in written["cost"]
    assert "512 tokens (9 documents, 25% of known countries)" in written["lengths"]
    assert "collections" not in tables({**summary, "collections": {}})
