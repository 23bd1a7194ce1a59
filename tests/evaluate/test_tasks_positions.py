"""Where the needed document stands: gold positions, key-value pairs, needles."""

import gzip
import json
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from headwater.data import world
from headwater.errors import FormatError, InputError
from headwater.evaluate.answers import contains
from headwater.evaluate.tasks.needle import NeedleGrid, read_paragraphs, word_count
from headwater.evaluate.tasks.positions import GoldPosition, KeyValue, quarters
from headwater.evaluate.tasks.task import ReadingItem
from local_data import local_data
from task_records import KEY_VALUE, ORACLE

GOLD = ORACLE["ctxs"][0]["text"]
PASSAGES = [
    ("Physics", GOLD),
    ("Roentgen", "A prize in physics."),
    ("Chemistry", "The first prize in chemistry went to Van 't Hoff."),
    ("Prizes", "The first prize in physics is worth a fortune."),
    ("Farms", "Cows."),
    ("Peace", "A prize went to Dunant."),
]


def oracle(tmp_path: Path, **change: Any) -> Path:
    path = tmp_path / "oracle.jsonl.gz"
    silent = ORACLE | {"ctxs": [{"title": "Physics", "text": "It went to someone.", "isgold": True}]}
    path.write_bytes(gzip.compress("\n".join(json.dumps(each) for each in (ORACLE | change, silent)).encode()))
    return path


def passages(tmp_path: Path) -> Path:
    rows = [{"_id": f"p{place}", "title": title, "text": text} for place, (title, text) in enumerate(PASSAGES)]
    path = tmp_path / "passages.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_gold_at_every_position(tmp_path: Path) -> None:
    task = GoldPosition(oracle(tmp_path), passages(tmp_path), documents=4, positions=(1, 3, 4))
    items = task.load()
    assert [item.id for item in items] == ["q0/1", "q0/3", "q0/4"]
    assert task.notes == ["1 of 2 gold passages do not state the answer word for word."]
    assert task.metrics[0] == "sub-EM"
    assert set(task.score(items[0], "x")) == set(task.metrics)
    for item, place in zip(items, (0, 2, 3), strict=True):
        assert (item.gold, item.facets) == ((place,), {"position": str(place + 1)})
        assert (item.group, item.unit) == ("q0", "q0")
        assert item.documents[place].text == GOLD
        others = [document.title for document in item.documents if document.text != GOLD]
        assert others == ["Prizes", "Chemistry", "Peace"]  # neither the gold passage nor the one that names him


def test_positions_by_default() -> None:
    assert quarters(20) == (1, 5, 10, 15, 20)
    assert (quarters(2), quarters(4)) == ((1, 2), (1, 2, 3, 4))
    assert quarters(10)[0] == 1
    assert quarters(10)[-1] == 10
    assert len(quarters(30)) == 5


def test_bad_gold_positions(tmp_path: Path) -> None:
    folder = passages(tmp_path)
    for arguments in [
        {"documents": 1},
        {"n": 0},
        {"positions": (0,)},
        {"positions": (21,)},
        {"positions": ()},
        {"positions": (1, 1)},
    ]:
        with pytest.raises(InputError, match=r"(?i)position"):
            GoldPosition("x", folder, **arguments)
    with pytest.raises(InputError, match="only 4 passages without the answer"):
        GoldPosition(oracle(tmp_path), folder, documents=6).load()
    with pytest.raises(InputError, match="no file or folder"):
        GoldPosition(oracle(tmp_path), tmp_path / "none", documents=2).load()
    for change in ({"ctxs": []}, {"ctxs": [{"title": "P", "text": "x", "isgold": False}]}, {"answers": None}):
        with pytest.raises(FormatError, match="line 1"):
            GoldPosition(oracle(tmp_path, **change), folder, documents=2).load()


def pairs(tmp_path: Path, **change: Any) -> Path:
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps(KEY_VALUE | change))
    return path


def test_key_value(tmp_path: Path) -> None:
    task = KeyValue(pairs(tmp_path))
    (item,) = task.load()
    assert [document.text for document in item.documents] == [f'"k{n}": "v{n}"' for n in range(8)]
    assert (item.question, item.answers) == ('What is the value of the key "k5"?', ("v5",))
    assert (item.gold, item.facets) == ((5,), {"position": "3"})
    assert task.metrics[0] == "sub-EM"
    assert task.score(item, 'It is "v5".')["sub-EM"] == 1


def test_fewer_keys(tmp_path: Path) -> None:
    (item,) = KeyValue(pairs(tmp_path), keys=4).load()
    texts = [document.text for document in item.documents]
    assert texts == sorted(texts)
    assert len(texts) == 4
    assert texts[item.gold[0]] == '"k5": "v5"'
    assert KeyValue(pairs(tmp_path), keys=4).load() == [item]
    assert len(KeyValue(pairs(tmp_path), keys=8).load()[0].documents) == 8


