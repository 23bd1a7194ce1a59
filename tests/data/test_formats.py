"""Reading files: what comes out, and one clear error for each kind of bad input."""

import json
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.data.files import read_documents
from headwater.data.formats import parse_lines, read_beir, read_examples, read_queries, read_run
from headwater.data.text import read_text
from headwater.errors import FormatError, HeadwaterError, InputError, MissingExtraError


def write_jsonl(path: Path, records: list[object]) -> Path:
    path.write_text("\n".join(json.dumps(record) for record in records), encoding="utf-8")
    return path


def test_a_folder_of_text_and_jsonl(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "north_sea.txt").write_text("Cold water.", encoding="utf-8")
    (tmp_path / "atlas.md").write_text("# The Atlas\n\nMaps.", encoding="utf-8")
    write_jsonl(tmp_path / "more.jsonl", [{"_id": 7, "text": "seven", "title": "T", "year": 1999}, {"text": "eight"}])
    (tmp_path / "photo.png").write_bytes(b"\x89PNG")
    (tmp_path / "empty.txt").write_text("  \n", encoding="utf-8")
    (tmp_path / ".hidden.txt").write_text("no", encoding="utf-8")
    loaded = read_documents(tmp_path)
    assert [(d.id, d.title, d.text) for d in loaded.documents] == [
        ("atlas.md", "The Atlas", "# The Atlas\n\nMaps."),
        ("7", "T", "seven"),
        ("more.jsonl:2", None, "eight"),
        ("sub/north_sea.txt", "north sea", "Cold water."),
    ]
    assert loaded.documents[1].metadata == {"year": 1999}
    notes = " ".join(loaded.notes)
    assert "1 x .png" in notes
    assert "1 hidden file" in notes
    assert "1 empty document" in notes


def test_one_file_and_line_endings_kept(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"one\r\ntwo\r\n")
    assert read_documents(tmp_path / "a.txt").documents[0].text == "one\r\ntwo\r\n"


@pytest.mark.parametrize(
    ("raw", "text", "noted"),
    [
        ("Zürich".encode(), "Zürich", False),
        ("Zürich".encode("utf-8-sig"), "Zürich", False),
        ("Zürich".encode("utf-16"), "Zürich", False),
        ("Zürich".encode("utf-32"), "Zürich", False),
        ("Zürich".encode("latin-1"), "Zürich", True),
        (b"", "", False),
    ],
)
def test_encodings(tmp_path: Path, raw: bytes, text: str, noted: bool) -> None:
    (tmp_path / "a.txt").write_bytes(raw)
    notes: list[str] = []
    assert read_text(tmp_path / "a.txt", notes.append) == text
    assert bool(notes) is noted


