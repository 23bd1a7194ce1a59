"""From question to cited answer with a scripted ranker and reader; citations are always exact."""

from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater.data.documents import Document
from headwater.errors import ContextOverflowError, InputError
from headwater.pipeline import Pipeline
from headwater.read.citation import cite
from headwater.search.bm25 import BM25
from headwater.search.chunk import passages
from headwater.search.index import Index


@dataclass
class Place:
    index: int
    id: str | None
    score: float
    document: Document


class LongestFirst:
    """Ranks by length; takes at most `limit` documents."""

    def __init__(self, limit: int = 100) -> None:
        self.limit = limit

    def rank(self, query: str, documents: Sequence[Document], top_k: int | None = None) -> list[Place]:
        if len(documents) > self.limit:
            raise ContextOverflowError("too long", tokens=len(documents), limit=self.limit)
        order = sorted(range(len(documents)), key=lambda i: -len(documents[i].text))
        return [Place(i, documents[i].id, float(len(documents[i].text)), documents[i]) for i in order[:top_k]]


class Says:
    """A reader with one answer."""

    def __init__(self, text: str, limit: int = 100) -> None:
        self.text, self.limit = text, limit
        self.seen: list[Document] = []

    def read(self, question: str, documents: list[Document], on_text: Any = None) -> Any:
        if len(documents) > self.limit:
            raise ContextOverflowError("too long", tokens=len(documents), limit=self.limit)
        self.seen = documents
        if on_text is not None:
            on_text(self.text)
        return SimpleNamespace(text=self.text, confidence=0.6)


class PlainTokenizer:
    """As much of a tokenizer as building a template needs."""

    chat_template = None
    bos_token_id = 0

    def get_vocab(self) -> dict[str, int]:
        return {}

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": [ord(c) for c in text]}

    def decode(self, ids: list[int], **_: Any) -> str:
        return "".join(map(chr, ids))


def pipeline(documents: Any, answer: str, max_length: int = 2000, **options: Any) -> Pipeline:
    lm: Any = SimpleNamespace(tokenizer=PlainTokenizer(), max_length=max_length, name="fake")
    reader = options.pop("reader", Says(answer))
    made = Pipeline(lm, documents, options.pop("ranker", LongestFirst()), **{"support": 0.0, **options})
    made.reader = reader
    return made


FOLDER = [
    Document("Algeria lies in Africa. Its capital is Algiers.", id="dz"),
    Document("Paris is the capital of France. It is old. Algiers is not in France at all.", id="fr"),
    Document("Peru has 3.5 million of something.", id="pe"),
]


def test_the_answer_is_cited_from_the_highest_ranked_document_that_holds_it() -> None:
    answer = pipeline(FOLDER, "algiers").ask("What is the capital of Algeria?")
    assert answer.text == "algiers"
    assert answer.supported
    assert [place.id for place in answer.ranking] == ["fr", "dz", "pe"]
    (citation,) = answer.citations
    assert citation == ("fr", 43, 75, "Algiers is not in France at all.")
    assert FOLDER[1].text[citation.start : citation.end] == citation.quote


def test_only_what_was_read_can_be_cited() -> None:
    assert not pipeline(FOLDER, "3.5 million", read=2).ask("How many?").supported
    assert pipeline(FOLDER, "3.5 million", read=3).ask("How many?").citations[0].document_id == "pe"


@pytest.mark.parametrize("text", ["", "...", "Lima", "3", "5 million", "Pari"])
def test_unsupported(text: str) -> None:
    answer = pipeline(FOLDER, text).ask("What?")
    assert not answer.supported
    assert answer.citations == ()


def test_an_answer_the_model_is_not_sure_of_is_not_supported() -> None:
    assert pipeline(FOLDER, "Algiers", support=0.6).ask("What?").supported
    unsure = pipeline(FOLDER, "Algiers", support=0.61).ask("What?")
    assert (unsure.text, unsure.supported, unsure.citations, unsure.confidence) == ("Algiers", False, (), 0.6)
    with pytest.raises(InputError, match="support"):
        pipeline(FOLDER, "Algiers", support=1.5)


def test_the_answer_streams() -> None:
    heard: list[str] = []
    pipeline(FOLDER, "Algiers").ask("What?", heard.append)
    assert heard == ["Algiers"]


def test_an_index_without_any_word_of_the_question_answers_nothing() -> None:
    class Nothing:
        def search(self, query: str, k: int) -> list[Any]:
            return []

    answer = pipeline(Nothing(), "Algiers").ask("What?")
    assert (answer.text, answer.supported, answer.ranking, answer.read) == ("", False, [], 0)
    assert "No word" in answer.notes[0]


def test_how_an_index_finds_candidates_is_passed_on() -> None:
    asked: list[dict[str, Any]] = []

    class Seen:
        def search(self, query: str, **more: Any) -> list[Any]:
            asked.append(more)
            return []

    pipeline(Seen(), "x").ask("q?")
    pipeline(Seen(), "x", retrieve="dense").ask("q?")
    assert asked == [{"k": 20}, {"k": 20, "mode": "dense"}]
    with pytest.raises(InputError, match="searched by words"):
        pipeline(["a"], "x", retrieve="hybrid")
    pipeline(["a"], "x", retrieve="bm25").ask("a?")