def test_bad_key_value(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at least 1 key"):
        KeyValue("x", keys=0)
    with pytest.raises(FormatError, match="there are 8 pairs, 9 are asked for"):
        KeyValue(pairs(tmp_path), keys=9).load()
    for change in ({"key": "k9"}, {"value": "v1"}, {"ordered_kv_records": [["k5", "v5"]] * 2}):
        with pytest.raises(FormatError, match="does not stand exactly once"):
            KeyValue(pairs(tmp_path, **change)).load()
    for wrong in ([["k5"]], ["k5"], [["k5", 5]]):
        with pytest.raises(FormatError, match="line 1"):
            KeyValue(pairs(tmp_path, ordered_kv_records=wrong)).load()


def essays(tmp_path: Path, text: str | None = None) -> Path:
    numbers = [f"Sentence {n} of this essay is about writing and about nothing else." for n in range(60)]
    (tmp_path / "essay.txt").write_text("\n\n".join(numbers) if text is None else text)
    (tmp_path / "SOURCE.txt").write_text("Where it is from.")
    return tmp_path


def test_paragraphs_of_essays(tmp_path: Path) -> None:
    text = "It is hard\nat work.We would\nnot (U.S. Army, e.g. X) stop.\n[1]No one.  \n\n\nLast.Too 3.14 late"
    assert read_paragraphs(essays(tmp_path, text)) == [
        "It is hard at work.",
        "We would not (U.S. Army, e.g. X) stop.",
        "No one.",
        "Last.",
        "Too 3.14 late",
    ]
    long = "A sentence of six words here. " * 60
    parts = read_paragraphs(essays(tmp_path, long))
    assert len(parts) == 2
    assert " ".join(parts) == long.strip()
    assert max(map(len, parts)) <= 1000


def test_needles_at_every_length_and_depth(tmp_path: Path) -> None:
    task = NeedleGrid(essays(tmp_path), lengths=(100, 200), depths=(0, 0.5, 1), n=3)
    items = task.load()
    assert len(items) == 18
    assert len({item.id for item in items}) == 18
    assert {item.question for item in items} == {item.question for item in items[:3]}
    assert len({item.unit for item in items}) == 3
    for item in items:
        (document,) = item.documents
        assert word_count(document.text) <= int(item.facets["length"])
        assert word_count(document.text) > int(item.facets["length"]) - 30
        assert abs(document.metadata["depth"] - float(item.facets["depth"])) < 0.3
        needle = document.text[document.metadata["start"] : document.metadata["end"]]
        assert world.states(needle, item.answers[0])
        assert not world.states(document.text.replace(needle, ""), item.answers[0])
        assert item.group in world.countries("held_out")
        assert item.gold == (0,)
    assert NeedleGrid(essays(tmp_path), lengths=(100, 200), depths=(0, 0.5, 1), n=3).load() == items


def test_the_measure_of_needles_is_the_users(tmp_path: Path) -> None:
    (item,) = NeedleGrid(essays(tmp_path), lengths=(600,), depths=(0.5,), n=1, measure=len).load()
    assert 400 < len(item.documents[0].text) <= 600


def test_signs_count_in_needles(tmp_path: Path) -> None:
    task = NeedleGrid(essays(tmp_path))
    item = ReadingItem("a", "b", "?", (), ("-1.5",))
    assert task.score(item, "-1.5")["EM"] == 1
    assert task.score(item, "15")["EM"] == 0


def test_bad_needles(tmp_path: Path) -> None:
    for arguments in [{"n": 0}, {"lengths": ()}, {"depths": (0, 0)}, {"depths": (1.5,)}]:
        with pytest.raises(InputError):
            NeedleGrid(tmp_path, **arguments)
    with pytest.raises(InputError, match="no folder with"):
        NeedleGrid(tmp_path / "none").load()
    with pytest.raises(FormatError, match="blank"):
        NeedleGrid(essays(tmp_path, " \n")).load()
    with pytest.raises(InputError, match="give more room"):
        NeedleGrid(essays(tmp_path), lengths=(5,)).load()


@pytest.mark.parametrize("documents", [10, 30])
def test_the_real_gold_positions(documents: int) -> None:
    oracle_path = local_data("qa/lost_in_the_middle/nq-open-oracle.jsonl.gz")
    items = GoldPosition(oracle_path, local_data("ir/nq_oracle_ir"), documents, n=100).load()
    assert len({item.id for item in items}) == len(items) == 500
    for _, same in groupby(items, key=lambda item: item.group):
        found = list(same)
        rest = [[d for place, d in enumerate(item.documents) if place not in item.gold] for item in found]
        assert all(others == rest[0] for others in rest)
        assert len(rest[0]) == documents - 1
        assert not any(contains(f"{d.title} {d.text}", found[0].answers) for d in rest[0])
        assert all(contains(item.documents[item.gold[0]].text, item.answers) for item in found)


@pytest.mark.parametrize("keys", [75, 140])
def test_the_real_key_value_pairs(keys: int) -> None:
    path = local_data(f"qa/lost_in_the_middle/kv-retrieval-{keys}_keys.jsonl.gz")
    items = KeyValue(path).load()
    assert len(items) == 500
    assert {len(item.documents) for item in items} == {keys}
    assert all(item.answers[0] in item.documents[item.gold[0]].text for item in items)
    assert {len(item.documents) for item in KeyValue(path, 20).load()} == {20}


def test_the_real_essays() -> None:
    folder = local_data("long/paul_graham_essays")
    paragraphs = read_paragraphs(folder)
    assert max(map(len, paragraphs)) <= 1000
    assert all("\n" not in text and any(map(str.isalpha, text)) for text in paragraphs)
    items = NeedleGrid(folder, lengths=(512, 2048), n=5).load()
    assert len(items) == 50
    for item in items:
        length, depth = int(item.facets["length"]), float(item.facets["depth"])
        assert 0.5 * length < word_count(item.documents[0].text) <= length
        assert abs(item.documents[0].metadata["depth"] - depth) < (0.35 if length == 512 else 0.15)
