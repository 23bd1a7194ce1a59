"""Per-query retrieval metrics through ir_measures (trec_eval semantics), and answer match counts.

Rankings come in as ordered ids, so ties are broken by whoever made the ranking: our rankers by input position, which
the experiments shuffle; run files by `trec_order`. A query without a ranking counts zero. Whether a document with its
query's id is kept is up to the task.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from headwater.errors import InputError, MissingExtraError

MEASURES = ("nDCG@10", "R@1", "R@5", "RR")
Qrels = Mapping[str, Mapping[str, int]]


def require() -> None:
    """Check that the packages of the extra [eval] are there, before any work is done that needs them at its end.

    Raises:
        MissingExtraError: names the extra and the command that installs it.
    """
    try:
        import ir_measures  # noqa: F401
        import scipy.stats  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            f"Measuring needs {error.name}, which the extra [eval] brings: pip install 'headwater[eval]'."
        ) from error


def per_query(
    qrels: Qrels, rankings: Mapping[str, Sequence[str]], measures: Sequence[str] = MEASURES
) -> dict[str, dict[str, float]]:
    """Score rankings query by query.

    Args:
        qrels: query id -> document id -> grade (above 0 is relevant).
        rankings: query id -> document ids, best first.
        measures: names that ir_measures knows.

    Returns:
        measure -> query id -> value, over the queries of `qrels`.

    Raises:
        InputError: for a ranking with a repeated id, an unjudged query, or an unknown measure.
        MissingExtraError: when ir_measures is not installed.
    """
    require()
    import ir_measures

    stray = set(rankings) - set(qrels)
    if stray:
        raise InputError(f"There are rankings without judgements, the first for query {min(stray)!r}.")
    try:
        parsed = [ir_measures.parse_measure(name) for name in measures]
    except (NameError, ValueError) as error:
        raise InputError(f"Unknown measure in {list(measures)}: {error}.") from error
    run: dict[str, dict[str, float]] = {}
    for query, ranking in rankings.items():
        if len(set(ranking)) < len(ranking):
            raise InputError(f"The ranking of query {query!r} holds a document twice.")
        run[query] = {document: float(len(ranking) - place) for place, document in enumerate(ranking)}
    out = {name: dict.fromkeys(qrels, 0.0) for name in measures}
    if run:
        names = dict(zip(parsed, measures, strict=True))
        for value in ir_measures.iter_calc(parsed, {q: dict(g) for q, g in qrels.items()}, run):
            out[names[value.measure]][value.query_id] = float(value.value)
    return out


def trec_order(pairs: Iterable[tuple[str, float]]) -> list[str]:
    """Document ids of a scored list as trec_eval orders them: by score in single precision, ties by id, last first."""
    return [name for name, _ in sorted(pairs, key=lambda pair: (np.float32(pair[1]), pair[0].encode()), reverse=True)]


def order(scores: np.ndarray) -> list[int]:
    """Positions best first, ties by position; -inf (a blank document) last.

    Raises:
        InputError: when a score is NaN.
    """
    scores = np.asarray(scores, np.float64)
    if np.isnan(scores).any():
        raise InputError(f"The score of document {int(np.flatnonzero(np.isnan(scores))[0])} is NaN.")
    return [int(i) for i in np.argsort(-scores, kind="stable")]
