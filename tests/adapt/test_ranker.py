"""`RankerTuning` on planted and random models: it learns, loads again, leaves the base alone, goes on, refuses."""

import json
import logging
import random
import shutil
import sys

import numpy as np
import pytest
import torch

import headwater as hw
from families import family_model
from headwater.adapt import training
from headwater.adapt.ranker import RankerTuning
from headwater.errors import (
    ContextOverflowError,
    FormatError,
    HeadSetError,
    InputError,
    MissingExtraError,
    ModelError,
)
from headwater.headset import HeadSet
from models import byte_tokenizer, random_lm
from planted import FILLERS, KEYS, planted_lm

UNTRAINED = HeadSet([(1, 0), (0, 1)])
QUICK = {"heads": UNTRAINED, "steps": 16, "batch": 4, "every": 4, "learning_rate": 3e-2, "temperature": 0.02}


def few_keys(n, seed):
    """Queries that name one of four words; each document holds another of them."""
    draw = random.Random(seed)
    examples = []
    for number in range(n):
        keys = draw.sample(KEYS[:4], 4)
        texts = [" ".join(draw.sample([key, *draw.choices(FILLERS, k=6)], 7)) for key in keys]
        gold = draw.randrange(4)
        examples.append(hw.RankingExample(keys[gold], texts, [gold], id=str(number)))
    return examples


EXAMPLES, DEVELOPMENT = few_keys(16, seed=1), few_keys(8, seed=2)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HEADWATER_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def planted():
    return planted_lm()


@pytest.fixture(scope="module")
def saved(planted, tmp_path_factory):
    """The planted model on disk, by whose name adapters find it."""
    folder = tmp_path_factory.mktemp("base")
    planted.save(folder)
    return folder


@pytest.fixture(scope="module")
def tuned(saved, tmp_path_factory):
    lm = hw.load(saved)
    before = {name: tensor.clone() for name, tensor in lm.model.state_dict().items()}
    needed = {name: parameter.requires_grad for name, parameter in lm.model.named_parameters()}
    seen: list[tuple[int, int]] = []
    folder = RankerTuning(**QUICK).fit(
        lm, EXAMPLES, tmp_path_factory.mktemp("out") / "adapter", DEVELOPMENT, lambda *step: seen.append(step)
    )
    assert seen[-1] == (16, 16)
    after = lm.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert needed == {name: parameter.requires_grad for name, parameter in lm.model.named_parameters()}
    assert not hasattr(lm.model, "peft_config")
    return folder


def ndcg(lm, heads, examples):
    ranker = hw.QRRetriever(lm, heads)
    places = [[r.index for r in ranker.rank(e.query, e.documents)].index(e.relevant[0]) for e in examples]
    return float(np.mean([1 / np.log2(2 + place) for place in places]))


def test_training_lowers_the_loss_and_ranks_better(tuned, planted):
    result = json.loads((tuned / "tuning.json").read_text())["result"]
    checked = [record for record in result["log"] if "eval_loss" in record]
    assert [record["step"] for record in checked][:3] == [0, 4, 8]
    assert checked[-1]["eval_loss"] < 0.8 * checked[0]["eval_loss"]
    best = max(record["eval_ndcg@10"] for record in checked)
    assert result["best"] == next(record["step"] for record in checked if record["eval_ndcg@10"] == best)
    fresh = few_keys(12, seed=3)
    assert ndcg(hw.load(tuned), None, fresh) > ndcg(planted, UNTRAINED, fresh) + 0.1


