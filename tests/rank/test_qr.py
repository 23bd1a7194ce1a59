"""`QRRetriever` on planted and random models: order, odd documents, sharing, explanations, head resolution."""

import logging

import numpy as np
import pytest

import headwater as hw
from families import family_model
from headwater.errors import ContextOverflowError, HeadSetError, InputError, LocalHeadError
from headwater.headset import HeadSet
from models import byte_tokenizer, random_lm
from planted import PLANTED, planted_examples, planted_lm


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HEADWATER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def planted():
    return planted_lm()


def test_the_planted_head_ranks_the_gold_document_first(planted):
    ranker = hw.QRRetriever(planted, heads=HeadSet([PLANTED]))
    for example in planted_examples(10, seed=5):
        ranking = ranker.rank(example.query, example.documents)
        assert [ranking[0].index] == list(example.relevant)
        scores = [r.score for r in ranking]
        assert scores == sorted(scores, reverse=True)
        np.testing.assert_array_equal(
            ranker.score(example.query, example.documents)[[r.index for r in ranking]], np.float32(scores)
        )


def test_top_k_and_carried_documents(planted):
    documents = [hw.Document("w3 w40", id="a"), hw.Document("w5 w41", id="b"), hw.Document("w7 w42", id="c")]
    ranking = hw.QRRetriever(planted, heads="1-2").rank("w5", documents, top_k=2)
    assert len(ranking) == 2
    assert (ranking[0].id, ranking[0].index, ranking[0].document) == ("b", 1, documents[1])


def test_all_heads_is_the_mean_of_every_head():
    lm = random_lm()
    documents = ["one text", "another text of more words", "x"]
    every = hw.QRRetriever(lm, heads="all", outlier_filter=False)
    explained = every.explain("which?", documents)
    np.testing.assert_allclose(every.score("which?", documents), explained.head_scores.mean(0), atol=1e-6)
    assert len(explained.heads) == 32


def test_coefficients_weigh_the_heads():
    lm = random_lm()
    documents = ["one text", "another text"]
    single = [
        hw.QRRetriever(lm, heads=HeadSet([h]), outlier_filter=False).score("q", documents) for h in [(0, 0), (2, 1)]
    ]
    both = hw.QRRetriever(lm, heads=HeadSet([(0, 0), (2, 1)], [0.5, -2.0]), outlier_filter=False).score("q", documents)
    np.testing.assert_allclose(both, (0.5 * single[0] - 2.0 * single[1]) / 2, atol=1e-6)


def test_rank_many_equals_rank(planted):
    ranker = hw.QRRetriever(planted, heads=HeadSet([PLANTED]))
    documents = planted_examples(1)[0].documents
    queries = ["w2 w3", "w9", "w40"]
    many = ranker.rank_many(queries, documents)
    assert many == [ranker.rank(query, documents) for query in queries]


def test_identical_documents_share_their_score_and_keep_their_order(planted):
    ranker = hw.QRRetriever(planted, heads=HeadSet([PLANTED]))
    twice = ["w5 w40", "w9 w41", "w5 w40", " w5 w40 "]
    scores = ranker.score("w5", twice)
    assert scores[0] == scores[2] == scores[3] > scores[1]
    assert [r.index for r in ranker.rank("w5", twice)] == [0, 2, 3, 1]
    np.testing.assert_allclose(scores[:2], ranker.score("w5", twice[:2]), atol=1e-6)


def test_duplicate_ids_stay(planted):
    documents = [hw.Document("w5 w40", id="same"), hw.Document("w9 w41", id="same")]
    assert [r.index for r in hw.QRRetriever(planted, heads="1-2").rank("w9", documents)] == [1, 0]


def test_blank_documents_come_last(planted):
    ranker = hw.QRRetriever(planted, heads=HeadSet([PLANTED]))
    ranking = ranker.rank("w5", ["", "w9 w41", "  \n", "w5 w40"])
    assert [r.index for r in ranking] == [3, 1, 0, 2]
    assert ranking[-1].score == -np.inf
    explained = ranker.explain("w5", ["", "w5 w40"])
    assert explained.tokens[0] == []
    assert explained.scores[0] == -np.inf


def test_no_documents(planted):
    ranker = hw.QRRetriever(planted, heads=HeadSet([PLANTED]))
    assert ranker.rank("w5", []) == []
    assert ranker.score("w5", []).shape == (0,)
    assert ranker.rank_many(["w5", "w6"], []) == [[], []]
    assert ranker.explain("w5", []).head_scores.shape == (1, 0)


def test_the_null_query_scores_zero(planted, caplog):
    ranker = hw.QRRetriever(random_lm(), heads="all")
    with caplog.at_level(logging.WARNING, "headwater"):
        assert np.abs(ranker.score("N/A", ["one", "two"])).max() <= 1e-6
    assert "equals the null query" in caplog.text


def test_order_changes_the_prompt_only():
    lm = random_lm()
    documents = ["one text", "another", "a third"]
    given = hw.QRRetriever(lm, heads="all", order="given").score("q", documents)
    back = hw.QRRetriever(lm, heads="all").score("q", documents[::-1])[::-1]
    np.testing.assert_array_equal(given, back)


