"""The index on disk: what goes in comes out, only changes are written, and a kill loses nothing acknowledged."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import headwater as hw
from headwater.errors import FormatError, HeadwaterError, InputError, SearchIndexError
from headwater.search.index import Index
from headwater.search.sync import Added


class Letters:
    """Vectors that count letters: texts of the same letters are alike."""

    name, fingerprint, dimension = "letters", "abc", 26

    def embed(self, texts: Any, kind: str) -> np.ndarray:
        counts = np.array([[text.lower().count(chr(97 + i)) for i in range(26)] for text in texts], np.float32)
        return counts / np.maximum(np.linalg.norm(counts, axis=1, keepdims=True), 1e-9)


@pytest.fixture
def index(tmp_path: Path) -> Any:
    with Index.open(tmp_path / "ix") as opened:
        yield opened


def counts(added: Added) -> tuple[int, ...]:
    return (added.new, added.changed, added.unchanged, added.removed, added.files, added.skipped)


def ids(index: Index, query: str) -> list[str | None]:
    return [hit.document.id for hit in index.search(query, k=50)]


def test_documents_in_and_out(index: Index) -> None:
    long = "Filler sentence here. " * 100 + "The treasure lies in Tonga. " + "More of it. " * 50
    documents = [
        hw.Document("  Algiers is the capital.\n", id="dz", title="Algeria", metadata={"year": 1999, "tags": ["a"]}),
        hw.Document(long, id="long"),
        hw.Document("東京は日本の首都です", id="jp"),
        "a text without an id",
    ]
    assert counts(index.add(documents)) == (4, 0, 0, 0, 0, 0)
    (hit,) = index.search("treasure")
    start = hit.document.metadata["passage_start"]
    assert long[start : start + len(hit.document.text)] == hit.document.text
    assert "Tonga" in hit.document.text
    assert len(hit.document.text) <= 1000
    assert ids(index, "algeria") == ["dz"], "titles are searched"
    assert index.search("algeria")[0].document.metadata == {"year": 1999, "tags": ["a"], "passage_start": 2}
    assert ids(index, "日本") == ["jp"], "words without spaces between them are found"
    assert index.document("dz") == documents[0]
    assert index.document("long").text == long
    assert counts(index.add(documents)) == (0, 0, 4, 0, 0, 0)
    assert index.info().documents == 4


def test_a_changed_document_replaces_all_its_passages(index: Index) -> None:
    index.add([hw.Document("old words. " * 500, id="a"), hw.Document("other", id="b")])
    before = index.info().passages
    assert counts(index.add([hw.Document("new words", id="a")])) == (0, 1, 0, 0, 0, 0)
    assert ids(index, "old") == []
    assert index.info().passages == 2 < before
    assert counts(index.add([hw.Document("new words", id="a", title="T")])) == (0, 1, 0, 0, 0, 0)
    assert index.delete(["a", "never"]) == 1
    assert ids(index, "new") == []
    assert index.info().documents == 1


@pytest.mark.parametrize("name", ["it's", 'say "x"', "a\x1fb", "%_\\", "\u2028", "x" * 500, "-- ;drop"])
def test_odd_ids_and_queries(index: Index, name: str) -> None:
    index.add([hw.Document("needle " + name, id=name), hw.Document("hay", id="other")])
    assert index.document(name).text == "needle " + name
    assert ids(index, "needle")[0] == name
    index.search(name + ' +-&|!(){}[]^"~*?:\\/ AND OR NOT')
    index.add([hw.Document("thread", id=name)])
    assert ids(index, "needle") == []
    assert index.delete([name]) == 1


def test_only_what_changed_in_a_folder_is_read(index: Index, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    (notes / "sub").mkdir(parents=True)
    (notes / "a.txt").write_text("apples")
    (notes / "sub" / "b.md").write_text("# Berries\n\nblue")
    (notes / "c.jsonl").write_text('{"text": "cherries", "id": 1}\n{"text": "currants", "id": 2}\n{"text": " "}\n')
    (notes / "d.bin").write_bytes(b"x")
    added = index.add_path(notes)
    assert counts(added) == (4, 0, 0, 0, 3, 0)
    assert any("1 x .bin" in note for note in added.notes)
    assert any("without text" in note for note in added.notes)
    assert counts(index.add_path(notes)) == (0, 0, 0, 0, 0, 3)
    (notes / "a.txt").write_text("apricots")
    (notes / "c.jsonl").write_text('{"text": "cherries", "id": 1}\n{"text": "dates", "id": 3}\n')
    (notes / "sub" / "b.md").unlink()
    assert counts(index.add_path(notes)) == (1, 1, 1, 2, 2, 0)
    assert ids(index, "apples currants blue") == []
    assert sorted(map(str, ids(index, "apricots dates cherries"))) == ["1", "3", "a.txt"]
    (notes / "c.jsonl").rename(notes / "e.jsonl")
    assert counts(index.add_path(notes)) == (0, 2, 0, 0, 1, 1), "documents may move to another file"
    assert index.info().files == 2
    assert counts(index.add_path(notes / "a.txt")) == (0, 0, 0, 0, 0, 1), "a file alone is the same file"


def test_ids_of_two_folders(index: Index, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "readme.txt").write_text(f"words of {name}")
    index.add_path(tmp_path / "one")
    with pytest.raises(InputError, match=r"'readme.txt' is taken by .*one.*--prefix"):
        index.add_path(tmp_path / "two")
    assert ids(index, "words") == ["readme.txt"]
    index.add_path(tmp_path / "two", prefix="two/")
    assert sorted(map(str, ids(index, "words"))) == ["readme.txt", "two/readme.txt"]


def test_a_bad_file_leaves_nothing_of_itself(index: Index, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "a.txt").write_text("apples")
    bad = "\n".join(json.dumps({"text": f"cherry {i}"}) for i in range(2500)) + "\n{"
    (notes / "b.jsonl").write_text(bad)
    (notes / "c.txt").write_text("dates")
    with pytest.raises(FormatError, match=r"b\.jsonl, line 2501"):
        index.add_path(notes)
    assert ids(index, "cherry") == []
    assert ids(index, "apples") == ["a.txt"], "files before the bad one are kept"
    (notes / "b.jsonl").write_text(bad[:-2])
    assert counts(index.add_path(notes)) == (2501, 0, 0, 0, 2, 1)
    assert index.info().documents == 2502


def test_vectors(tmp_path: Path) -> None:
    with Index.open(tmp_path / "ix", embedder=Letters()) as index:
        index.add(
            [hw.Document("aaaa bbbb", id="ab"), hw.Document("zzz zzz", id="z"), hw.Document("abab abba", id="near")]
        )
        dense = index.search("bbaa", mode="dense", k=2)
        assert {hit.document.id for hit in dense} == {"ab", "near"}
        assert dense[0].score == pytest.approx(1.0, abs=1e-5)
        assert next(hit.document.id for hit in index.search("zzz", mode="hybrid")) == "z"
        assert index.info().embedder == {"name": "letters", "fingerprint": "abc", "dimension": 26}
    with Index.open(tmp_path / "ix") as index:
        assert [hit.document.id for hit in index.search("zzz")] == ["z"]
        with pytest.raises(InputError, match="opened without embedder"):
            index.search("zzz", mode="dense")
        with pytest.raises(InputError, match="has vectors of letters"):
            index.add(["x"])
    other = Letters()
    other.fingerprint = "other"  # type: ignore[misc]
    with pytest.raises(InputError, match="with the vectors of letters"):
        Index.open(tmp_path / "ix", embedder=other)


def test_bad_input(tmp_path: Path, index: Index) -> None:
    with pytest.raises(InputError, match="stands twice"):
        index.add([hw.Document("a", id="x"), hw.Document("b", id="x")])
    with pytest.raises(InputError, match="cannot be kept as JSON"):
        index.add([hw.Document("a", id="x", metadata={"what": object()})])
    for call, message in (
        (lambda: index.search(" "), "blank"),
        (lambda: index.search("x", k=0), "at least 1"),
        (lambda: index.search("x", mode="fuzzy"), "Unknown mode"),
        (lambda: index.search("x", mode="dense"), "no vectors"),
        (lambda: index.document("none"), "no document 'none'"),
        (lambda: index.delete("one"), "list of ids"),
        (lambda: Index.open(tmp_path / "nowhere", create=False), "no index"),
        (lambda: Index.open(tmp_path / "ix", passage_chars=77), "1000 characters, not 77"),
        (lambda: Index.open(tmp_path / "new", passage_chars=0), "at least 1"),
        (lambda: index.add_path(tmp_path / "missing"), "no file or folder"),
    ):
        with pytest.raises(InputError, match=message):
            call()  # type: ignore[no-untyped-call]
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thing").write_text("x")
    with pytest.raises(InputError, match="not an index, and not empty"):
        Index.open(tmp_path / "full")
    index.close()
    for closed in (lambda: index.search("x"), lambda: index.add(["x"]), index.info):
        with pytest.raises(InputError, match="closed"):
            closed()


@pytest.mark.parametrize(
    ("meta", "message"),
    [("", "does not describe"), ("{}", "does not describe"), ("[1]", "does not describe"), ("{", "does not describe"),
     ('{"schema_version": 9, "passage_chars": 1, "embedder": null}', "newer headwater")],
)  # fmt: skip
def test_a_damaged_description(tmp_path: Path, meta: str, message: str) -> None:
    (tmp_path / "index.json").write_text(meta)
    with pytest.raises(HeadwaterError, match=message):
        Index.open(tmp_path)


def test_damaged_tables_are_one_sentence(tmp_path: Path) -> None:
    with Index.open(tmp_path / "ix") as index:
        index.add(["some words"])
    for path in (tmp_path / "ix" / "passages.lance" / "_versions").iterdir():
        path.write_bytes(b"nonsense")
    with pytest.raises(SearchIndexError, match="could not be"):
        Index.open(tmp_path / "ix").search("words")


def test_one_writer_at_a_time(tmp_path: Path, index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    from filelock import FileLock

    monkeypatch.setattr("headwater.search.index.LOCK_SECONDS", 0.1)
    index.add(["first words"])
    with FileLock(tmp_path / "ix" / ".lock"):
        with pytest.raises(SearchIndexError, match="Another process"):
            index.add(["second"])
        assert len(index.search("first")) == 1, "reading goes on"


def test_a_full_disk_is_one_sentence(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise RuntimeError("lance error: LanceError(IO): No space left on device (os error 28)")

    index.add(["first words"])
    monkeypatch.setattr(type(index._passages), "merge_insert", full)
    with pytest.raises(SearchIndexError, match="disk is full; what was added before is kept"):
        index.add(["second"])
    assert len(index.search("first")) == 1


KILLED = """
import sys, headwater as hw
from pathlib import Path
folder, acknowledged = Path(sys.argv[1]), Path(sys.argv[2])
with hw.Index.open(folder) as index:
    for i in range(int(sys.argv[3]), 10_000):
        index.add([hw.Document(f"needle{i} in hay", id=str(i)), hw.Document(f"hay of {i}", id=f"h{i}")])
        with acknowledged.open("a") as out:
            out.write(f"{i}\\n")
