"""Sensitivity against a loop over numbers, and a whole mining run against one written out by hand."""

import math
import random
from dataclasses import replace

import numpy as np
import pytest
import torch

import headwater as hw
from families import family_model
from headwater.adapt.parenting.losses import TrainingPrompt
from headwater.adapt.parenting.sensitivity import BETA, Run, Sensitivity, mine_once
from headwater.adapt.parenting.units import Piece, candidate_units, unit_modules, unit_pieces
from headwater.errors import ModelError
from headwater.model.adapter import adapted
from models import byte_tokenizer, random_lm

RUN = Run(
    rank=2,
    alpha=4.0,
    learning_rate=1e-2,
    batch=2,
    micro_batch=1,
    steps=4,
    reduce="entry",
    order="before",
    aggregate="half",
    seed=3,
)


def prompts(count=4, seed=0):
    draw = torch.Generator().manual_seed(seed)
    found = []
    for number in range(count):
        length = 6 + number
        ids = torch.randint(2, 250, (length,), generator=draw).tolist()
        found.append(TrainingPrompt(tuple(ids), length - 2 - number % 2, str(number), str(number)))
    return found


def by_hand(steps, reduce):
    """Scores of one unit, number by number, from `steps`: per step the pairs (weight, gradient) of its entries."""
    entries = len(steps[0])
    if reduce == "unit":
        series = [[sum(abs(p * g) for p, g in step) / entries] for step in steps]
    else:
        series = [[abs(p * g) for p, g in step] for step in steps]
    ib, u, scores = [0.0] * len(series[0]), [0.0] * len(series[0]), []
    for now in series:
        for i, value in enumerate(now):
            ib[i] = BETA * ib[i] + (1 - BETA) * value
            u[i] = BETA * u[i] + (1 - BETA) * abs(value - ib[i])
        scores.append(sum(a * b for a, b in zip(ib, u, strict=True)) / len(now))
    return scores


def entries(weights, gradients):
    return list(zip(weights.flatten().tolist(), gradients.flatten().tolist(), strict=True))


@pytest.mark.parametrize("reduce", ["entry", "unit"])
def test_scores_equal_a_loop_over_numbers(reduce):
    draw = torch.Generator().manual_seed(0)
    a, b = (torch.nn.Parameter(torch.randn(3, 4, generator=draw)) for _ in "ab")
    units = [  # a pair, and a row of one tensor with a column of another
        [Piece("a", a), Piece("b", b)],
        [Piece("a", a, 0, torch.tensor([1])), Piece("b", b, 1, torch.tensor([2]))],
    ]
    watched = Sensitivity(units, reduce)
    seen = [[], []]
    for step in range(5):
        for parameter in (a, b):
            parameter.data += 0.1
            parameter.grad = torch.randn(3, 4, generator=draw) * 10.0**-step
        watched.update()
        seen[0].append(entries(a, a.grad) + entries(b, b.grad))
        seen[1].append(entries(a[1], a.grad[1]) + entries(b[:, 2], b.grad[:, 2]))
        np.testing.assert_allclose(watched.scores(), [by_hand(steps, reduce)[-1] for steps in seen], rtol=1e-5)


def test_a_missing_gradient_counts_as_zero():
    parameter = torch.nn.Parameter(torch.ones(2))
    watched = Sensitivity([[Piece("p", parameter)]])
    watched.update()
    assert watched.scores().tolist() == [0.0]


def plain_loss(lm, chosen):
    """The mean loss per target token, one prompt at a time, without padding."""
    total, tokens = 0.0, 0
    for prompt in chosen:
        logits = lm.model(input_ids=torch.tensor([prompt.ids])).logits[0].log_softmax(-1)
        for place in range(prompt.start, len(prompt.ids)):
            total = total - logits[place - 1, prompt.ids[place]]
            tokens += 1
    return total / tokens


