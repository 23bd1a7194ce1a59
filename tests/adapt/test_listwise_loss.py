"""Lists, their scores with gradients, and the loss, against slow and obvious twins."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import headwater as hw
from headwater.adapt.listwise import held_out, listwise_loss, training_lists
from headwater.heads.switches import MassSettings, counted_tail
from headwater.headset import HeadSet
from headwater.prompt import prompt_template
from models import random_lm

DOCUMENTS = [hw.Document("one text", title="a"), "another, longer text of words", "x", "", "one more text here"]
EXAMPLE = hw.RankingExample("which text is it?", DOCUMENTS, [1], id="q1")


def eager_scores(lm, item, heads, own):
    """Document scores from whole eager runs of documents and tail, token by token, in plain loops."""
    template = prompt_template(lm.tokenizer, own.template, own.instruction)
    documents = [item.example.documents[place] for place in item.order if not item.example.documents[place].blank]
    prefix = template.prefix(documents)
    softmax = torch.nn.functional.softmax
    means = []
    for query in (item.example.query, own.null_query):
        tail, _ = counted_tail(template, own, query)
        with torch.enable_grad(), pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.nn.functional, "softmax", lambda x, dim, dtype=None: softmax(x, dim=dim))
            maps = lm.model(input_ids=torch.tensor([prefix.ids + tail]), output_attentions=True).attentions
        start = len(prefix.ids)
        means.append(torch.stack([maps[layer][0, head, start:].mean(0) for layer, head in heads.heads]))
    calibrated = (means[0][:, :start] - means[1][:, :start]).float().mean(0)
    scores = []
    for document in item.example.documents:
        if document.blank:
            scores.append(torch.tensor(-torch.inf))
            continue
        begin, end = prefix.spans[documents.index(document)]
        inside = calibrated[begin:end]
        bar = inside.detach().mean() - 2 * inside.detach().std()
        scores.append(sum(token for token in inside if token > bar))
    return torch.stack(scores)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_gradient_of_the_loss_equals_that_of_eager_runs(family):
    heads = HeadSet([(2, 1), (0, 3), (1, 2)])
    lm, eager = random_lm(family, dtype=torch.float64), random_lm(family, dtype=torch.float64)
    eager.model.set_attn_implementation("eager")
    own = MassSettings()
    item = training_lists(lm, [EXAMPLE], own, "0")[0]
    slopes = []
    for model, scores in (
        (lm.model, item.scores(lm, heads, own)),
        (eager.model, eager_scores(eager, item, heads, own)),
    ):
        listwise_loss(scores, item.grades, 0.01).backward()
        slopes.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    largest = max(slope.abs().max().item() for slope in slopes[1].values())
    assert largest > 1e-3
    for name, slope in slopes[1].items():
        assert (slopes[0].get(name, torch.zeros_like(slope)) - slope).abs().max() <= 1e-4 * largest, name


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_scores_equal_those_of_the_ranker(family):
    lm = random_lm(family)
    heads = HeadSet([(2, 1), (0, 3), (1, 2)], coefficients=[1.0, 0.5, 2.0])
    item = training_lists(lm, [EXAMPLE], MassSettings(), None)[0]
    want = hw.QRRetriever(lm, heads).score(EXAMPLE.query, DOCUMENTS)
    with_graph = item.scores(lm, heads, MassSettings())
    assert with_graph.requires_grad
    np.testing.assert_allclose(with_graph.detach().numpy(), want, atol=1e-6)
    with torch.no_grad():
        np.testing.assert_allclose(item.scores(lm, heads, MassSettings()).numpy(), want, atol=1e-6)


def test_lists_are_shuffled_by_seed_and_id_and_measured():
    lm = random_lm()
    twice = [training_lists(lm, [EXAMPLE], MassSettings(), "0")[0] for _ in range(2)]
    assert twice[0].order == twice[1].order
    orders = {training_lists(lm, [EXAMPLE], MassSettings(), str(seed))[0].order for seed in range(8)}
    assert len(orders) > 3
    template = prompt_template(lm.tokenizer)
    shown = [EXAMPLE.documents[place] for place in (4, 2, 1, 0)]
    longest = max(len(template.tail(EXAMPLE.query)), len(template.tail("N/A")))
    item = training_lists(lm, [EXAMPLE], MassSettings(), None)[0]
    assert item.order == (4, 3, 2, 1, 0)
    assert item.tokens == len(template.prefix(shown).ids) + longest


def test_examples_without_a_readable_gold_document_are_left_out():
    blank = hw.RankingExample("q", DOCUMENTS, [3])
    ungraded = hw.RankingExample("q", DOCUMENTS, {0: 0, 1: -1})
    assert training_lists(random_lm(), [blank, ungraded], MassSettings(), "0") == []


def test_the_loss_by_hand():
    scores = torch.tensor([0.02, 0.01, -torch.inf, 0.0])
    one = listwise_loss(scores, torch.tensor([0.0, 1.0, 0.0, 0.0]), 0.01)
    assert one.item() == pytest.approx(float(np.log(np.e**2 + np.e + 1) - 1), abs=1e-5)
    two = listwise_loss(scores, torch.tensor([2.0, 0.0, 0.0, 1.0]), 0.01)
    total = float(np.log(np.e**2 + np.e + 1))
    assert two.item() == pytest.approx(2 / 3 * (total - 2) + 1 / 3 * total, abs=1e-5)


@settings(max_examples=50)
@given(st.lists(st.floats(-1, 1, width=32), min_size=2, max_size=9), st.data())
def test_the_loss_falls_along_its_gradient(values, data):
    gold = data.draw(st.integers(0, len(values) - 1))
    scores = torch.tensor(values, requires_grad=True)
    grades = torch.zeros(len(values))
    grades[gold] = 1
    loss = listwise_loss(scores, grades, 0.5)
    loss.backward()
    assert loss.item() >= 0
    assert scores.grad.sum().abs() < 1e-5
    assert scores.grad[gold] <= 0
    with torch.no_grad():
        assert listwise_loss(scores - 0.01 * scores.grad, grades, 0.5).item() <= loss.item() + 1e-6


def test_whole_groups_are_held_out():
    examples = [hw.RankingExample(f"q{i}", ["a", "b"], [0], group=f"g{i % 20}") for i in range(60)]
    kept, held = held_out(examples, 0)
    assert len(held) == 6
    assert not {e.group for e in kept} & {e.group for e in held}
    assert held_out(examples, 0)[1] == held
    assert held_out(examples, 1)[1] != held
    few = examples[:5]
    assert held_out(few, 0) == (few, [])
