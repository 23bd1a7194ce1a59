"""Dense models and cross-encoders against the library called directly, on small random models; bad input."""

import builtins
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, BertModel, BertTokenizerFast

import headwater as hw
from headwater.errors import InputError, MissingExtraError, ModelError
from headwater.rank.external import CrossEncoderModel, DenseModel, full_text

QUERY = "Which city?"
DOCUMENTS = [hw.Document("Algiers is a city.", title="Algeria"), "Paris too.", " ", hw.Document("x", title=" T ")]
SHOWN = ["Algeria Algiers is a city.", "Paris too.", "T  x"]
PLACES = [0, 1, 3]


@pytest.fixture(scope="module")
def library() -> Any:
    return pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")


def checkpoint(folder: Path, **labels: Any) -> Path:
    """A random BERT with a tokenizer of single letters, saved as a plain transformers checkpoint."""
    torch.manual_seed(0)
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.?:"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=128,
        initializer_range=0.3,
        **labels,
    )
    (BertForSequenceClassification if labels else BertModel)(config).save_pretrained(folder)
    BertTokenizerFast(str(folder / "vocab.txt"), model_max_length=128).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def dense(library: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A bi-encoder with prompts of its own, once for each similarity."""
    plain = checkpoint(tmp_path_factory.mktemp("plain"))
    saved = {}
    for similarity in ("cosine", "dot", "euclidean"):
        saved[similarity] = tmp_path_factory.mktemp(similarity)
        prompts = {"query": "query: ", "document": "passage: "}
        model = library.SentenceTransformer(str(plain), device="cpu", prompts=prompts, similarity_fn_name=similarity)
        model.save_pretrained(str(saved[similarity]))
    return saved


@pytest.mark.parametrize("similarity", ["cosine", "dot", "euclidean"])
def test_dense_scores_are_the_library_s(library: Any, dense: dict[str, Path], similarity: str) -> None:
    model = DenseModel(dense[similarity], device="cpu")
    theirs = library.SentenceTransformer(str(dense[similarity]), device="cpu")
    query, documents = theirs.encode_query([QUERY]), theirs.encode_document(SHOWN)
    want = theirs.similarity(query, documents)[0].numpy()
    scores = model.scores(QUERY, DOCUMENTS)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores[PLACES], want, rtol=1e-5, atol=1e-5)
    assert scores[2] == -np.inf
    np.testing.assert_allclose(model.encode([QUERY], "query"), query, atol=1e-5)
    np.testing.assert_allclose(model.encode(SHOWN, "document"), documents, atol=1e-5)
    assert np.abs(model.encode([QUERY], "query") - model.encode([QUERY], "document")).max() > 1e-3


@pytest.mark.parametrize("similarity", ["cosine", "dot", "euclidean"])
def test_search_is_the_sorted_list_of_scores(dense: dict[str, Path], similarity: str) -> None:
    model = DenseModel(dense[similarity], device="cpu")
    documents = [hw.Document(f"text {i * 7919 % 83} {'ab' * (i % 5)}" if i % 6 else " ") for i in range(50)]
    steps: list[tuple[int, int]] = []
    index = model.index(documents, lambda done, total: steps.append((done, total)))
    scores = model.scores(QUERY, documents)
    hits = index.search(QUERY, 60)
    assert [hit.index for hit in hits] == [int(i) for i in np.argsort(-scores, kind="stable")][: len(hits)]
    assert len(hits) == sum(not document.blank for document in documents)
    assert all(hit.document is documents[hit.index] for hit in hits)
    np.testing.assert_allclose([hit.score for hit in hits], scores[[hit.index for hit in hits]], atol=1e-5)
    assert [hit.index for hit in index.search(QUERY, 3)] == [hit.index for hit in hits[:3]]
    assert steps == [(41, 41)]


def test_empty_collections(dense: dict[str, Path]) -> None:
    model = DenseModel(dense["cosine"], device="cpu")
    assert model.scores(QUERY, []).shape == (0,)
    assert model.encode([], "document").shape[0] == 0
    assert model.index([" "]).search(QUERY) == []
    assert model.scores(QUERY, [" "]).tolist() == [-np.inf]


def test_cross_encoder_scores_are_the_library_s(library: Any, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "cross", num_labels=1)
    scores = CrossEncoderModel(folder, device="cpu").scores(QUERY, DOCUMENTS)
    want = library.CrossEncoder(str(folder), device="cpu").predict([(QUERY, text) for text in SHOWN])
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores[PLACES], want, atol=1e-5)
    assert scores[2] == -np.inf
    assert CrossEncoderModel(folder, device="cpu").scores(QUERY, []).shape == (0,)


def test_bad_input(dense: dict[str, Path], tmp_path: Path) -> None:
    model = DenseModel(dense["cosine"], device="cpu")
    with pytest.raises(InputError, match="blank"):
        model.scores(" ", DOCUMENTS)
    with pytest.raises(InputError, match="kind"):
        model.encode(["a"], "passage")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="k must be"):
        model.index(DOCUMENTS).search(QUERY, 0)
    with pytest.raises(ModelError, match="gives 3 numbers"):
        CrossEncoderModel(checkpoint(tmp_path / "three", num_labels=3), device="cpu")
    with pytest.raises(ModelError, match="BertModel without a head"):
        CrossEncoderModel(checkpoint(tmp_path / "plain"), device="cpu")
    cross = CrossEncoderModel(checkpoint(tmp_path / "one", num_labels=1), device="cpu")
    with pytest.raises(InputError, match="blank"):
        cross.scores("", DOCUMENTS)


@pytest.mark.parametrize("family", [DenseModel, CrossEncoderModel])
def test_what_cannot_be_loaded(library: Any, family: Any, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{", encoding="utf-8")
    for wrong in (tmp_path, tmp_path / "nowhere" / "at" / "all"):
        with pytest.raises(ModelError, match="Could not load") as caught:
            family(wrong, device="cpu")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("family", [DenseModel, CrossEncoderModel])
def test_a_missing_package_names_the_extra(family: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "sentence_transformers":
            raise ImportError("No module named 'sentence_transformers'", name=name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match=r"sentence_transformers.*headwater\[eval\]"):
        family("some/model")


def test_title_and_text() -> None:
    assert full_text(hw.Document("text", title="Title")) == "Title text"
    assert full_text(hw.Document(" text ")) == "text"
    assert full_text(hw.Document("", title="Title")) == "Title"
