"""How the vectors of an index are searched: all of them, or through one of LanceDB's approximate indexes.

An approximate index is only worth having with its recall beside it, so building one measures that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from headwater.errors import InputError

KINDS = ("exact", "ivf-pq", "hnsw")
FEWEST = 256  # vectors that product quantisation learns from, at least
COLUMN = "vector"
_PROBES = 20  # partitions that are searched
_REFINE = 10  # so many times the hits are scored again, exactly
_SAMPLE = 64  # stored vectors whose neighbours measure the recall
_TYPES = {"IvfPq": "ivf-pq", "IvfHnswSq": "hnsw", "IvfHnswPq": "hnsw", "IvfHnswFlat": "hnsw"}


@dataclass(frozen=True)
class VectorIndex:
    """How vectors are searched.

    Attributes:
        kind: "exact", "ivf-pq" or "hnsw".
        recall: share of the ten nearest neighbours that it finds, on a sample of the stored vectors.
        sample: how many of them.
    """

    kind: str
    recall: float
    sample: int


def kind_of(table: Any) -> str:
    """How the vectors of a table are searched now."""
    names = [str(each.index_type) for each in table.list_indices() if list(each.columns) == [COLUMN]]
    return "exact" if not names else _TYPES.get(names[0], names[0])


def nearest_rows(table: Any, vector: np.ndarray, k: int, exact: bool = False) -> list[dict[str, Any]]:
    """The k rows nearest to a vector, with their `_distance` (1 - cosine), computed from the stored vectors."""
    query = table.search(vector, vector_column_name=COLUMN).distance_type("cosine")
    query = query.bypass_vector_index() if exact else query.nprobes(_PROBES).refine_factor(_REFINE)
    found: list[dict[str, Any]] = query.limit(k).to_list()
    return found


def fused_rows(table: Any, vector: np.ndarray, words: Any, k: int, depth: int) -> list[dict[str, Any]]:
    """The best rows of two lists of `depth`, by vector and by words, joined by reciprocal rank (`_relevance_score`)."""
    from lancedb.rerankers import RRFReranker

    query = table.search(query_type="hybrid", vector_column_name=COLUMN).distance_type("cosine")
    query = query.vector(vector).text(words).nprobes(_PROBES).refine_factor(_REFINE)
    found: list[dict[str, Any]] = query.rerank(RRFReranker()).limit(max(k, depth)).to_list()
    return found


def build(table: Any, kind: str) -> VectorIndex:
    """Search the vectors of a table this way from now on, and measure what that finds.

    Raises:
        InputError: an unknown kind, or too few vectors for an approximate index.
    """
    if kind not in KINDS:
        raise InputError(f"Unknown kind of vector index {kind!r}; use one of {', '.join(KINDS)}.")
    rows = table.count_rows()
    if kind != "exact" and rows < FEWEST:
        raise InputError(
            f"The index holds {rows} passages; below {FEWEST}, exact search is as quick: leave the vector index out."
        )
    for each in table.list_indices():
        if list(each.columns) == [COLUMN]:
            table.drop_index(each.name)
    if kind == "exact":
        return VectorIndex(kind, 1.0, 0)
    from lancedb.index import HnswSq, IvfPq

    config = (IvfPq if kind == "ivf-pq" else HnswSq)(distance_type="cosine")
    table.create_index(COLUMN, config=config)
    return VectorIndex(kind, *_recall(table))


def _recall(table: Any, k: int = 10) -> tuple[float, int]:
    """Share of the k nearest other rows that the index finds, and of how many rows that is the mean."""
    keys = sorted(row["key"] for row in table.search().select(["key"]).limit(None).to_list())
    chosen = keys[:: max(1, len(keys) // _SAMPLE)][:_SAMPLE]
    from lancedb.expr import col

    rows = table.search().where(col("key").isin(chosen)).select(["key", COLUMN]).limit(None).to_list()
    shares = []
    for row in rows:
        lists = [nearest_rows(table, np.asarray(row[COLUMN], np.float32), k + 1, exact) for exact in (True, False)]
        wanted, found = ({each["key"] for each in some} - {row["key"]} for some in lists)
        shares.append(len(wanted & found) / max(1, len(wanted)))
    return float(np.mean(shares)), len(shares)
