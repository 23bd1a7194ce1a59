"""Random-token copy sequences."""

import pytest
import torch
from tokenizers import AddedToken

from headwater.errors import ContextOverflowError, InputError
from headwater.prompt.copying import CopyTask
from models import random_lm


def draw(task, lm, sequences=4, length=6, seed=0):
    return task.draw(lm, sequences, length, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("begin", ["auto", "always", "never"])
def test_a_block_is_said_twice(begin):
    lm = random_lm()
    task = CopyTask(begin=begin)
    ids = draw(task, lm)
    first = len(task.first(lm))
    assert first == {"always": 1, "never": 0}.get(begin, first)
    assert ids.shape == (4, first + 12)
    assert torch.equal(ids[:, first : first + 6], ids[:, first + 6 :])
    assert (ids[:, :first] == lm.tokenizer.bos_token_id).all()


def test_ordinary_tokens_are_distinct_and_not_special():
    lm = random_lm()
    special = set(lm.tokenizer.all_special_ids)
    assert special
    length = len(CopyTask().vocabulary(lm)) // 2
    for row in draw(CopyTask(begin="never"), lm, length=min(length, 60)):
        block = row[: len(row) // 2].tolist()
        assert len(set(block)) == len(block)
        assert not special & set(block)


def test_other_vocabularies():
    lm = random_lm()
    assert CopyTask(ids="all").vocabulary(lm)[0] == 0
    assert CopyTask(ids="from-two").vocabulary(lm)[0] == 2
    assert int(CopyTask(ids="all").vocabulary(lm)[-1]) < len(lm.tokenizer)
    repeated = draw(CopyTask(distinct=False, begin="never"), lm, 40, 60)[:, :60]
    assert any(len(set(row.tolist())) < 60 for row in repeated)


def test_the_seed_decides():
    lm = random_lm()
    assert torch.equal(draw(CopyTask(), lm), draw(CopyTask(), lm))
    assert not torch.equal(draw(CopyTask(), lm), draw(CopyTask(), lm, seed=1))


def test_bad_input():
    lm = random_lm()
    with pytest.raises(InputError, match="two sequences of two tokens"):
        draw(CopyTask(), lm, sequences=1)
    with pytest.raises(InputError, match="two sequences of two tokens"):
        draw(CopyTask(), lm, length=1)
    with pytest.raises(InputError, match="different tokens"):
        draw(CopyTask(), lm, length=10_000)
    with pytest.raises(ContextOverflowError, match="said twice"):
        draw(CopyTask(distinct=False), lm, length=lm.max_length)
    with pytest.raises(InputError, match="Unknown ids"):
        CopyTask(ids="some")
    with pytest.raises(InputError, match="Unknown begin"):
        CopyTask(begin="sometimes")


def test_added_special_tokens_are_no_ordinary_ones():
    lm = random_lm()
    lm.tokenizer.add_tokens([AddedToken("<reserved>", special=True), AddedToken("plain", special=False)])
    lm.model.resize_token_embeddings(len(lm.tokenizer))
    reserved, plain = lm.tokenizer.convert_tokens_to_ids(["<reserved>", "plain"])
    drawn = CopyTask().vocabulary(lm).tolist()
    assert reserved not in drawn
    assert plain in drawn
