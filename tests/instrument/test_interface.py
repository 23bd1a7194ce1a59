"""Blocks on one model: nested they compose, from two threads they are refused."""

import threading

import pytest
import torch

import headwater as hw
from headwater.errors import ModelError
from headwater.headset import HeadSet
from models import VOCABULARY, random_lm


def test_ranking_inside_an_ablation_sees_the_ablated_model():
    lm, documents = random_lm(), ["one text", "another text of more words"]
    ranker = hw.QRRetriever(lm, heads=HeadSet([(3, 1)]))
    plain = ranker.score("which?", documents)
    with hw.ablated(lm, [(0, head) for head in range(8)], mode="uniform"):
        uniform = ranker.score("which?", documents)
    with hw.ablated(lm, [(0, head) for head in range(8)], mode="zero"):
        zero = ranker.score("which?", documents)
    assert abs(plain - uniform).max() > 1e-5
    assert abs(plain - zero).max() > 1e-5
    assert (ranker.score("which?", documents) == plain).all()


def test_nested_captures_read_what_each_asked_for():
    lm, ids = random_lm(), torch.arange(2, 20)[None]
    with torch.no_grad(), hw.capture(lm, [(1, 0)], [-1], stop_early=False) as outer:
        with hw.capture(lm, [(2, 3)], [-2], stop_early=False) as inner:
            lm.model(input_ids=ids)
        assert lm.model.config._attn_implementation == "headwater_sdpa"
    for captured, heads, rows in ((outer, [(1, 0)], [-1]), (inner, [(2, 3)], [-2])):
        with torch.no_grad(), hw.capture(lm, heads, rows) as alone:
            lm.model(input_ids=ids)
        assert torch.equal(captured.rows, alone.rows)
    assert lm.model.config._attn_implementation == "sdpa"


def test_a_second_thread_is_refused_while_the_first_is_inside():
    lm, errors = random_lm(), []

    def other():
        try:
            with hw.capture(lm, [(0, 0)], [-1]):
                pass
        except ModelError as error:
            errors.append(str(error))

    for inside in (hw.capture(lm, [(0, 0)], [-1]), hw.ablated(lm, [(0, 0)])):
        errors.clear()
        with inside:
            thread = threading.Thread(target=other)
            thread.start()
            thread.join()
        assert len(errors) == 1
        assert "one model per thread" in errors[0]
        other()
        assert len(errors) == 1


def test_a_thread_per_model_works():
    results = {}

    def read(seed):
        for _ in range(5):
            with torch.no_grad(), hw.capture(models[seed], [(1, 0)], [-1]) as captured:
                models[seed].model(input_ids=ids)
        results[seed] = captured.rows

    models, ids = [random_lm(seed=seed) for seed in range(3)], torch.arange(2, VOCABULARY, 9)[None]
    for seed in range(3):
        read(seed)
    alone = [results[seed] for seed in range(3)]
    results.clear()
    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed in range(3):
        assert torch.equal(results[seed], alone[seed])


def test_an_exception_while_entering_leaves_nothing_behind(monkeypatch):
    lm = random_lm()

    def fail(_):
        raise RuntimeError("no")

    monkeypatch.setattr(lm.model.model, "set_attn_implementation", fail)
    with pytest.raises(RuntimeError, match="no"), hw.capture(lm, [(0, 0)], [-1]):
        pass
    assert not lm.model.base_model._forward_pre_hooks
