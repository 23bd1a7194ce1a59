"""The page: self-contained, escaped, and holding what the result holds."""

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from headwater.errors import InputError
from headwater.evaluate.report import render, write_report

EVIL = '<script>alert("x")</script> & "Côte d\'Ivoire"'


def interval(mean: float) -> dict[str, float]:
    return {"mean": mean, "low": max(0.0, mean - 0.05), "high": min(1.0, mean + 0.04), "n": 60, "groups": 20}


def fake_result() -> dict[str, Any]:
    names = {"QR heads": 0.97, "all heads": 0.88, "random heads": 0.41, "BM25": 0.72}
    titles = ["Algeria: Capital", EVIL, "Algeria: Climate", "Peru: Capital", "Chad: Area, total including water"]
    entries = [
        {"rank": i + 1, "id": f"d{i}", "title": t, "text": "Some text.", "gold": i == 0} for i, t in enumerate(titles)
    ]
    low = [*entries[1:5], {"rank": 9, "id": "d0", "title": titles[0], "text": EVIL, "gold": True}]
    words = [("the ", 0.1), ("capital ", 0.7), ("is ", 0.3), ("Algiers ", 0.9), ("<b>", 0.0)]
    return {
        "heads": {
            "chosen": [[2, 1], [3, 0]],
            "scores": [[((layer * 7 + head * 3) % 5) / 9 for head in range(4)] for layer in range(6)],
            "examples": 64,
        },
        "ranking": {
            "n": 60,
            "groups": 20,
            "candidates": 20,
            "layers": 6,
            "systems": {
                n: {"nDCG@10": interval(m), "R@1": interval(m), "layers": 0 if n == "BM25" else 4}
                for n, m in names.items()
            },
        },
        "reading": {"n": 60, "systems": {"model": interval(0.71), "majority answer": interval(0.2)}},
        "questions": [
            {
                "text": "What is the capital of Algeria? " + EVIL,
                "country": "Algeria",
                "answers": ["Algiers"],
                "rankings": {"QR heads": entries, "all heads": entries, "BM25": low},
                "tokens": [{"id": "d0", "gold": True, "tokens": words, "largest": 0.9}],
                "answer": {
                    "text": "Algiers",
                    "correct": True,
                    "supported": True,
                    "citations": [{"document_id": "d0", "start": 3, "end": 24, "quote": "The capital is Algiers <i>."}],
                },
            },
            {
                "text": "Which currency?",
                "country": "Chad",
                "answers": ["franc"],
                "rankings": {"QR heads": low},
                "tokens": [],
                "answer": {"text": "", "correct": False, "supported": False, "citations": []},
            },
        ],
        "explorer": {
            "shape": [6, 4],
            "detectors": [
                {
                    "name": "query-focused",
                    "heads": [[2, 1], [3, 0]],
                    "scores": [[0.5] * 4] * 6,
                    "ranks": [[4 * layer + head + 1 for head in range(4)] for layer in range(6)],
                }
            ],
            "questions": [
                {
                    "text": EVIL,
                    "documents": [{"id": "d0", "title": EVIL, "gold": True, "tokens": ["[1] ", EVIL]}],
                    "heads": [[2, 1]],
                    "local": [],
                    "largest": [0.25],
                    "scores": [[0.25]],
                    "weights": "gP8=",
                }
            ],
        },
        "made": {"model": "tiny", "command": "headwater demo", "seed": 0, "versions": {"torch": "2"}, "heads": [1, 2]},
    }


class Page(HTMLParser):
    """Collects tags, checks that they nest."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.linked: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.linked += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "action")]
        if tag not in ("meta", "br", "path", "use", "image", "rect", "input"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.linked += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag: str) -> None:
        if tag in self.open:
            assert self.open.pop() == tag


def test_the_page_is_whole_escaped_and_asks_nothing_of_a_network() -> None:
    text = render(fake_result())
    page = Page()
    page.feed(text)
    assert page.open == []
    assert page.seen.count("script") == 2, "the head explorer and its data"
    assert {"svg", "table", "blockquote", "mark"} <= set(page.seen)
    assert all(link.startswith(("#", "data:")) for link in page.linked)
    assert not re.findall(r"@import|url\((?!#)", text)
    assert "&lt;script&gt;" in text
    assert "&lt;i&gt;" in text
    identifiers = re.findall(r'\bid="([^"]+)"', text)
    assert len(identifiers) == len(set(identifiers))


def test_what_the_result_holds_stands_on_the_page() -> None:
    text = render(fake_result())
    for expected in (
        "2-1, 3-0",
        "97 %",
        "71 %",
        "characters 3–24",
        "<mark>Algiers</mark>",
        "Not supported",
        "torch 2",
        "no model",
        "rank 10",
        '<span class="t" style="--w:1.00" title="0.2500">',
    ):
        assert expected in text


def test_writing(tmp_path: Path) -> None:
    path = write_report(fake_result(), tmp_path / "new" / "report.html")
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert [p.name for p in path.parent.iterdir()] == ["report.html"], "no temporary file stays"
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="Cannot write"):
        write_report(fake_result(), tmp_path / "file" / "report.html")
