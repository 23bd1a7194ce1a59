"""JSON files of tasks: every kind of damage is one clear error with the place."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from headwater.errors import FormatError, InputError
from headwater.evaluate.tasks.counterfact import Counterfact
from headwater.evaluate.tasks.multihop import HotpotQa, MuSiQue
from headwater.evaluate.tasks.positions import KeyValue
from headwater.evaluate.tasks.qed import Qed
from headwater.evaluate.tasks.records import Record, checked, distinct, read_record, read_records
from headwater.evaluate.tasks.rgb import Rgb
from headwater.evaluate.tasks.squad import Squad
from headwater.evaluate.tasks.task import TextItem
from task_records import COUNTERFACT, HOTPOT, KEY_VALUE, MUSIQUE, QED, RGB, SQUAD

RECORDS: dict[type, Any] = {
    Counterfact: COUNTERFACT,
    HotpotQa: HOTPOT,
    KeyValue: KEY_VALUE,
    MuSiQue: MUSIQUE,
    Qed: QED,
    Rgb: RGB,
    Squad: SQUAD,
}


@pytest.mark.parametrize("name", ["list.json", "lines.jsonl", "packed.jsonl.gz"])
def test_records_of_a_list_and_of_lines(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    objects = [{"a": "x\u2028y"}, {"a": "z"}]
    lines = "\n\n".join(json.dumps(each, ensure_ascii=False) for each in objects).encode()
    path.write_bytes({".json": json.dumps(objects).encode(), ".gz": gzip.compress(lines)}.get(path.suffix, lines))
    found = read_records(path)
    assert [record.fields for record in found] == objects
    assert found[1].where == f"{path}, " + ("record 2" if name == "list.json" else "line 3")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no records"),
        (b"[]", "holds no records"),
        (b'[{"a": 1}, 2]', "record 2: expected an object, got int"),
        (b'{"a": 1}\n[2]', "line 2: expected a JSON object"),
        (b'{"a": 1}\n{"a"', "line 2: not valid JSON"),
        (b'[{"a": 1},\n', r"line \d: not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"a\0b", "is binary"),
    ],
)
def test_damaged_files(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "damaged.json"
    path.write_bytes(content)
    with pytest.raises(FormatError, match=message):
        read_records(path)


def test_a_whole_object(tmp_path: Path) -> None:
    path = tmp_path / "object.json"
    path.write_text('{"a": 1}')
    assert read_record(path).fields == {"a": 1}
    path.write_text("[1]")
    with pytest.raises(FormatError, match="expected a JSON object, got list"):
        read_record(path)


@pytest.mark.parametrize("content", [b"no gzip", gzip.compress(b'{"a": 1}' * 99)[:-9]], ids=["no gzip", "cut short"])
def test_damaged_gzip(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "lines.jsonl.gz"
    path.write_bytes(content)
    with pytest.raises(FormatError, match="not a whole gzip file"):
        read_records(path)


def test_fields() -> None:
    record = Record({"t": "a", "blank": " ", "half": "\ud800", "ts": ["a", 1], "os": [{}, 1], "yes": 1}, "here")
    assert (record.text("t"), record.yes("missing")) == ("a", False)
    for read, message in [
        (lambda: record.text("missing"), "here: the field 'missing' is missing"),
        (lambda: record.text("blank"), "blank"),
        (lambda: record.text("half"), "half a character"),
        (lambda: record.list("t"), "not a list"),
        (lambda: record.texts("ts"), "an element of 'ts'"),
        (lambda: record.records("os"), "here, os 2: expected an object"),
        (lambda: record.yes("yes"), "neither true nor false"),
    ]:
        with pytest.raises(FormatError, match=message):
            read()


def test_checked_items() -> None:
    items = [TextItem("a", "g", "x"), TextItem("b", "g", "x")]
    assert checked(items, Path("f")) == items
    with pytest.raises(FormatError, match="no usable example"):
        checked([], Path("f"))
    with pytest.raises(FormatError, match="'a' stands twice"):
        checked([*items, items[0]], Path("f"))
    assert distinct(["b", "a", "b"]) == ("b", "a")


@pytest.mark.parametrize("task", RECORDS)
def test_a_missing_file(tmp_path: Path, task: type) -> None:
    with pytest.raises(InputError, match=r"none\.json"):
        task(tmp_path / "none.json").load()


def damaged(value: Any) -> Iterator[Any]:
    """Copies of a value in each of which one part, at any depth, is something else or missing."""
    yield from (None, True, 7, 1.5, "", " ", "x", [], [None], [[]], {}, {"x": 1})
    if isinstance(value, dict):
        for key in value:
            yield {each: value[each] for each in value if each != key}
            yield from ({**value, key: part} for part in damaged(value[key]))
    elif isinstance(value, list):
        for place in range(len(value)):
            yield [*value[:place], *value[place + 1 :]]
            yield from ([*value[:place], part, *value[place + 1 :]] for part in damaged(value[place]))


@pytest.mark.parametrize("task", RECORDS)
def test_whatever_is_damaged_loads_or_is_a_format_error(tmp_path: Path, task: type) -> None:
    path = tmp_path / "record.json"
    path.write_text(json.dumps(RECORDS[task]))
    assert task(path).load()
    refused = 0
    for record in damaged(RECORDS[task]):
        path.write_text(json.dumps(record))
        try:
            task(path).load()
        except FormatError as error:
            refused += path.name in str(error)
    assert refused > 50