def test_the_folder_is_an_ordinary_adapter(tuned, saved, caplog):
    import peft
    from transformers import AutoModelForCausalLM

    assert sorted(path.name for path in tuned.iterdir()) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "heads.json",
        "tuning.json",
    ]
    config = json.loads((tuned / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(saved)
    assert sorted(config["target_modules"]) == sorted(
        f"model.layers.{layer}.self_attn.{name}" for layer in (0, 1) for name in ("q_proj", "k_proj")
    )
    plain = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(saved), str(tuned))
    wrapped = hw.load(model=plain, tokenizer=hw.load(saved).tokenizer)
    lm = hw.load(tuned)
    assert lm.name == str(tuned)
    example = EXAMPLES[0]
    with caplog.at_level(logging.WARNING, "headwater"):
        want = hw.QRRetriever(lm, heads=tuned / "heads.json").score(example.query, example.documents)
        np.testing.assert_array_equal(hw.QRRetriever(lm).score(example.query, example.documents), want)
        given = hw.QRRetriever(wrapped, heads=UNTRAINED).score(example.query, example.documents)
    np.testing.assert_allclose(given, want, atol=1e-6)
    assert not caplog.text
    merged = hw.load(model=plain.merge_and_unload(), tokenizer=lm.tokenizer)
    scores = hw.QRRetriever(merged, heads=UNTRAINED).score(example.query, example.documents)
    np.testing.assert_allclose(scores, want, atol=1e-5)


def test_the_head_set_says_where_it_comes_from(tuned, saved):
    heads = HeadSet.load(tuned / "heads.json")
    assert heads.heads == UNTRAINED.heads
    assert heads.scores is None
    made = heads.provenance
    assert made["method"].startswith("RankerTuning")
    assert made["fingerprint"] == hw.load(tuned).fingerprint
    assert made["base_fingerprint"] == hw.load(saved).fingerprint != made["fingerprint"]
    assert made["settings"]["settings"]["null_query"] == "N/A"


def test_the_same_call_again_is_done_and_another_is_refused(tuned, saved, monkeypatch):
    monkeypatch.setattr(training, "train", lambda *_: pytest.fail("trained again"))
    lm = hw.load(saved)
    assert RankerTuning(**QUICK).fit(lm, EXAMPLES, tuned, DEVELOPMENT) == tuned
    with pytest.raises(InputError, match="another seed"):
        RankerTuning(**QUICK, seed=1).fit(lm, EXAMPLES, tuned, DEVELOPMENT)
    with pytest.raises(InputError, match="another data"):
        RankerTuning(**QUICK).fit(lm, few_keys(16, seed=9), tuned, DEVELOPMENT)


def weights(folder):
    from safetensors.torch import load_file

    return load_file(folder / "adapter_model.safetensors")


class Killed(RuntimeError):
    """The power went."""


@pytest.mark.parametrize("development", [DEVELOPMENT, []])
def test_an_interrupted_training_goes_on_to_the_same_weights(planted, tmp_path, development):
    whole = RankerTuning(**QUICK).fit(planted, EXAMPLES, tmp_path / "whole", development)

    def kill(done: int, _: int) -> None:
        if done == 7:
            raise Killed

    with pytest.raises(Killed):
        RankerTuning(**QUICK).fit(planted, EXAMPLES, tmp_path / "torn", development, progress=kill)
    left = sorted(path.name for path in (tmp_path / "torn" / "checkpoints").iterdir())
    assert left == ["checkpoint-4"]
    broken = shutil.copytree(
        tmp_path / "torn" / "checkpoints" / left[0], tmp_path / "torn" / "checkpoints" / "checkpoint-8"
    )
    (broken / "trainer_state.json").write_text('{"half')
    steps: list[int] = []
    torn = RankerTuning(**QUICK).fit(
        planted, EXAMPLES, tmp_path / "torn", development, progress=lambda done, _: steps.append(done)
    )
    assert steps[0] == 5
    assert all(torch.equal(tensor, weights(whole)[name]) for name, tensor in weights(torn).items())


def test_seeds_differ_and_repeat(planted, tmp_path):
    quick = {**QUICK, "steps": 2, "every": 2}
    found = [
        weights(RankerTuning(**quick, seed=seed).fit(planted, EXAMPLES, tmp_path / f"{place}", []))
        for place, seed in enumerate((0, 0, 1))
    ]
    name = next(name for name in found[0] if "lora_B" in name)
    assert torch.equal(found[0][name], found[1][name])
    assert not torch.equal(found[0][name], found[2][name])


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "phi3"])
def test_fused_projections_keep_their_values(family, tmp_path):
    lm = hw.load(model=family_model(family), tokenizer=byte_tokenizer())
    examples = [hw.RankingExample(f"what {i}?", ["one", "two three", f"what {i}"], [2]) for i in range(6)]
    quick = {"heads": [(2, 1)], "steps": 3, "batch": 2, "every": 3, "learning_rate": 1e-2}
    with pytest.MonkeyPatch.context() as patch:
        seen = {}
        own = training.train

        def spy(tuned, *rest):
            before = values(tuned, examples[0])
            done = own(tuned, *rest)
            seen["same"] = [torch.equal(a, b) for a, b in zip(before, values(tuned, examples[0]), strict=True)]
            return done

        patch.setattr(training, "train", spy)
        folder = RankerTuning(**quick).fit(lm, examples, tmp_path / "out", [])
    second = [tensor for name, tensor in weights(folder).items() if "lora_B" in name]
    assert len(second) == 3
    here = lm.anatomy
    for tensor in second:
        if family == "gpt_neox":
            parts = tensor.view(here.num_heads, 3, here.head_dim, -1)
            assert not parts[:, 2].any()
            assert parts[:, :2].any()
        else:
            split = (here.num_heads + here.num_kv_heads) * here.head_dim
            assert not tensor[split:].any()
            assert tensor[:split].any()
    assert seen["same"] == [False, True], "queries and keys of the first layer moved, values did not"


