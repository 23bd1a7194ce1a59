"""Rows are never taken from attention maps: no tensor of a ranking is even half as large as one head's map."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode

import headwater as hw
from headwater.instrument.prefix import SharedPrefix
from headwater.instrument.softmax import Logits, mean_rows, row_blocks
from models import VOCABULARY, random_lm


class Largest(TorchDispatchMode):
    """Notes the largest tensor that any operation gives."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, torch.Tensor):
                self.numel = max(self.numel, tensor.numel())
        return out


def ids(n: int, seed: int = 1) -> list[int]:
    return torch.randint(2, VOCABULARY, (n,), generator=torch.Generator().manual_seed(seed)).tolist()


def test_attention_maps_are_never_held():
    lm = random_lm(max_position_embeddings=4096)
    tokens = 2000
    with Largest() as largest:
        shared = SharedPrefix(lm, ids(tokens), lm.anatomy.all_heads)
        list(shared.attentions([ids(20, 2), ids(30, 3)]))
        with torch.no_grad(), hw.capture(lm, lm.anatomy.all_heads, rows=[-1, -2], stop_early=False):
            lm.model(input_ids=torch.tensor([ids(tokens)]), logits_to_keep=1)
    assert largest.numel < tokens * tokens / 2
    lm.model.set_attn_implementation("eager")
    with torch.no_grad(), Largest() as largest:
        lm.model(input_ids=torch.tensor([ids(tokens)]), logits_to_keep=1)
    assert largest.numel == lm.anatomy.num_heads * tokens * tokens  # the same measure does see eager maps


def test_means_streamed_over_key_blocks_are_the_means_of_the_rows():
    draw = torch.Generator().manual_seed(0)
    query, key = torch.randn(1, 8, 11, 16, generator=draw), torch.randn(1, 4, 40, 16, generator=draw)
    visible = torch.rand(1, 1, 11, 40, generator=draw) < 0.5
    visible[..., 3, :] = False  # a row that sees nothing
    visible[..., 0] = True
    visible[..., 3, 0] = False
    heads = [6, 0, 1, 7]
    for logits in (Logits(0.25), Logits(0.5, softcap=2.0), Logits(0.25, sinks=torch.randn(8, generator=draw))):
        want = torch.empty(4, 11, 40)
        for members, rows in row_blocks(query, key, heads, visible, logits, 0):
            want[members] = rows[0]
        means = torch.stack([want[:, :4].mean(1), want[:, 4:].mean(1)], 1)
        for held in (1, 11 * 2 * 7, 11 * 2 * 39, 11 * 2 * 40, 10_000):
            got = torch.empty(4, 2, 33)
            for members, part in mean_rows(query, key, heads, visible, logits, 0, 33, [4, 7], held):
                got[members] = part
            assert (got - means[..., :33]).abs().max() < 1e-6
