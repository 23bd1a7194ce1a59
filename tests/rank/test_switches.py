"""The switches of `QRRetriever`: what comes with a head set, several orders, explanations that agree with scores."""

import logging

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import headwater as hw
from headwater.data.documents import Document
from headwater.headset import HeadSet
from headwater.prompt import prompt_template
from models import random_lm
from planted import PLANTED, planted_examples, planted_lm

DOCUMENTS = ["one text", "another text of more words", "which of them?", "the last"]


@pytest.fixture(scope="module")
def lm():
    return random_lm()


def found_with(lm, **switches):
    """A head set whose provenance says these switches."""
    made = hw.QueryFocusedHeads(top_k=3, **switches)
    provenance = made._provenance(lm, [], prompt=prompt_template(lm.tokenizer, made.settings.template).fingerprint)
    return HeadSet([(1, 2), (0, 5), (3, 1)], provenance=provenance)


def test_the_prompt_of_the_head_set_is_the_rankers_default(lm, caplog, tmp_path):
    made = {"tail": "query", "doc_span": "body", "null_query": "", "template": "base", "instruction": "answer"}
    made["tail"] = "full"
    path = found_with(lm, **made, calibrate=False, entropy=2.0).save(tmp_path / "x.json")
    with caplog.at_level(logging.WARNING, "headwater"):
        ranker = hw.QRRetriever(lm, heads=path)
    assert {name: getattr(ranker.settings, name) for name in made} == made
    assert (ranker.settings.calibrate, ranker.settings.entropy) == (True, 0.0)  # these do not come with it
    assert caplog.text == ""
    same = hw.QRRetriever(lm, heads=HeadSet(HeadSet.load(path).heads), **made)
    np.testing.assert_array_equal(ranker.score("q", DOCUMENTS), same.score("q", DOCUMENTS))


def test_heads_found_by_contrast_bring_their_spans_and_rank_calibrated(lm):
    found = hw.ContrastiveHeads(top_k=2).find(lm, [hw.RankingExample("q", DOCUMENTS, [2])])
    chosen = hw.QRRetriever(lm, heads=found).settings
    assert (chosen.tail, chosen.doc_span, chosen.calibrate, chosen.outlier_filter) == ("core", "unlabelled", True, True)


def test_other_switches_than_the_head_sets_are_said_once(lm, caplog):
    with caplog.at_level(logging.WARNING, "headwater"):
        ranker = hw.QRRetriever(lm, heads=found_with(lm), tail="query", null_query="none")
        ranker.score("q", DOCUMENTS)
    assert ranker.settings.tail == "query"
    assert caplog.text.count("found with") == 1
    assert "tail='full' (here 'query')" in caplog.text
    assert "null_query='N/A' (here 'none')" in caplog.text


def test_the_same_prompt_by_another_name_is_no_difference(lm, caplog):
    with caplog.at_level(logging.WARNING, "headwater"):
        hw.QRRetriever(lm, heads=found_with(lm), template="base")  # "auto" is "base" here
    assert caplog.text == ""


@pytest.mark.parametrize("settings_of", [None, 3, {}, {"settings": 3}, {"settings": {"tail": 7, "template": None}}])
def test_heads_that_say_nothing_get_the_published_defaults(lm, settings_of):
    ranker = hw.QRRetriever(lm, heads=HeadSet([(1, 2)], provenance={"settings": settings_of}))
    assert ranker.settings == hw.QRRetriever(lm, heads="all").settings
    assert (ranker.settings.tail, ranker.settings.null_query) == ("full", "N/A")


def test_the_mean_of_several_orders(lm):
    single = [hw.QRRetriever(lm, heads="1-2,0-5", order=order) for order in ("reversed", "given")]
    both = hw.QRRetriever(lm, heads="1-2,0-5", order=("reversed", "given"))
    want = np.mean([ranker.score("q", DOCUMENTS) for ranker in single], axis=0)
    np.testing.assert_array_equal(both.score("q", DOCUMENTS), want)
    ranking = both.rank("q", DOCUMENTS)
    assert [r.score for r in ranking] == sorted(want.tolist(), reverse=True)
    many = both.rank_many(["q", "which?"], DOCUMENTS)
    assert [r.index for r in many[0]] == [r.index for r in ranking]
    np.testing.assert_allclose([r.score for r in many[0]], [r.score for r in ranking], atol=1e-6)
    np.testing.assert_array_equal(both.explain("q", DOCUMENTS).scores, want)


@pytest.mark.parametrize("order", [("given", "reversed"), ("reversed", "given")])
def test_weights_of_several_orders_add_up_though_numbers_differ_in_length(lm, order):
    documents = [f"{letter} text" for letter in "abcdefghijkl"]  # [1] in one order is [12] in the other
    explained = hw.QRRetriever(lm, heads="1-2", order=order, outlier_filter=False).explain("which?", documents)
    one, two = (
        hw.QRRetriever(lm, heads="1-2", order=each, outlier_filter=False).explain("which?", documents) for each in order
    )
    for place, tokens in enumerate(explained.tokens):
        assert [token.text for token in tokens] == [token.text for token in one.tokens[place]]
        assert sum(token.weight for token in tokens) == pytest.approx(explained.scores[place], abs=1e-6)
        ends = [(a.weight + b.weight) / 2 for a, b in zip(one.tokens[place][-6:], two.tokens[place][-6:], strict=True)]
        assert [token.weight for token in tokens[-6:]] == pytest.approx(ends, abs=1e-9)


