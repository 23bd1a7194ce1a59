"""PH3-style detection: the planted memory head, parity with plain hooks, examples and bad input."""

import json

import numpy as np
import pytest
import torch

import headwater as hw
from headwater.data import world
from headwater.data.conflict import ConflictExample
from headwater.errors import ContextOverflowError, FormatError, HeadSetError, InputError, ModelError
from headwater.heads import DETECTORS, Ph3Heads
from headwater.heads.conflict_prompts import ConflictPrompts
from headwater.model.anatomy import output_projections
from models import random_lm
from planted_conflict import CHATTING, MEMORY, READER, REMEMBERING, torn_examples, torn_lm

EXAMPLES = [
    ConflictExample("Which city?", ["It is Algiers.", "Paris too."], "Algiers", "Lima", group="one"),
    ConflictExample("Which animal is it?", [hw.Document("A dog.", title="Pets")], "dog", "donkey", group="two"),
]


@torch.no_grad()
def by_hand(lm, examples, *, everywhere):
    """Changes `[examples, layers, heads]` of logit[context] - logit[memory], one forward per head."""
    prompts = ConflictPrompts(lm, examples)
    rows = []
    for example in prompts.examples:
        built = prompts.build(example)
        ids = torch.tensor([built.ids])

        def ahead(ids=ids, built=built):
            logits = lm.model(input_ids=ids).logits[0, -1]
            return float(logits[built.context] - logits[built.memory])

        clean, row = ahead(), []
        for layer, head in lm.anatomy.all_heads:

            def zero(module, args, head=head):
                z = args[0].unflatten(-1, (lm.anatomy.num_heads, -1)).clone()
                z[:, slice(None) if everywhere else -1, head] = 0.0
                return (z.flatten(-2),)

            handle = output_projections(lm.model)[layer].register_forward_pre_hook(zero)
            row.append(ahead() - clean)
            handle.remove()
        rows.append(lm.anatomy.grid(row))
    return np.stack(rows)


@pytest.mark.parametrize("switches", [{}, {"mode": "total"}, {"mode": "everywhere"}, {"ablation": "sequence_mean"}])
def test_the_planted_memory_head_comes_first(switches):
    lm = torn_lm()
    found = Ph3Heads(**switches).score(lm, torn_examples())
    if "ablation" not in switches:  # what it says is the same everywhere: its mean is no removal
        assert found.top(1).heads == [REMEMBERING]
        assert found.scores[REMEMBERING] > 0.5
    assert found.scores[READER] < -0.5
    assert abs(found.scores[0]).max() < 1e-5
    assert found.groups == ["group 0", "group 1"] * 2


def test_find_keeps_heads_that_move_the_model_and_pruning_does():
    lm, examples = torn_lm(), torn_examples()
    found = Ph3Heads().find(lm, examples)
    assert found.heads[0] == REMEMBERING
    assert READER not in found.heads
    assert (found.scores[tuple(zip(*found.heads, strict=True))] > 0).all()
    assert Ph3Heads(toward="memory", top_k=1).find(lm, examples).heads == [READER]
    assert CHATTING in lm.anatomy.all_heads
    pruned = hw.HeadSet(found.heads[:1], [0.0])
    before = Ph3Heads().score(lm, examples).provenance["before"]
    with hw.scaled(lm, pruned):
        after = Ph3Heads().score(lm, examples).provenance["before"]
    assert after - before == pytest.approx(found.scores[REMEMBERING], rel=1e-3)


@pytest.mark.parametrize(("mode", "everywhere"), [("total", False), ("everywhere", True)])
def test_parity_with_one_forward_per_head(mode, everywhere):
    lm = random_lm(layers=2)
    found = Ph3Heads(mode=mode).score(lm, EXAMPLES)
    want = by_hand(lm, EXAMPLES, everywhere=everywhere)
    assert np.abs(found.samples - want).max() < 1e-4
    assert np.allclose(found.scores, want.mean(0), atol=1e-4)
    assert np.abs(want).max() > 0.01
    again = Ph3Heads(mode=mode, toward="memory").score(lm, EXAMPLES)
    assert np.allclose(again.scores, -found.scores)