def test_explain_says_which_tokens(planted):
    ranker = hw.QRRetriever(planted, heads=HeadSet([PLANTED]))
    documents = [hw.Document("w40 w5 w41"), hw.Document("w9 w42", title="w43")]
    explained = ranker.explain("w5", documents)
    np.testing.assert_array_equal(explained.scores, ranker.score("w5", documents))
    assert "".join(t.text for t in explained.tokens[0]).endswith("w40 w5 w41")
    assert "w43\nw9 w42" in "".join(t.text for t in explained.tokens[1])
    assert max(explained.tokens[0], key=lambda t: t.weight).text.strip() == "w5"
    assert explained.head_scores.shape == (1, 2)


def test_default_heads_are_found_once_and_cached(planted, own_cache, caplog, monkeypatch):
    examples = planted_examples(6)
    monkeypatch.setattr("headwater.heads.mass_detector.built_in_examples", lambda: examples)
    with caplog.at_level(logging.INFO, "headwater"):
        first = hw.QRRetriever(planted)
    assert first.heads.heads[0] == PLANTED
    assert "finding them once" in caplog.text
    files = list(own_cache.rglob("*.json"))
    assert len(files) == 1
    monkeypatch.setattr("headwater.heads.mass_detector.built_in_examples", lambda: pytest.fail("found twice"))
    assert hw.QRRetriever(planted).heads.heads == first.heads.heads
    files[0].write_text("{")
    monkeypatch.setattr("headwater.heads.mass_detector.built_in_examples", lambda: examples)
    assert hw.QRRetriever(planted).heads.heads == first.heads.heads


def test_a_cache_that_cannot_be_written_is_only_a_warning(planted, tmp_path, caplog, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HEADWATER_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr("headwater.heads.mass_detector.built_in_examples", lambda: planted_examples(6))
    assert hw.QRRetriever(planted).heads.heads[0] == PLANTED
    assert "not cached" in caplog.text


def test_heads_from_a_file(planted, tmp_path, caplog):
    made = {"model": "another", "shape": [3, 4, 2], "fingerprint": "0"}
    path = HeadSet([PLANTED], provenance=made).save(tmp_path / "x.json")
    assert hw.QRRetriever(planted, heads=path).heads.heads == [PLANTED]
    assert "made for other weights (another)" in caplog.text


def test_heads_as_pairs_and_as_a_long_text(planted):
    assert hw.QRRetriever(planted, heads=[PLANTED, (0, 1)]).heads.heads == [PLANTED, (0, 1)]
    lm = random_lm(layers=40)
    assert len(hw.QRRetriever(lm, heads=str(HeadSet(lm.anatomy.all_heads))).heads) == 320


@pytest.mark.parametrize(
    ("heads", "error", "match"),
    [
        (HeadSet([(0, 0)], provenance={"shape": [32, 32, 8]}), HeadSetError, "32 layers x 32 heads"),
        (HeadSet([(3, 0)]), HeadSetError, "3-0 is not in this model"),
        ("0-4", HeadSetError, "0-4 is not in this model"),
        ("0-1,2", HeadSetError, "is not a head"),
        ("missing.yaml", HeadSetError, "not a head set file"),
        ("x" * 5000, HeadSetError, "not a head set file"),
        ([(0.5, 1)], HeadSetError, "whole numbers"),
        ([3], HeadSetError, "whole numbers"),
    ],
)
def test_heads_that_do_not_fit(planted, heads, error, match):
    with pytest.raises(error, match=match):
        hw.QRRetriever(planted, heads=heads)


def test_bad_input(planted):
    ranker = hw.QRRetriever(planted, heads="1-2")
    for call in (ranker.score, ranker.rank, ranker.explain):
        with pytest.raises(InputError, match="query is blank"):
            call(" \n", ["w5"])
        with pytest.raises(InputError, match="Every document is blank"):
            call("w5", ["", " "])
        with pytest.raises(InputError, match="single one"):
            call("w5", "w5")
        with pytest.raises(ContextOverflowError, match="fewer or shorter documents"):
            call("w5", ["w5 " * 3000])
    with pytest.raises(InputError, match="top_k"):
        ranker.rank("w5", ["w5"], top_k=0)
    with pytest.raises(InputError, match="list of queries"):
        ranker.rank_many("w5", ["w5"])
    with pytest.raises(InputError, match="Unknown order"):
        hw.QRRetriever(planted, heads="1-2", order="nonsense")
    with pytest.raises(InputError, match="at least one order"):
        hw.QRRetriever(planted, heads="1-2", order=())


def test_a_head_with_a_short_window_is_refused_and_not_detected(caplog):
    lm = hw.load(model=family_model("qwen2"), tokenizer=byte_tokenizer())  # layers 2 and 3 see 16 keys
    scores = hw.QueryFocusedHeads().score(lm, [hw.RankingExample("which?", ["one text", "another"], [0])])
    assert np.isnan(scores.scores).any(1).tolist() == [False, False, True, True]
    assert "window shorter" in caplog.text
    assert scores.provenance["local_heads"] == [(layer, head) for layer in (2, 3) for head in range(8)]
    documents = ["one text", "another"]
    assert np.isfinite(hw.QRRetriever(lm, heads="1-3").score("which?", documents)).all()
    with pytest.raises(LocalHeadError, match="Head 2-1 sees only a sliding window shorter"):
        hw.QRRetriever(lm, heads="1-3,2-1").score("which?", documents)
    assert np.isfinite(hw.QRRetriever(lm, heads="1-3,2-1", allow_local=True).score("which?", documents)).all()
