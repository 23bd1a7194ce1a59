"""A GPT-2 set by hand that copies: a previous-token head, an induction head, and a head that works against it.

The stream of `copying_lm` has four parts: the token, its position, the token before it, and what comes next. Head
`BEFORE` writes the token before each token, `COPIER` finds the place behind an earlier occurrence and writes the token
found there into the last part, from which the output layer reads; `SUPPRESSOR` (if planted) writes -0.7 of the same.
"""

from __future__ import annotations

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

import headwater as hw

BEFORE, COPIER, SUPPRESSOR = (0, 3), (1, 1), (1, 2)
WORDS = ["<unk>", "<bos>", *(f"w{i}" for i in range(64))]
_POSITIONS, _HEAD_DIM, _HEADS = 128, 128, 4
_TOKEN, _POSITION = 0, len(WORDS)
_PREVIOUS = _POSITION + _POSITIONS
_NEXT = _PREVIOUS + len(WORDS)


def copying_lm(suppressing: float = 0.7, sharpness: float = 1.5, output: float = 2.0):
    """The planted model; `suppressing` is the share of the copier's output that the suppressor takes away."""
    width, words = _HEADS * _HEAD_DIM, len(WORDS)
    config = GPT2Config(
        vocab_size=words,
        n_embd=width,
        n_layer=3,
        n_head=_HEADS,
        n_positions=_POSITIONS,
        bos_token_id=1,
        eos_token_id=1,
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        model.transformer.wte.weight.copy_(torch.eye(words, width))
        model.transformer.wpe.weight.zero_()
        model.transformer.wpe.weight[:, _POSITION : _POSITION + _POSITIONS] = torch.eye(_POSITIONS)
        for block in model.transformer.h:
            block.attn.c_proj.weight.zero_()
            block.mlp.c_proj.weight.zero_()
        places, tokens = torch.arange(_POSITIONS - 1), torch.arange(words)

        def plant(head: tuple[int, int], query, key, write: int, strength: float) -> None:
            """`query` and `key` are (stream places, head dimensions); the token is read and written."""
            layer, number = head
            attention = model.transformer.h[layer].attn
            weight, start = attention.c_attn.weight, number * _HEAD_DIM
            for offset, (rows, columns), scale in (
                (0, query, sharpness),
                (width, key, sharpness),
                (2 * width, (_TOKEN + tokens, tokens), 1.0),
            ):
                part = torch.zeros(width, _HEAD_DIM)
                part[rows, columns] = scale
                weight[:, offset + start : offset + start + _HEAD_DIM] = part
            attention.c_proj.weight[start + tokens, write + tokens] = strength / 14

        plant(BEFORE, (_POSITION + 1 + places, places), (_POSITION + places, places), _PREVIOUS, 1.0)
        same = ((_TOKEN + tokens, tokens), (_PREVIOUS + tokens, tokens))
        plant(COPIER, *same, _NEXT, 1.0)
        if suppressing:
            plant(SUPPRESSOR, *same, _NEXT, -suppressing)
        model.lm_head.weight.zero_()
        model.lm_head.weight[tokens, _NEXT + tokens] = output
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<bos>", unk_token="<unk>")
    return hw.load(model=model, tokenizer=fast)