def test_both_orders_together_do_not_care_which_comes_first(lm):
    both = hw.QRRetriever(lm, heads="1-2", order=["given", "reversed"])
    back = both.score("q", DOCUMENTS[::-1])[::-1]
    np.testing.assert_allclose(both.score("q", DOCUMENTS), back, atol=1e-6)


def test_shuffled_depends_on_the_texts_and_the_seed_only(lm):
    shuffled = hw.QRRetriever(lm, heads="1-2", order="shuffled")
    first = shuffled.score("q", DOCUMENTS)
    np.testing.assert_array_equal(first, shuffled.score("q", DOCUMENTS[::-1])[::-1])
    np.testing.assert_array_equal(first, hw.QRRetriever(lm, heads="1-2", order="shuffled").score("q", DOCUMENTS))
    others = [hw.QRRetriever(lm, heads="1-2", order="shuffled", seed=seed).score("q", DOCUMENTS) for seed in (1, 2, 3)]
    assert not all(np.array_equal(first, other) for other in others)
    twice = hw.QRRetriever(lm, heads="1-2", order=("shuffled", "shuffled")).score("q", DOCUMENTS)
    np.testing.assert_allclose(twice, (first + others[0]) / 2, atol=1e-7)  # the second has the next seed


def test_max_doc_tokens_is_reported(lm):
    ranker = hw.QRRetriever(lm, heads="1-2", max_doc_tokens=12)
    ranking = ranker.rank("q", DOCUMENTS)
    assert ranking.shortened == 2
    assert {r.document.text for r in ranking} == set(DOCUMENTS)
    cut = [text[:12] for text in DOCUMENTS]
    np.testing.assert_array_equal(ranker.score("q", DOCUMENTS), hw.QRRetriever(lm, heads="1-2").score("q", cut))
    assert ranker.plan("q", DOCUMENTS).memory.tokens == hw.QRRetriever(lm, heads="1-2").plan("q", cut).memory.tokens
    assert hw.QRRetriever(lm, heads="1-2").rank("q", DOCUMENTS).shortened == 0


def test_windows_with_every_switch():
    lm = planted_lm()
    example = planted_examples(1, documents=12)[0]
    for overflow in ("tournament", "anchors", "slide"):
        ranker = hw.QRRetriever(
            lm,
            heads=HeadSet([PLANTED]),
            order=("given", "shuffled"),
            tail="query",
            doc_span="body",
            overflow=overflow,
            window=6,
        )
        assert ranker.rank(example.query, example.documents)[0].index == example.relevant[0]


def test_planted_head_ranks_first_by_every_tail_and_span():
    lm = planted_lm()
    example = planted_examples(1, seed=9)[0]
    for tail in ("full", "query+suffix", "query", "core"):
        for span in ("full", "unlabelled", "body"):
            ranker = hw.QRRetriever(lm, heads=HeadSet([PLANTED]), tail=tail, doc_span=span)
            assert ranker.rank(example.query, example.documents)[0].index == example.relevant[0]


switches = st.fixed_dictionaries(
    {
        "tail": st.sampled_from(["full", "query+suffix", "query", "core"]),
        "doc_span": st.sampled_from(["full", "unlabelled", "body"]),
        "null_query": st.sampled_from(["N/A", "nothing"]),
        "calibrate": st.booleans(),
        "outlier_filter": st.booleans(),
        "order": st.lists(st.sampled_from(["reversed", "given", "shuffled"]), min_size=1, max_size=2),
        "reduce": st.sampled_from(["mean", "sum"]),
        "dedupe": st.booleans(),
        "max_doc_tokens": st.sampled_from([None, 1, 7]),
        "overlap_idf": st.booleans(),
        "entropy": st.sampled_from([0.0, 0.5]),
    }
)
lists = st.lists(st.sampled_from(["one text", "a b c", "é", "which of them, please?", " "]), min_size=1, max_size=11)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(chosen=switches, texts=lists, title=st.sampled_from([None, "A title"]))
def test_explanations_agree_with_scores(lm, chosen, texts, title):
    documents = [Document("which one?", title=title), *map(Document, texts)]
    heads = HeadSet([(0, 1), (3, 2), (1, 3)], [0.5, 1.0, -2.0])
    ranker = hw.QRRetriever(lm, heads=heads, **chosen)
    explained = ranker.explain("which?", documents)
    scores = ranker.score("which?", documents)
    np.testing.assert_array_equal(explained.scores, scores)
    for document, tokens, score in zip(documents, explained.tokens, scores, strict=True):
        if document.blank:
            assert tokens == []
            assert score == -np.inf
        else:
            assert sum(token.weight for token in tokens) == pytest.approx(score, abs=2e-6)
            read = "".join(token.text for token in tokens)
            assert read.strip() if chosen["max_doc_tokens"] else read.endswith(document.text)
    for row, head in zip(explained.head_scores, heads.heads, strict=True):
        alone = hw.QRRetriever(lm, heads=HeadSet([head]), **chosen).score("which?", documents)
        np.testing.assert_allclose(row, alone, atol=1e-4 if chosen["entropy"] else 2e-6)  # a root near zero
    places = [ranked.index for ranked in ranker.rank("which?", documents)]
    assert places == np.argsort(-scores, kind="stable").tolist()
