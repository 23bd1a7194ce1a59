"""Documents and ranking examples: strings are accepted, nonsense is refused with one clear sentence."""

import pytest

import headwater as hw
from headwater.data.documents import as_documents
from headwater.errors import InputError


def test_strings_become_documents():
    assert as_documents(["a", hw.Document("b", id="2")]) == [hw.Document("a"), hw.Document("b", id="2")]


@pytest.mark.parametrize("bad", ["one string", hw.Document("one")])
def test_a_single_document_is_refused(bad):
    with pytest.raises(InputError, match="list"):
        as_documents(bad)


def test_an_element_of_another_type_is_named():
    with pytest.raises(InputError, match="Document 1 is a int"):
        as_documents(["a", 3])


def test_grades_by_id_index_and_mapping():
    documents = [hw.Document("a", id="x"), hw.Document("b", id="y"), hw.Document("c", id="y")]
    assert hw.RankingExample("q", documents, ["y"]).grades() == [0.0, 1.0, 1.0]
    assert hw.RankingExample("q", documents, [0]).grades() == [1.0, 0.0, 0.0]
    assert hw.RankingExample("q", documents, {"x": 2, 1: 0}).grades() == [2.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("relevant", "match"),
    [([None], "ids or 0-based"), ([0.5], "ids or 0-based"), ([True], "ids or 0-based"), (None, "must be a list")]
    + [({0: grade}, "finite number") for grade in (float("nan"), "high", None, True)],
)
def test_relevance_that_makes_no_sense(relevant, match):
    with pytest.raises(InputError, match=match):
        hw.RankingExample("q", ["a"], relevant)


@pytest.mark.parametrize("query", ["", "  ", 3, None, "\ud800"])
def test_queries_that_make_no_sense(query):
    with pytest.raises(InputError, match="query"):
        hw.RankingExample(query, ["a"], [0])


def test_half_characters_are_refused():
    with pytest.raises(InputError, match="lone surrogate at 2"):
        hw.Document("a \ud800")


@pytest.mark.parametrize("missing", [["z"], [3], [-1], {"z": 1}])
def test_a_gold_document_that_is_not_listed_is_an_error(missing):
    with pytest.raises(InputError, match="not among"):
        hw.RankingExample("q", ["a"], missing)


def test_every_public_name_can_be_imported():
    for name in hw.__all__:
        assert getattr(hw, name) is not None
    with pytest.raises(AttributeError, match="nonsense"):
        hw.nonsense  # noqa: B018
