"""`load`: names, loaded objects, devices and types, and errors that say what is missing."""

import pytest
import torch
from transformers import AutoModelForCausalLM, BloomConfig, BloomForCausalLM

import headwater as hw
from headwater.errors import InputError, ModelError
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


def test_dtype_and_device(tmp_path):
    folder = random_lm(dtype=torch.bfloat16).save(tmp_path / "half")
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
    folder = random_lm(layers=1).save(tmp_path / "cut")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(ModelError, match="Could not load the model"):
        hw.load(folder)


def test_an_unknown_family_is_named():
    config = BloomConfig(vocab_size=258, hidden_size=32, n_layer=1, n_head=2)
    with pytest.raises(ModelError, match="family 'bloom' is not supported"):
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
