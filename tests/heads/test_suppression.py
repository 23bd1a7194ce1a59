"""The planted suppressor comes first by every route, and engines agree."""

import numpy as np
import pytest
import torch

import headwater as hw
from headwater.errors import HeadSetError, InputError, ModelError
from headwater.heads.suppression import default_suppressors
from headwater.prompt.copying import CopyTask
from models import random_lm
from planted_suppressor import BEFORE, COPIER, SUPPRESSOR, copying_lm

RUNS = [(20, 10), (20, 25)]


@pytest.mark.parametrize(
    "switches",
    [
        {},
        {"mode": "total"},
        {"mode": "everywhere"},
        {"ablation": "sequence_mean"},
        {"ablation": "zero"},
        {"metric": "difference"},
        {"combine": "mean_rank"},
        {"combine": "count"},
        {"engine": "layers"},
    ],
    ids=str,
)
def test_the_planted_suppressor_comes_first(switches):
    found = hw.SuppressionHeads(top_k=1, runs=RUNS, **switches).find(copying_lm())
    assert found.heads == [SUPPRESSOR]
    change = np.array(found.provenance["change"])
    assert change[SUPPRESSOR] > 0.05
    assert change[COPIER] < 0
    assert min(found.provenance["copy_accuracy"]) > 0.9


def test_the_official_preset_finds_it_too():
    detector = hw.SuppressionHeads(top_k=1, preset="official")
    detector.runs = RUNS  # the published runs are longer than this model reads
    assert detector.find(copying_lm()).heads == [SUPPRESSOR]
    assert (detector.metric, detector.task) == ("difference", CopyTask("all", False, "never"))


def test_a_head_that_does_nothing_changes_nothing():
    found = hw.SuppressionHeads(top_k=1, runs=RUNS).score(copying_lm(suppressing=0.0))
    assert abs(found.scores[SUPPRESSOR]) < 1e-6
    assert found.scores[COPIER] < -0.5
    assert found.scores[BEFORE] > 0.1  # what it writes only makes the final norm smaller


def test_engines_agree():
    lm = copying_lm()
    one = hw.SuppressionHeads(runs=RUNS).score(lm)
    other = hw.SuppressionHeads(runs=RUNS, engine="layers").score(lm)
    assert np.abs(one.scores - other.scores).max() < 1e-5


def test_scores_are_the_mean_of_the_samples_and_of_the_runs():
    found = hw.SuppressionHeads(runs=[(20, 10), (10, 25)]).score(copying_lm())
    assert found.samples.shape[0] == 30
    assert np.allclose(found.samples.mean(0), found.scores, atol=1e-9)
    assert np.allclose(np.mean(found.provenance["per_run"], axis=0), found.scores)
    assert found.scores.shape == np.array(found.provenance["errors"]).shape


def test_the_seed_decides():
    lm = copying_lm()
    one, again, other = (hw.SuppressionHeads(runs=RUNS, seed=s).score(lm).scores for s in (0, 0, 1))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


def test_fewer_suppressors_than_asked_for_are_said(caplog):
    caplog.set_level("WARNING", logger="headwater")
    found = hw.SuppressionHeads(top_k=6, runs=RUNS).find(copying_lm())
    assert found.heads[0] == SUPPRESSOR
    assert len(found) < 6
    assert "suppress copying" in caplog.text


def test_a_model_that_does_not_copy_is_refused():
    with pytest.raises(ModelError, match=r"copies \d+%"):
        hw.SuppressionHeads(runs=RUNS).find(random_lm())


def test_bad_input():
    for switches, words in (
        ({"mode": "odd"}, "Unknown mode"),
        ({"ablation": "odd"}, "Unknown ablation"),
        ({"metric": "odd"}, "Unknown metric"),
        ({"combine": "odd"}, "Unknown combine"),
        ({"engine": "odd"}, "Unknown engine"),
        ({"preset": "odd"}, "Unknown preset"),
        ({"runs": []}, "at least one run"),
        ({"engine": "layers", "mode": "total"}, "mode='path' only"),
    ):
        with pytest.raises(InputError, match=words):
            hw.SuppressionHeads(**switches)
    with pytest.raises(HeadSetError, match="top_k"):
        hw.SuppressionHeads(top_k=99).find(copying_lm())


def test_the_default_number():
    assert default_suppressors(copying_lm().anatomy) == 1
    assert default_suppressors(type(copying_lm().anatomy)("llama", 32, 32, 8, 128, 8192)) == 30


def test_the_model_is_left_as_it_was():
    lm = copying_lm()
    ids = torch.arange(2, 30)[None]
    with torch.no_grad():
        before = lm.model(input_ids=ids).logits
        hw.SuppressionHeads(runs=[(8, 10)], mode="everywhere").find(lm)
        assert torch.equal(before, lm.model(input_ids=ids).logits)
