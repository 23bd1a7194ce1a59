"""The planted head is found, shuffled labels do not find it, and the streamed score equals a slow obvious twin."""

import ir_measures
import numpy as np
import pytest
import torch

import headwater as hw
from headwater.data.needle import needle_cases
from headwater.errors import ContextOverflowError, HeadSetError, InputError
from headwater.heads import DETECTORS
from headwater.heads.detector import default_top_k
from headwater.heads.mass import MassSettings, PreparedDocuments, span_scores
from headwater.heads.query_focused import ndcg
from headwater.prompt import prompt_template
from models import random_lm
from planted import PLANTED, planted_examples, planted_lm
from planted_conflict import torn_examples, torn_lm
from planted_copier import NEEDLES, PARAGRAPHS, copier_lm


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("metric", ["mass", "ndcg"])
def test_the_planted_head_is_found_first(family, metric):
    lm = planted_lm(family)
    found = hw.QueryFocusedHeads(top_k=3, metric=metric).find(lm, planted_examples())
    assert found.heads[0] == PLANTED
    flat = np.sort(found.scores.ravel())
    assert flat[-1] > 1.5 * flat[-2]


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("metric", ["mass", "ndcg"])
def test_shuffled_labels_do_not_find_it(family, metric):
    found = hw.QueryFocusedHeads(top_k=3, metric=metric).find(
        planted_lm(family), planted_examples(shuffled_labels=True)
    )
    assert PLANTED not in found.heads


def slow_document_scores(lm, query, documents, heads, null="N/A"):
    """qrhead.md 3.1-3.3 the obvious way: eager maps of two full prompts, python loops. `[heads, documents]`."""
    template = prompt_template(lm.tokenizer)
    prefix = template.prefix(documents)
    stock = lm.model.config._attn_implementation
    lm.model.set_attn_implementation("eager")
    means = []
    for text in (query, null):
        ids = torch.tensor([prefix.ids + template.tail(text)])
        with torch.no_grad():
            maps = lm.model(input_ids=ids, output_attentions=True).attentions
        means.append([maps[layer][0, head, len(prefix.ids) :, : len(prefix.ids)].mean(0) for layer, head in heads])
    lm.model.set_attn_implementation(stock)
    out = np.zeros((len(heads), len(documents)))
    for h, (real, empty) in enumerate(zip(*means, strict=True)):
        for d, (start, end) in enumerate(prefix.spans):
            c = (real - empty)[start:end].numpy()
            floor = c.mean() - 2 * c.std(ddof=1) if len(c) > 1 and c.std(ddof=1) > 0 else -np.inf
            out[h, d] = sum(value for value in c if value > floor)
    return out


@pytest.mark.parametrize("family", ["llama", "llama-mqa", "gpt2"])
def test_document_scores_equal_the_slow_twin(family):
    lm = random_lm(family)
    texts = ["the first text", "a second, longer text", "x"]
    documents = [hw.Document(text, title=title) for text, title in zip(texts, ["One", None, None], strict=True)]
    heads = [(0, 1), (3, 2), (1, 3)]
    mass = PreparedDocuments(lm, documents, heads, MassSettings()).mass("which is it?")
    want = slow_document_scores(lm, "which is it?", documents, heads)
    assert np.abs(mass.per_head().numpy() - want).max() <= 5e-6


def test_the_filter_drops_low_outliers_only():
    low, high = torch.zeros(12), torch.zeros(12)
    low[3], high[3] = -5.0, 5.0
    low[4:] += 0.1
    assert span_scores(low, [(0, 12)]).item() == pytest.approx(0.8)
    assert span_scores(high, [(0, 12)]).item() == pytest.approx(5.0)
    assert span_scores(low, [(0, 12)], outlier_filter=False).item() == pytest.approx(-4.2)


def test_the_filter_is_inert_for_short_and_for_flat_spans():
    for n in range(1, 6):
        tokens = torch.randn(200, n, generator=torch.Generator().manual_seed(n))
        torch.testing.assert_close(span_scores(tokens, [(0, n)])[:, 0], tokens.sum(-1))
    assert span_scores(torch.full((9,), 0.5), [(0, 9)]).item() == pytest.approx(4.5)


