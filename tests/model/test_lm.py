"""`load`: names, loaded objects, devices and types, and errors that say what is missing."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    BloomForCausalLM,
    GPTJConfig,
    GPTJForCausalLM,
    LlamaForCausalLM,
)

import headwater as hw
from headwater.errors import InputError, InsufficientMemoryError, ModelError
from models import byte_tokenizer, random_lm, random_model


@pytest.mark.parametrize(
    ("family", "shape"), [("llama", (4, 8, 4, 16)), ("llama-mqa", (4, 8, 1, 16)), ("gpt2", (4, 4, 4, 16))]
)
def test_anatomy(family, shape):
    anatomy = random_lm(family).anatomy
    assert (anatomy.num_layers, anatomy.num_heads, anatomy.num_kv_heads, anatomy.head_dim) == shape
    assert anatomy.family == family.split("-")[0]
    assert anatomy.max_length == 512


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_save_is_an_ordinary_checkpoint(family, tmp_path):
    lm = random_lm(family)
    folder = lm.save(tmp_path / "saved")
    again, plain = hw.load(folder), AutoModelForCausalLM.from_pretrained(folder)
    ids = torch.arange(2, 20)[None]
    with torch.no_grad():
        want = lm.model(input_ids=ids).logits
        assert torch.equal(again.model(input_ids=ids).logits, want)
        assert torch.equal(plain(input_ids=ids).logits, want)
    assert again.fingerprint == lm.fingerprint
    assert again.name == str(folder)
    assert again.tokenizer.encode("abc") == lm.tokenizer.encode("abc")
    assert {p.suffix for p in folder.iterdir()} == {".json", ".safetensors"}


def test_the_fingerprint_changes_with_the_weights():
    lm, other = random_lm(), random_lm(seed=1)
    assert lm.fingerprint == random_lm().fingerprint != other.fingerprint


def test_the_fingerprint_follows_a_fold_and_a_few_changed_columns():
    lm = random_lm()
    before = lm.fingerprint
    heads = hw.HeadSet([(1, 2)], [0.5])
    hw.fold(lm, heads)
    assert lm.fingerprint != before
    wide = torch.nn.Linear(1024, 1024, bias=False)
    torch.nn.init.normal_(wide.weight)
    lm.model.extra = wide
    before = lm.fingerprint
    with torch.no_grad():
        wide.weight[:, 100:110] = 0
    assert lm.fingerprint != before


def test_the_stored_dtype_and_the_card_are_saved_again(tmp_path):
    folder = random_lm(dtype=torch.bfloat16).save(tmp_path / "half")
    (folder / "README.md").write_text("A card.", encoding="utf-8")
    lm = hw.load(folder, device="cpu")
    assert (lm.dtype, lm.stored_dtype) == (torch.float32, torch.bfloat16)
    again = lm.save(tmp_path / "again")
    assert {p.name for p in again.iterdir()} == {p.name for p in folder.iterdir()}
    assert (again / "model.safetensors").stat().st_size == (folder / "model.safetensors").stat().st_size
    plain = AutoModelForCausalLM.from_pretrained(again, dtype="auto")
    assert plain.dtype == plain.config.dtype == torch.bfloat16
    assert torch.equal(plain.lm_head.weight, lm.model.lm_head.weight.bfloat16())
    assert (again / "README.md").read_text(encoding="utf-8") == "A card."


def test_dtype_and_device(tmp_path):
    folder = random_lm(dtype=torch.bfloat16).save(tmp_path / "half")
    assert hw.load(folder, device="cpu", dtype="auto").dtype == torch.bfloat16
    assert hw.load(folder, device="cpu").dtype == torch.float32
    assert hw.load(folder, device="cpu", dtype="bfloat16").dtype == torch.bfloat16
    assert hw.load(model=random_model("llama"), tokenizer=byte_tokenizer(), dtype="float64").dtype == torch.float64
    assert hw.load(folder).device.type in ("cpu", "cuda")


def test_a_loaded_model_is_put_in_eval_mode():
    assert not hw.load(model=random_model("llama").train(), tokenizer=byte_tokenizer()).model.training


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({}, "either a model name"),
        ({"name": "tiny", "model": 1}, "either a model name"),
        ({"model": random_model("llama", layers=1)}, "needs tokenizer"),
        ({"name": "x", "dtype": "int8"}, "Unknown dtype 'int8'"),
        ({"name": "x", "device": "nonsense"}, "device 'nonsense' cannot be used"),
        ({"name": "x", "device": "cuda:99"}, "device 'cuda:99' cannot be used"),
        ({"model": "gpt2", "tokenizer": byte_tokenizer()}, "takes a loaded transformers model"),
    ],
)
def test_wrong_arguments(arguments, match):
    with pytest.raises(InputError, match=match):
        hw.load(**arguments)


def test_a_model_that_cannot_be_read(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelError, match="Could not load the model"):
        hw.load(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError, match="Could not load the model"):
        hw.load(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama", "hidden_size": "x"}')
    with pytest.raises(ModelError, match="Could not load the model"):
        hw.load(tmp_path)
    folder = random_lm(layers=1).save(tmp_path / "cut")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(ModelError, match="Could not load the model"):
        hw.load(folder)


def test_missing_weights_are_named(tmp_path):
    folder = random_lm(layers=2).save(tmp_path / "x")
    weights = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if "layers.1.mlp" not in name}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks the weights model\.layers\.1\.mlp"):
        hw.load(folder)


def test_an_unknown_family_is_named():
    config = GPTJConfig(vocab_size=258, n_embd=32, n_layer=1, n_head=2, rotary_dim=8)
    with pytest.raises(ModelError, match="family 'gptj' is not supported"):
        hw.load(model=GPTJForCausalLM(config), tokenizer=byte_tokenizer())


def test_a_bloom_that_bypasses_its_projection_is_refused():
    config = BloomConfig(vocab_size=258, hidden_size=32, n_layer=1, n_head=2, slow_but_exact=True, pretraining_tp=2)
    with pytest.raises(ModelError, match="slow_but_exact"):
        hw.load(model=BloomForCausalLM(config), tokenizer=byte_tokenizer())


def test_a_missing_part_is_named():
    model = random_model("llama", layers=2)
    del model.model.layers[1].self_attn.o_proj
    with pytest.raises(ModelError, match=r"Layer 1 of this llama model has no 'self_attn\.o_proj'"):
        hw.load(model=model, tokenizer=byte_tokenizer())


def test_save_over_a_file_is_refused(tmp_path):
    (tmp_path / "x").write_text("")
    with pytest.raises(InputError, match="it is a file"):
        random_lm(layers=1).save(tmp_path / "x")


def test_weights_that_do_not_fit_the_device(monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")

    monkeypatch.setattr(LlamaForCausalLM, "to", full)
    with pytest.raises(InsufficientMemoryError, match="weights of 'tiny' do not fit"):
        hw.load("tiny")
