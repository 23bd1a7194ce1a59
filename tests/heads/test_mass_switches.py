"""Every switch of the document score against a slow obvious twin; what is refused."""

import itertools

import numpy as np
import pytest
import torch
from mass_twin import chat_lm, twin_scores

import headwater as hw
from headwater.data.documents import Document
from headwater.errors import InputError
from headwater.heads.mass import PreparedDocuments
from headwater.heads.mass_detector import _SWITCHES
from headwater.heads.reattn import evenness, overlap_factors
from headwater.heads.switches import CHOICES, MassSettings, counted_tail, prompt_order
from headwater.prompt import prompt_template
from models import random_lm
from planted import planted_examples, planted_lm

DOCUMENTS = [
    Document("The first text of all.", title="One"),
    Document("a second, rather longer text without any title"),
    Document("which is it? This one."),
]
HEADS = [(0, 1), (3, 2), (1, 3)]
QUERY = "which is it?"


def scores(lm, settings, order=None, documents=DOCUMENTS):
    mass = PreparedDocuments(lm, documents, HEADS, settings, order).mass(QUERY)
    return mass, mass.per_head().double().numpy()


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize(("tail", "doc_span"), [*itertools.product(CHOICES["tail"], CHOICES["doc_span"])])
def test_tails_and_spans_equal_the_slow_twin(family, tail, doc_span):
    lm = chat_lm(family)
    settings = MassSettings(tail=tail, doc_span=doc_span)
    got = scores(lm, settings, [2, 0, 1])[1]
    assert np.abs(got - twin_scores(lm, QUERY, DOCUMENTS, HEADS, settings, [2, 0, 1])).max() <= 5e-6


@pytest.mark.parametrize(
    "switches",
    [
        {"null_query": ""},
        {"null_query": " \n", "tail": "query+suffix"},
        {"null_query": "something else entirely", "tail": "query"},
        {"calibrate": False, "outlier_filter": False, "tail": "core", "doc_span": "unlabelled"},
        {"calibrate": False, "tail": "query", "null_query": ""},
        {"max_doc_tokens": 9},
        {"max_doc_tokens": 9, "doc_span": "body"},
        {"overlap_idf": True},
        {"entropy": 0.5},
        {"entropy": 2.0, "overlap_idf": True, "doc_span": "body", "tail": "query+suffix"},
        {"entropy": 1.0, "outlier_filter": False},
    ],
    ids=str,
)
def test_other_switches_equal_the_slow_twin(switches):
    lm = chat_lm()
    settings = MassSettings(**switches)
    got = scores(lm, settings)[1]
    want = twin_scores(lm, QUERY, DOCUMENTS, HEADS, settings)
    assert np.abs(got - want).max() <= 5e-6
    plain = scores(lm, MassSettings())[1]
    assert np.abs(got - plain).max() > 1e-5  # the switch does something


def test_reduce_is_a_factor():
    lm = chat_lm()
    mean, total = (scores(lm, MassSettings(reduce=how))[0].combined().numpy() for how in ("mean", "sum"))
    np.testing.assert_allclose(total, 3 * mean, rtol=1e-4, atol=1e-6)


def test_copies_are_read_once_or_dilute_each_other():
    lm = chat_lm()
    twice = [DOCUMENTS[0], DOCUMENTS[1], DOCUMENTS[0]]
    once = PreparedDocuments(lm, twice, HEADS, MassSettings())
    both = PreparedDocuments(lm, twice, HEADS, MassSettings(dedupe=False))
    assert (len(once.spans), len(both.spans)) == (2, 3)
    shared, own = once.mass(QUERY).per_head(), both.mass(QUERY).per_head()
    assert torch.equal(shared[:, 0], shared[:, 2])
    assert not torch.equal(own[:, 0], own[:, 2])


def test_documents_alike_after_their_cut_are_read_once():
    documents = [Document("the same start, one end"), Document("the same start, another end")]
    prepared = PreparedDocuments(chat_lm(), documents, HEADS, MassSettings(max_doc_tokens=14))
    assert prepared.place == [0, 0]
    assert prepared.shown[0].text == "the same start"


def test_token_shares_add_up_to_the_score():
    for settings in (MassSettings(), MassSettings(reduce="sum", entropy=0.7, overlap_idf=True, doc_span="body")):
        mass = scores(chat_lm(), settings, documents=[*DOCUMENTS, Document(" ")])[0]
        parts = mass.by_token([0.5, 1.0, -2.0])
        combined = mass.combined(weights=[0.5, 1.0, -2.0])
        torch.testing.assert_close(torch.stack([part.sum() for part in parts[:3]]), combined[:3])
        assert len(parts[3]) == 0
        assert combined[3] == -torch.inf


def test_what_stands_behind_the_last_counted_token_does_not_run():
    template = prompt_template(chat_lm().tokenizer)
    full, _ = counted_tail(template, MassSettings(), QUERY)
    query, span = counted_tail(template, MassSettings(tail="query"), QUERY)
    core, _ = counted_tail(template, MassSettings(tail="core"), QUERY)
    assert query == full[: len(query)]
    assert template.tokenizer.decode(query[slice(*span)]) == f" {QUERY}"
    assert template.tokenizer.decode(core[len(query) :]) == "<"


