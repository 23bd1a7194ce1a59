"""The head explorer: its numbers are those of the ranker, its page is escaped, bounded and runs without a network."""

import base64
import hashlib
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import headwater as hw
from headwater.errors import ContextOverflowError, HeadSetError, InputError
from headwater.evaluate.explorer import explorer, unpack
from headwater.evaluate.explorer_page import script, section, write_explorer
from headwater.evaluate.page import document
from models import random_lm
from planted import PLANTED, planted_examples, planted_lm

EVIL = '</script><script>alert("x")</script><!-- <img src=x onerror=alert(1)> & "quoted"'


@pytest.fixture(scope="module")
def evil() -> dict[str, Any]:
    lm = random_lm("llama", layers=3)
    documents = [hw.Document(f"One {EVIL}", id="a", title=EVIL), hw.Document("", id="b"), hw.Document("Two.", id="c")]
    documents.append(hw.Document("Two.", id="again"))
    sets = {
        f"query {EVIL}": hw.HeadSet([(2, 1), (0, 3)], scores=np.arange(24.0).reshape(3, 8) / 24),
        "bare": hw.HeadSet([(1, 1)]),
    }
    sets["holes"] = hw.HeadSet([(0, 0)], scores=np.where(np.eye(3, 8) > 0, 1.0, np.nan))
    return explorer(lm, sets, [hw.RankingExample(f"which? {EVIL}", documents, ["c"])])


def test_the_planted_head_looks_at_the_word_of_the_question() -> None:
    lm = planted_lm()
    example = planted_examples(1)[0]
    found = hw.QueryFocusedHeads(top_k=2).find(lm, planted_examples(8))
    (question,) = explorer(lm, {"query-focused": found}, [example])["questions"]
    weights = unpack(question, PLANTED)
    assert weights is not None
    gold = next(i for i, shown in enumerate(question["documents"]) if shown["gold"])
    best = question["documents"][gold]["tokens"][int(weights[gold].argmax())]
    assert best.strip() == example.query
    assert weights[gold].max() == pytest.approx(question["largest"][question["heads"].index(list(PLANTED))], rel=1e-3)
    assert all(other.max() < weights[gold].max() / 4 for i, other in enumerate(weights) if i != gold)


def test_weights_and_scores_are_those_of_the_ranker() -> None:
    lm = random_lm("llama", layers=3)
    documents = ["the first text", "a second, longer text", "", "the first text"]
    heads = hw.HeadSet([(0, 1), (2, 3), (1, 0)])
    (question,) = explorer(lm, {"mine": heads}, [hw.RankingExample("which is it?", documents, [1])])["questions"]
    for head in heads.heads:
        explained = hw.QRRetriever(lm, heads=[head], outlier_filter=False).explain("which is it?", documents)
        scored = hw.QRRetriever(lm, heads=[head]).score("which is it?", documents)
        row = question["heads"].index(list(head))
        want = [None if not np.isfinite(value) else pytest.approx(value, rel=1e-3) for value in scored.tolist()]
        assert question["scores"][row] == want
        weights, step = unpack(question, head), question["largest"][row] / 255
        assert weights is not None
        for own, shown, tokens in zip(weights, question["documents"], explained.tokens, strict=True):
            assert shown["tokens"] == [token.text for token in tokens]
            np.testing.assert_allclose(own, [max(0.0, token.weight) for token in tokens], atol=0.56 * step + 1e-9)
    assert [shown["gold"] for shown in question["documents"]] == [False, True, False, False]


def test_ranks_and_what_has_none(evil: dict[str, Any]) -> None:
    scored, bare, holes = evil["detectors"]
    assert scored["ranks"][2] == [8, 7, 6, 5, 4, 3, 2, 1]
    assert (bare["scores"], bare["ranks"]) == (None, None)
    assert [row[:3] for row in holes["ranks"]] == [[1, None, None], [None, 2, None], [None, None, 3]]
    assert holes["scores"][0][1] is None
    assert [shown["id"] for shown in evil["questions"][0]["documents"]] == ["a", "b", "c", "again"]
    assert all(row[1] is None for row in evil["questions"][0]["scores"])


def test_the_page_is_bounded() -> None:
    lm = random_lm("llama", layers=3)
    texts = ["some words to look at " * 6] * 1 + [f"document {i} of many" for i in range(5)]
    first, second = hw.HeadSet([(2, 5), (0, 1)]), hw.HeadSet([(1, 7)], scores=np.arange(24.0).reshape(3, 8))
    asked = [hw.RankingExample(query, texts, []) for query in ("which?", "who?")]
    whole = explorer(lm, {"a": first, "b": second}, asked)
    assert all(len(question["heads"]) == 24 for question in whole["questions"])
    limit = 6000
    small = explorer(lm, {"a": first, "b": second}, asked, limit=limit)
    for question in small["questions"]:
        kept = [tuple(pair) for pair in question["heads"]]
        assert 3 < len(kept) < 24
        assert {(2, 5), (0, 1), (1, 7)} <= set(kept), "the best of every set stay"
        assert len(question["weights"]) + len(json.dumps(question["scores"])) <= limit / 2 * 1.2
        assert unpack(question, (0, 0)) is None or (0, 0) in kept
    least = explorer(lm, {"a": first}, asked, limit=0)
    assert [question["heads"] for question in least["questions"]] == [[[2, 5]]] * 2
    assert "<b" in section(least)