@pytest.mark.parametrize(
    ("name", "raw", "message"),
    [
        ("a.txt", b"\x00\x01\x02", "binary"),
        ("a.txt", b"\xff\xfeabc", "utf-16"),
        ("a.pdf", b"%PDF", "not a readable PDF"),
        ("a.docx", b"PK", "type '.docx'"),
        ("a.csv", b"id,words\n1,x", "no column is called text"),
        ("a.csv", b"text\nx,y", "line 2: the row has another number"),
        ("a.csv", b'text\n"open\nx\ny', "not valid CSV"),
        ("a.jsonl", b'{"text": "x", "author": "\\ud83d"}', "line 1: The metadata holds half a character"),
        ("a.csv", b"id,text\n1,x\n1,y", "'1' stands twice"),
        ("a.tsv", b"id\ttext\n1", "line 2: the row has another number"),
        ("a.html", b"\x00", "binary"),
        ("a.jsonl", b'{"text": "x"}\n{"text": ', "line 2: not valid JSON"),
        ("a.jsonl", b"[1]", "line 1: expected a JSON object, got list"),
        ("a.jsonl", b'{"body": "x"}', "'text' is missing"),
        ("a.jsonl", b'{"text": 3}', "'text' is missing or not text"),
        ("a.jsonl", b'{"text": "x", "title": 3}', "'title' is not text"),
        ("a.jsonl", b'{"text": "x", "id": [1]}', "id must be"),
        ("a.jsonl", b'{"text": "x", "id": 1}\n{"text": "y", "id": "1"}', "'1' stands twice"),
        ("a.jsonl", b"[" * 100_000, "nested too deep"),
        ("a.txt", b" \n ", "holds no documents"),
    ],
)
def test_bad_files(tmp_path: Path, name: str, raw: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(FormatError, match=message.replace("[", r"\[")):
        read_documents(tmp_path / name)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no file or folder"):
        read_documents(tmp_path / "missing")
    (tmp_path / "photo.png").write_bytes(b"x")
    with pytest.raises(FormatError, match=r"no documents.*1 x \.png"):
        read_documents(tmp_path)


def test_unicode_line_separators_stay_inside_a_json_string(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "one\u2028two"}', encoding="utf-8")
    assert read_documents(tmp_path / "a.jsonl").documents[0].text == "one\u2028two"


def test_lines() -> None:
    assert [(d.id, d.text) for d in parse_lines("a\n\n b \n")] == [("1", "a"), ("3", "b")]
    assert [(d.id, d.title) for d in parse_lines('{"text": "x", "title": "T"}\n')] == [("1", "T")]
    with pytest.raises(FormatError, match="line 2"):
        parse_lines('{"text": "x"}\nplain')
    with pytest.raises(FormatError, match="no documents"):
        parse_lines(" \n")


def beir(tmp_path: Path, qrels: str = "query-id\tcorpus-id\tscore\nq1\td1\t1\n") -> Path:
    write_jsonl(tmp_path / "corpus.jsonl", [{"_id": "d1", "text": "x", "title": ""}, {"_id": "d2", "text": "y"}])
    write_jsonl(tmp_path / "queries.jsonl", [{"_id": "q1", "text": "which?"}])
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "test.tsv").write_text(qrels, encoding="utf-8")
    return tmp_path


def test_beir(tmp_path: Path) -> None:
    data = read_beir(beir(tmp_path))
    assert [d.id for d in data.documents] == ["d1", "d2"]
    assert data.documents[0].title is None
    assert data.queries == {"q1": "which?"}
    assert data.qrels == {"q1": {"d1": 1}}
    assert len(read_documents(tmp_path).documents) == 2, "the queries of a BEIR folder are not documents"


@pytest.mark.parametrize("qrels", ["q1 d1 1\n", "q1\td1\tone\n", "q9\td1\t1\n", "query-id\tcorpus-id\tscore\n"])
def test_bad_qrels(tmp_path: Path, qrels: str) -> None:
    with pytest.raises(FormatError, match=r"test\.tsv"):
        read_beir(beir(tmp_path, qrels))


def test_beir_without_the_split(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"dev\.tsv is missing"):
        read_beir(beir(tmp_path), split="dev")


def test_examples(tmp_path: Path) -> None:
    path = write_jsonl(
        tmp_path / "e.jsonl",
        [
            {"query": "q", "documents": ["a", {"text": "b", "id": "B"}], "relevant": ["B"], "group": "g"},
            {"query": "q", "documents": ["a", "b"], "relevant": [0], "id": 5},
        ],
    )
    first, second = read_examples(path)
    assert first.grades() == [0.0, 1.0]
    assert first.group == "g"
    assert (second.grades(), second.id) == ([1.0, 0.0], "5")


def test_documents_of_examples_have_no_ids_of_their_own(tmp_path: Path) -> None:
    """A place that looks like an id would make documents of different queries the same."""
    documents = [{"text": "a"}, {"text": "b", "id": "7"}, "c"]
    named = [{"query": "q", "documents": documents, "relevant": given} for given in ({"0": 2, "7": 1}, ["2", "7"])]
    by_grade, by_name = read_examples(write_jsonl(tmp_path / "e.jsonl", list(named)))
    assert [document.id for document in by_grade.documents if not isinstance(document, str)] == [None, "7", None]
    assert by_grade.grades() == [2.0, 1.0, 0.0]
    assert by_name.grades() == [0.0, 1.0, 1.0]


