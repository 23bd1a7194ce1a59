"""Knobs of detectors given as text, as `headwater heads find --set` does."""

import pytest

from headwater.errors import InputError
from headwater.heads import DETECTORS
from headwater.heads.knobs import configured, knobs


@pytest.mark.parametrize("name", sorted(DETECTORS))
def test_every_detector_says_its_knobs(name):
    kind = DETECTORS[name]
    found = knobs(kind)
    assert {"top_k", "seed"} <= set(found)
    assert not any(isinstance(of, str) for of in found.values())
    assert configured(kind, {"seed": "3"}, top_k=4) == kind(top_k=4, seed=3)
    with pytest.raises(InputError, match="has no switch 'nothing'; it has top_k"):
        configured(kind, {"nothing": "1"})


def test_values_are_read_by_their_kind():
    made = configured(
        DETECTORS["retrieval"],
        {
            "threshold": "0.25",
            "run": "forced",
            "lengths": "256, 512",
            "depths": "0,0.5",
            "stop_when_stable": "true",
            "max_new_tokens": "8",
            "haystack": "my texts",
            "top_k": "none",
        },
    )
    assert (made.threshold, made.run, made.lengths, made.depths) == (0.25, "forced", [256, 512], [0.0, 0.5])
    assert (made.stop_when_stable, made.max_new_tokens, made.haystack, made.top_k) == (True, 8, "my texts", None)


def test_switches_of_the_document_score_are_knobs_too():
    made = configured(DETECTORS["query-focused"], {"null_query": "", "calibrate": "false", "max_doc_tokens": "20"})
    assert (made.settings.null_query, made.settings.calibrate, made.settings.max_doc_tokens) == ("", False, 20)
    assert configured(DETECTORS["contrastive"], {"temperature": "0.001"}).temperature == 0.001


@pytest.mark.parametrize(
    ("name", "knob", "value", "message"),
    [
        ("retrieval", "run", "fast", "decode, forced"),
        ("retrieval", "threshold", "high", "a number"),
        ("retrieval", "max_new_tokens", "1.5", "a whole number"),
        ("retrieval", "stop_when_stable", "yes", "true or false"),
        ("retrieval", "lengths", "256,many", "whole numbers with commas"),
        ("retrieval", "accept", "2", "accept is a share"),
        ("query-focused", "metric", "odd", "mass, ndcg"),
        ("query-focused", "settings", "x", "only from Python"),
        ("suppression", "task", "x", "only from Python"),
    ],
)
def test_bad_values_are_refused_in_words(name, knob, value, message):
    with pytest.raises(InputError, match=message):
        configured(DETECTORS[name], {knob: value})
