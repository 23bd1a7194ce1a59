"""Models that are not plain weights on one device: device maps with offloading, quantised weights, compiled code."""

from importlib import import_module
from importlib.util import find_spec

import accelerate
import pytest
import torch
from test_rows import eager_maps, expected

import headwater as hw
from headwater.errors import ModelError
from headwater.instrument.replay import replay
from models import VOCABULARY, byte_tokenizer, random_lm

HEADS, ROWS = [(2, 3), (0, 0), (3, 1)], [-1, 5]
DOCUMENTS = ["one document", "another document about something else"]


def tokens() -> torch.Tensor:
    return torch.randint(2, VOCABULARY, (1, 30), generator=torch.Generator().manual_seed(1))


def rows_of(lm) -> torch.Tensor:
    with torch.no_grad(), hw.capture(lm, HEADS, ROWS) as attention:
        lm.model(input_ids=tokens())
    return attention.rows


def test_a_device_map_with_offloaded_layers(tmp_path):
    plain = random_lm()
    want, scores = rows_of(plain), hw.QRRetriever(plain, heads=HEADS).score("which?", DOCUMENTS)
    targets = tokens()[:, 3].repeat(2)
    changes = replay(plain, tokens().repeat(2, 1), targets, mode="total", ablation="zero").change
    coefficients = hw.HeadSet(HEADS, coefficients=[0.5, 2.0, 0.1])
    with torch.no_grad(), hw.scaled(plain, coefficients):
        scaled = plain.model(input_ids=tokens()).logits
    places = {f"model.layers.{layer}": "disk" if layer % 2 == 0 else "cpu" for layer in range(4)}
    places |= {"model.embed_tokens": "disk", "model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "cpu"}
    model = accelerate.dispatch_model(random_lm().model, places, main_device="cpu", offload_dir=tmp_path)
    lm = hw.load(model=model, tokenizer=byte_tokenizer())
    assert lm.device.type == "cpu"
    assert torch.equal(rows_of(lm), want)
    assert (hw.QRRetriever(lm, heads=HEADS).score("which?", DOCUMENTS) == scores).all()
    assert torch.equal(replay(lm, tokens().repeat(2, 1), targets, mode="total", ablation="zero").change, changes)
    with torch.no_grad(), hw.scaled(lm, coefficients):
        assert torch.equal(lm.model(input_ids=tokens()).logits, scaled)
    other = accelerate.cpu_offload(random_lm(seed=1).model)
    assert lm.fingerprint == plain.fingerprint != hw.load(model=other, tokenizer=byte_tokenizer()).fingerprint
    with pytest.raises(ModelError, match="offloading"):
        hw.fold(lm, coefficients)


class Int8Linear(torch.nn.Module):
    """Eight-bit weights with a scale per row, as weight-only quantisation keeps them."""

    def __init__(self, linear):
        super().__init__()
        self.scale = linear.weight.detach().abs().amax(1, keepdim=True) / 127
        rounded = (linear.weight.detach() / self.scale).round().to(torch.int8)
        self.weight = torch.nn.Parameter(rounded, requires_grad=False)

    def forward(self, x):
        return torch.nn.functional.linear(x, self.weight.to(x.dtype) * self.scale)


# The packages are no development dependencies; where they are installed their weights are tested too.
BITS = ["own-8"]
BITS += ["torchao-8"] if find_spec("torchao") else []
BITS += ["bnb-8", "bnb-4"] if find_spec("bitsandbytes") else []


@pytest.mark.parametrize("bits", BITS)
def test_quantised_weights_rank_but_are_not_folded(bits):
    lm = random_lm()
    if bits == "own-8":
        for layer in lm.model.model.layers:
            attention = layer.self_attn
            for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
                setattr(attention, name, Int8Linear(getattr(attention, name)))
    elif bits == "torchao-8":
        torchao = import_module("torchao.quantization")
        torchao.quantize_(lm.model, torchao.Int8WeightOnlyConfig())
    else:
        bnb = import_module("bitsandbytes")
        kind = bnb.nn.Linear8bitLt if bits == "bnb-8" else bnb.nn.Linear4bit
        options = {"has_fp16_weights": False} if bits == "bnb-8" else {}
        for layer in lm.model.model.layers:
            old = layer.self_attn.o_proj
            new = kind(old.in_features, old.out_features, bias=False, **options)
            new.load_state_dict({"weight": old.weight.detach().clone()})
            layer.self_attn.o_proj = new.to("cpu")
    lm = hw.load(model=lm.model, tokenizer=byte_tokenizer())
    assert (rows_of(lm) - expected(eager_maps(lm, input_ids=tokens()), HEADS, ROWS)).abs().max() <= 5e-6
    assert hw.QRRetriever(lm, heads=HEADS).score("which?", DOCUMENTS).shape == (2,)
    assert len(lm.fingerprint) == 16
    with pytest.raises(ModelError, match="fold before quantising"):
        hw.fold(lm, hw.HeadSet(HEADS, coefficients=[0.5, 2.0, 0.1]))


def test_compiled_models_are_refused_in_words():
    lm = random_lm()
    wrapped = hw.load(model=torch.compile(lm.model, backend="eager"), tokenizer=byte_tokenizer())
    lm.model.model.layers[1].compile(backend="eager")
    heads = hw.HeadSet(HEADS, coefficients=[0.5, 2.0, 0.1])
    for compiled in (wrapped, lm):
        with pytest.raises(ModelError, match="is compiled"):
            rows_of(compiled)
        with pytest.raises(ModelError, match="is compiled"), hw.scaled(compiled, heads):
            pass
        with pytest.raises(ModelError, match="is compiled"):
            replay(compiled, tokens().repeat(2, 1), tokens()[0, :2])


def test_layers_that_share_a_projection_are_not_folded():
    lm = random_lm()
    layers = lm.model.model.layers
    layers[3].self_attn.o_proj.weight = layers[2].self_attn.o_proj.weight
    with pytest.raises(ModelError, match="shares its output projection"):
        hw.fold(lm, hw.HeadSet(HEADS, coefficients=[0.5, 2.0, 0.1]))
