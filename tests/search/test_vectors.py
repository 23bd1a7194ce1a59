"""Dense and hybrid search on disk: the real embedder, fusion beside a plain one, approximate indexes beside exact."""

import numpy as np
import pytest

import headwater as hw
from headwater.errors import InputError
from headwater.search.embedder import Embedder
from headwater.search.exact import Dense
from headwater.search.index import Index
from models import random_lm

WORDS = ["ant", "bee", "cow", "dog", "elk", "fox"]


class Drawn:
    """A fixed random vector for each text."""

    name, fingerprint, dimension = "drawn", "abc", 16

    def embed(self, texts, kind):
        rows = [np.random.default_rng(list(text.encode())).standard_normal(self.dimension) for text in texts]
        return np.array([row / np.linalg.norm(row) for row in rows], np.float32)


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """An index with more passages than an approximate index needs."""
    documents = [hw.Document(f"{WORDS[n % 6]} number {n}" + " pad" * (n % 7), id=str(n)) for n in range(400)]
    with Index.open(tmp_path_factory.mktemp("ix") / "many", embedder=Drawn()) as index:
        index.add(documents)
        yield index


def test_the_embedder_of_an_index_is_checked(tmp_path):
    lm = random_lm(seed=3, layers=2)
    embedder = Embedder(lm)
    documents = [hw.Document(f"{word} eats {word[::-1]}", id=word, title=word.upper()) for word in WORDS]
    with Index.open(tmp_path / "ix", embedder=embedder) as index:
        index.add(documents)
        assert index.info().embedder["fingerprint"] == embedder.fingerprint
        assert index.info().vector_index == "exact"
        hits = index.search("bee", k=4, mode="dense")
        want = Dense(documents, embedder).search("bee", k=4)
        assert [hit.document.id for hit in hits] == [hit.document.id for hit in want]
        assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in want], abs=1e-4)
    with pytest.raises(InputError, match="with the vectors of"):
        Index.open(tmp_path / "ix", embedder=Embedder(lm, dimension=32))
    with pytest.raises(InputError, match="with the vectors of"):
        Index.open(tmp_path / "ix", embedder=Embedder(random_lm(seed=4, layers=2)))
    with Index.open(tmp_path / "words") as index:
        index.add(documents)
        assert index.info().vector_index is None
        with pytest.raises(InputError, match="has no vectors"):
            index.index_vectors("hnsw")
    with pytest.raises(InputError, match="made without vectors"):
        Index.open(tmp_path / "words", embedder=embedder)


def test_hybrid_is_reciprocal_rank_fusion(many):
    query = "44 61 78"  # three documents of different lengths, so that no BM25 scores are tied
    lists = [[hit.document.id for hit in many.search(query, k=100, mode=mode)] for mode in ("dense", "bm25")]
    assert lists[1] == ["78", "44", "61"]
    fused: dict[str, float] = {}
    for one in lists:
        for rank, name in enumerate(one, 1):
            fused[name] = fused.get(name, 0) + 1 / (60 + rank)
    found = many.search(query, k=8, mode="hybrid")
    assert [hit.score for hit in found] == pytest.approx(sorted(fused.values(), reverse=True)[:8], abs=1e-6)
    assert [hit.score for hit in many.search(query, k=8)] == [hit.score for hit in found], "the default"
    same = many.search("cow number 44 pad pad", k=1, mode="hybrid")[0]
    assert same.document.id == "44"
    assert same.score == pytest.approx(2 / 61, abs=1e-6), "first in both lists"
    assert len(many.search("cow number 44", k=150, mode="hybrid")) == 150


@pytest.mark.parametrize("kind", ["ivf-pq", "hnsw"])
def test_approximate_indexes(many, kind):
    exact = many.search("fox number 7", k=10, mode="dense")
    found = many.index_vectors(kind)
    assert (found.kind, found.sample) == (kind, 64)
    assert 0.8 < found.recall <= 1
    assert many.info().vector_index == kind
    hits = many.search("fox number 7", k=10, mode="dense")
    scores = {hit.document.id: hit.score for hit in exact}
    both = [hit for hit in hits if hit.document.id in scores]
    assert len(both) >= 8
    assert [hit.score for hit in both] == pytest.approx([scores[hit.document.id] for hit in both], abs=1e-5)
    many.add([hw.Document("a late one", id=f"late {kind}")])
    assert many.search("a late one", k=1, mode="dense")[0].document.id == f"late {kind}"
    assert many.search("a late one", k=1, mode="hybrid")[0].document.id == f"late {kind}"
    many.delete([f"late {kind}"])
    assert many.index_vectors("exact").recall == 1.0
    assert many.info().vector_index == "exact"
    again = many.search("fox number 7", k=10, mode="dense")
    assert [hit.document.id for hit in again] == [hit.document.id for hit in exact]


def test_bad_kinds(many, tmp_path):
    with pytest.raises(InputError, match="Unknown kind of vector index 'lsh'"):
        many.index_vectors("lsh")
    with Index.open(tmp_path / "few", embedder=Drawn()) as few:
        few.add(["one", "two"])
        with pytest.raises(InputError, match="holds 2 passages; below 256"):
            few.index_vectors("hnsw")
        few.close()
        with pytest.raises(InputError, match="closed"):
            few.index_vectors("exact")
