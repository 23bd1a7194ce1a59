"""The adapter that learns to copy: it starts as nothing, learns the task, and leaves the model as it was."""

from __future__ import annotations

import pytest
import torch

import headwater as hw
from families import family_model
from headwater.adapt.copy_adapter import copying_adapter
from headwater.adapt.pear import copying_loss
from headwater.errors import ModelError
from headwater.model.adapter import adapted
from headwater.model.anatomy import FAMILIES, output_projections, value_rows
from models import byte_tokenizer
from planted_suppressor import copying_lm

pytest.importorskip("peft")


def pear(**more):
    return hw.Pear(**{"steps": 12, "length": 20, "batch": 8, "learning_rate": 2e-2, **more})


def held_out(lm):
    ids = hw.Pear().task.draw(lm, 16, 20, torch.Generator().manual_seed(9))
    return ids, ids.shape[1] - 19


def test_it_learns_to_copy_and_goes():
    lm = copying_lm()
    ids, first = held_out(lm)
    before = {name: value.clone() for name, value in lm.model.state_dict().items()}
    with torch.no_grad():
        start = copying_loss(lm, ids, first).item()
    with copying_adapter(lm, pear()) as tuned, torch.no_grad():
        assert copying_loss(tuned, ids, first).item() < 0.9 * start
        trained = [name for name, value in tuned.model.named_parameters() if value.requires_grad]
        assert len(trained) == 2 * len(output_projections(lm.model))
        ranks = {tuple(value.shape) for value in tuned.model.parameters() if value.requires_grad}
        assert ranks == {(1, 512), (512, 1)}
    with torch.no_grad():
        assert copying_loss(lm, ids, first).item() == start
    assert all(torch.equal(value, before[name]) for name, value in lm.model.state_dict().items())


def test_same_seed_same_adapter():
    lm = copying_lm()

    def learned(seed):
        with copying_adapter(lm, pear(steps=2, seed=seed)) as tuned:
            return torch.cat([p.detach().flatten() for p in tuned.model.parameters() if p.requires_grad])

    assert torch.equal(learned(1), learned(1))
    assert not torch.equal(learned(1), learned(2))


def test_a_model_with_an_adapter_is_refused():
    lm = copying_lm()
    with (
        copying_adapter(lm, pear(steps=1)) as tuned,
        pytest.raises(ModelError, match="adapter already"),
        copying_adapter(tuned, pear(steps=1)),
    ):
        pass


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox"])
def test_fused_projections_elsewhere_do_not_hold_it_back(family):
    """Where query, key and value are one projection, its value rows stay; output projections have no such rows."""
    lm = hw.load(model=family_model(family), tokenizer=byte_tokenizer())
    with copying_adapter(lm, pear(steps=2, length=8, batch=4, warmup=0)) as tuned:
        factors = [p for name, p in tuned.model.named_parameters() if ".lora_B." in name]
        assert len(factors) == len(output_projections(lm.model))
        assert all((p != 0).all() for p in factors), "every row of an output projection learns"
    (own,) = FAMILIES[lm.anatomy.family].query_key
    names = [name for name, _ in lm.model.named_modules() if name.rpartition(".")[2] == own]
    rows = value_rows(lm.anatomy)
    assert rows
    with adapted(lm, names, 1, 1.0, 0) as tuned:
        ids = torch.randint(2, 200, (2, 12), generator=torch.Generator().manual_seed(0))
        copying_loss(tuned, ids, 4).backward()
        for name, factor in tuned.model.named_parameters():
            if ".lora_B." in name:
                assert factor.grad.any()
                assert not factor.grad[list(rows)].any()