@pytest.mark.parametrize(
    "record",
    [
        {"documents": ["a"], "relevant": [0]},
        {"query": "q", "documents": "a", "relevant": [0]},
        {"query": "q", "documents": ["a"], "relevant": [1]},
        {"query": "q", "documents": ["a"], "relevant": [None]},
        {"query": "q", "documents": [3], "relevant": [0]},
        {"query": "q", "documents": ["a"]},
        "text",
    ],
)
def test_bad_examples(tmp_path: Path, record: object) -> None:
    with pytest.raises(FormatError, match="line 1"):
        read_examples(write_jsonl(tmp_path / "e.jsonl", [record]))


def test_no_examples(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no examples file"):
        read_examples(tmp_path / "e.jsonl")
    with pytest.raises(FormatError, match="holds no examples"):
        read_examples(write_jsonl(tmp_path / "e.jsonl", []))


@given(st.binary(max_size=200), st.sampled_from(["a.txt", "a.jsonl", "a.md"]))
def test_any_bytes_give_documents_or_one_of_our_errors(
    tmp_path_factory: pytest.TempPathFactory, raw: bytes, name: str
) -> None:
    path = tmp_path_factory.mktemp("fuzz") / name
    path.write_bytes(raw)
    try:
        loaded = read_documents(path)
    except HeadwaterError:
        return
    assert loaded.documents


def test_tables_pdf_and_html(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('id,Title,TEXT,year\n7,T,"one, ""two""\nlines",1999\n,,three,\n')
    (tmp_path / "b.tsv").write_text("content\tid\nfour\tx\n")
    cyrillic = (
        "<html><head><meta charset='windows-1251'><title>Город</title></head><body><p>Москва является столицей.</p>"
    )
    (tmp_path / "c.html").write_bytes(cyrillic.encode("cp1251"))
    (tmp_path / "d.htm").write_text(
        "<title>Page</title><nav>Menu</nav><p>Some <b>bold</b> words.</p><script>x()</script>"
    )
    (tmp_path / "e.pdf").write_bytes(small_pdf("The capital is Algiers."))
    found = {d.id: d for d in read_documents(tmp_path).documents}
    assert found["7"].text == 'one, "two"\nlines'
    assert (found["7"].title, found["7"].metadata) == ("T", {"year": "1999"})
    assert found["a.csv:4"].text == "three"
    assert found["x"].text == "four"
    assert (found["c.html"].title, found["c.html"].text) == ("Город", "Москва является столицей.")
    assert "Some bold words." in found["d.htm"].text
    assert "x()" not in found["d.htm"].text
    assert found["e.pdf"].text == "The capital is Algiers."
    assert found["e.pdf"].metadata == {"pages": [0]}


def small_pdf(text: str) -> bytes:
    """A PDF of one page, written out."""
    stream = f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET".encode()
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R "
        b"/Resources << /Font << /F1 5 0 R >> >> >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    out, places = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        places.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    start = len(out)
    out += b"xref\n0 6\n0000000000 65535 f \n" + table
    return out + b"trailer << /Size 6 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF" % start


def test_without_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pypdf", None)
    (tmp_path / "a.pdf").write_bytes(b"%PDF")
    with pytest.raises(MissingExtraError, match=r"pip install 'headwater\[docs\]'"):
        read_documents(tmp_path)


def test_linked_folders_are_named(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.txt").write_text("words")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "b.txt").write_text("words")
    (tmp_path / "notes" / "link").symlink_to(tmp_path / "real")
    loaded = read_documents(tmp_path / "notes")
    assert [d.id for d in loaded.documents] == ["b.txt"]
    assert any("linked folder link" in note for note in loaded.notes)


def test_queries_and_runs(tmp_path: Path) -> None:
    (tmp_path / "q.tsv").write_text("1\twhich?\n2\tthe other\tone\n")
    assert read_queries(tmp_path / "q.tsv") == {"1": "which?", "2": "the other\tone"}
    write_jsonl(tmp_path / "q.jsonl", [{"_id": "a", "text": "x"}])
    assert read_queries(tmp_path / "q.jsonl") == {"a": "x"}
    (tmp_path / "run").write_text("1 Q0 d1 1 0.5 r\n1 Q0 d2 2 0.7 r\n2 Q0 d1 1 1 r\n")
    assert read_run(tmp_path / "run") == {"1": [("d2", 0.7), ("d1", 0.5)], "2": [("d1", 1.0)]}
