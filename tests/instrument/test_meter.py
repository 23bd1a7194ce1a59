"""The meter against PyTorch's own counter, with a cache, stopped early, and gone afterwards."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import headwater as hw
from families import FAMILIES, HYBRID, OWN_ATTENTION, family_model
from headwater.data.documents import as_documents
from headwater.errors import ModelError
from headwater.instrument.meter import Used, metered
from headwater.model.anatomy import decoder_layers
from headwater.model.greedy import greedy
from headwater.prompt import prompt_template
from models import VOCABULARY, byte_tokenizer, random_lm


def tokens(*shape: int) -> torch.Tensor:
    return torch.randint(2, VOCABULARY, shape, generator=torch.Generator().manual_seed(1))


def one_forward(lm, ids: torch.Tensor, **more) -> Used:
    with torch.no_grad(), metered(lm) as used:
        lm.model(input_ids=ids, **more)
    return used


def output_embedding(lm, positions: int) -> int:
    return 2 * sum(p.numel() for p in lm.model.get_output_embeddings().parameters()) * positions


@pytest.mark.parametrize("n", [8, 64])
def test_agrees_with_pytorch(n: int) -> None:
    lm = random_lm("llama")
    lm.model.set_attn_implementation("eager")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        lm.model(input_ids=tokens(1, n))
    used, theirs = one_forward(lm, tokens(1, n)), counter.get_total_flops()
    assert used.tokens == n
    # PyTorch counts the masked half of attention as well, and no norms; we leave out the rotary angles.
    masked = 4 * lm.anatomy.num_layers * lm.anatomy.num_heads * lm.anatomy.head_dim * (n * n - n * (n + 1) // 2)
    norms = sum(p.numel() for name, p in decoder_layers(lm.model).named_parameters() if "norm" in name)
    assert used.flops == pytest.approx(theirs - masked + 2 * norms * n, rel=1e-3)
    if n == 8:
        assert used.flops == pytest.approx(theirs, rel=0.04)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_cache_splits_the_same_work(family: str) -> None:
    lm, ids = random_lm(family), tokens(1, 40)
    with torch.no_grad(), metered(lm) as parts:
        past = lm.model(input_ids=ids[:, :25], use_cache=True).past_key_values
        lm.model(input_ids=ids[:, 25:], past_key_values=past)
    assert parts == one_forward(lm, ids)


def test_positions_count_where_they_are_given() -> None:
    lm, ids = random_lm("llama"), tokens(1, 10)
    here = one_forward(lm, ids, position_ids=torch.arange(10)[None])
    later = one_forward(lm, ids, position_ids=torch.arange(100, 110)[None])
    assert here == one_forward(lm, ids)
    assert later.flops - here.flops == 4 * 4 * 8 * 16 * 10 * 100


def test_generation_runs_every_token_once() -> None:
    lm, ids = random_lm("llama"), tokens(1, 30)
    with metered(lm) as used:
        new = greedy(lm, ids[0].tolist(), 6)
    run = torch.tensor([ids[0].tolist() + new[:-1]])
    whole = one_forward(lm, run)
    assert used.tokens == whole.tokens == 30 + len(new) - 1
    assert whole.flops - used.flops == output_embedding(lm, run.shape[1] - len(new))


def test_rows_of_a_batch_add_up() -> None:
    lm, ids = random_lm("gpt2"), tokens(1, 20)
    one, three = one_forward(lm, ids), one_forward(lm, ids.expand(3, -1))
    assert (three.tokens, three.flops) == (3 * one.tokens, 3 * one.flops)


def test_an_early_stop_counts_the_layers_entered() -> None:
    lm, ids = random_lm("llama"), tokens(1, 40)
    with torch.no_grad(), metered(lm) as used, hw.capture(lm, heads=[(1, 0)], rows=[-1], stop_early=True):
        lm.model(input_ids=ids)
    assert used.tokens == 40
    assert 2 * used.flops == one_forward(lm, ids).flops - output_embedding(lm, 40)


def test_ranking_reads_the_documents_once() -> None:
    lm, documents = random_lm("llama"), ["Algiers is a city.", "Paris too."]
    with metered(lm) as used:
        hw.QRRetriever(lm, heads=[(1, 2)]).score("Which city?", documents)
    template = prompt_template(lm.tokenizer)
    parts = [template.prefix(as_documents(documents)).ids, template.tail("Which city?"), template.tail("N/A")]
    assert used.tokens == sum(map(len, parts))
    pairs = sum(range(1, len(parts[0]) + 1))
    pairs += sum(len(parts[0]) + i for tail in parts[1:] for i in range(1, len(tail) + 1))
    weights = sum(p.numel() for p in decoder_layers(lm.model)[:2].parameters())
    assert used.flops == 2 * weights * used.tokens + 2 * 4 * 8 * 16 * pairs


@pytest.mark.parametrize("family", [*FAMILIES, *OWN_ATTENTION, *HYBRID])
def test_every_family_counts_by_the_formula(family: str) -> None:
    lm = hw.load(model=family_model(family), tokenizer=byte_tokenizer())
    used = one_forward(lm, tokens(2, 12))
    weights = sum(p.numel() for p in decoder_layers(lm.model).parameters())
    with_attention = lm.anatomy.num_layers - len(lm.anatomy.headless)  # two of a hybrid's four layers have none
    pairs = 2 * sum(range(1, 13))
    attention = 4 * with_attention * lm.anatomy.num_heads * lm.anatomy.head_dim * pairs
    assert used == Used(24, 2 * weights * 24 + attention + output_embedding(lm, 24))


def test_blocks_nest_and_leave_nothing_behind() -> None:
    lm, ids = random_lm("llama"), tokens(1, 10)

    def hooks() -> int:
        return sum(len(module._forward_pre_hooks) for module in lm.model.modules())

    before = hooks()
    with metered(lm) as outer:
        first = one_forward(lm, ids)
        second = one_forward(lm, ids)
    assert first == second
    assert (outer.tokens, outer.flops) == (20, 2 * first.flops)
    with pytest.raises(IndexError), metered(lm) as broken:
        lm.model(input_ids=ids + VOCABULARY)  # no such tokens: breaks before the first layer
    assert broken == Used()
    assert hooks() == before
    lm.model(input_ids=ids)
    assert broken == Used()


def test_a_compiled_model_is_refused() -> None:
    lm = random_lm("llama")
    lm.model.compile()
    with pytest.raises(ModelError, match="compiled"), metered(lm):
        pass