def values(lm, example):
    """What the first layer makes of a text: queries with keys, and values."""
    from headwater.model.anatomy import attention_modules, value_rows

    module = attention_modules(lm.model)[0]
    fused = getattr(module, "c_attn", None) or getattr(module, "query_key_value", None) or module.qkv_proj
    kept = []
    hook = fused.register_forward_hook(lambda _, __, output: kept.append(output.detach()))
    with torch.no_grad():
        lm.model(input_ids=torch.tensor([lm.tokenizer(example.query)["input_ids"]]))
    hook.remove()
    rows = value_rows(lm.anatomy)
    others = [row for row in range(kept[0].shape[-1]) if row not in rows]
    return kept[0][..., others], kept[0][..., rows]


def test_where_nothing_helps_the_adapter_changes_nothing(planted, tmp_path, caplog):
    ceiling = {**QUICK, "heads": HeadSet([(1, 2)]), "steps": 4, "every": 2}
    with caplog.at_level(logging.WARNING, "headwater"):
        folder = RankerTuning(**ceiling).fit(planted, EXAMPLES, tmp_path / "out", DEVELOPMENT)
    assert "No step was better" in caplog.text
    assert json.loads((folder / "tuning.json").read_text())["result"]["best"] == 0
    assert not any(tensor.any() for name, tensor in weights(folder).items() if "lora_B" in name)


def test_training_stops_when_it_no_longer_gets_better(planted, tmp_path):
    stale = {**QUICK, "heads": HeadSet([(1, 2)]), "steps": 40, "every": 1, "patience": 2}
    folder = RankerTuning(**stale).fit(planted, EXAMPLES, tmp_path / "out", DEVELOPMENT)
    assert json.loads((folder / "tuning.json").read_text())["result"]["steps"] < 10


def test_the_plan_says_what_training_does(planted, tuned):
    plan = RankerTuning(**QUICK).plan(planted, EXAMPLES, DEVELOPMENT)
    assert (plan.heads, plan.layers, plan.modules, plan.examples, plan.development) == ("1-0,0-1", 2, 4, 16, 8)
    assert plan.parameters == sum(tensor.numel() for tensor in weights(tuned).values())
    ranker = RankerTuning(**QUICK).plan(planted, [*EXAMPLES, hw.RankingExample("w3", ["w3", "w4"], [])], DEVELOPMENT)
    assert (ranker.examples, ranker.skipped) == (16, 1)


def test_a_plan_finds_no_heads(planted, monkeypatch):
    monkeypatch.setattr("headwater.heads.QueryFocusedHeads.score", lambda *_: pytest.fail("the detector ran"))
    plan = RankerTuning(steps=2).plan(planted, EXAMPLES, DEVELOPMENT)
    assert plan.heads.startswith("none known: found first")
    assert (plan.layers, plan.modules) == (3, 6)