class Page(HTMLParser):
    """Collects elements, checks that they nest."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.inside: dict[str, str] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in ("meta", "br", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.inside[self.open[-1] if self.open else ""] = data


def test_no_text_becomes_markup(evil: dict[str, Any], tmp_path: Path) -> None:
    path = write_explorer(evil, {"model": EVIL, "command": EVIL}, tmp_path / "new" / "page.html")
    text = path.read_text(encoding="utf-8")
    page = Page()
    page.feed(text)
    page.close()
    assert page.open == []
    tags = [tag for tag, _ in page.seen]
    assert tags.count("script") == 2, "the data and the script, nothing from a document"
    assert "img" not in tags
    assert not any(name.startswith("on") for _, attributes in page.seen for name in attributes)
    assert not any(name in attributes for _, attributes in page.seen for name in ("src", "href", "action"))
    (kind,) = [attributes for tag, attributes in page.seen if tag == "script" and attributes]
    assert kind == {"type": "application/json", "id": "explorer-data"}
    data = re.search(r'id="explorer-data">(.*?)</script>', text, re.DOTALL)
    assert data is not None
    assert json.loads(data[1]) == evil
    assert "<" not in data[1]


def test_only_its_own_script_may_run_and_nothing_may_be_fetched() -> None:
    text = document("t", "<p>x</p>", script=script())
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', text)
    assert policy is not None
    assert policy[1].startswith("default-src 'none'; script-src 'sha256-")
    said = re.search(r"<script>(.*?)</script>", text, re.DOTALL)
    assert said is not None
    digest = base64.b64encode(hashlib.sha256(said[1].encode()).digest()).decode()
    assert f"'sha256-{digest}'" in policy[1]
    assert "script-src" not in document("t", "")
    assert "innerHTML" not in script()


def test_without_scripts_the_best_head_is_shown(evil: dict[str, Any]) -> None:
    text = section(evil)
    assert "<h3>Head 2-1</h3>" in text
    assert "rank 7" in text
    assert "number 1 of the set&#x27;s 2" in text or "number 1 of the set's 2" in text
    assert re.search(r"gold document at place [1-4] of 4", text)
    assert text.count("<figure") == 3
    assert text.count("<button") == 3 * 24
    assert 'title="head 2-7: 0.9583, rank 1 of 24"' in text
    assert 'class="none" title="head 0-1: no score"' in text
    assert 'class="in"' in text
    assert "<noscript>" in text


NODE = shutil.which("node")
STUB = r"""
const fs = require("fs");
class Node {
  constructor(tag) { this.tag = tag; this.children = []; this.own = ""; this.className = ""; this.listeners = {};
    this.attributes = {}; this.title = ""; this.hidden = false; this.tabIndex = 0; this.parentNode = null;
    this.style = { setProperty: (name, value) => { this.attributes[name] = value; } };
    this.classList = { add: (name) => { this.className += " " + name; } }; }
  get textContent() { return this.own + this.children.map((c) => c.textContent).join(""); }
  set textContent(text) { this.own = String(text); this.children = []; }
  append(...nodes) { for (const n of nodes) { const c = typeof n === "string" ? Object.assign(new Node("#text"),
    { own: n }) : n; c.parentNode = this; this.children.push(c); } }
  replaceChildren(...nodes) { this.children = []; this.append(...nodes); }
  addEventListener(name, what) { this.listeners[name] = what; }
  setAttribute(name, value) { this.attributes[name] = value; }
  focus() { focused = this; }
  closest() { return this.parentNode; }
  all() { return [this, ...this.children.flatMap((c) => c.all())]; }
  querySelectorAll(what) {
    const nodes = this.all().slice(1);
    if (what === ".map") return nodes.filter((n) => n.className === "map");
    if (what === "tbody tr") return nodes.filter((n) => n.tag === "tr");
    if (what === "button") return nodes.filter((n) => n.tag === "button");
    if (what === "button[aria-pressed=true]") return nodes.filter((n) => n.attributes["aria-pressed"] === "true");
    if (what === "button[tabindex='0']") return nodes.filter((n) => n.tag === "button" && n.tabIndex === 0);
    if (what === "input[type=radio]") return nodes.filter((n) => n.tag === "input");
    throw new Error(what);
  }
  querySelector(what) {
    if (what === ".looked") return panel;
    if (what === "select") return select;
    if (what === "input[type=radio]:checked") return null;
    throw new Error(what);
  }
}
let focused = null;
const [source, dataFile] = process.argv.slice(2);
const text = fs.readFileSync(dataFile, "utf8"), data = JSON.parse(text);
const root = new Node("section"), panel = new Node("div"), select = new Node("select");
select.value = "0";
root.append(panel, select);
for (const found of data.detectors) {
  const map = new Node("figure"); map.className = "map"; root.append(map);
  for (let l = 0; l < data.shape[0]; l++) {
    const row = new Node("tr"); row.sectionRowIndex = l; map.append(row);
    for (let h = 0; h < data.shape[1]; h++) {
      const cell = new Node("td"), button = new Node("button");
      cell.cellIndex = h + 1; cell.append(button); row.append(cell);
    }
  }
  const radio = new Node("input"); radio.value = String(data.detectors.indexOf(found)); root.append(radio);
}
global.document = { getElementById: (id) => (id === "explorer" ? root : { textContent: text }),
  createElement: (tag) => new Node(tag) };
