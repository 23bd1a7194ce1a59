"""`capture` against eager attention maps (the slow obvious twin), early stop, restore, padding, bad input."""

import pytest
import torch

import headwater as hw
from headwater.errors import HeadSetError, InputError, ModelError, NonFiniteAttentionError
from models import VOCABULARY, random_lm

FAMILIES = ["llama", "llama-mha", "llama-mqa", "gpt2"]


def tokens(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randint(2, VOCABULARY, shape, generator=torch.Generator().manual_seed(seed))


def eager_maps(lm, **inputs) -> torch.Tensor:
    """Attention maps `[layer, batch, head, query, key]` from transformers' eager path.

    That path takes its softmax in float32 even where the model is float64; there the model's own precision is kept.
    """
    before = lm.model.config._attn_implementation
    lm.model.set_attn_implementation("eager")
    softmax = torch.nn.functional.softmax
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.functional, "softmax", lambda x, dim, dtype=None: softmax(x, dim=dim))
        maps = torch.stack(lm.model(**inputs, output_attentions=True).attentions)
    lm.model.set_attn_implementation(before)
    return maps


def expected(maps: torch.Tensor, heads, rows) -> torch.Tensor:
    return torch.stack([maps[layer][:, head][:, rows] for layer, head in heads], dim=1)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("stop_early", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 5e-6), (torch.float64, 1e-10)])
def test_rows_equal_eager_maps(family, stop_early, dtype, tolerance):
    lm = random_lm(family, dtype=dtype)
    ids = tokens(2, 40)
    heads, rows = [(2, 3), (0, 0), (2, 1)], [-1, 5, 0, -7]
    with torch.no_grad(), hw.capture(lm, heads=heads, rows=rows, stop_early=stop_early) as attention:
        lm.model(input_ids=ids)
    want = expected(eager_maps(lm, input_ids=ids), heads, rows)
    assert attention.rows.shape == (2, 3, 4, 40)
    assert attention.rows.dtype == dtype
    assert (attention.rows - want).abs().max() <= tolerance
    assert (attention.rows.sum(-1) - 1).abs().max() < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("stock", ["sdpa", "eager"])
def test_padding_is_masked(family, side, stock):
    lm = random_lm(family)
    lm.model.set_attn_implementation(stock)
    ids, keep = tokens(2, 30), torch.ones(2, 30, dtype=torch.long)
    keep[1, slice(0, 6) if side == "left" else slice(-6, None)] = 0
    rows = [10, 20, 23]
    with torch.no_grad(), hw.capture(lm, heads=[(1, 2), (3, 0)], rows=rows) as attention:
        lm.model(input_ids=ids, attention_mask=keep)
    want = expected(eager_maps(lm, input_ids=ids, attention_mask=keep), [(1, 2), (3, 0)], rows)
    assert (attention.rows - want).abs().max() <= 5e-6
    assert attention.rows[1, :, :, keep[1] == 0].max() == 0


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_rows_with_an_existing_cache(family):
    lm = random_lm(family)
    ids = tokens(1, 40)
    with torch.no_grad():
        past = lm.model(input_ids=ids[:, :30], use_cache=True).past_key_values
        with hw.capture(lm, heads=[(3, 1)], rows=[-1, 0]) as attention:
            lm.model(input_ids=ids[:, 30:], past_key_values=past)
    want = expected(eager_maps(lm, input_ids=ids), [(3, 1)], [-1, 30])
    assert attention.rows.shape == (1, 1, 2, 40)
    assert (attention.rows - want).abs().max() <= 5e-6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_models_give_float32_rows(dtype):
    lm = random_lm(dtype=dtype)
    with torch.no_grad(), hw.capture(lm, heads=[(1, 0)], rows=[-1]) as attention:
        lm.model(input_ids=tokens(1, 20))
    assert attention.rows.dtype == torch.float32
    assert (attention.rows.sum(-1) - 1).abs().max() < 1e-6


