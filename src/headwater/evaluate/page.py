"""What every HTML page shares: its frame and style, escaping, a table of facts.

A page asks nothing of a network: no font, pictures inline, at most a script of its own. Colours follow the reader's
light or dark mode.
"""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Mapping, Sequence

STYLE = """
:root{color-scheme:light dark;--ink:#1c2430;--soft:#5b6675;--line:#d9dee5;--paper:#fbfbf9;--card:#fff;--good:#1d7a4f;
--bad:#b23a48;--tint:42,127,158;--most:.75;--mark:#fff0b8}
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ee;--soft:#9aa5b4;--line:#333c48;--paper:#14181e;--card:#1b2129;
--good:#5cc892;--bad:#ef8490;--tint:64,160,198;--most:.55;--mark:#5a4a12}}
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
border:1px solid var(--line)}.tokens.gold{border-color:var(--good)}
.t{background:rgba(var(--tint),calc(var(--w)*var(--most)));border-radius:3px}
blockquote{margin:.4rem 0;padding:.2rem .9rem;border-left:3px solid var(--line);font-size:.94rem}
mark{background:var(--mark);color:inherit;border-radius:3px;padding:0 .1em}.yes{color:var(--good)}.no{color:var(--bad)}
table{border-collapse:collapse;font-size:.92rem;margin:.6rem 0}td,th{text-align:left;padding:.3rem 1rem .3rem 0;
border-bottom:1px solid var(--line);vertical-align:top}td.num,th.num{text-align:right;
font-variant-numeric:tabular-nums}.scroll{overflow-x:auto}code{font-size:.88em;overflow-wrap:anywhere}
"""


def document(title: str, body: str, style: str = "", script: str = "") -> str:
    """A whole page around a body of HTML; `style` is added to the shared one.

    The page forbids the browser every request and every script but this one, which is known by its hash.
    """
    known = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() if script else ""
    allowed = f"script-src 'sha256-{known}'; " if script else ""
    policy = f"default-src 'none'; {allowed}style-src 'unsafe-inline'; img-src data:"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{escape(title)}</title>'
        f"<style>{STYLE}{style}</style></head><body><main>{body}</main>"
        f"{f'<script>{script}</script>' if script else ''}</body></html>\n"
    )


def escape(value: object) -> str:
    """Any value as text that is safe in HTML, inside attributes too."""
    return html.escape(str(value))


def flat(value: object) -> str:
    """A mapping or a list as one line of text."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {flat(item)}" for name, item in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(flat, value))
    return str(value)


def facts(made: Mapping[str, object]) -> str:
    """A table of names and values, such as what a result was made with."""
    rows = "".join(
        f"<tr><td>{escape(name.replace('_', ' '))}</td><td><code>{escape(flat(value))}</code></td></tr>"
        for name, value in made.items()
    )
    return f"<div class='scroll'><table>{rows}</table></div>"
