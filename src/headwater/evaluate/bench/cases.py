"""Wins and losses of a system against a baseline as HTML: question, what was expected, what both gave."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from headwater.evaluate.bench.layout import Json, headline, less_is_better, number
from headwater.evaluate.bench.records import Case, Record, wins_and_losses
from headwater.evaluate.page import escape, flat

QUERY, ANSWER = 600, 400  # characters shown of a query and of an answer


def wins_and_losses_html(
    task: Json,
    items: Mapping[str, Json],
    names: tuple[str, str],
    system: Mapping[str, Record],
    baseline: Mapping[str, Record],
) -> str:
    """A foldable part of a page with the five largest gains and the five largest losses on the headline metric.

    Args:
        task: of the summary.
        items: what was asked, by id; may be empty.
        names: of the system and of the baseline.
        system: what the system gave, by id.
        baseline: what the baseline gave, by id.
    """
    title = f"{escape(names[0])} against {escape(names[1])}: wins and losses"
    if not system or not baseline:
        lacking = names[0] if not system else names[1]
        return f"<details><summary>{title}</summary><p>The run holds no outputs of {escape(lacking)}.</p></details>"
    wins, losses = wins_and_losses(system, baseline, less_is_better(task, headline(task)))
    parts = [
        f"<h4>{heading}</h4>{''.join(_case(task, items.get(case.id, {}), names, case) for case in cases)}"
        if cases
        else f"<p>There is no query on which {escape(names[0])} is {word} than {escape(names[1])}.</p>"
        for heading, word, cases in (("Largest gains", "better", wins), ("Largest losses", "worse", losses))
    ]
    return f"<details><summary>{title}</summary>{''.join(parts)}</details>"


def _case(task: Json, item: Json, names: tuple[str, str], case: Case) -> str:
    relevant = [entry for entry in item.get("relevant") or () if entry]
    ids = [str(entry[0]) for entry in relevant]
    both = "".join(
        f"<div><h4>{escape(name)}: {escape(headline(task))} {_score(record)}</h4>"
        f"{_output(task, record.said, ids)}</div>"
        for name, record in zip(names, (case.system, case.baseline), strict=True)
    )
    facets = "".join(f", {escape(name)} {escape(value)}" for name, value in (item.get("facets") or {}).items())
    return (
        f"<div class='card case'><p><b>{escape(_cut(item.get('query') or case.id, QUERY))}</b> "
        f"<span class='small soft'>{escape(case.id)}{facets}</span></p>{_expected(task, item, relevant)}"
        f"<div class='columns'>{both}</div></div>"
    )


def _expected(task: Json, item: Json, relevant: Sequence[Sequence[str]]) -> str:
    said = []
    answers = item.get("answers") or ()
    if answers:
        said.append(f"<p>Expected: {' or '.join(escape(_cut(answer, ANSWER)) for answer in answers)}</p>")
    elif task.get("kind") == "reading" and item:
        said.append("<p>Expected: that no answer is given.</p>")
    if relevant:
        rows = "".join(f"<li>{_document(entry)}</li>" for entry in relevant)
        said.append(f"<h4>Relevant documents</h4><ol>{rows}</ol>")
    return "".join(said)


def _output(task: Json, said: Json, relevant: Sequence[str]) -> str:
    if said.get("error"):
        return f"<p class='no'>Failed: {escape(_cut(said['error'], ANSWER))}</p>"
    output, kind = said.get("output"), task.get("kind")
    if kind in ("ranking", "search"):
        rows = "".join(
            f"<li class='{'gold' if str(entry[0]) in relevant else 'other'}'><span class='n'>{place}</span>"
            f"{_document(entry)}</li>"
            for place, entry in enumerate(said.get("shown") or (), 1)
        )
        return f"<ol>{rows}</ol>{_places(list(map(str, output or ())), relevant)}"
    if kind == "reading":
        return f"<p>{escape(_cut(output, ANSWER)) if output else '(nothing)'}</p>"
    if kind == "choice" and isinstance(output, list):
        return f"<p>log probabilities {', '.join(f'{figure:.3f}' for figure in output)}</p>"
    if kind == "text" and isinstance(output, list) and len(output) == 3:
        nats, tokens, size = output
        return f"<p>{nats:,.1f} nats, {tokens:,} tokens, {size:,} bytes</p>"
    return f"<p>{escape(_cut(flat(output), ANSWER))}</p>"


def _places(output: Sequence[str], relevant: Sequence[str]) -> str:
    """Where the relevant documents above stand in the whole list."""
    if not relevant:
        return ""
    places = [str(output.index(name) + 1) if name in output else "not listed" for name in relevant]
    return f"<p class='small soft'>Places of the relevant documents above: {', '.join(places)}, of {len(output)}.</p>"


def _document(entry: Sequence[str]) -> str:
    name, title, snippet = [*map(str, entry), "", "", ""][:3]
    return f"<span>{escape(title or name)} <span class='s'>{escape(snippet)}</span></span>"


def _score(record: Record) -> str:
    several = f" (mean of {record.seeds} seeds, the first shown)" if record.seeds > 1 else ""
    return f"{number(record.score)}{several}"


def _cut(text: object, length: int) -> str:
    whole = str(text)
    return whole if len(whole) <= length else f"{whole[:length].rstrip()} …"