global.atob = (packed) => Buffer.from(packed, "base64").toString("latin1");
eval(fs.readFileSync(source, "utf8"));
const maps = root.querySelectorAll(".map"), radios = root.querySelectorAll("input[type=radio]");
const out = [];
function note() {
  const nodes = panel.all();
  out.push({ title: nodes.find((n) => n.tag === "h3").textContent, text: panel.textContent,
    shaded: nodes.filter((n) => n.className === "t").map((n) => [n.own, n.attributes["--w"]]),
    boxes: nodes.filter((n) => n.className === "tokens").map((n) => n.textContent),
    hidden: maps.map((m) => m.hidden), pressed: root.querySelectorAll("button[aria-pressed=true]").length,
    tags: [...new Set(nodes.map((n) => n.tag))] });
}
function key(map, name) {
  const target = focused; map.listeners.keydown({ target, key: name, preventDefault: () => {} });
}
note();
maps[0].listeners.click({ target: maps[0].querySelectorAll("tbody tr")[1].querySelectorAll("button")[4] });
note();
key(maps[0], "ArrowRight"); key(maps[0], "ArrowDown"); key(maps[0], "ArrowDown"); key(maps[0], "x");
note();
key(maps[0], "Home");
note();
radios[1].listeners.change();
note();
console.log(JSON.stringify(out));
"""


@pytest.mark.skipif(NODE is None, reason="node is not installed")
def test_the_script_shows_what_the_data_hold(evil: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "data.json").write_text(json.dumps(evil))
    (tmp_path / "explorer.js").write_text(script())
    (tmp_path / "stub.js").write_text(STUB)
    words = [str(NODE), *(str(tmp_path / name) for name in ("stub.js", "explorer.js", "data.json"))]
    ran = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    assert ran.returncode == 0, ran.stderr
    start, clicked, moved, home, other = json.loads(ran.stdout)
    assert [step["title"] for step in (start, clicked, moved, home, other)] == [
        "Head 2-1", "Head 1-4", "Head 2-5", "Head 2-0", "Head 1-1"
    ]  # fmt: skip
    assert start["hidden"] == [False, True, True]
    assert other["hidden"] == [True, False, True]
    assert all(step["pressed"] == 1 for step in (start, clicked, moved, home, other))
    assert "script" not in start["tags"]
    assert "bare: no score, number 1 of the set's 1" in other["text"]
    question = evil["questions"][0]
    for step, head in ((start, (2, 1)), (moved, (2, 5))):
        row = question["heads"].index(list(head))
        scores = [value if value is not None else -np.inf for value in question["scores"][row]]
        order = sorted(range(len(scores)), key=lambda i: -scores[i])
        assert step["boxes"] == ["".join(question["documents"][i]["tokens"]) for i in order]
        places = [order.index(i) + 1 for i, shown in enumerate(question["documents"]) if shown["gold"]]
        assert f"at place {places[0]} of 4" in step["text"]
        weights = unpack(question, head)
        assert weights is not None
        shares = [w / question["largest"][row] for i in order for w in weights[i].tolist()]
        assert [float(share) for _, share in step["shaded"]] == pytest.approx(
            [share for share in shares if share >= 0.02], abs=0.006
        )


def test_bad_input() -> None:
    lm = random_lm("llama", layers=2)
    asked, own = [hw.RankingExample("which?", ["a", "b"], [])], {"mine": hw.HeadSet([(0, 0)])}
    with pytest.raises(InputError, match="at least one head set and one question"):
        explorer(lm, {}, asked)
    with pytest.raises(InputError, match="at least one head set and one question"):
        explorer(lm, own, [])
    with pytest.raises(HeadSetError, match="9"):
        explorer(lm, {"mine": hw.HeadSet([(9, 0)])}, asked)
    with pytest.raises(HeadSetError, match=r"\(3, 4\)"):
        explorer(lm, {"mine": hw.HeadSet([(0, 0)], scores=np.zeros((3, 4)))}, asked)
    with pytest.raises(InputError, match="blank"):
        explorer(lm, own, [hw.RankingExample("which?", [""], [])])
    with pytest.raises(ContextOverflowError):
        explorer(lm, own, [hw.RankingExample("which?", ["word " * 500], [])])
