"""`ContrastiveHeads`: its known values, the planted head, a slow twin."""

import numpy as np
import pytest
import torch
from mass_twin import chat_lm, twin_scores

import headwater as hw
from headwater.errors import InputError
from headwater.heads.contrastive import core_settings
from planted import PLANTED, planted_examples, planted_lm


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_planted_head_is_found_first(family):
    lm = planted_lm(family)
    assert hw.ContrastiveHeads(top_k=3).find(lm, planted_examples()).heads[0] == PLANTED
    found = hw.ContrastiveHeads(top_k=3, temperature=0.001).find(lm, planted_examples())
    assert found.heads[0] == PLANTED
    flat = np.sort(found.scores.ravel())
    assert flat[-1] > 1.5 * flat[-2]


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_shuffled_labels_do_not_find_it(family):
    found = hw.ContrastiveHeads(top_k=3).find(planted_lm(family), planted_examples(shuffled_labels=True))
    assert PLANTED not in found.heads


def test_without_negatives_every_head_scores_one():
    example = hw.RankingExample("which?", ["one text", "another one"], [0, 1])
    assert hw.ContrastiveHeads().score(chat_lm(), [example]).scores == pytest.approx(np.ones((4, 8)))


@pytest.mark.parametrize("negatives", [1, 4])
def test_uniform_attention_is_chance(negatives):
    lm = chat_lm()
    with torch.no_grad():
        for layer in lm.model.model.layers:
            layer.self_attn.q_proj.weight.zero_()
    texts = [f"document {letter}" for letter in "abcdefgh"[: 1 + negatives]]
    scores = hw.ContrastiveHeads(temperature=0.001).score(lm, [hw.RankingExample("which?", texts, [1])]).scores
    assert scores == pytest.approx(np.full((4, 8), 1 / (1 + negatives)), abs=1e-3)


def test_scores_equal_the_slow_twin():
    lm = chat_lm()
    texts = ["the first text", "a second, longer text", "x", "one more"]
    example = hw.RankingExample("which is it?", texts, [1, 3])
    heads = lm.anatomy.all_heads
    mass = twin_scores(lm, example.query, example.documents, heads, core_settings())
    want = []
    for row in mass:
        negative = np.exp(row[0] / 0.1) + np.exp(row[2] / 0.1)
        want.append(np.mean([np.exp(row[p] / 0.1) / (np.exp(row[p] / 0.1) + negative) for p in (1, 3)]))
    found = hw.ContrastiveHeads(order="given").score(lm, [example])
    assert found.scores.ravel() == pytest.approx(np.array(want), abs=1e-4)


def test_samples_groups_and_provenance():
    lm, examples = planted_lm(), planted_examples(5)
    found = hw.ContrastiveHeads(temperature=0.5).score(lm, examples)
    assert found.samples.shape == (5, 3, 4)
    np.testing.assert_allclose(found.samples.mean(0), found.scores)
    assert list(found.groups) == [str(number) for number in range(5)]
    assert found.provenance["method"] == "ContrastiveHeads"
    assert found.provenance["settings"]["temperature"] == 0.5
    assert found.provenance["settings"]["settings"]["tail"] == "core"


def test_blank_documents():
    lm = planted_lm()
    blank_negative = hw.RankingExample("w5", ["w5 w41", " "], [0])
    assert hw.ContrastiveHeads().score(lm, [blank_negative]).scores.tolist() == np.ones((3, 4)).tolist()
    blank_gold = hw.RankingExample("w5", ["", "w9 w40"], [0])
    found = hw.ContrastiveHeads().score(lm, [blank_negative, blank_gold])  # as if it were not there
    assert len(found.samples) == 1
    with pytest.raises(InputError, match="nothing to find heads with"):
        hw.ContrastiveHeads().score(lm, [blank_gold])


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf")])
def test_a_temperature_has_to_be_positive(temperature):
    with pytest.raises(InputError, match="temperature must be positive"):
        hw.ContrastiveHeads(temperature=temperature)


def test_a_small_temperature_does_not_overflow():
    scores = hw.ContrastiveHeads(temperature=1e-6).score(planted_lm(), planted_examples(4)).scores
    assert np.isfinite(scores).all()
    assert scores[PLANTED] == pytest.approx(1.0)
