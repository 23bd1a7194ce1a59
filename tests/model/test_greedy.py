"""Answers of many prompts at once are those of one prompt at a time."""

from __future__ import annotations

import pytest
import torch

import headwater as hw
from families import family_model
from headwater.model.greedy import greedy, greedy_line, greedy_lines
from models import byte_tokenizer

LENGTHS = (9, 23, 4, 14, 9)  # not sorted, two alike
NEW = 10


def prompts():
    draw = torch.Generator().manual_seed(3)
    return [torch.randint(10, 200, (length,), generator=draw).tolist() for length in LENGTHS]


@pytest.mark.parametrize("batch", [2, 16])
@pytest.mark.parametrize(
    "family", ["bloom", "falcon", "falcon-alibi", "falcon-new", "mpt", "opt", "gpt2", "gpt_neox", "llama", "gemma2"]
)
def test_many_prompts_at_once_are_one_at_a_time(family, batch):
    """Prompts of unequal length; one answer ends at a line break, another at an end token, others go on."""
    lm = hw.load(model=family_model(family), tokenizer=byte_tokenizer())
    given = prompts()
    free = [greedy(lm, ids, NEW) for ids in given]
    newline = lm.tokenizer.convert_tokens_to_ids("\u010a")
    lm.model.generation_config.eos_token_id = free[1][4]
    with torch.no_grad():  # a little more probable than the fourth token of another answer
        rows = lm.model.get_output_embeddings().weight
        rows[newline] = 1.01 * rows[free[3][3]]
    expected = [greedy_line(lm, ids, NEW) for ids in given]
    assert len({len(new) for new, _ in expected}) > 1, "some end early"
    assert len({text for _, text in expected}) > 2
    assert greedy_lines(lm, given, NEW, batch) == [text for _, text in expected]


def test_no_prompts():
    lm = hw.load(model=family_model("llama"), tokenizer=byte_tokenizer())
    assert greedy_lines(lm, [], NEW) == []
