"""Passages and sentences are exact slices of the original."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.data.documents import Document
from headwater.errors import InputError
from headwater.search.chunk import passages, sentences, split

TEXT = st.text(alphabet="ab .!?\n\r\t\"'A1é\u00a0", max_size=300)


def test_sentences() -> None:
    text = 'The U.S. Army came. It has 3.5 million people (July 2020 est.) and ca. 20 towns.\n\nNext! "Is it?" Yes.'
    assert [text[a:b] for a, b in sentences(text)] == [
        "The U.S. Army came.",
        "It has 3.5 million people (July 2020 est.) and ca. 20 towns.",
        "Next!",
        '"Is it?"',
        "Yes.",
    ]


def test_a_short_document_is_one_passage() -> None:
    (only,) = passages(Document("  one. two.\n", id="x", title="T", metadata={"k": 1}))
    assert (only.start, only.end, only.text) == (2, 11, "one. two.")
    as_document = only.as_document()
    assert (as_document.id, as_document.title, as_document.text) == ("x", "T", "one. two.")
    assert as_document.metadata == {"k": 1, "passage_start": 2}


def test_paragraphs_are_packed_and_long_ones_cut_between_sentences() -> None:
    text = "One one.\n\nTwo two.\n\nThree three three. Four four four."
    assert [p.text for p in passages(Document(text), 20)] == [
        "One one.\n\nTwo two.",
        "Three three three.",
        "Four four four.",
    ]


@pytest.mark.parametrize("text", ["", " \n\n "])
def test_blank_documents_have_no_passages(text: str) -> None:
    assert passages(Document(text)) == []


def test_max_chars_must_be_positive() -> None:
    with pytest.raises(InputError, match="max_chars"):
        passages(Document("x"), 0)


@given(TEXT, st.integers(1, 60))
def test_passages_are_slices_in_order_and_lose_no_word(text: str, limit: int) -> None:
    found = split([Document(text)], limit)
    assert all(p.document.text[p.start : p.end] == p.text and 0 < len(p.text) <= limit for p in found)
    assert all(a.end <= b.start for a, b in pairwise(found))
    assert "".join("".join(p.text.split()) for p in found) == "".join(text.split())


@given(TEXT)
def test_sentences_are_disjoint_and_lose_no_word(text: str) -> None:
    found = sentences(text)
    assert all(a[1] <= b[0] for a, b in pairwise(found))
    assert "".join("".join(text[a:b].split()) for a, b in found) == "".join(text.split())