def test_long_documents_are_read_as_passages_and_cited_in_the_original() -> None:
    text = "\n\n".join(f"Paragraph {i} says number {i * 111}." for i in range(200))
    document = Document("  " + text, id="long")
    made = pipeline([document], "1110", candidates=30, max_length=1000)
    answer = made.ask("Which number does paragraph 10 say?")
    assert len(made.index.documents) > 10
    (citation,) = answer.citations
    assert citation.quote == "Paragraph 10 says number 1110."
    assert document.text[citation.start : citation.end] == citation.quote


def test_what_does_not_fit_is_left_out_and_noted() -> None:
    made = pipeline(FOLDER, "Paris", ranker=LongestFirst(limit=2), reader=Says("Paris", limit=1))
    answer = made.ask("capital of France")
    assert len(answer.ranking) == 2
    assert answer.read == 1
    assert len(answer.notes) == 2
    with pytest.raises(ContextOverflowError):
        pipeline(FOLDER, "Paris", ranker=LongestFirst(limit=0)).ask("capital of France")


def test_strings_are_named_by_position_and_any_index_will_do() -> None:
    assert pipeline(["nothing", "The capital is Lima."], "Lima").ask("capital?").citations[0].document_id == "1"
    hits = [SimpleNamespace(document=FOLDER[2], score=1.0, index=2)]
    index = SimpleNamespace(search=lambda query, k: hits)
    assert pipeline(index, "3.5 million").ask("?").citations[0].document_id == "pe"
    unnamed = BM25(["nothing here", "nor here", "The capital is Lima."])
    assert pipeline(unnamed, "Lima").ask("capital?").citations[0].document_id == "2"


def test_a_question_without_a_known_word_is_noted() -> None:
    answer = pipeline(FOLDER, "Paris").ask("Who is it?")
    assert "No word of the question" in answer.notes[0]
    assert pipeline(FOLDER, "Paris").ask("the capital").notes == ()


@pytest.mark.parametrize(
    ("text", "answer", "found"),
    [
        ("It was -5 degrees.", "5", False),
        ("-5 degrees.", "5", False),
        ("It was -5 degrees.", "-5", True),
        ("UTC+5:30.", "UTC+5", False),
        ("At 12:30.", "30", False),
        ("The 2-5 score.", "5", True),
        ("Now 5.", "5", True),
    ],
)
def test_whole_numbers_only(text: str, answer: str, found: bool) -> None:
    assert (cite(answer, [Document(text, id="d")]) is not None) == found


def test_bad_input() -> None:
    with pytest.raises(InputError, match="blank"):
        pipeline(FOLDER, "x").ask(" ")
    with pytest.raises(InputError, match="'dz' stands twice"):
        pipeline([FOLDER[0], FOLDER[0]], "x")
    with pytest.raises(InputError, match="any text"):
        pipeline(["", " "], "x")
    with pytest.raises(InputError, match="any text"):
        pipeline([], "x")
    with pytest.raises(InputError, match="at least 1"):
        pipeline(FOLDER, "x", read=0)


TEXT = st.text(alphabet="ab A.!?\n\r\t\"'1é\u0130\u00a0", max_size=120)


@given(st.lists(TEXT, min_size=1, max_size=4), TEXT, TEXT, st.integers(1, 40))
def test_a_citation_is_a_slice_of_its_document_always(texts: list[str], answer: str, question: str, size: int) -> None:
    originals = {str(i): Document(text, id=str(i)) for i, text in enumerate(texts)}
    cut = [passage.as_document() for document in originals.values() for passage in passages(document, size)]
    citation = cite(answer, cut, question)
    if citation is not None:
        assert originals[citation.document_id].text[citation.start : citation.end] == citation.quote
        assert citation.quote


@given(TEXT, st.integers(0, 119), st.integers(1, 120))
def test_whole_words_of_a_document_are_found(text: str, start: int, length: int) -> None:
    words = text[start : start + length].split()[1:-1]
    if any(character.isalnum() for character in "".join(words)) and not words[-1].endswith("."):
        found = cite(" ".join(words), [Document(text, id="d")])
        bounded = not (words[0][0].isdigit() or words[-1][-1].isdigit())
        if bounded:
            assert found is not None


@settings(max_examples=12, deadline=None)
@given(
    texts=st.lists(
        st.text(st.sampled_from("ab .!?\n\u00e9\u2028\U0001f600"), min_size=1, max_size=300), min_size=1, max_size=4
    ),
    data=st.data(),
)
def test_citations_through_an_index_are_exact(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], data: st.DataObject
) -> None:
    """Whatever the documents, a quote is the slice of the document that its offsets name."""
    documents = [Document(f"needle {text}", id=f"d{i}", title="T" * (i % 2) or None) for i, text in enumerate(texts)]
    words = data.draw(st.sampled_from(documents)).text.split()
    start = data.draw(st.integers(0, len(words) - 1))
    answer = " ".join(words[start : start + 3])
    with Index.open(tmp_path_factory.mktemp("ix") / "ix", passage_chars=40) as index:
        index.add(documents)
        answered = pipeline(index, answer, candidates=50, read=50).ask("needle")
    for citation in answered.citations:
        text = next(d.text for d in documents if d.id == citation.document_id)
        assert text[citation.start : citation.end] == citation.quote
    for ranked in answered.ranking:
        text = next(d.text for d in documents if d.id == ranked.id)
        begin = ranked.document.metadata["passage_start"]
        assert text[begin : begin + len(ranked.document.text)] == ranked.document.text