"""


def test_what_was_acknowledged_survives_a_kill(tmp_path: Path) -> None:
    acknowledged = tmp_path / "done"
    acknowledged.touch()
    draw = random.Random(0)
    for _ in range(3):
        start = len(acknowledged.read_text().split())
        process = subprocess.Popen([sys.executable, "-c", KILLED, tmp_path / "ix", acknowledged, str(start)])
        until = time.monotonic() + 60
        while len(acknowledged.read_text().split()) < start + 2 and time.monotonic() < until:
            time.sleep(0.02)
        time.sleep(draw.random() * 0.3)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        done = acknowledged.read_text().split()
        with Index.open(tmp_path / "ix") as index:
            assert index.info().documents >= 2 * len(done)
            for i in done:
                assert ids(index, f"needle{i}") == [i]


def test_an_id_in_two_files(index: Index, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "a.jsonl").write_text('{"text": "apples", "id": "x"}')
    (notes / "b.jsonl").write_text('{"text": "berries", "id": "x"}')
    with pytest.raises(InputError, match=r"'x' is taken by .*a\.jsonl"):
        index.add_path(notes)
    assert ids(index, "apples berries") == ["x"]
    assert index.document("x").text == "apples"
    (notes / "a.jsonl").write_text('{"text": "apples", "id": "y"}')
    assert counts(index.add_path(notes)) == (1, 1, 0, 0, 2, 0), "the id may move to the other file"
    assert index.document("x").text == "berries"
    with pytest.raises(InputError, match=r"'y' is taken by"):
        index.add([hw.Document("mine", id="y")])


def test_another_prefix_gives_other_ids(index: Index, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("apples")
    index.add_path(tmp_path / "a.txt", prefix="one/")
    assert counts(index.add_path(tmp_path / "a.txt", prefix="two/")) == (1, 0, 0, 1, 1, 0)
    assert ids(index, "apples") == ["two/a.txt"]


def test_links_are_files_of_their_own(index: Index, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "a.txt").write_text("apples")
    (notes / "b.txt").symlink_to(notes / "a.txt")
    (tmp_path / "other").symlink_to(notes)
    assert counts(index.add_path(notes))[0] == 2
    assert counts(index.add_path(tmp_path / "other")) == (0, 0, 0, 0, 0, 2), "the same folder by another name"
    assert sorted(map(str, ids(index, "apples"))) == ["a.txt", "b.txt"]


def test_an_empty_index_finds_nothing(index: Index) -> None:
    assert index.search("anything") == []
    assert index.info().documents == 0
    assert counts(index.add([])) == (0, 0, 0, 0, 0, 0)


def test_what_another_process_wrote_is_seen(index: Index, tmp_path: Path) -> None:
    with Index.open(tmp_path / "ix") as other:
        other.add([hw.Document("version two", id="x")])
        assert counts(index.add([hw.Document("version one", id="x")])) == (0, 1, 0, 0, 0, 0)
        assert other.document("x").text == "version one"
        other.add([hw.Document("more", id="y")])
        assert index.delete(["y"]) == 1
        assert ids(other, "more") == []


def test_ids_move_between_files(index: Index, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    notes.mkdir()

    def write(**files: list[int]) -> Added:
        for path in notes.iterdir():
            path.unlink()
        for name, held in files.items():
            (notes / f"{name}.jsonl").write_text("\n".join(json.dumps({"text": f"w{i}", "id": i}) for i in held))
        return index.add_path(notes)

    for files in (
        {"a": [1, 2], "b": [3]},
        {"a": [1], "b": [3, 2]},
        {"a": [2], "b": [3, 1]},
        {"c": [1, 2, 3]},
        {"a": [3]},
    ):
        write(**files)
        wanted = sorted(str(i) for held in files.values() for i in held)
        assert sorted(row["id"] for row in index._passages.search().limit(None).to_list()) == wanted
        assert index.info().files == len(files)


def test_a_kill_between_documents_and_file_then_a_rename(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from headwater.search.sync import Sync

    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "a.jsonl").write_text('{"text": "w1", "id": 1}\n{"text": "w2", "id": 2}')
    whole = Sync._write

    def killed(self: Sync, batch: Any) -> None:
        whole(self, batch)
        raise KeyboardInterrupt

    for after in ("rename", "delete"):
        monkeypatch.setattr(Sync, "_write", killed)
        with pytest.raises(KeyboardInterrupt):
            index.add_path(notes)
        monkeypatch.setattr(Sync, "_write", whole)
        if after == "rename":
            (notes / "a.jsonl").rename(notes / "b.jsonl")
            index.add_path(notes)
            assert sorted(map(str, ids(index, "w1 w2"))) == ["1", "2"]
            (notes / "b.jsonl").write_text('{"text": "w9", "id": 9}')
        else:
            (notes / "b.jsonl").unlink()
            (notes / "c.txt").write_text("w5")
            index.add_path(notes)
            assert ids(index, "w1 w2 w9 w5") == ["c.txt"]


def test_a_refused_file_is_not_entered(index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three files in batches of two documents; the second one's id is taken."""
    monkeypatch.setattr("headwater.search.sync.BATCH_DOCUMENTS", 2)
    other, notes = tmp_path / "other", tmp_path / "notes"
    for folder in (other, notes):
        folder.mkdir()
    (other / "x.jsonl").write_text('{"text": "first", "id": "taken"}')
    index.add_path(other)
    for name, held in (("a", ["a1", "a2", "a3"]), ("b", ["b1", "taken"]), ("c", ["c1"])):
        (notes / f"{name}.jsonl").write_text("\n".join(json.dumps({"text": "word", "id": i}) for i in held))
    with pytest.raises(InputError, match="'taken' is taken by"):
        index.add_path(notes)
    assert sorted(map(str, ids(index, "word"))) == ["a1", "a2", "a3"]
    (notes / "b.jsonl").write_text('{"text": "word", "id": "b1"}')
    assert counts(index.add_path(notes)) == (2, 0, 0, 0, 2, 1)
    assert sorted(map(str, ids(index, "word"))) == ["a1", "a2", "a3", "b1", "c1"]
    assert ids(index, "first") == ["taken"]


def test_metadata_and_blank_documents(index: Index) -> None:
    long = hw.Document("some words here. " * 300, id="long", metadata={"big": "x" * 1000})
    added = index.add([long, hw.Document("", id="none", title="T")])
    assert counts(added) == (1, 0, 0, 0, 0, 0)
    assert "1 document without text left out." in added.notes
    hits = index.search("words", k=3)
    assert len(hits) == 3
    assert all(hit.document.metadata["big"] == "x" * 1000 for hit in hits)
    stored = index._passages.search().limit(None).to_list()
    assert sum(row["metadata"] is not None for row in stored) == 1
