"""The head explorer as a part of a page, and as a page of its own.

Without scripts the page shows every map (the score of a head is the title of its cell) and what the best head of the
first set looks at; the script beside this file makes the rest of the heads, detectors and questions selectable, by
pointer or by arrow keys.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from headwater import plots
from headwater.evaluate.explorer import unpack
from headwater.evaluate.files import write_page
from headwater.evaluate.page import document, escape, facts

Json = Mapping[str, Any]
STYLE = """
.explore{display:grid;grid-template-columns:minmax(0,auto) minmax(320px,1fr);gap:1rem 2rem;align-items:start}
@media(max-width:820px){.explore{grid-template-columns:minmax(0,1fr)}}
.choices{display:none;gap:.6rem 1.6rem;flex-wrap:wrap;margin:.8rem 0;align-items:center}.scripted .choices{display:flex}
.choices fieldset{border:0;padding:0;margin:0;display:flex;gap:.3rem 1rem;flex-wrap:wrap}
.choices legend{float:left;padding:0 .6rem 0 0;color:var(--soft)}.choices select{font:inherit;max-width:min(60ch,90vw)}
.map{margin:0 0 1.2rem;overflow-x:auto}.map figcaption{font-size:.9rem;margin-bottom:.4rem;max-width:52ch}
.map table{border-collapse:collapse;margin:0}.map td,.map th{padding:0;border:0;font-weight:400}
.map th{color:var(--soft);font-size:.72rem;text-align:right;padding-right:.4rem}
.map thead th{text-align:center;padding:0 0 .15rem}
.map button{display:block;width:var(--cell);height:var(--cell);padding:0;margin:1px;border-radius:3px;cursor:pointer;
border:1px solid var(--line);background:rgba(var(--tint),var(--w,0))}.map button.in{border:2px solid var(--bad)}
.map button.none{background:repeating-linear-gradient(45deg,transparent 0 3px,var(--line) 3px 4px)}
.map button[aria-pressed=true],.map button:focus-visible{outline:3px solid var(--ink);outline-offset:1px}
.looked h3{margin:0 0 .2rem}.looked ul{margin:.2rem 0 .6rem;padding-left:1.1rem;font-size:.9rem}
.looked ol.ranked{max-height:70vh;overflow-y:auto;padding-right:.3rem}
.looked ol.ranked li{display:block;font-weight:400;margin:.35rem 0;padding:0;border:0}
.looked ol.ranked li::after{content:none}.looked .line{display:flex;gap:.6rem;margin:0 0 .15rem;max-width:none}
.looked .line .name{flex:1;font-weight:600;overflow-wrap:anywhere}
.looked .tokens{max-height:11rem;overflow-y:auto}.looked li.gold .tokens{border-color:var(--good)}
"""


def script() -> str:
    """The script that the page with an explorer carries."""
    return resources.files("headwater.evaluate").joinpath("explorer.js").read_text(encoding="utf-8")


def write_explorer(data: Json, made: Json, path: str | Path) -> Path:
    """Write a page of its own around what `headwater.evaluate.explorer.explorer` gives.

    Raises:
        InputError: when the file cannot be written.
    """
    title = f"<h1>What the heads of {escape(made['model'])} look at</h1>"
    body = f"{title}{section(data)}<h2>How it was made</h2>{facts(made)}"
    return write_page(path, document("headwater: head explorer", body, STYLE, script()))


def section(data: Json) -> str:
    """The explorer as HTML; the page needs `STYLE` and `script()` too."""
    first = tuple(data["detectors"][0]["heads"][0])
    questions = "".join(
        f'<option value="{place}">{escape(question["text"])}</option>'
        for place, question in enumerate(data["questions"])
    )
    radios = "".join(
        f'<label><input type="radio" name="detector" value="{place}"{" checked" if place == 0 else ""}> '
        f"{escape(found['name'])}</label>"
        for place, found in enumerate(data["detectors"])
    )
    # "<" cannot end the element, and the two line separators are no line ends
    inside = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    return (
        '<section id="explorer"><p>One cell per head, layer by layer; the stronger its colour, the higher its score, '
        "each map on its own scale. Heads of the set are framed, heads without a score are hatched. A head's words are "
        "shaded by how much more of its attention goes to them when the question is asked than when it is not, next to "
        "its strongest word; documents stand in the order of that head alone.</p>"
        '<noscript><p class="soft">Without scripts the best head of the first set is shown; the score of every head is '
        "the title of its cell.</p></noscript>"
        f'<div class="choices"><label>Question <select autocomplete="off">{questions}</select></label>'
        f"<fieldset><legend>Heads</legend>{radios}</fieldset></div>"
        f'<div class="explore"><div>{"".join(_map(found, data["shape"]) for found in data["detectors"])}</div>'
        f'<div class="looked" role="region" aria-live="polite" aria-label="What the head looks at">'
        f"{_looked(data, first)}</div></div>"
        f'<script type="application/json" id="explorer-data">{inside}</script></section>'
    )


def _map(found: Json, shape: Sequence[int]) -> str:
    """One detector's map: a table of buttons."""
    layers, width = shape
    cell = next(size for most, size in ((8, "2.2rem"), (16, "1.5rem"), (32, "1rem"), (width, ".7rem")) if width <= most)
    step = max(1, width // 8)
    head = "".join(f"<th>{i if i % step == 0 else ''}</th>" for i in range(width))
    chosen = {tuple(pair): place for place, pair in enumerate(found["heads"], 1)}
    values = [value for row in found["scores"] or [] for value in row if value is not None]
    low, high = (min(values), max(values)) if values else (0.0, 0.0)
    rows = []
    for layer in range(layers):
        cells = []
        for column in range(width):
            kinds, told, style = [], f"head {layer}-{column}", ""
            value = None if found["scores"] is None else found["scores"][layer][column]
            if value is not None:
                share = (value - low) / (high - low) if high > low else 0.0
                style = f' style="--w:{share:.2f}"'
                told += f": {value}, rank {found['ranks'][layer][column]} of {len(values)}"
            elif found["scores"] is not None:
                kinds.append("none")
                told += ": no score"
            if (layer, column) in chosen:
                kinds.append("in")
                told += f", number {chosen[layer, column]} of the set"
            kind = f' class="{" ".join(kinds)}"' if kinds else ""
            cells.append(f'<td><button type="button"{kind}{style} title="{told}"></button></td>')
        rows.append(f"<tr><th>{layer}</th>{''.join(cells)}</tr>")
    listed = ", ".join(f"{layer}-{column}" for layer, column in found["heads"][:16])
    more = f" and {len(found['heads']) - 16} more" if len(found["heads"]) > 16 else ""
    return (
        f'<figure class="map" style="--cell:{cell}"><figcaption><b>{escape(found["name"])}</b>, layer (down) by head '
        f"(across); best first: {listed}{more}</figcaption><table><thead><tr><th></th>{head}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></figure>"
    )


def _looked(data: Json, head: tuple[int, int]) -> str:
    """What one head looks at for the first question, as the script shows it."""
    question = data["questions"][0]
    told = []
    for found in data["detectors"]:
        rank = None if found["ranks"] is None else found["ranks"][head[0]][head[1]]
        score = "no score" if rank is None else f"score {found['scores'][head[0]][head[1]]}, rank {rank}"
        place = next((i for i, pair in enumerate(found["heads"], 1) if tuple(pair) == head), None)
        inside = "not in the set" if place is None else f"number {place} of the set's {len(found['heads'])}"
        told.append(f"<li>{escape(found['name'])}: {score}, {inside}</li>")
    row = [tuple(pair) for pair in question["heads"]].index(head)
    weights, scores = unpack(question, head) or [], question["scores"][row]
    order = sorted(range(len(scores)), key=lambda i: -scores[i] if scores[i] is not None else float("inf"))
    items, places = [], []
    for rank, index in enumerate(order, 1):
        shown = question["documents"][index]
        pairs = list(zip(shown["tokens"], weights[index].tolist(), strict=True))
        badge = '<b class="yes">gold</b>' if shown["gold"] else ""
        places += [str(rank)] if shown["gold"] else []
        items.append(
            f'<li{" class=gold" if shown["gold"] else ""}><p class="line"><span class="n">{rank}</span>'
            f'<span class="name">{escape(shown["title"] or shown["id"])}</span>{badge}'
            f'<span class="soft">{"blank" if scores[index] is None else scores[index]}</span></p>'
            f'<div class="tokens">{plots.tokens_html(pairs, question["largest"][row])}</div></li>'
        )
    gold = (
        f"<p>Its own ranking puts the gold document at place {', '.join(places)} of {len(order)}.</p>" if places else ""
    )
    return (
        f"<h3>Head {head[0]}-{head[1]}</h3><p>{escape(question['text'])}</p><ul>{''.join(told)}</ul>{gold}"
        f'<ol class="ranked">{"".join(items)}</ol>'
    )
