"""Answer metrics: SQuAD's own cases, abstention, and properties."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.evaluate.answers import abstains, answer_scores, contains, exact_match, f1, squad_normalise


def test_normalisation_is_squads() -> None:
    assert squad_normalise("The  Golden-Gate, Bridge!") == "goldengate bridge"
    assert squad_normalise("an apple a day") == "apple day"


@pytest.mark.parametrize(
    ("said", "answers", "em", "overlap", "inside"),
    [
        ("Denver Broncos", ["denver broncos"], 1, 1, 1),
        ("the Denver Broncos", ["Denver Broncos"], 1, 1, 1),
        ("Broncos", ["Denver Broncos"], 0, 2 / 3, 0),
        ("It was the Denver Broncos who won", ["Denver Broncos"], 0, 0.5, 1),
        ("Carolina", ["Denver", "Carolina Panthers"], 0, 2 / 3, 0),
        ("", ["Denver"], 0, 0, 0),
        ("Denverian", ["Denver"], 0, 0, 0),
    ],
)
def test_by_hand(said: str, answers: list[str], em: float, overlap: float, inside: float) -> None:
    assert exact_match(said, answers) == em
    assert f1(said, answers) == pytest.approx(overlap)
    assert contains(said, answers) == inside


@pytest.mark.parametrize(
    ("said", "abstained"),
    [
        ("", True),
        ("  \n", True),
        ("unanswerable", True),
        ("I don't know.", True),
        ("The passage does not mention it.", True),
        ("Not provided in the text", True),
        ("No one", False),
        ("1912", False),
        ("Do not know.", True),
        ("Don\u2019t know", True),
        ("I'm not sure.", True),
        ("Not sure", True),
        ("I have no idea", True),
        ("No idea", True),
        ("I do not have that information.", True),
        ("N/A", True),
        ("It is unclear.", True),
        ("It's unclear", True),
        ("Unknown.", True),
        ("The exact date is unknown.", True),
        ("The year remains largely unknown", True),
        ("The Unknown Soldier", False),
        ("Unknown Mortal Orchestra", False),
        ("Don't Know Why", False),
        ("Na", False),
        ("No Doubt", False),
        ("Clear Channel", False),
        ("Paris\nI do not know", False),
    ],
)
def test_abstention(said: str, abstained: bool) -> None:
    assert abstains(said) is abstained
    assert exact_match(said, []) == f1(said, []) == float(abstained)
    assert contains(said, []) == 0


@given(st.text(max_size=40), st.lists(st.text(max_size=20), max_size=3))
def test_bounds_and_order(said: str, answers: list[str]) -> None:
    scores = answer_scores(said, answers)
    assert 0 <= scores["F1"] <= 1 + 1e-9
    assert scores["EM"] <= scores["F1"] + 1e-9  # an exact match has all words in common
    assert scores["words"] == len(said.split())
    if any(squad_normalise(answer) for answer in answers) and scores["EM"] and squad_normalise(said):
        assert scores["sub-EM"] == 1
