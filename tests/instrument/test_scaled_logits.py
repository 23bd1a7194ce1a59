"""Next-token probabilities of many head sets in one batch against one forward each."""

import pytest
import torch

import headwater as hw
from families import family_model
from headwater.errors import ContextOverflowError, HeadSetError, InputError, ModelError
from headwater.instrument.scaled_logits import scaled_log_probabilities
from models import byte_tokenizer, random_lm

IDS = torch.randint(2, 258, (20,), generator=torch.Generator().manual_seed(3)).tolist()
SETS = [
    None,
    hw.HeadSet([(3, 1)], [31.0]),
    hw.HeadSet([(1, 2)], [-4.0]),
    hw.HeadSet([(1, 0)], [1.0]),
    hw.HeadSet([(3, 0), (1, 1)], [0.0, 2.0]),
]


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "bloom", "lfm2"])
def test_one_batch_equals_one_forward_each(name):
    lm = hw.load(model=family_model(name), tokenizer=byte_tokenizer())
    want = []
    for heads in SETS:
        with torch.no_grad(), hw.scaled(lm, heads or hw.HeadSet([(1, 0)], [1.0])):
            want.append(lm.model(input_ids=torch.tensor([IDS])).logits[0, -1].float().log_softmax(-1)[[5, 90]])
    done = []
    got = scaled_log_probabilities(lm, IDS, SETS, [5, 90], rows=3, progress=lambda *step: done.append(step))
    torch.testing.assert_close(got.float(), torch.stack(want), atol=2e-4, rtol=1e-4)
    assert (got[0] - got[3]).abs().max() < 1e-5
    assert (got[0] - got[[1, 2, 4]]).abs().min() > 1e-4
    assert done == [(3, 5), (5, 5)]


def test_bad_input():
    lm = random_lm()
    for arguments in (([], SETS, [5]), (IDS, [], [5]), (IDS, SETS, [])):
        with pytest.raises(InputError, match="at least one"):
            scaled_log_probabilities(lm, *arguments)
    with pytest.raises(InputError, match="no coefficients"):
        scaled_log_probabilities(lm, IDS, [hw.HeadSet([(0, 0)])], [5])
    with pytest.raises(HeadSetError, match="9-0"):
        scaled_log_probabilities(lm, IDS, [hw.HeadSet([(9, 0)], [2.0])], [5])
    with pytest.raises(ContextOverflowError, match="reads"):
        scaled_log_probabilities(lm, IDS * 30, [None], [5])
    with torch.no_grad():
        lm.model.model.layers[1].self_attn.o_proj.weight[0, 0] = torch.nan
    with pytest.raises(ModelError, match="gives no numbers"):
        scaled_log_probabilities(lm, IDS, SETS, [5])
