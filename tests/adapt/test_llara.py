"""`Llara` on small random models: it learns, loads again, goes on, leaves the model alone, refuses."""

import json
import random
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import headwater as hw
from families import family_model
from headwater.adapt import llara
from headwater.adapt.llara import Llara
from headwater.errors import InputError, InsufficientMemoryError, ModelError
from headwater.instrument import checkpointing
from headwater.instrument.pooled import pooled_states
from headwater.model.adapter import with_adapter
from headwater.prompt.suffix import read_prompt
from models import byte_tokenizer, random_lm, random_model

TOPICS = [[f"t{topic}w{word}" for word in range(6)] for topic in range(4)]
QUICK = {"steps": 4, "batch": 4, "micro_batch": 3, "every": 2, "rank": 4, "chunk_words": 4, "max_length": 150}
TEXTS = [f"Lima {n} is a city by the sea and Oslo {n} is another one up north" for n in range(12)]


def topic_tokenizer() -> PreTrainedTokenizerFast:
    words = ["<unk>", "<eos>", "The", "input", "next", "sentence", "is:", *(word for own in TOPICS for word in own)]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="<eos>")


def topic_texts(n: int) -> list[str]:
    """Texts of one topic each: the next chunk is not known, its topic is."""
    draw = random.Random(0)
    return [" ".join(draw.choices(TOPICS[number % 4], k=15)) for number in range(n)]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A random model on disk, by whose name adapters find it."""
    folder = tmp_path_factory.mktemp("base")
    random_lm(layers=2).save(folder)
    return folder


def vectors(lm, folder, kind="document") -> np.ndarray:
    prompt = read_prompt(folder, lm.tokenizer)
    rows = prompt.encode(TEXTS[:3], kind)
    with torch.no_grad():
        return pooled_states(lm, rows, [prompt.pooled(len(row), kind) for row in rows]).numpy()


def looks(folder) -> list[dict[str, float]]:
    log = json.loads((folder / "tuning.json").read_text())["result"]["log"]
    return [row for row in log if "eval_total" in row]


def test_the_next_passage_is_learned_and_not_from_permuted_targets(tmp_path):
    lm = hw.load(model=random_model("llama", layers=2), tokenizer=topic_tokenizer())
    quick = {"w_lm": 0, "w_ae": 0, "w_ar": 1, "steps": 24, "batch": 16, "micro_batch": 16, "every": 24, "rank": 8}
    quick |= {"learning_rate": 2e-2, "chunk_words": 5, "max_length": 64, "dropout": 0.0}
    found = {}
    for permuted in (False, True):
        folder = Llara(**quick, permute_targets=permuted).adapt(lm, topic_texts(80), tmp_path / f"{permuted}")
        first, *_, last = looks(folder)
        found[permuted] = last["eval_excess_predict"]
        assert last["eval_excess_predict"] < first["eval_excess_predict"]
    assert found[False] < 0.5 * found[True]


@pytest.mark.parametrize("slots", ["single", "eight"])
@pytest.mark.parametrize("trainable", ["lora", "full"])
def test_the_folder_loads_again(saved, tmp_path, monkeypatch, slots, trainable, caplog):
    lm = hw.load(saved)
    state, before = {name: tensor.clone() for name, tensor in lm.model.state_dict().items()}, lm.fingerprint
    asked = {name: parameter.requires_grad for name, parameter in lm.model.named_parameters()}
    trained = []

    def write(folder, tuned, prompt, *more):
        write_adapted(folder, tuned, prompt, *more)
        tuned.model.eval()
        trained.append(vectors(tuned, folder))

    write_adapted = llara.write_adapted
    monkeypatch.setattr(llara, "write_adapted", write)
    method = Llara(**QUICK, slots=slots, trainable=trainable, learning_rate=1e-2)
    folder = method.adapt(lm, TEXTS, tmp_path / "out")
    assert lm.fingerprint == before
    assert all(torch.equal(tensor, state[name]) for name, tensor in lm.model.state_dict().items())
    assert asked == {name: parameter.requires_grad for name, parameter in lm.model.named_parameters()}
    assert not lm.model.training
    assert {path.name for path in tmp_path.iterdir()} == {"out"}

    again = hw.load(folder)
    assert "trained on other weights" not in caplog.text
    if trainable == "lora":
        with_adapter(random_lm(layers=2, seed=1), folder)
        assert "trained on other weights" in caplog.text
    np.testing.assert_allclose(vectors(again, folder), trained[0], atol=1e-6)
    assert np.abs(vectors(again, folder, "query") - vectors(again, folder)).max() > 1e-3
    if slots == "single":
        assert np.abs(vectors(lm, folder) - trained[0]).max() > 1e-3
    if trainable == "lora":
        assert (folder / "adapter_model.safetensors").stat().st_size < 1e6
        merged = hw.load(model=again.model.merge_and_unload(), tokenizer=again.tokenizer)
        np.testing.assert_allclose(vectors(merged, folder), trained[0], atol=1e-5)
    else:
        assert (folder / "model.safetensors").is_file()
    record = json.loads((folder / "headwater.json").read_text())
    assert record["base_fingerprint"] == before
    assert record["prompt"]["slots"] == slots
    with pytest.raises(ModelError, match="carries an adapter") if trainable == "lora" else pytest.raises(InputError):
        Llara(**{**QUICK, "batch": 3}).adapt(hw.load(folder), TEXTS, folder)


def test_all_weights_of_a_base_in_half_precision_are_kept_as_trained(tmp_path, monkeypatch):
    random_lm(layers=2, dtype=torch.bfloat16).save(tmp_path / "half")
    lm, trained = hw.load(tmp_path / "half", dtype="float32"), []
    assert lm.stored_dtype == torch.bfloat16
    write_adapted = llara.write_adapted

    def write(folder, tuned, prompt, *more):
        write_adapted(folder, tuned, prompt, *more)
        trained.append(vectors(tuned, folder))

    monkeypatch.setattr(llara, "write_adapted", write)
    folder = Llara(**QUICK, trainable="full").adapt(lm, TEXTS, tmp_path / "out")
    np.testing.assert_allclose(vectors(hw.load(folder, dtype="float32"), folder), trained[0], atol=1e-6)


def test_an_adapter_with_other_keys_is_refused(saved, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = Llara(**{**QUICK, "steps": 1}).adapt(hw.load(saved), TEXTS, tmp_path / "out")
    path = folder / "adapter_model.safetensors"
    save_file({name.replace("model.model.", "model."): tensor for name, tensor in load_file(path).items()}, path)
    with pytest.raises(ModelError, match="missing adapter keys"):
        hw.load(folder)


def test_slot_rows_are_trained(saved, tmp_path):
    folder = Llara(**QUICK, slots="eight", learning_rate=1e-2).adapt(hw.load(saved), TEXTS, tmp_path / "out")
    lm = hw.load(folder)
    prompt = read_prompt(folder, lm.tokenizer)
    slots = torch.tensor([*prompt.slot_ids("summarize"), *prompt.slot_ids("predict")])
    with torch.no_grad():
        tuned = lm.model.get_input_embeddings()(slots)
        base = lm.model.unload().get_input_embeddings()(slots)
    assert ((tuned - base).abs().amax(1) > 1e-4).all()


class Killed(RuntimeError):
    """The power went."""


def weights(folder):
    from safetensors.torch import load_file

    return load_file(folder / "adapter_model.safetensors")


@pytest.mark.parametrize("held_out", [32, 0])
def test_an_interrupted_adaptation_goes_on_to_the_same_weights(saved, tmp_path, held_out):
    method = Llara(**QUICK, held_out=held_out)
    lm = hw.load(saved)
    whole = method.adapt(lm, TEXTS, tmp_path / "whole")

    def kill(done: int, _: int) -> None:
        if done == 3:
            raise Killed

    with pytest.raises(Killed):
        method.adapt(lm, TEXTS, tmp_path / "torn", progress=kill)
    assert [path.name for path in (tmp_path / "torn" / "checkpoints").iterdir()] == ["checkpoint-2"]
    steps: list[int] = []
    torn = method.adapt(lm, TEXTS, tmp_path / "torn", progress=lambda done, _: steps.append(done))
    assert steps == [3, 4]
    assert all(torch.equal(tensor, weights(whole)[name]) for name, tensor in weights(torn).items())
    assert [row["step"] for row in looks(torn)] == ([0, 2, 4] if held_out else [])


def test_it_goes_on_with_smaller_passes(saved, tmp_path):
    method = Llara(**QUICK, dropout=0.0)
    lm = hw.load(saved)
    whole = method.adapt(lm, TEXTS, tmp_path / "whole")

    def kill(done: int, _: int) -> None:
        if done == 3:
            raise InsufficientMemoryError("Too little.")

    with pytest.raises(InsufficientMemoryError):
        method.adapt(lm, TEXTS, tmp_path / "torn", progress=kill)
    steps: list[int] = []
    smaller = replace(method, micro_batch=1, checkpointing=True)
    torn = smaller.adapt(lm, TEXTS, tmp_path / "torn", progress=lambda done, _: steps.append(done))
    assert steps == [3, 4]
    for name, tensor in weights(torn).items():
        torch.testing.assert_close(tensor, weights(whole)[name], atol=1e-5, rtol=0)
    passes = json.loads((torn / "tuning.json").read_text())["result"]["passes"]
    assert passes == {"micro_batch": 1, "joint": "mask4d", "checkpointing": True}


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("held_out", [0, 32])
def test_checkpointing_is_on_in_every_step(saved, tmp_path, monkeypatch, dropout, held_out):
    calls = []

    def counted(run, *given, **named):
        calls.append(torch.is_grad_enabled())
        return checkpoint(run, *given, **named)

    checkpoint = checkpointing.checkpoint
    monkeypatch.setattr(checkpointing, "checkpoint", counted)
    Llara(**QUICK, dropout=dropout, held_out=held_out, checkpointing=True).adapt(
        hw.load(saved), TEXTS, tmp_path / "out"
    )
    assert sum(calls) == 4 * 2 * 2  # steps, parts, layers


def test_only_the_adapter_drops_out(saved, tmp_path):
    lm, training = hw.load(saved), []

    def note(*_: int) -> None:
        training.append({name for name, module in lm.model.named_modules() if module.training})

    Llara(**QUICK, dropout=0.1).adapt(lm, TEXTS, tmp_path / "out", progress=note)
    assert all(names and all(".lora_dropout." in name for name in names) for names in training)


def test_the_folder_may_be_the_current_one(saved, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    Llara(**{**QUICK, "steps": 1}).adapt(hw.load(saved), TEXTS, ".")
    assert (tmp_path / "here" / "headwater.json").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["here"]


@pytest.mark.parametrize("part", ["check_projection", "opened", "Steps"])
def test_an_error_before_the_first_checkpoint_leaves_nothing(saved, tmp_path, monkeypatch, part):
    def refuse(*_):
        raise ModelError("Not this model.")

    with monkeypatch.context() as patch:
        patch.setattr(llara, part, refuse)
        with pytest.raises(ModelError, match="Not this model"):
            Llara(**QUICK).adapt(hw.load(saved), TEXTS, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_the_same_call_again_is_done_and_another_is_refused(saved, tmp_path, monkeypatch):
    lm = hw.load(saved)
    folder = Llara(**QUICK).adapt(lm, TEXTS, tmp_path / "out")
    monkeypatch.setattr(llara, "chunk_store", lambda *_: pytest.fail("read again"))
    assert Llara(**QUICK).adapt(lm, iter(TEXTS), folder) == folder
    with pytest.raises(InputError, match="another seed"):
        Llara(**QUICK, seed=1).adapt(lm, TEXTS, folder)
    with pytest.raises(InputError, match="another data"):
        Llara(**QUICK).adapt(lm, TEXTS[1:], folder)


def test_a_plan_runs_nothing(saved, tmp_path, monkeypatch):
    (tmp_path / "notes").mkdir()
    for number, text in enumerate(TEXTS):
        (tmp_path / "notes" / f"{number}.txt").write_text(text)
    lm = hw.load(saved)
    monkeypatch.setattr(type(lm.model), "forward", lambda *_, **__: pytest.fail("the model ran"))
    plan = Llara(**{**QUICK, "steps": None, "epochs": 2}).plan(lm, tmp_path / "notes")
    assert (plan.texts, plan.chunks, plan.held_out, plan.with_next) == (12, 44, 4, 33)
    assert plan.dropped == 0
    assert Llara(**QUICK, held_out=3).plan(lm, tmp_path / "notes").dropped == 1
    assert plan.steps == 22
    assert [path.name for path in tmp_path.iterdir()] == ["notes"]


def test_arms_differ_and_packing_does_not(saved, tmp_path):
    lm = hw.load(saved)
    quick = {**QUICK, "steps": 1, "every": 1, "dropout": 0.0, "held_out": 0}
    arms = {
        "code": {},
        "paper": {"objective": "paper"},
        "permuted": {"permute_targets": True},
        "packed": {"packing": True},
        "branch": {"joint": "branch"},
    }
    found = {}
    for name, more in arms.items():
        folder = Llara(**quick, **more).adapt(lm, TEXTS, tmp_path / name)
        found[name] = json.loads((folder / "tuning.json").read_text())["result"]["log"][0]["loss"]
    for name in ("packed", "branch"):
        assert found[name] == pytest.approx(found["code"], abs=1e-5)
    assert len({round(loss, 3) for loss in found.values()}) == 3


@pytest.mark.parametrize("name", ["gpt2", "gemma2"])
def test_other_families(name, tmp_path):
    base = hw.load(model=family_model(name), tokenizer=byte_tokenizer())
    base.save(tmp_path / "base")
    quick = {**QUICK, "steps": 2, "checkpointing": True, "slots": "eight"}
    lm = hw.load(tmp_path / "base")
    folder = Llara(**quick).adapt(lm, TEXTS, tmp_path / "out")
    assert np.isfinite(vectors(hw.load(folder), folder)).all()
    assert lm.fingerprint == hw.load(tmp_path / "base").fingerprint


def test_bad_settings_are_named():
    for more, sentence in (
        ({"steps": 0}, "steps must be"),
        ({"batch": 0}, "batch must be"),
        ({"learning_rate": 0.0}, "learning_rate must be"),
        ({"dropout": 1.0}, "dropout"),
        ({"held_out": -1}, "held_out"),
        ({"objective": "odd"}, "objective is one of code, paper"),
        ({"trainable": "odd"}, "trainable is one of"),
        ({"joint": "odd"}, "joint is one of"),
        ({"w_lm": -1.0}, "w_lm, w_ae, w_ar"),
        ({"w_lm": 0, "w_ae": 0, "w_ar": 0}, "w_lm, w_ae, w_ar"),
        ({"packing": True, "joint": "branch"}, "packing does not go"),
        ({"checkpointing": True, "joint": "branch"}, "drops"),
        ({"stopwords": "odd"}, "no stop words"),
    ):
        with pytest.raises(InputError, match=sentence):
            Llara(**more)


def test_what_cannot_be_adapted_is_said_and_leaves_nothing(saved, tmp_path, monkeypatch):
    lm = hw.load(saved)
    out = tmp_path / "out"
    cases = [
        ({"max_length": 20}, TEXTS, InputError, "max_length 20 leaves no room"),
        ({"max_length": 600}, TEXTS, InputError, "reads 512"),
        ({"slots": "eight", "wording": "v1"}, TEXTS, InputError, "no prompt with"),
        ({"pair": "odd"}, TEXTS, InputError, "pair names"),
        ({}, [" "], InputError, "no texts"),
        ({"permute_targets": True}, TEXTS[:1], InputError, "at least two"),
        ({"chunk_words": 99, "w_lm": 0, "w_ae": 0}, TEXTS, InputError, "smaller chunk_words"),
    ]
    for more, texts, kind, sentence in cases:
        with pytest.raises(kind, match=sentence):
            Llara(**{**QUICK, **more}).adapt(lm, texts, out)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ModelError, match="float32"):
        Llara(**QUICK, trainable="full").adapt(hw.load(saved, dtype="bfloat16"), TEXTS, out)
    with pytest.raises(ModelError, match="float16"):
        Llara(**QUICK).adapt(hw.load(saved, dtype="float16"), TEXTS, out)
    assert not list(tmp_path.iterdir())
    shutil.copytree(saved, out)
    monkeypatch.setattr(llara, "chunk_store", lambda *_: pytest.fail("read first"))
    with pytest.raises(InputError, match="not empty"):
        Llara(**QUICK).adapt(lm, TEXTS, out)


def test_processes_share_a_step_evenly():
    for batch, micro, processes, parts in ((32, 8, 1, 4), (32, 8, 3, 6), (5, 8, 1, 1), (5, 1, 2, 4), (4, 3, 1, 2)):
        assert Llara(batch=batch, micro_batch=micro)._parts(processes) == parts
    with pytest.raises(InputError, match="cannot share"):
        Llara(batch=1)._parts(2)