def test_the_record_says_what_would_train_otherwise(tuned):
    config = json.loads((tuned / "tuning.json").read_text())["config"]
    assert (config["dtype"], config["headwater"]) == ("torch.float32", hw.__version__)


def test_built_in_examples(monkeypatch):
    monkeypatch.setattr("headwater.adapt.ranker.BUILT_IN", 3)
    monkeypatch.setattr("headwater.adapt.ranker.BUILT_IN_DEVELOPMENT", 2)
    plan = RankerTuning(heads=[(0, 0)]).plan(random_lm(max_position_embeddings=65536))
    assert (plan.examples, plan.development) == (3, 2)


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"batch": 0},
        {"rank": 0},
        {"every": 0},
        {"patience": 0},
        {"temperature": 0.0},
        {"learning_rate": float("nan")},
        {"alpha": -1.0},
    ],
)
def test_numbers_that_cannot_train(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        RankerTuning(**wrong)


def test_bad_input(planted, tmp_path, monkeypatch):
    def fit(tuning=None, lm=planted, examples=EXAMPLES, output=tmp_path / "out"):
        return (tuning or RankerTuning(**QUICK)).fit(lm, examples, output, DEVELOPMENT)

    with pytest.raises(InputError, match="nothing to train on"):
        fit(examples=[hw.RankingExample("w3", ["w3", "w4"], [])])
    with pytest.raises(HeadSetError, match="32 layers"):
        fit(RankerTuning(heads=HeadSet([(0, 0)], provenance={"shape": [32, 32, 8]})))
    with pytest.raises(ContextOverflowError, match="longest example"):
        fit(examples=[hw.RankingExample("w3", ["w3 " * 4000, "w4"], [0])])
    lm = hw.load(model=family_model("bloom"), tokenizer=byte_tokenizer())
    with pytest.raises(ModelError, match="cannot be trained"):
        fit(RankerTuning(heads=[(0, 0)]), lm, [hw.RankingExample("q", ["a", "b"], [0])])
    full = tmp_path / "full"
    full.mkdir()
    (full / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        fit(output=full)
    with pytest.raises(InputError, match="Cannot use the folder"):
        fit(output=full / "notes.txt")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "tuning.json").write_text("{")
    with pytest.raises(FormatError, match="damaged"):
        fit(output=tmp_path / "damaged")
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingExtraError, match=r"headwater\[train\]"):
        fit()
    assert not (tmp_path / "out").exists()


def test_a_model_with_an_adapter_is_refused(tuned, tmp_path):
    with pytest.raises(ModelError, match="carries an adapter already"):
        RankerTuning(**QUICK).fit(hw.load(tuned), EXAMPLES, tmp_path / "out", DEVELOPMENT)


def test_an_adapter_on_other_weights_is_said(tuned, saved, tmp_path, caplog):
    lm = hw.load(saved)
    with torch.no_grad():
        lm.model.model.layers[0].self_attn.q_proj.weight.mul_(2)
    lm.save(tmp_path / "other")
    folder = shutil.copytree(tuned, tmp_path / "moved")
    config = json.loads((folder / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = str(tmp_path / "other")
    (folder / "adapter_config.json").write_text(json.dumps(config))
    with caplog.at_level(logging.WARNING, "headwater"):
        hw.load(folder)
    assert "trained on other weights" in caplog.text


def test_adapter_folders_that_cannot_be_loaded(tuned, tmp_path):
    for name, change, error in (
        ("nameless", {"base_model_name_or_path": None}, FormatError),
        ("orphan", {"base_model_name_or_path": str(tmp_path / "gone")}, ModelError),
        ("odd", {"peft_type": "NONSENSE"}, ModelError),
    ):
        folder = shutil.copytree(tuned, tmp_path / name)
        config = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(error):
            hw.load(folder)
    torn = shutil.copytree(tuned, tmp_path / "torn")
    (torn / "adapter_model.safetensors").write_bytes(b"x")
    with pytest.raises(ModelError, match="cannot be put on"):
        hw.load(torn)
    (torn / "adapter_config.json").write_text("{")
    with pytest.raises(FormatError, match="not the configuration of an adapter"):
        hw.load(torn)