@pytest.mark.parametrize("family", FAMILIES)
def test_the_output_is_untouched_and_the_model_restored(family):
    lm = random_lm(family)
    ids = tokens(2, 25)
    with torch.no_grad():
        before = lm.model(input_ids=ids).logits
        with hw.capture(lm, heads=[(1, 1)], rows=[-1], stop_early=False):
            inside = lm.model(input_ids=ids).logits
        with pytest.raises(RuntimeError, match="the user's own"), hw.capture(lm, heads=[(1, 1)], rows=[-1]):
            raise RuntimeError("the user's own")
        after = lm.model(input_ids=ids).logits
    assert torch.equal(before, inside)
    assert torch.equal(before, after)
    assert lm.model.config._attn_implementation == "sdpa"
    assert not lm.model.base_model._forward_pre_hooks


def test_stop_early_leaves_before_the_later_layers():
    lm = random_lm()
    ran: list[int] = []
    hooks = [
        layer.mlp.register_forward_hook(lambda *_, i=i: ran.append(i)) for i, layer in enumerate(lm.model.model.layers)
    ]
    with torch.no_grad(), hw.capture(lm, heads=[(0, 0), (1, 0)], rows=[-1]):
        lm.model(input_ids=tokens(1, 12))
        pytest.fail("the block ends where the forward stops")
    for hook in hooks:
        hook.remove()
    assert ran == [0]


def test_the_base_model_can_be_called_too():
    lm = random_lm()
    with torch.no_grad(), hw.capture(lm, heads=[(1, 0)], rows=[-1]) as attention:
        lm.model.model(input_ids=tokens(1, 12))
    assert attention.rows.shape == (1, 1, 1, 12)


def test_zeroing_one_key_head_changes_only_its_query_heads():
    lm, ids, heads = random_lm(layers=2), tokens(1, 16), [(1, h) for h in range(8)]

    def rows():
        with torch.no_grad(), hw.capture(lm, heads=heads, rows=[-1]) as attention:
            lm.model(input_ids=ids)
        return attention.rows

    before = rows()
    with torch.no_grad():
        lm.model.model.layers[1].self_attn.k_proj.weight[32:48] = 0
    changed = (rows() - before).abs().amax((0, 2, 3)) > 1e-6
    assert changed.tolist() == [False] * 4 + [True] * 2 + [False] * 2


def test_nan_names_layer_and_head():
    lm = random_lm()
    with torch.no_grad():
        lm.model.model.layers[2].self_attn.q_proj.weight[3 * 16 : 4 * 16] = float("nan")
    with (
        torch.no_grad(),
        pytest.raises(NonFiniteAttentionError, match="layer 2, head 3") as error,
        hw.capture(lm, heads=[(0, 0), (2, 3)], rows=[-1]),
    ):
        lm.model(input_ids=tokens(1, 12))
    assert (error.value.layer, error.value.head) == (2, 3)
    assert lm.model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize(
    ("heads", "rows", "error", "match"),
    [
        ([], [-1], HeadSetError, "empty"),
        ([(0, 0), (0, 0)], [-1], HeadSetError, "0-0 is listed twice"),
        ([(4, 0)], [-1], HeadSetError, "4-0 is not in this model"),
        ([(0, 8)], [-1], HeadSetError, "0-8 is not in this model"),
        ([(-1, 0)], [-1], HeadSetError, "not in this model"),
        ([(0, 0)], [], InputError, "rows is empty"),
        ([(0, 0)], [12], InputError, "Row 12"),
        ([(0, 0)], [-13], InputError, "Row -13"),
    ],
)
def test_bad_input(heads, rows, error, match):
    lm = random_lm()
    with pytest.raises(error, match=match), torch.no_grad(), hw.capture(lm, heads=heads, rows=rows):
        lm.model(input_ids=tokens(1, 12))
    assert lm.model.config._attn_implementation == "sdpa"


def test_rows_before_a_forward():
    with (
        hw.capture(random_lm(), heads=[(0, 0)], rows=[-1]) as attention,
        pytest.raises(InputError, match="No attention"),
    ):
        attention.rows  # noqa: B018


def test_an_unknown_attention_implementation_is_refused():
    lm = random_lm()
    lm.model.config._attn_implementation = "flex_attention"
    with pytest.raises(ModelError, match="flex_attention"), hw.capture(lm, heads=[(0, 0)], rows=[-1]):
        pass
