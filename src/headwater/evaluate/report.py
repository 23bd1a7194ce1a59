"""One self-contained HTML page out of a result: pictures, rankings side by side, tokens, cited answers.

The page asks nothing of a network: pictures are inline SVG, there is no script. Every text that comes from documents,
questions or a model is escaped.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from headwater import plots
from headwater.evaluate.files import write_page

Json = Mapping[str, Any]

_STYLE = """
:root{color-scheme:light dark;--ink:#1c2430;--soft:#5b6675;--line:#d9dee5;--paper:#fbfbf9;--card:#fff;--good:#1d7a4f;
--bad:#b23a48;--tint:42,127,158;--mark:#fff0b8}
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ee;--soft:#9aa5b4;--line:#333c48;--paper:#14181e;--card:#1b2129;
--good:#5cc892;--bad:#ef8490;--tint:64,160,198;--mark:#5a4a12}}
*{box-sizing:border-box}body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.55 system-ui,sans-serif}
main{max-width:1120px;margin:0 auto;padding:2rem 1.25rem 4rem}h1{font-size:1.9rem;line-height:1.2;margin:0 0 .4rem}
h2{font-size:1.3rem;margin:2.6rem 0 .6rem;border-top:1px solid var(--line);padding-top:1.4rem}
h3{font-size:1.05rem;margin:0 0 .6rem}p{max-width:75ch;margin:.4rem 0}.soft{color:var(--soft)}.small{font-size:.86rem}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(165px,1fr));gap:.8rem;margin:1.2rem 0}
.tile,.card{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:.9rem 1rem}
.tile b{display:block;font-size:1.7rem;line-height:1.2}.card{margin:1rem 0}
.figures{display:flex;flex-wrap:wrap;gap:1rem 2rem;align-items:center}.figures svg{max-width:100%;height:auto}
.columns{display:grid;grid-template-columns:repeat(auto-fit,minmax(225px,1fr));gap:.8rem}
.columns h4,.card h4{margin:.9rem 0 .3rem;font-size:.86rem;font-weight:600;color:var(--soft)}
ol{margin:0;padding:0;list-style:none;font-size:.9rem}ol li{display:flex;gap:.5rem;padding:.25rem .45rem;
border-radius:6px;border:1px solid transparent}ol li .n{color:var(--soft);min-width:1.4em;text-align:right}
ol li.gold{border-color:var(--good);font-weight:600}ol li.gold::after{content:"gold";color:var(--good);
font-size:.75rem;margin-left:auto;font-weight:600;align-self:center}ol li .s{color:var(--soft);font-weight:400}
.tokens{font-size:.9rem;overflow-wrap:anywhere;white-space:pre-wrap;padding:.35rem .6rem;border-radius:6px;
border:1px solid var(--line)}.tokens.gold{border-color:var(--good)}.t{background:rgba(var(--tint),calc(var(--w)*.75));
border-radius:3px}blockquote{margin:.4rem 0;padding:.2rem .9rem;border-left:3px solid var(--line);font-size:.94rem}
mark{background:var(--mark);color:inherit;border-radius:3px;padding:0 .1em}.yes{color:var(--good)}.no{color:var(--bad)}
table{border-collapse:collapse;font-size:.92rem;margin:.6rem 0}td,th{text-align:left;padding:.3rem 1rem .3rem 0;
border-bottom:1px solid var(--line);vertical-align:top}td.num,th.num{text-align:right;
font-variant-numeric:tabular-nums}.scroll{overflow-x:auto}code{font-size:.88em;overflow-wrap:anywhere}
"""


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
        _ranking(result["ranking"]),
        "<h2>Questions, one by one</h2><p>Candidates in the order of each ranker, first five shown; the gold document "
        "is framed. Below them the words that the query-focused heads looked at, and the answer the same model read "
        "out of the five documents ranked best, with the sentence it is cited from.</p>",
        *[_question(question) for question in result["questions"]],
        _made(result["made"]),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><title>headwater: from inside the model'
        f"</title><style>{_STYLE}</style></head><body><main>{''.join(body)}</main></body></html>\n"
    )


def _opening(result: Json) -> str:
    ranking, reading = result["ranking"], result["reading"]
    tiles = [
        (name, _percent(row["R@1"]["mean"]), f"gold document first, {_layers(row, ranking)}")
        for name, row in ranking["systems"].items()
    ]
    tiles.append(("answers", _percent(reading["systems"]["model"]["mean"]), "normalised exact match, gold among 5"))
    cells = "".join(
        f'<div class="tile"><span class="soft">{_text(name)}</span><b>{value}</b><span class="small soft">{_text(note)}'
        "</span></div>"
        for name, value, note in tiles
    )
    return (
        f"<h1>What {_text(result['made']['model'])} reads, seen from inside</h1>"
        f"<p>A few attention heads of a language model look at the passage that answers a question. They were found on "
        f"{result['heads']['examples']} questions about some countries, then ranked {ranking['candidates']} documents "
        f"for each of {ranking['n']} questions about {ranking['groups']} other countries.</p>"
        f'<div class="tiles">{cells}</div>'
    )


def _heads(heads: Json) -> str:
    chosen = [tuple(pair) for pair in heads["chosen"]]
    figure = plots.svg(plots.head_map(heads["scores"], chosen), "Head map: score per layer and head")
    listed = ", ".join(f"{layer}-{head}" for layer, head in chosen)
    return (
        f"<h2>The heads</h2><p>Score of every head: how much more of its attention goes to the gold documents when "
        f"the question is asked than when it is not. The {len(chosen)} chosen heads are framed; best first "
        f"(layer-head): <code>{listed}</code>.</p><div class='figures'>{figure}</div>"
    )


def _ranking(ranking: Json) -> str:
    rows = {name: row["R@1"] for name, row in ranking["systems"].items()}
    figure = plots.svg(plots.comparison(rows, "gold document ranked first (95 % interval)"), "Ranking comparison")
    lines = "".join(
        f'<tr><td>{_text(name)}</td><td class="num">{_interval(row["nDCG@10"])}</td>'
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
        f"<div><h4>{_text(name)}</h4><ol>{''.join(_place(entry) for entry in entries)}</ol></div>"
        for name, entries in question["rankings"].items()
    )
    seen = "".join(_looked_at(item) for item in question["tokens"])
    if seen:
        seen = f'<h4>What the heads looked at in their first documents</h4><div class="columns">{seen}</div>'
    answer = question["answer"]
    verdict = '<b class="yes">right</b>' if answer["correct"] else '<b class="no">wrong</b>'
    expected = " or ".join(_text(text) for text in question["answers"])
    said = (
        f"<h4>Answer</h4><p><b>{_text(answer['text'] or '(nothing)')}</b> — {verdict}, expected: {expected}</p>"
        + "".join(_citation(citation, answer["text"]) for citation in answer["citations"])
    )
    if not answer["supported"]:
        said += '<p class="small soft">Not supported: these words stand in none of the documents read.</p>'
    return (
        f'<section class="card"><h3>{_text(question["text"])}</h3><div class="columns">{columns}</div>{seen}{said}'
        "</section>"
    )


def _looked_at(item: Json) -> str:
    kind = "tokens gold" if item["gold"] else "tokens"
    return f'<div class="{kind}">{plots.tokens_html(item["tokens"], item["largest"])}</div>'


def _place(entry: Json) -> str:
    kind = ' class="gold"' if entry["gold"] else ""
    return (
        f'<li{kind}><span class="n">{entry["rank"]}</span><span>{_text(entry["title"] or "")} '
        f'<span class="s">{_text(entry["text"])}</span></span></li>'
    )


def _citation(citation: Json, answer: str) -> str:
    quote = citation["quote"]
    at = quote.lower().find(answer.lower()) if len(quote) == len(quote.lower()) else -1
    if at < 0:
        shown = _text(quote)
    else:
        end = at + len(answer)
        shown = f"{_text(quote[:at])}<mark>{_text(quote[at:end])}</mark>{_text(quote[end:])}"
    where = f"{_text(citation['document_id'])}, characters {citation['start']}–{citation['end']}"
    return f'<blockquote>{shown}<br><span class="small soft">{where}</span></blockquote>'


def _made(made: Json) -> str:
    rows = "".join(
        f"<tr><td>{_text(name.replace('_', ' '))}</td><td><code>{_text(_flat(value))}</code></td></tr>"
        for name, value in made.items()
    )
    return (
        "<h2>How it was made</h2><p>Documents: sections of the CIA World Factbook (public domain, CC0). Everything on "
        "this page was computed by one command on this machine; result.json beside it holds the "
        f"same numbers.</p><div class='scroll'><table>{rows}</table></div>"
    )


def _flat(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {item}" for name, item in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(str, value))
    return str(value)


def _layers(row: Json, ranking: Json) -> str:
    return f"{row['layers']} of {ranking['layers']} layers" if row["layers"] else "no model"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _interval(row: Json) -> str:
    return f"{row['mean']:.3f} <span class='soft'>[{row['low']:.3f}, {row['high']:.3f}]</span>"


def _text(value: object) -> str:
    return html.escape(str(value))
