"""Chunks against exact spans: every score against sets of characters."""

import csv
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater.errors import FormatError, InputError
from headwater.evaluate.tasks.spans import ChunkSpans, _merged
from headwater.search.bm25 import BM25
from local_data import local_data

SEA = "The sea is wide. It has no end.\n\nShips cross it.\n\nWhales live there. They sing."
LAND = "The land is dry.\n\nCamels cross it. They carry salt."


def reference(text: str, content: str, shift: int = 0) -> dict[str, Any]:
    start = text.index(content) + shift
    return {"content": content, "start_index": start, "end_index": start + len(content)}


def written(folder: Path, rows: list[tuple[str, Any, str]], header: str = "question,references,corpus_id") -> Path:
    (folder / "corpora").mkdir(exist_ok=True)
    for name, text in (("sea", SEA), ("land", LAND)):
        (folder / "corpora" / f"{name}.md").write_text(text)
    with open(folder / "questions_df.csv", "w", newline="") as file:
        file.write(header + "\n")
        csv.writer(file).writerows((question, json.dumps(found), corpus) for question, found, corpus in rows)
    return folder


ROWS = [
    ("What sings?", [reference(SEA, "Whales live there. They sing.")], "sea"),
    ("What is carried?", [reference(LAND, "They carry salt."), reference(LAND, "Camels")], "land"),
]


def characters(task: ChunkSpans, chunks: list[str]) -> set[tuple[str, int]]:
    text = {"sea": SEA, "land": LAND}
    found = [task.by_id[chunk].metadata for chunk in chunks]
    return {
        (at["corpus"], n) for at in found for n in range(at["start"], at["end"]) if not text[at["corpus"]][n].isspace()
    }


@pytest.mark.parametrize("overlap", [0, 12])
def test_chunks_are_exact_slices_of_all_corpora(tmp_path: Path, overlap: int) -> None:
    task = ChunkSpans(written(tmp_path, ROWS[:1]), max_chars=32, overlap=overlap)
    task.load()
    assert {chunk.metadata["corpus"] for chunk in task.corpus} == {"sea", "land"}
    assert len(task.by_id) == len(task.corpus)
    assert task.notes == [f"{len(task.corpus)} chunks."]
    for chunk in task.corpus:
        text = {"sea": SEA, "land": LAND}[chunk.metadata["corpus"]]
        start, end = chunk.metadata["start"], chunk.metadata["end"]
        assert text[start:end] == chunk.text
        assert len(chunk.text) <= 32
        assert start == 0 or text[start - 1].isspace()
    starts = [chunk.metadata for chunk in task.corpus if chunk.metadata["corpus"] == "sea"]
    assert any(a["end"] > b["start"] for a, b in itertools.pairwise(starts)) == (overlap > 0)


@pytest.mark.parametrize("overlap", [0, 12])
@settings(deadline=None)
@given(draw=st.randoms(use_true_random=False), count=st.integers(0, 12))
def test_scores_count_characters(tmp_path_factory: pytest.TempPathFactory, overlap: int, draw: Any, count: int) -> None:
    task = ChunkSpans(written(tmp_path_factory.getbasetemp(), ROWS), max_chars=20, overlap=overlap)
    for item, (_, references, corpus) in zip(task.load(), ROWS, strict=True):
        ranked = draw.sample(sorted(task.by_id), min(count, len(task.by_id)))
        text = {"sea": SEA, "land": LAND}[corpus]
        wanted = {
            (corpus, n) for r in references for n in range(r["start_index"], r["end_index"]) if not text[n].isspace()
        }
        five, ten = characters(task, ranked[:5]), characters(task, ranked[:10])
        assert task.score(item, ranked) == pytest.approx(
            {
                "recall@5": len(five & wanted) / len(wanted),
                "recall@10": len(ten & wanted) / len(wanted),
                "precision@5": len(five & wanted) / len(five) if five else 0,
                "IoU@5": len(five & wanted) / len(five | wanted),
            }
        )


