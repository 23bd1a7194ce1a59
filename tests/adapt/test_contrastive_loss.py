"""InfoNCE beside a loop, masks, distillation, nested dimensions; GradCache and processes beside one big batch."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from headwater.adapt.contrastive_loss import ContrastiveLoss, Lists, info_nce, list_kl
from headwater.adapt.gradcache import grad_cache
from headwater.errors import InputError

unit = torch.nn.functional.normalize


def vectors(rows, dimension=6, seed=0):
    return unit(torch.randn(rows, dimension, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=1)


def lists(queries=4, group=3, teacher=None):
    keys = [frozenset({f"{q}-{g}"}) for q in range(queries) for g in range(group)]
    return Lists(keys, [frozenset({f"{q}-0"}) for q in range(queries)], teacher)


def by_hand(queries, passages, temperature, hidden=(), margin=None):
    group = len(passages) // len(queries)
    total = 0.0
    for i, query in enumerate(queries.tolist()):
        cosines = [sum(a * b for a, b in zip(query, passage, strict=True)) for passage in passages.tolist()]
        own = cosines[i * group]
        kept = [
            c
            for j, c in enumerate(cosines)
            if j == i * group or ((i, j) not in hidden and (margin is None or c <= own + margin))
        ]
        total += math.log(sum(math.exp(c / temperature) for c in kept)) - own / temperature
    return total / len(queries)


@pytest.mark.parametrize("margin", [None, 0.1])
def test_info_nce_is_the_loop(margin):
    queries, passages = vectors(4), vectors(12, seed=1)
    hidden = {(0, 1), (0, 3), (2, 11)}
    mask = torch.zeros(4, 12, dtype=torch.bool)
    for place in hidden:
        mask[place] = True
    found = info_nce(queries, passages, 0.1, mask, margin)
    assert found.item() == pytest.approx(by_hand(queries, passages, 0.1, hidden, margin), abs=1e-10)


def test_scores_are_computed_in_fp32():
    queries, passages = vectors(4).bfloat16(), vectors(12, seed=1).bfloat16()
    found = info_nce(queries, passages, 0.01)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(info_nce(queries.double(), passages.double(), 0.01).item(), abs=1e-4)


def test_known_positives_of_a_query_are_no_negatives_of_it():
    keys = [frozenset({"a"}), frozenset({"x"}), frozenset({"b", "text"}), frozenset({"a", "again"})]
    hidden = Lists(keys, [frozenset({"a", "text"}), frozenset({"b"})]).hidden()
    assert hidden.tolist() == [[False, False, True, True], [False, False, False, False]]
    queries, passages = vectors(2), vectors(4, seed=1)
    known = ContrastiveLoss(0.1)(queries, passages, Lists(keys, [frozenset({"a", "text"}), frozenset({"b"})]))
    assert known.item() == pytest.approx(by_hand(queries, passages, 0.1, {(0, 2), (0, 3)}), abs=1e-10)
    plain = ContrastiveLoss(0.1, mask_known=False)(queries, passages, Lists(keys, [frozenset("a"), frozenset("b")]))
    assert plain.item() == pytest.approx(by_hand(queries, passages, 0.1), abs=1e-10)


def test_distillation():
    queries, passages = vectors(4), vectors(12, seed=1)
    same = torch.einsum("nd,ngd->ng", queries, passages.view(4, 3, 6))
    assert list_kl(queries, passages, same, 0.1, 0.1).item() == pytest.approx(0.0, abs=1e-12)
    teacher = torch.tensor([[1.0, 0.5, -math.inf]] * 4, dtype=torch.float64)
    want = 0.0
    for row in range(4):
        student = (same[row] / 0.1).softmax(0)
        target = (teacher[row] / 0.2).softmax(0)
        want += sum(t * math.log(t / s) for t, s in zip(target.tolist(), student.tolist(), strict=True) if t)
    assert list_kl(queries, passages, teacher, 0.1, 0.2).item() == pytest.approx(want / 4, abs=1e-10)
    half = ContrastiveLoss(0.1, distill=0.5, teacher_temperature=0.2)(queries, passages, lists(teacher=teacher))
    assert half.item() == pytest.approx((by_hand(queries, passages, 0.1) + want / 4) / 2, abs=1e-10)


def test_nested_dimensions():
    queries, passages = vectors(4), vectors(12, seed=1)
    short = by_hand(unit(queries[:, :2], dim=1), unit(passages[:, :2], dim=1), 0.1)
    both = ContrastiveLoss(0.1, (6, 2))(queries, passages, lists())
    assert both.item() == pytest.approx((by_hand(queries, passages, 0.1) + short) / 2, abs=1e-10)
    with pytest.raises(InputError, match="between 1 and 6, got 7"):
        ContrastiveLoss(0.1, (7,))(queries, passages, lists())


def tower(seed=0):
    torch.manual_seed(seed)
    layers = [torch.nn.Linear(5, 8), torch.nn.Dropout(0.3), torch.nn.Tanh(), torch.nn.Linear(8, 6)]
    return torch.nn.Sequential(*layers).double()


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return [parameter.grad.clone() for parameter in model.parameters()]


def test_grad_cache_is_the_same_chunks_with_their_graph():
    model, data = tower(), vectors(16, 5)
    chunks = list(data.split([4, 1, 7, 4]))
    objective = ContrastiveLoss(0.1, (6, 3))

    def loss(rows):
        return objective(rows[:4], rows[4:], lists())

    def encode(chunk):
        return unit(model(chunk), dim=-1)

    torch.manual_seed(7)
    whole = loss(torch.cat([encode(chunk) for chunk in chunks]))
    want = gradients(model, 3.0 * whole)
    torch.manual_seed(7)
    cached = grad_cache(encode, chunks, loss, list(model.parameters()))
    after = torch.get_rng_state()
    found = gradients(model, 3.0 * cached)
    assert torch.equal(after, torch.get_rng_state()), "the second pass draws no random numbers of its own"
    assert cached.item() == pytest.approx(whole.item(), abs=1e-12)
    for a, b in zip(found, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_a_parameter_that_a_chunk_does_not_use():
    first, second = torch.nn.Parameter(torch.ones(2).double()), torch.nn.Parameter(torch.ones(2).double())
    chunks = [(first, 2.0), (second, 3.0), (first, 5.0)]

    def encode(chunk):
        return (chunk[0] * chunk[1])[None]

    grad_cache(encode, chunks, lambda rows: rows.square().sum(), [first, second]).backward()
    assert first.grad.tolist() == [58.0, 58.0]
    assert second.grad.tolist() == [18.0, 18.0]


PROCESS = """
import sys, torch, torch.distributed as dist
sys.path.insert(0, sys.argv[4])
from test_contrastive_loss import *
rank, folder, cached = int(sys.argv[1]), sys.argv[2], sys.argv[3] == "cached"
dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
model = tower().eval()
model = torch.nn.parallel.DistributedDataParallel(model)
grads = share_gradients(model.module, rank, cached)
for grad in grads:
    dist.all_reduce(grad)
