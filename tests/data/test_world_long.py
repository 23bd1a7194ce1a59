"""Long texts of the fact world: one sentence answers, at a drawn place, in a text of the length that was asked for."""

from __future__ import annotations

import numpy as np
import pytest

from headwater.data import world
from headwater.errors import InputError


def test_one_sentence_answers_where_the_metadata_says() -> None:
    for example in world.long_examples("held_out", 40, 3000, near=9, seed=1):
        (text,), question = example.documents, example.question
        where = text.metadata
        sentence = text.text[where["start"] : where["end"]]
        assert question.answers[0] in sentence
        assert question.country in sentence
        assert example.stated == question.answers
        assert where["depth"] == where["start"] / len(text.text)
        assert 3000 - world.LONGEST_DOCUMENT - 10 <= len(text.text) <= 3000
        paragraphs = text.text.split("\n\n")
        assert len(set(paragraphs)) == len(paragraphs)
        about = [paragraph for paragraph in paragraphs if question.country in paragraph]
        assert len(about) >= 4, "half of the near ones are about the asked country"
        statement = world.document(question.country, [question.relation]).text
        assert sum(statement in paragraph for paragraph in paragraphs) == 1


def test_places_are_spread_and_texts_repeat() -> None:
    drawn = world.long_examples("held_out", 100, 2500, near=5)
    depths = np.array([example.documents[0].metadata["depth"] for example in drawn])
    assert np.histogram(depths, bins=4, range=(0, 1))[0].min() >= 10
    assert world.long_examples("held_out", 3, 2500, near=5) == drawn[:3]
    assert world.long_examples("held_out", 3, 2500, near=5, seed=1) != drawn[:3]


def test_the_length_is_in_the_unit_that_is_given() -> None:
    def words(text: str) -> int:
        return len(text.split())

    for example in world.long_examples("development", 5, 400, words, near=9):
        assert 340 <= words(example.documents[0].text) <= 400


def test_bad_input() -> None:
    with pytest.raises(InputError, match="do not fit into 500"):
        world.long_examples("held_out", 1, 500)
    with pytest.raises(InputError, match="do not fill a text"):
        world.long_examples("held_out", 1, 10**7)
    with pytest.raises(InputError, match="Unknown split"):
        world.long_examples("odd", 1, 3000)
    with pytest.raises(InputError, match="at least 1 document"):
        world.long_examples("held_out", 1, 3000, near=-1)