def mined_by_hand(lm, units, given, run):
    """`mine_once` written out, with gradients from torch.autograd.grad."""
    draw, order = random.Random(run.seed), []
    while len(order) < run.steps * run.batch:
        order += draw.sample(given, len(given))
    with adapted(lm, unit_modules(units), run.rank, run.alpha, run.seed, values=True) as tuned:
        pieces = [unit_pieces(tuned, unit) for unit in units]
        parameters = list({piece.name: piece.parameter for unit in pieces for piece in unit}.values())
        optimizer = torch.optim.AdamW(parameters, lr=run.learning_rate, weight_decay=0.0)
        seen = [[] for _ in units]
        for step in range(run.steps):
            loss = plain_loss(tuned, order[step * run.batch : (step + 1) * run.batch])
            gradients = torch.autograd.grad(loss, parameters)
            length = math.sqrt(sum(float(g.square().sum()) for g in gradients))
            clipped = [g / max(1.0, length) for g in gradients]
            before = [p.detach().clone() for p in parameters]
            for parameter, gradient in zip(parameters, clipped, strict=True):
                parameter.grad = gradient.clone()
            optimizer.step()
            weights, slopes = (parameters, clipped) if run.order == "after" else (before, gradients)
            values = {id(p): (w, g) for p, w, g in zip(parameters, weights, slopes, strict=True)}
            for place, unit in enumerate(pieces):
                pairs = []
                for piece in unit:
                    w, g = (piece.of(t).flatten().tolist() for t in values[id(piece.parameter)])
                    pairs += list(zip(w, g, strict=True))
                seen[place].append(pairs)
    kept = slice(run.steps // 2, None) if run.aggregate == "half" else slice(-1, None)
    return np.array([np.mean(by_hand(steps, run.reduce)[kept]) for steps in seen])


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("pair", {}),
        ("pair", {"reduce": "unit", "checkpointing": True}),
        ("factor", {"order": "after", "aggregate": "last"}),
        ("rank", {"micro_batch": 2}),
    ],
)
def test_a_run_equals_one_by_hand(kind, more):
    lm = random_lm(layers=1)
    units = candidate_units(lm, kind, targets=["q_proj", "down_proj"], rank=2)
    run = replace(RUN, **more)
    scores, losses = mine_once(lm, units, prompts(), run)
    np.testing.assert_allclose(scores, mined_by_hand(lm, units, prompts(), run), rtol=1e-4)
    assert len(losses) == run.steps
    assert losses[0] == pytest.approx(plain_loss(lm, first_batch(run)).item(), rel=1e-4)


def first_batch(run):
    return random.Random(run.seed).sample(prompts(), len(prompts()))[: run.batch]


def test_matrices_are_scored_as_they_stand():
    lm = random_lm(layers=1)
    units = candidate_units(lm, "matrix", targets=["q_proj", "down_proj"])
    before = {name: tensor.clone() for name, tensor in lm.model.state_dict().items()}
    run = replace(RUN, reduce="unit", steps=1, aggregate="last")
    scores, _ = mine_once(lm, units, prompts(), run)
    weights = [lm.model.get_submodule(unit.module).weight for unit in units]
    gradients = torch.autograd.grad(plain_loss(lm, first_batch(run)), weights)
    means = [(w * g).abs().mean().item() for w, g in zip(weights, gradients, strict=True)]
    expected = [(1 - BETA) * m * (1 - BETA) * abs(m - (1 - BETA) * m) for m in means]
    np.testing.assert_allclose(scores, expected, rtol=1e-4)
    assert all(torch.equal(tensor, before[name]) for name, tensor in lm.model.state_dict().items())


def test_units_that_cannot_matter_score_nothing():
    """Planted: what attention of layer 1 says is thrown away, so its units must come last, all at zero."""
    lm = random_lm(layers=2)
    with torch.no_grad():
        lm.model.model.layers[1].self_attn.o_proj.weight.zero_()
    units = candidate_units(lm, "matrix")
    scores, _ = mine_once(lm, units, prompts(), replace(RUN, reduce="unit"))
    silent = [unit.projection for unit, score in zip(units, scores, strict=True) if score == 0 and unit.layer == 1]
    assert silent == [f"self_attn.{name}_proj" for name in "qkvo"]
    assert (scores > 0).sum() == 10


@pytest.mark.parametrize("kind", ["pair", "matrix"])
def test_the_model_stays_as_it_was(kind):
    lm = random_lm(layers=1)
    units = candidate_units(lm, kind)
    before = {name: tensor.clone() for name, tensor in lm.model.state_dict().items()}
    lm.model.lm_head.weight.requires_grad_(False)
    steps = []

    def interrupted(done, total):
        steps.append((done, total))
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        mine_once(lm, units, prompts(), RUN, interrupted)
    assert steps == [(1, 4), (2, 4)]
    after = lm.model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(tensor, before[name]) for name, tensor in after.items())
    assert [name for name, p in lm.model.named_parameters() if not p.requires_grad] == ["lm_head.weight"]
    assert all(p.grad is None for p in lm.model.parameters())


def test_the_shared_factor_of_a_split_projection_is_not_trained():
    lm = hw.load(model=family_model("phi3", num_hidden_layers=1), tokenizer=byte_tokenizer())
    units = candidate_units(lm, split_fused=True)
    scores, _ = mine_once(lm, units, prompts(), RUN)
    assert scores.shape == (7,)
    assert (scores > 0).all()


def test_the_same_seed_gives_the_same_scores():
    lm = random_lm(layers=1)
    units = candidate_units(lm, targets=["mlp"])
    first, _ = mine_once(lm, units, prompts(), RUN)
    again, _ = mine_once(lm, units, prompts(), RUN)
    other, _ = mine_once(lm, units, prompts(), replace(RUN, seed=4))
    assert first.tolist() == again.tolist()
    assert first.tolist() != other.tolist()


def test_what_is_not_finite_is_refused():
    lm = random_lm(layers=1)
    units = candidate_units(lm, targets=["mlp"])
    with torch.no_grad():
        lm.model.lm_head.weight[7] = float("inf")
    steps = []
    with pytest.raises(ModelError, match="not finite at step 1"):
        mine_once(lm, units, prompts(), RUN, lambda done, total: steps.append(done))
    assert not steps, "it does not run on"
