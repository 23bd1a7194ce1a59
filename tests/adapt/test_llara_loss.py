"""LLaRA's losses against plain loops over plain forwards; parts of any size give the gradient of one big batch."""

import math

import pytest
import torch

from headwater.adapt.llara_loss import Examples, Steps, Weights, looked_at, set_loss
from headwater.adapt.llara_texts import Cutting, Order, chunk_store, text_fingerprint
from headwater.errors import ModelError
from headwater.model.slots import add_tokens
from headwater.prompt.suffix import embedding_prompt, slot_names
from models import random_lm

TEXTS = ["Lima is wide and so is the sea", "the of", "Oslo lies north of Rome", "cold"]
CODE = Weights(1.0, 0.3, 0.2, summed=False)
PAPER = Weights(0.0, 1.0, 1.0, summed=True)


def examples(tmp_path, slots="single", weights=CODE, joint="mask4d", width=None, other=None) -> Examples:
    lm = random_lm(layers=2, dtype=torch.float64)
    if slots == "eight":
        lm = add_tokens(lm, slot_names())
    prompt = embedding_prompt(lm.tokenizer, slots, max_length=180)
    cutting = Cutting(3, 20, 20, "en")
    chunks = chunk_store(TEXTS, prompt, cutting, text_fingerprint(TEXTS), tmp_path / f"texts-{slots}")
    return Examples(lm, prompt, chunks, weights, joint, width, other)


def by_hand(own: Examples, numbers: list[int]) -> torch.Tensor:
    """One forward for each text and tail, full logits, one token of a set after the other."""
    lm, prompt, chunks, weights = own.lm, own.prompt, own.chunks, own.weights
    totals = {"lm": [], "summarize": [], "predict": []}
    for number in numbers:
        text = [*prompt.prefix, *chunks.ids(number)]
        after = chunks.next(number)
        sets = {"summarize": chunks.targets(number), "predict": [] if after is None else chunks.targets(after)}
        plain = lm.model(input_ids=torch.tensor([text])).logits[0].log_softmax(-1)
        totals["lm"] += [-plain[place - 1, text[place]] for place in range(max(1, len(prompt.prefix)), len(text))]
        for role, targets in sets.items():
            if targets:
                row = torch.tensor([[*text, *prompt.tail(role)]])
                logits = lm.model(input_ids=row).logits[0, -prompt.slot_count :].amax(0).log_softmax(-1)
                loss = sum(-logits[token] for token in targets)
                totals[role].append(loss if weights.summed else loss / len(targets))
    return sum(
        weights.of(name) * torch.stack(values).mean() for name, values in totals.items() if values and weights.of(name)
    )


def slopes(own: Examples, loss: torch.Tensor) -> torch.Tensor:
    found = torch.autograd.grad(loss, list(own.lm.model.parameters()))
    return torch.cat([each.flatten() for each in found])


def test_the_set_loss_is_that_of_the_whole_distribution():
    logits = torch.randn(5, 40, generator=torch.Generator().manual_seed(0)) * 4
    sets = [[1], [2, 7, 9], list(range(40)), [39, 0], [5, 6]]
    found = set_loss(logits, sets)
    whole = torch.stack([-row.log_softmax(-1)[own].mean() for row, own in zip(logits, sets, strict=True)])
    torch.testing.assert_close(found, whole, atol=1e-5, rtol=0)
    for row, own, value in zip(logits.tolist(), sets, found.tolist(), strict=True):
        least = math.log(sum(math.exp(each) for each in row))
        assert value == pytest.approx(sum(least - row[token] for token in own) / len(own), abs=1e-5)
        assert value - math.log(len(own)) >= -1e-6  # the excess is a KL divergence


@pytest.mark.parametrize("slots", ["single", "eight"])
@pytest.mark.parametrize("weights", [CODE, PAPER, Weights(1, 0, 0, False), Weights(0, 0, 1, False)])
def test_the_loss_of_a_step_and_its_gradient(tmp_path, slots, weights):
    own = examples(tmp_path, slots, weights)
    assert len(own.chunks) == 7  # one of them stop words only, four without a next one
    batch = list(range(7))
    whole = Steps(own, Order(batch, 0), 7, 1).loss(0)
    want = by_hand(own, batch)
    torch.testing.assert_close(whole, want)
    slope = slopes(own, want)
    assert (slopes(own, whole) - slope).norm() <= 1e-6 * slope.norm()  # norms and angles are of float32 in a Llama
    for parts in (2, 4):  # over micro-batches and processes alike: a trainer averages
        steps = Steps(own, Order(batch, 0), 7, parts)
        found = sum(slopes(own, steps.loss(number)) for number in range(parts)) / parts
        assert (found - slope).norm() <= 1e-6 * slope.norm()


def test_packed_rows_and_every_switch_give_the_same(tmp_path):
    batch = list(range(7))
    want = by_hand(examples(tmp_path), batch)
    for more in ({"width": 120}, {"joint": "branch"}, {"joint": "separate"}):
        torch.testing.assert_close(Steps(examples(tmp_path, **more), Order(batch, 0), 7, 1).loss(0), want)


def test_an_empty_set_has_no_gradient(tmp_path):
    own = examples(tmp_path, weights=Weights(0, 1, 1, False))
    empty = next(n for n in range(7) if not own.chunks.targets(n) and own.chunks.next(n) is None)
    assert own.counts([empty]) == {"summarize": 0, "predict": 0}
    loss = Steps(own, Order([empty], 0), 1, 1).loss(0)
    assert loss.item() == 0
    loss.backward()
    assert all(p.grad is None or not p.grad.any() for p in own.lm.model.parameters())


def test_strangers_bring_their_targets(tmp_path):
    own = examples(tmp_path, other={0: 4})
    assert own.targets(0, "summarize") == own.chunks.targets(4)
    assert own.targets(0, "predict") == own.chunks.targets(5)
    assert own.targets(1, "summarize") == own.chunks.targets(1)


def test_a_look_gives_means_and_excess(tmp_path):
    own = examples(tmp_path)
    found = looked_at(own, range(7), at_once=4)
    assert found["total"] == pytest.approx(by_hand(own, list(range(7))).item())
    sets = [own.chunks.targets(number) for number in range(7)]
    least = [math.log(len(each)) for each in sets if each]
    assert found["excess_summarize"] == pytest.approx(found["summarize"] - sum(least) / len(least))
    assert found["excess_predict"] >= 0


def test_a_loss_that_is_not_finite_is_named(tmp_path):
    own = examples(tmp_path)
    with torch.no_grad():
        own.lm.model.lm_head.weight[0, 0] = torch.nan
    with pytest.raises(ModelError, match=r"loss '\w+' is nan in step 3"):
        Steps(own, Order(range(7), 0), 2, 1).loss(2)
