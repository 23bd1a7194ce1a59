"""One self-contained HTML page out of a result: pictures, rankings side by side, tokens, cited answers.

The page asks nothing of a network: pictures are inline SVG, the only script is that of the head explorer. Every text
that comes from documents, questions or a model is escaped.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headwater import plots
from headwater.evaluate import explorer_page
from headwater.evaluate.files import write_page
from headwater.evaluate.page import document, escape, facts

Json = Mapping[str, Any]


def write_report(result: Json, path: str | Path) -> Path:
    """Write the page of a `demo` result.

    Args:
        result: what `headwater.evaluate.demo.run` returns (also in result.json).
        path: the .html file.

    Raises:
        InputError: when the file cannot be written.
    """
    return write_page(path, render(result))


def render(result: Json) -> str:
    """The page as a string."""
    body = [
        _opening(result),
        _heads(result["heads"]),
        explorer_page.section(result["explorer"]),
        _ranking(result["ranking"]),
        "<h2>Questions, one by one</h2><p>Candidates in the order of each ranker, first five shown; the gold document "
        "is framed. Below them the words that the query-focused heads looked at, and the answer the same model read "
        "out of the five documents ranked best, with the sentence it is cited from.</p>",
        *[_question(question) for question in result["questions"]],
        _made(result["made"]),
    ]
    style, script = explorer_page.STYLE, explorer_page.script()
    return document("headwater: from inside the model", "".join(body), style, script)


def _opening(result: Json) -> str:
    ranking, reading = result["ranking"], result["reading"]
    tiles = [
        (name, _percent(row["R@1"]["mean"]), f"gold document first, {_layers(row, ranking)}")
        for name, row in ranking["systems"].items()
    ]
    tiles.append(("answers", _percent(reading["systems"]["model"]["mean"]), "normalised exact match, gold among 5"))
    cells = "".join(
        f'<div class="tile"><span class="soft">{escape(name)}</span><b>{value}</b>'
        f'<span class="small soft">{escape(note)}</span></div>'
        for name, value, note in tiles
    )
    return (
        f"<h1>What {escape(result['made']['model'])} reads, seen from inside</h1>"
        f"<p>A few attention heads of a language model look at the passage that answers a question. They were found on "
        f"{result['heads']['examples']} questions about some countries, then ranked {ranking['candidates']} documents "
        f"for each of {ranking['n']} questions about {ranking['groups']} other countries.</p>"
        f'<div class="tiles">{cells}</div>'
    )


def _heads(heads: Json) -> str:
    listed = ", ".join(f"{layer}-{head}" for layer, head in heads["chosen"])
    return (
        f"<h2>The heads</h2><p>Score of every head: how much more of its attention goes to the gold documents when "
        f"the question is asked than when it is not. The {len(heads['chosen'])} chosen heads, best first (layer-head): "
        f"<code>{listed}</code>.</p>"
    )


def _ranking(ranking: Json) -> str:
    rows = {name: row["R@1"] for name, row in ranking["systems"].items()}
    figure = plots.svg(plots.comparison(rows, "gold document ranked first (95 % interval)"), "Ranking comparison")
    lines = "".join(
        f'<tr><td>{escape(name)}</td><td class="num">{_interval(row["nDCG@10"])}</td>'
        f'<td class="num">{_interval(row["R@1"])}</td><td class="num">{_layers(row, ranking)}</td></tr>'
        for name, row in ranking["systems"].items()
    )
    return (
        f"<h2>Rankings</h2><p>{ranking['n']} questions, {ranking['candidates']} shuffled candidates each: half the "
        "same kind of fact about other countries, half other facts about the same country. Intervals resample "
        f"countries.</p><div class='figures'>{figure}</div><div class='scroll'><table><tr><th>ranker</th>"
        '<th class="num">nDCG@10</th><th class="num">recall@1</th><th class="num">cost</th></tr>'
        f"{lines}</table></div>"
    )


def _question(question: Json) -> str:
    columns = "".join(
        f"<div><h4>{escape(name)}</h4><ol>{''.join(_place(entry) for entry in entries)}</ol></div>"
        for name, entries in question["rankings"].items()
    )
    seen = "".join(_looked_at(item) for item in question["tokens"])
    if seen:
        seen = f'<h4>What the heads looked at in their first documents</h4><div class="columns">{seen}</div>'
    answer = question["answer"]
    verdict = '<b class="yes">right</b>' if answer["correct"] else '<b class="no">wrong</b>'
    expected = " or ".join(escape(text) for text in question["answers"])
    said = (
        f"<h4>Answer</h4><p><b>{escape(answer['text'] or '(nothing)')}</b> — {verdict}, expected: {expected}</p>"
        + "".join(_citation(citation, answer["text"]) for citation in answer["citations"])
    )
    if not answer["supported"]:
        said += '<p class="small soft">Not supported: these words stand in none of the documents read.</p>'
    return (
        f'<section class="card"><h3>{escape(question["text"])}</h3><div class="columns">{columns}</div>{seen}{said}'
        "</section>"
    )


def _looked_at(item: Json) -> str:
    kind = "tokens gold" if item["gold"] else "tokens"
    return f'<div class="{kind}">{plots.tokens_html(item["tokens"], item["largest"])}</div>'


def _place(entry: Json) -> str:
    kind = ' class="gold"' if entry["gold"] else ""
    return (
        f'<li{kind}><span class="n">{entry["rank"]}</span><span>{escape(entry["title"] or "")} '
        f'<span class="s">{escape(entry["text"])}</span></span></li>'
    )


def _citation(citation: Json, answer: str) -> str:
    quote = citation["quote"]
    at = quote.lower().find(answer.lower()) if len(quote) == len(quote.lower()) else -1
    if at < 0:
        shown = escape(quote)
    else:
        end = at + len(answer)
        shown = f"{escape(quote[:at])}<mark>{escape(quote[at:end])}</mark>{escape(quote[end:])}"
    where = f"{escape(citation['document_id'])}, characters {citation['start']}–{citation['end']}"
    return f'<blockquote>{shown}<br><span class="small soft">{where}</span></blockquote>'


def _made(made: Json) -> str:
    return (
        "<h2>How it was made</h2><p>Documents: sections of the CIA World Factbook (public domain, CC0). Everything on "
        "this page was computed by one command on this machine; result.json beside it holds the "
        f"same numbers.</p>{facts(made)}"
    )


def _layers(row: Json, ranking: Json) -> str:
    return f"{row['layers']} of {ranking['layers']} layers" if row["layers"] else "no model"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _interval(row: Json) -> str:
    return f"{row['mean']:.3f} <span class='soft'>[{row['low']:.3f}, {row['high']:.3f}]</span>"
