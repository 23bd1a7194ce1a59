"""What the records of `headwater.evaluate.long_job` come to: recall, answers, costs and differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from headwater.evaluate.statistics import mean_interval, paired_difference

FULL, NOTHING, ORACLE = "full context", "no text", "oracle"
FIRST, DRAWN, KEYWORDS = "first chunks", "random chunks", "BM25"
ALL, QR, RANDOM, SMALL = "all heads", "QR heads", "random heads", "QR heads of the smaller model"
ONE = "one prompt"  # how a list that fits is ranked
Record = Mapping[str, Any]


def key_of(places: Sequence[int], k: int) -> str:
    """The name of a choice of chunks: the first k places, in the order of the text."""
    return ",".join(map(str, sorted(places[:k])))


def summarise(records: Sequence[Record], kept: Sequence[int], control_kept: Sequence[int], seed: int) -> dict[str, Any]:
    """Everything the tables show of the texts of one length.

    Args:
        records: one per question, as `long_job` writes them.
        kept: numbers of chunks that count.
        control_kept: those that were read for first chunks, random chunks and random heads.
        seed: of the bootstrap.

    Returns:
        `n`, `groups`, mean `chunks`, `shortened` (texts whose end the model could not read), `windows` (per ranker the
        texts whose chunks did not fit one prompt); `whole`: answers of the full context and without text; `systems`:
        per ranker and k `recall` and, where it was read, `answer`, `tokens` and `flops` of the reading; `ranking`: mean
        tokens and operations of a ranking; `differences`: per ranker and k the paired gains in recall over BM25, in
        answers over the full context and over BM25. Intervals are over countries; random heads' recall is that of all
        sets, their answers those of one set per question.
    """
    groups = [str(record["group"]) for record in records]
    rows = {name: {k: _row(records, name, k, control_kept) for k in kept} for name in _names(records)}
    whole = {name: [float(record["reads"][name]["right"]) for record in records] for name in (FULL, NOTHING)}

    def mean(values: Any) -> dict[str, float]:
        return mean_interval(values, groups, seed=seed).as_dict()

    def gap(first: Any, second: Any) -> dict[str, float]:
        return paired_difference(first, second, groups, seed=seed).as_dict()

    def figures(row: _Row) -> dict[str, Any]:
        return {"recall": mean(row.recall)} | (
            {} if row.reads is None else {"answer": mean(row.right), **_cost(row.reads)}
        )

    def gains(row: _Row, bm25: _Row) -> dict[str, Any]:
        found = {"recall to BM25": gap(row.recall, bm25.recall)}
        if row.reads is not None:
            found["answer to full context"] = gap(row.right, whole[FULL])
            found["answer to BM25"] = gap(row.right, bm25.right)
        return found

    return {
        "n": len(records),
        "groups": len(set(groups)),
        "chunks": float(np.mean([record["chunks"] for record in records])),
        "shortened": sum(record["shortened"] > 0 for record in records),
        "windows": {
            name: sum(record["ways"][name] != ONE for record in records)
            for name in records[0]["ways"]
            if not name.startswith(RANDOM)
        },
        "whole": {
            name: {"answer": mean(row), **_cost([record["reads"][name] for record in records])}
            for name, row in whole.items()
        },
        "systems": {name: {str(k): figures(row) for k, row in own.items()} for name, own in rows.items()},
        "ranking": _ranking(records),
        "differences": {
            name: {str(k): gains(row, rows[KEYWORDS][k]) for k, row in own.items()} for name, own in rows.items()
        },
    }


@dataclass(frozen=True)
class _Row:
    """One ranker and one number of chunks: recall `[questions]` or `[sets, questions]`, and what was read."""

    recall: np.ndarray
    reads: list[Mapping[str, Any]] | None

    @property
    def right(self) -> np.ndarray:
        return np.array([float(read["right"]) for read in self.reads or []])


def _names(records: Sequence[Record]) -> list[str]:
    """The rankers; random sets are one."""
    return list(dict.fromkeys(RANDOM if name.startswith(RANDOM) else name for name in records[0]["orders"]))


def _row(records: Sequence[Record], name: str, k: int, control_kept: Sequence[int]) -> _Row:
    sets = [each for each in records[0]["orders"] if each.startswith(RANDOM)] if name == RANDOM else [name]
    held = np.array([[_held(record, each, k) for record in records] for each in sets], float)
    recall = held[0] if len(held) == 1 else held
    if name in (FIRST, DRAWN, RANDOM) and k not in control_kept:
        return _Row(recall, None)
    return _Row(recall, [_read(record, record["read_of_random"] if name == RANDOM else name, k) for record in records])


def _held(record: Record, name: str, k: int) -> bool:
    """Whether the first k chunks hold all of the sentence that answers."""
    return set(record["gold"]) <= set(record["orders"][name][:k])


def _read(record: Record, name: str, k: int) -> Mapping[str, Any]:
    found: Mapping[str, Any] = record["reads"][key_of(record["orders"][name], k)]
    return found


def _cost(spent: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Mean tokens and operations."""
    return {what: float(np.mean([each[what] for each in spent])) for what in ("tokens", "flops")}


def _ranking(records: Sequence[Record]) -> dict[str, dict[str, float]]:
    """Mean cost of one ranking, over the questions on which it was measured."""
    rows: dict[str, list[Mapping[str, float]]] = {}
    for record in records:
        for name, cost in record["ranking"].items():
            rows.setdefault(name, []).append(cost)
    return {name: _cost(found) | {"n": len(found)} for name, found in rows.items()}