def test_relevant_chunks_reach_full_recall(tmp_path: Path) -> None:
    task = ChunkSpans(written(tmp_path, ROWS), max_chars=20)
    for item in task.load():
        assert task.score(item, task.relevant(item))["recall@5"] == 1
    assert set(task.score(item, [])) == set(task.metrics)


def test_references_that_stand_elsewhere(tmp_path: Path) -> None:
    rows = [
        ("moved", [reference(SEA, "Ships", shift=2)], "sea"),
        ("nowhere", [{"content": "Sharks", "start_index": 0, "end_index": 6}], "sea"),
        ("twice", [reference(LAND, "Camels", shift=1), {"content": "s", "start_index": 0, "end_index": 1}], "land"),
    ]
    task = ChunkSpans(written(tmp_path, rows))
    assert [item.query for item in task.load()] == ["moved", "twice"]
    assert task.notes[1:] == [
        "References found by their text, elsewhere than their offsets say: 2.",
        "References left out, as they stand nowhere in their corpus or more than once: 2.",
        "Questions left out, as they have no reference left: 1.",
    ]


def test_loading_again_changes_nothing(tmp_path: Path) -> None:
    task = ChunkSpans(written(tmp_path, ROWS))
    assert task.load() == task.load()
    assert len(task.corpus) == len({chunk.id for chunk in task.corpus})


def test_bad_input(tmp_path: Path) -> None:
    for max_chars, overlap in [(10, 10), (10, -1), (0, 0)]:
        with pytest.raises(InputError, match="overlap"):
            ChunkSpans(tmp_path, max_chars, overlap)
    with pytest.raises(InputError, match=r"questions_df\.csv"):
        ChunkSpans(tmp_path).load()
    with pytest.raises(FormatError, match="'corpus_id' is missing"):
        ChunkSpans(written(tmp_path, ROWS, header="question,references,corpus")).load()
    with pytest.raises(InputError, match=r"sky\.md"):
        ChunkSpans(written(tmp_path, [("?", [], "sky")])).load()
    for row, message in [
        (("?", [], "../sea"), "plain file name"),
        (("?", {"content": "x"}, "sea"), "not a list"),
        (("?", ["x"], "sea"), "expected an object"),
        (("?", [{"content": "x"}], "sea"), "whole numbers"),
        ((" ", [], "sea"), "'question'"),
    ]:
        with pytest.raises(FormatError, match=f"line 2.*{message}"):
            ChunkSpans(written(tmp_path, [row])).load()
    with pytest.raises(FormatError, match="no usable example"):
        ChunkSpans(written(tmp_path, [("?", [], "sea")])).load()
    (tmp_path / "questions_df.csv").write_text("question,references,corpus_id\n?,[,sea\n")
    with pytest.raises(FormatError, match="not valid JSON"):
        ChunkSpans(tmp_path).load()
    task = ChunkSpans(written(tmp_path, ROWS))
    with pytest.raises(InputError, match="no chunk 'x'"):
        task.score(task.load()[0], ["x"])


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 9))))
def test_merged_ranges_hold_the_same_characters(pairs: list[tuple[int, int]]) -> None:
    spans = [(start, start + size) for start, size in pairs]
    merged = _merged(spans)
    assert {n for span in merged for n in range(*span)} == {n for span in spans for n in range(*span)}
    assert all(a[1] < b[0] for a, b in itertools.pairwise(merged))


def test_the_real_spans() -> None:
    task = ChunkSpans(local_data("long/chunking_spans"))
    items = task.load()
    assert 465 <= len(items) <= 472
    assert {item.facets["corpus"] for item in items} == {chunk.metadata["corpus"] for chunk in task.corpus}
    assert all(task.relevant(item) for item in items)
    search = BM25(task.corpus)
    found = [str(hit.document.id) for hit in search.search(items[0].query, 10)]
    assert 0 <= task.score(items[0], found)["precision@5"] <= 1
