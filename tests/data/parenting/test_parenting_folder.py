"""Sets given in Python: items where they belong, and no group in training that is measured on."""

from __future__ import annotations

import pytest

from headwater.data.parenting.folder import ParentingData, as_data
from headwater.errors import InputError
from parenting_items import made_items, made_sets

TRAIN = made_sets(4)
OTHER = {"a": made_items("a", 4, seed=1)}


def test_sets_that_are_sound():
    assert as_data(TRAIN) == as_data({"train": TRAIN}) == as_data(ParentingData(TRAIN))
    assert as_data({"train": TRAIN, "development": OTHER, "test": {"a": []}}).development == OTHER


@pytest.mark.parametrize("wrap", [dict, lambda splits: ParentingData(**splits)])
@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ({"train": {"x": []}}, "Unknown set 'x'"),
        ({"train": {"a": ["What is x?"]}}, "list of ParentingItem"),
        ({"train": {"a": "text"}}, "list of ParentingItem"),
        ({"train": {"a": None}}, "list of ParentingItem"),
        ({"train": [1]}, "takes sets by name"),
        ({"train": {"a": TRAIN["r"]}}, "of kind 'r' is in the set 'a' of train"),
        ({"train": TRAIN, "development": {"a": TRAIN["c"]}}, "of kind 'c' is in the set 'a' of development"),
        ({"train": TRAIN, "development": TRAIN}, "is in training and in development"),
        ({"train": TRAIN, "test": {"a": TRAIN["a"]}}, "is in training and in test"),
    ],
)
def test_sets_that_are_refused(splits, message, wrap):
    with pytest.raises(InputError, match=message):
        as_data(wrap(splits))
