"""Who wins a task, in plain words: a difference counts as resolved when its interval excludes 0."""

from __future__ import annotations

from typing import Any

from headwater.evaluate.bench.layout import Json, headline, interval, less_is_better, means, number, value

ALPHA = 0.05  # what a corrected p-value is held against


def verdict(task: Json) -> str:
    """Who leads on the headline metric, how far from the baseline, and whether that is resolved."""
    metric = headline(task)
    found = means(task, metric)
    if not found:
        return f"No system has a {metric}."
    first = leaders(task)
    best = number(found[first[0]])
    if len(found) == 1:
        return f"Only {first[0]} was measured: {metric} {best}."
    if len(first) == len(found):
        return f"All systems have the same {metric}, {best}."
    if len(first) > 1:
        return f"{', '.join(first)} share the best {metric}, {best}. {_tally(task)}".strip()
    return " ".join(filter(None, [f"{first[0]} has the best {metric}, {best}.", _lead(task, first[0]), _tally(task)]))


def leaders(task: Json) -> list[str]:
    """The systems with the best mean of the headline metric: one, or more where they are equal."""
    metric = headline(task)
    found = means(task, metric)
    best = (min if less_is_better(task, metric) else max)(found.values(), default=None)
    return [system for system, mean in found.items() if mean == best]


def resolved(row: Json) -> bool:
    """Whether the interval of a difference excludes 0."""
    low, high = value(row, "low"), value(row, "high")
    return low is not None and high is not None and (low > 0 or high < 0)


def standing(task: Json, system: str) -> str:
    """How a system stands to the baseline on the headline metric: better, worse, not resolved; empty if not tested."""
    rows = [row for row in _rows(task) if row["system"] == system]
    if not rows:
        return ""
    return _direction(task, rows[0]) if resolved(rows[0]) else "not resolved"


def _lead(task: Json, leader: str) -> str:
    """The leader against the baseline; where the baseline leads, the best of the others against it."""
    rows = _rows(task)
    own = [row for row in rows if row["system"] == leader]
    if own:
        return f"It is {_distance(task, own[0])}"
    rivals = [row for row in rows if row["baseline"] == leader]
    if not rivals:
        return ""
    closest = (min if less_is_better(task, headline(task)) else max)(rivals, key=lambda row: row["mean"])
    return f"It is the baseline; the best of the others, {closest['system']}, is {_distance(task, closest)}"


def _distance(task: Json, row: Json) -> str:
    mean = row["mean"]
    side = "higher" if mean > 0 else "lower"
    text = f"{number(abs(mean))} {side} than {row['baseline']} (difference {number(mean, signed=True)}"
    text += f" {interval(row, signed=True)}): " if interval(row) else "): "
    if not resolved(row):
        text += "the interval does not exclude 0, so the difference is not resolved"
        detectable = value(row, "detectable")
        return f"{text}; about {number(detectable)} could have been seen." if detectable else f"{text}."
    corrected = value(row, "p_holm")
    if corrected is not None and corrected >= ALPHA:
        return (
            f"{text}the interval excludes 0, but after Holm's correction for the number of comparisons p is "
            f"{corrected:.3f}, so it may be chance."
        )
    return f"{text}the interval excludes 0, so the difference is resolved."


def _tally(task: Json) -> str:
    """How many systems stand on which side of the baseline, where there are several."""
    rows = _rows(task)
    if len(rows) < 2 or len({row["baseline"] for row in rows}) > 1:
        return ""
    sides = [_direction(task, row) if resolved(row) else "not resolved" for row in rows]
    return (
        f"Of {len(rows)} systems compared with {rows[0]['baseline']}: {sides.count('better')} better, "
        f"{sides.count('worse')} worse, {sides.count('not resolved')} not resolved."
    )


def _rows(task: Json) -> list[Any]:
    """The differences on the headline metric that have a mean."""
    found = task.get("differences") or ()
    return [row for row in found if row["metric"] == headline(task) and value(row) is not None]


def _direction(task: Json, row: Json) -> str:
    return "better" if (row["mean"] > 0) != less_is_better(task, headline(task)) else "worse"