def test_core_without_a_suffix_ends_with_the_query():
    template = prompt_template(random_lm().tokenizer)
    ids, span = counted_tail(template, MassSettings(tail="core"), QUERY)
    assert template.tokenizer.decode(ids).endswith(QUERY)
    assert span == (0, len(ids))


@pytest.mark.parametrize(("tail", "lm"), [("query", chat_lm), ("query", random_lm), ("query+suffix", random_lm)])
def test_an_empty_null_query_needs_a_token_to_average(tail, lm):
    settings = MassSettings(tail=tail, null_query="")
    with pytest.raises(InputError, match="leaves no token of an empty null query"):
        PreparedDocuments(lm(), DOCUMENTS, HEADS, settings)
    with pytest.raises(InputError, match="leaves no token of an empty null query"):
        hw.QRRetriever(lm(), heads="all", tail=tail, null_query="")
    assert np.isfinite(hw.QRRetriever(lm(), heads="all", tail=tail, null_query="", calibrate=False).score("q", ["x"]))


def test_the_gradient_of_evenness_is_finite_where_tokens_get_nothing():
    rows = torch.tensor([[0.5, -0.1, 0.0, 0.2], [0.0, 0.0, 0.0, 0.0]], requires_grad=True)
    evenness(rows).sum().backward()
    assert rows.grad.isfinite().all()


def test_evenness():
    rows = torch.tensor([[1.0, 1, 1, 1], [0, 5, 0, 0], [-1, -2, -3, 0], [1, 1, -4, 0]])
    torch.testing.assert_close(evenness(rows), torch.tensor([1.0, 0.0, 1.0, 0.5]))
    assert evenness(torch.tensor([[3.0]])).tolist() == [1.0]


def test_overlap_factors_are_relative_to_the_rarest_word():
    tokenizer = planted_lm().tokenizer
    ids = tokenizer("<bos> w1 w2 w3 w1 w5 w1 w2 w9")["input_ids"]
    got = overlap_factors(tokenizer, ids, [(1, 4), (4, 6), (6, 9)], tokenizer("w1 w2 w50")["input_ids"])
    one, two = np.log(1 + 0.5 / 3.5), np.log(1 + 1.5 / 2.5)
    np.testing.assert_allclose(got, [1, one / two, 1, 1, one / two, 1, one / two, 1, 1], rtol=1e-6)
    assert overlap_factors(tokenizer, [3, 4], [(0, 2)], []).tolist() == [1.0, 1.0]


def test_orders():
    assert prompt_order("given", 3, "x") == [0, 1, 2]
    assert prompt_order("reversed", 3, "x") == [2, 1, 0]
    drawn = prompt_order("shuffled", 30, "x")
    assert sorted(drawn) == list(range(30)) != drawn
    assert drawn == prompt_order("shuffled", 30, "x") != prompt_order("shuffled", 30, "y")


@pytest.mark.parametrize("kind", [hw.QueryFocusedHeads, hw.ContrastiveHeads])
def test_every_switch_is_a_keyword_of_the_detectors(kind):
    values = {
        "template": "base",
        "instruction": "answer",
        "null_query": "",
        "calibrate": True,
        "outlier_filter": False,
        "tail": "query",
        "doc_span": "body",
        "reduce": "sum",
        "dedupe": False,
        "max_doc_tokens": 5,
        "overlap_idf": True,
        "entropy": 0.5,
    }
    assert list(values) == _SWITCHES
    assert kind(**values).settings == MassSettings(**values)
    for name, value in values.items():
        assert getattr(kind(**{name: value}).settings, name) == value
    assert kind(settings=MassSettings(tail="query"), doc_span="body").settings.tail == "query"


def test_the_order_at_detection():
    lm, examples = planted_lm(), planted_examples(3)
    given, again, back = (hw.QueryFocusedHeads(order=order, seed=seed).score(lm, examples).scores
                          for order, seed in (("given", 0), ("given", 1), ("reversed", 0)))  # fmt: skip
    assert np.array_equal(given, again)
    assert not np.array_equal(given, back)


def test_provenance_says_every_switch():
    made = hw.QueryFocusedHeads(tail="query", order="given").score(planted_lm(), planted_examples(2)).provenance
    assert made["settings"]["order"] == "given"
    assert made["settings"]["settings"] == {
        "template": "auto",
        "instruction": "rank",
        "null_query": "N/A",
        "calibrate": True,
        "outlier_filter": True,
        "tail": "query",
        "doc_span": "full",
        "reduce": "mean",
        "dedupe": True,
        "max_doc_tokens": None,
        "overlap_idf": False,
        "entropy": 0.0,
    }


@pytest.mark.parametrize(
    ("switch", "match"),
    [
        ({"tail": "odd"}, "Unknown tail 'odd'"),
        ({"doc_span": "odd"}, "Unknown doc_span"),
        ({"reduce": "max"}, "Unknown reduce"),
        ({"order": "odd"}, "Unknown order"),
        ({"max_doc_tokens": 0}, "max_doc_tokens must be at least 1"),
        ({"entropy": -1.0}, "0 or more"),
        ({"entropy": float("nan")}, "0 or more"),
        ({"null_query": 3}, "null query must be a string"),
    ],
)
def test_bad_switches(switch, match):
    for kind in (hw.QueryFocusedHeads, hw.ContrastiveHeads):
        with pytest.raises(InputError, match=match):
            kind(**switch)
    with pytest.raises(InputError, match=match):
        hw.QRRetriever(planted_lm(), heads="1-2", **switch)