def test_path_and_total_agree_in_the_last_layer_only():
    lm = random_lm(layers=2)
    path, total = (Ph3Heads(mode=mode).score(lm, EXAMPLES).scores for mode in ("path", "total"))
    assert np.abs(path - total)[1].max() < 1e-5
    assert np.abs(path - total)[0].max() > 1e-3


def test_prompts_go_on_to_where_the_answers_part():
    lm = random_lm(layers=1)
    prompts = ConflictPrompts(lm, EXAMPLES)
    built = prompts.build(prompts.examples[1])
    text = lm.tokenizer.decode(built.ids)
    assert text.endswith("Query: Which animal is it?\nAnswer:" + (" do" if prompts.spaced else "do"))
    assert "Pets" in text
    assert [lm.tokenizer.decode([token]) for token in (built.context, built.memory)] == ["g", "n"]
    assert "Pets" not in lm.tokenizer.decode(prompts.build(prompts.examples[1], "clean").ids)
    alone = lm.tokenizer.decode(prompts.build(prompts.examples[0], "sentence").ids)
    assert "It is Algiers." in alone
    assert "Paris" not in alone


def test_answers_that_do_not_part_are_left_out():
    lm = random_lm(layers=1)
    longer = ConflictExample("Which?", ["It is UTC+11."], "UTC+11", "UTC+1")
    found = Ph3Heads().score(lm, [*EXAMPLES, longer])
    assert (found.provenance["skipped"], found.provenance["examples"]) == (1, 2)
    with pytest.raises(InputError, match="begins with the other"):
        Ph3Heads().score(lm, [longer])


def test_the_fact_world_and_files(tmp_path):
    lm = random_lm(layers=1)
    given = world.conflict_examples("known", 2, seed=1)
    found = Ph3Heads().score(lm, given)
    assert found.groups == [example.question.country for example in given]
    record = {"question": "Which city?", "documents": ["It is Algiers.", {"text": "Paris too."}]}
    lines = [{**record, "context": "Algiers", "memory": "Lima"}, {**record, "context": "Paris", "memory": "Rome"}]
    (tmp_path / "mine.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    read = DETECTORS["ph3"]().read_examples(tmp_path / "mine.jsonl")
    assert [example.memory for example in read] == ["Lima", "Rome"]
    (tmp_path / "bad.jsonl").write_text(json.dumps({**record, "context": "Algiers"}))
    with pytest.raises(FormatError, match="line 1: the field 'memory' is missing"):
        Ph3Heads().read_examples(tmp_path / "bad.jsonl")


def test_bad_input():
    for switches, words in (
        ({"mode": "odd"}, "Unknown mode"),
        ({"ablation": "batch_mean"}, "Unknown ablation"),
        ({"toward": "odd"}, "Unknown toward"),
        ({"mode": "everywhere", "ablation": "sequence_mean"}, "zeroes heads"),
    ):
        with pytest.raises(InputError, match=words):
            Ph3Heads(**switches)
    lm = torn_lm()
    with pytest.raises(HeadSetError, match="top_k"):
        Ph3Heads(top_k=99).find(lm, torn_examples())
    with pytest.raises(InputError, match="no conflicts"):
        Ph3Heads().score(lm, [])
    with pytest.raises(InputError, match="Expected conflicts"):
        Ph3Heads().score(lm, world.noise_examples("known", 1))
    with pytest.raises(ContextOverflowError, match="fewer or shorter"):
        Ph3Heads().score(random_lm(layers=1), [ConflictExample("Which?", ["word " * 200], "one", MEMORY)])
    lm.model.model.layers[1].self_attn.o_proj.weight.data.zero_()
    with pytest.raises(ModelError, match="removal of no head"):
        Ph3Heads().find(lm, torn_examples())