torch.save([grad / 2 for grad in grads], f"{folder}/{rank}.pt")
dist.destroy_process_group()
"""


def share_gradients(model, rank, cached):
    """Gradients of one process that holds half of the queries."""
    queries, passages, whole = vectors(4, 5), vectors(12, 5, seed=1), lists()
    own = Lists(whole.keys[6 * rank : 6 * rank + 6], whole.known[2 * rank : 2 * rank + 2])
    rows = torch.cat([queries[2 * rank : 2 * rank + 2], passages[6 * rank : 6 * rank + 6]])
    objective = ContrastiveLoss(0.1)

    def encode(chunk):
        return unit(model(chunk), dim=-1)

    def loss(found):
        return objective(found[:2], found[2:], own)

    value = grad_cache(encode, rows.split(3), loss, list(model.parameters())) if cached else loss(encode(rows))
    return gradients(model, value)


@pytest.mark.parametrize("how", ["cached", "whole"])
def test_two_processes_are_one_big_batch(how, tmp_path):
    here = Path(__file__).parent
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-c", PROCESS]
    processes = [
        subprocess.Popen([*words, str(rank), str(tmp_path), how, str(here)], env=environment) for rank in range(2)
    ]
    assert [process.wait(120) for process in processes] == [0, 0]
    model = tower().eval()
    queries, passages = vectors(4, 5), vectors(12, 5, seed=1)
    want = gradients(model, ContrastiveLoss(0.1)(unit(model(queries), dim=-1), unit(model(passages), dim=-1), lists()))
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt")
        for a, b in zip(found, want, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