def test_ndcg_is_trec_evals():
    draw = np.random.default_rng(0)
    grades = draw.integers(0, 3, 30)
    scores = draw.normal(size=(5, 30))
    qrels = [ir_measures.Qrel("q", str(d), int(g)) for d, g in enumerate(grades)]
    for row in scores:
        run = [ir_measures.ScoredDoc("q", str(d), float(s)) for d, s in enumerate(row)]
        want = ir_measures.calc_aggregate([ir_measures.nDCG @ 10], qrels, run)[ir_measures.nDCG @ 10]
        got = ndcg(torch.tensor(row)[None], torch.tensor(grades, dtype=torch.float64), 10).item()
        assert got == pytest.approx(want, abs=1e-9)


def test_detection_does_not_depend_on_the_order_of_the_documents_alone():
    lm, examples = planted_lm(), planted_examples(4)
    first = hw.QueryFocusedHeads(seed=1).score(lm, examples).scores
    assert np.array_equal(first, hw.QueryFocusedHeads(seed=1).score(lm, examples).scores)
    assert not np.array_equal(first, hw.QueryFocusedHeads(seed=2).score(lm, examples).scores)


def test_provenance_says_how_the_set_was_made(tmp_path):
    lm, seen = planted_lm(), []
    found = hw.QueryFocusedHeads(top_k=2).find(lm, planted_examples(4), progress=lambda done, n: seen.append((done, n)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    read = hw.HeadSet.load(found.save(tmp_path / "x.json")).provenance
    assert read["method"] == "QueryFocusedHeads"
    assert read["settings"]["metric"] == "mass"
    assert read["shape"] == [3, 4, 2]
    assert read["fingerprint"] == lm.fingerprint
    assert {"model", "prompt", "data", "versions", "examples"} <= set(read)


def test_examples_without_a_gold_document_are_skipped():
    lm, examples = planted_lm(), planted_examples(3)
    extra = hw.RankingExample("w1", ["w1 w2"], [])
    scores = hw.QueryFocusedHeads().score(lm, [*examples, extra])
    assert scores.provenance["examples"] == 3
    with pytest.raises(InputError, match="No example lists a relevant document"):
        hw.QueryFocusedHeads().find(lm, [extra])


def test_bad_input():
    with pytest.raises(InputError, match="Unknown metric"):
        hw.QueryFocusedHeads(metric="nonsense")
    lm = planted_lm()
    for top_k in (0, -1, 13):
        with pytest.raises(HeadSetError, match="between 1 and the 12"):
            hw.QueryFocusedHeads(top_k=top_k).find(lm, planted_examples(1))
    long = hw.RankingExample("w1", ["w1 " * 3000], [0])
    with pytest.raises(ContextOverflowError, match="reads 2,048"):
        hw.QueryFocusedHeads().find(lm, [long])


OWN_EXAMPLES = {
    "retrieval": lambda: (copier_lm(), needle_cases(NEEDLES[:2], PARAGRAPHS, (260,), (0.5,))),
    "ph3": lambda: (torn_lm(), torn_examples(2)),
    "juice": lambda: (torn_lm(), torn_examples(2)),
}
SIGNED = {"ph3": 5, "juice": 10}  # at most so many: these keep heads of the right sign only, JuICE of two lists


@pytest.mark.parametrize("name", sorted({*DETECTORS} - {"suppression"}))  # that one needs a model that copies
def test_every_registered_detector_finds_a_set(name):
    lm, examples = OWN_EXAMPLES.get(name, lambda: (planted_lm(), planted_examples(2)))()
    detector = DETECTORS[name](top_k=5)
    found = detector.find(lm, examples)
    if name in SIGNED:
        assert 1 <= len(found) <= SIGNED[name]
    else:
        assert len(found) == 5
    assert found.scores.shape == (lm.anatomy.num_layers, lm.anatomy.num_heads)
    assert found.heads == detector.find(lm, examples).heads
    assert found.provenance["method"] == DETECTORS[name].__name__


def test_positional_arguments_are_top_k_and_metric_or_seed():
    detector = hw.QueryFocusedHeads(8, "ndcg")
    assert (detector.top_k, detector.metric, detector.seed) == (8, "ndcg", 0)
    assert (hw.RandomHeads(6, 1).top_k, hw.RandomHeads(6, 1).seed) == (6, 1)


def test_random_heads_change_with_the_seed():
    lm = planted_lm()
    assert hw.RandomHeads(6, seed=0).find(lm).heads != hw.RandomHeads(6, seed=1).find(lm).heads


def test_the_default_number_of_heads():
    anatomy = planted_lm().anatomy
    assert default_top_k(anatomy) == 8
    assert default_top_k(type(anatomy)("llama", 32, 32, 8, 128, 8192)) == 16
    assert default_top_k(type(anatomy)("llama", 80, 64, 8, 128, 8192)) == 32
