"""Needles and their cases: what is hidden where, and what is refused."""

import json
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.data.needle import (
    DEPTHS,
    Needle,
    NeedleCase,
    built_in_haystack,
    built_in_needles,
    lengths_for,
    needle_cases,
    needle_fingerprint,
    read_haystack,
    read_needles,
)
from headwater.data.rouge import rouge1_recall, stems
from headwater.errors import FormatError, InputError
from headwater.model.lm import load

FOX = Needle("The code of the vault is red fox.", "What is the code of the vault?", "red fox", "fox")
HAY = [f"Paragraph {i} says nothing much." for i in range(9)]


def test_built_in_needles_are_known_to_nobody():
    detection, testing = built_in_needles("detection"), built_in_needles("testing")
    assert min(len(detection), len(testing)) >= 6
    text = "\n".join([*built_in_haystack("detection"), *built_in_haystack("testing")]).casefold()
    for needle in (*detection, *testing):
        country = str(needle.name).partition("/")[0]
        assert country in needle.statement
        for word in (country, *needle.answer.split()):
            if word not in ("Isk", "Nol", "Yelm", "Menk", "Toft", "Gorm", "Omun"):  # short ones, checked as a whole
                assert word.casefold() not in text
        assert needle.answer.casefold() not in text
    for one, other in combinations((*detection, *testing), 2):
        assert not set(one.answer.split()) & set(other.answer.split())
        assert str(one.name).partition("/")[0] != str(other.name).partition("/")[0]


def test_built_in_answers_are_several_tokens():
    tokenizer = load("tiny").tokenizer
    for needle in (*built_in_needles("detection"), *built_in_needles("testing")):
        assert 4 <= len(tokenizer(" " + needle.answer, add_special_tokens=False).input_ids) <= 20, needle.answer


def test_detection_and_testing_share_no_text():
    assert not set(built_in_haystack("detection")) & set(built_in_haystack("testing"))


def test_cases_are_the_grid():
    cases = needle_cases([FOX], HAY, (300, 500), seed=3)
    assert [(case.length, case.depth) for case in cases] == [(n, d) for n in (300, 500) for d in DEPTHS]
    assert len({case.start for case in cases if case.length == 300}) == 1
    assert {case.id for case in cases} == {f"fox/{n}/{d:g}" for n in (300, 500) for d in DEPTHS}
    assert cases == needle_cases([FOX], HAY, (300, 500), seed=3)
    assert cases[0].rotated[0] == HAY[cases[0].start]
    assert sorted(cases[0].rotated) == sorted(HAY)
    starts = {needle_cases([FOX], HAY, (300,), seed=seed)[0].start for seed in range(20)}
    assert len(starts) > 3


def test_the_fingerprint_changes_with_everything():
    prints = [
        needle_fingerprint(cases)
        for cases in (
            needle_cases([FOX], HAY, (300,)),
            needle_cases([FOX], HAY, (301,)),
            needle_cases([FOX], HAY[::-1], (300,)),
            needle_cases([FOX], HAY, (300,), (0.5,)),
            needle_cases([Needle("It is red fox.", "What is it?", "red fox", "fox")], HAY, (300,)),
        )
    ]
    assert len(set(prints)) == len(prints)
    assert needle_fingerprint(needle_cases([FOX], HAY, (300,))) == prints[0]


@pytest.mark.parametrize("window", [512, 1024, 4096, 8192, 131072])
def test_lengths_fit_the_window(window):
    lengths = lengths_for(window)
    assert list(lengths) == sorted(set(lengths))
    assert lengths[-1] + 50 + 200 <= max(window, 0)
    assert len(lengths) == (1 if window == 512 else 8)
    assert lengths[0] >= 256
    assert lengths[-1] == min(8192, window - 250)


def test_a_text_is_split_at_blank_lines():
    case = NeedleCase(FOX, "One.\n\n Two. \n  \nThree.", 300, 0.5)
    assert case.haystack == ("One.", "Two.", "Three.")


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (("The code is red.", "What?", "blue"), "does not stand in it"),
        (("The code is Red.", "What?", "red"), "does not stand in it"),
        (("Red fox, red fox.", "What?", "ed fox"), "stands in it 2 times"),
        (("The code is red.", "Is it red?", "red"), "gives its answer"),
        (("The code is red.", " ", "red"), "blank"),
        (("The code is red.", "What?", "."), "needs its answer"),
        (("The code is red.", "What?", " red"), "needs its answer"),
        ((3, "What?", "red"), "must be a string"),
    ],
)
def test_bad_needles(parts, message):
    with pytest.raises(InputError, match=message):
        Needle(*parts)


def test_bad_cases():
    with pytest.raises(InputError, match=r"holds the answer 'red fox'.*a RED fox runs"):
        NeedleCase(FOX, [*HAY, "Then a RED fox runs."], 300, 0.5)
    for hay in ([], "", [" "], [3]):
        with pytest.raises(InputError, match="Give some text"):
            NeedleCase(FOX, hay, 300, 0.5)
    for depth in (-0.1, 1.1, float("nan")):
        with pytest.raises(InputError, match="between 0 and 1"):
            NeedleCase(FOX, HAY, 300, depth)
    with pytest.raises(InputError, match="at least 1 token"):
        NeedleCase(FOX, HAY, 0, 0.5)
    for arguments in (([], HAY, (300,)), ([FOX, FOX], HAY, (300,)), ([FOX], HAY, ()), ([FOX], HAY, (300,), (0, 0))):
        with pytest.raises(InputError, match="without repetitions"):
            needle_cases(*arguments)
    with pytest.raises(InputError, match="no room"):
        lengths_for(300)


def test_needle_files(tmp_path):
    path = tmp_path / "needles.jsonl"
    lines = [{"statement": FOX.statement, "question": FOX.question, "answer": FOX.answer, "name": "fox"}]
    path.write_text("\n".join(map(json.dumps, lines)))
    assert read_needles(path) == [FOX]
    for text, message in (
        ('{"statement": "x"}', "line 1: the field 'question' is missing"),
        ('{"statement": "It is x.", "question": "q", "answer": "y"}', "line 1: The needle"),
        ('{"statement": "It is x.", "question": "q", "answer": "x", "name": 3}', "line 1: The name"),
        ("\n".join([json.dumps(lines[0])] * 2), "line 2: the needle 'fox' stands twice"),
        ("\n", "holds no needles"),
    ):
        path.write_text(text)
        with pytest.raises(FormatError, match=message):
            read_needles(path)
    with pytest.raises(InputError, match="no needle file"):
        read_needles(tmp_path / "missing")
    (tmp_path / "hay.txt").write_text("One.\n\nTwo.")
    assert read_haystack(tmp_path / "hay.txt") == ("One.", "Two.")


def test_rouge():
    assert rouge1_recall("Tesmarin Vellohout", "It is tesmarin vellohout.") == 1
    assert rouge1_recall("the running dogs", "a dog runs") == pytest.approx(2 / 3)
    assert rouge1_recall("two two", "two") == 0.5
    assert rouge1_recall("red fox", "") == 0
    assert rouge1_recall("", "red") == 0
    assert stems("Running, the 4,817 m!") == ["run", "the", "4", "817", "m"]


@given(st.text(max_size=30), st.text(max_size=30))
def test_rouge_is_a_share(reference, response):
    assert 0 <= rouge1_recall(reference, response) <= 1
    assert rouge1_recall(reference, f"{response} {reference}") == (1 if stems(reference) else 0)
