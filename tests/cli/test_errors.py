"""Every command with input it cannot use: one clear sentence, exit code 1 or 2, nothing half-written."""

import errno
import json
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headwater.data.files import READERS, read_documents
from headwater.data.formats import parse_lines, read_beir, read_examples, read_queries, read_run
from headwater.errors import HeadwaterError
from headwater.headset import HeadSet
from headwater.headset.importers import read_duo_attention

RANK = ["rank", "q", "--model", "{model}", "--heads", "all", "--docs"]
ASK = ["ask", "q", "--model", "{model}", "--heads", "all", "--docs"]
ADD = ["index", "add", "--index", "{tmp}/ix"]
RUN = ["rank", "--model", "{model}", "--heads", "all", "--output", "{tmp}/out.trec"]
FILES = ["--run", "{tmp}/run.trec", "--queries", "{tmp}/queries.tsv", "--docs", "{tmp}/corpus.jsonl"]
BAD = [
    (["rank", "q", "--docs", "{tmp}/missing"], 2, "no file or folder"),
    (["rank", "q", "--docs", "{tmp}/empty"], 2, "no documents"),
    (["rank", "q", "--docs", "{tmp}/bad.jsonl"], 2, "line 2"),
    (["rank", "q", "--docs", "{tmp}/binary.txt"], 2, "binary"),
    (["rank", " ", "--docs", "{notes}", "--model", "{model}", "--heads", "all"], 2, "blank"),
    (["rank", "q", "--docs", "{notes}", "--model", "{model}", "--heads", "9-9"], 2, "9"),
    (["rank", "q", "--docs", "{notes}", "--model", "{model}", "--heads", "some"], 2, "not a head set file"),
    (["rank", "q", "--docs", "{notes}", "--model", "{model}", "--heads", "{tmp}/missing.json"], 2, "missing.json"),
    (["rank", "q", "--docs", "{notes}", "--model", "{model}", "--template", "odd"], 2, "template"),
    (["rank", "q", "--docs", "{notes}", "--model", "{model}", "--dtype", "odd"], 2, "dtype"),
    (["rank", "q", "--docs", "{notes}", "--model", "{tmp}/missing"], 1, "Could not load"),
    (["rank", "q", "--docs", "{tmp}/long.txt", "--model", "{model}", "--heads", "all"], 2, "8,192"),
    (["rank"], 2, ""),
    (["rank", "q", "--docs", "{notes}", "--top-k", "0"], 2, ""),
    (["ask", "q"], 2, ""),
    (["ask", " ", "--docs", "{notes}", "--model", "{model}", "--heads", "all"], 2, "blank"),
    (["ask", "q", "--docs", "{tmp}/empty"], 2, "no documents"),
    (["heads", "find", "--output", "{tmp}/x.json", "--examples", "{tmp}/missing"], 2, "no examples file"),
    (["heads", "find", "--output", "{tmp}/x.json", "--examples", "{tmp}/bad.jsonl"], 2, "line 1"),
    (["heads", "find", "--output", "{tmp}/bad.jsonl/x.json", "--model", "{model}"], 2, "Cannot use the folder"),
    (["heads", "find", "--output", "{tmp}/x.json", "--metric", "odd"], 2, ""),
    (["heads", "show", "{tmp}/missing"], 2, "missing"),
    (["heads", "show", "{tmp}/bad.jsonl"], 2, "not JSON"),
    (["eval", "run", "--output", "{tmp}/run", "--suite", "odd"], 2, ""),
    (["eval", "run", "--output", "{tmp}/run"], 2, "Say what to run"),
    (["eval", "run", "--output", "{tmp}/run", "--suite", "main", "--task", "dl19"], 2, "Say what to run"),
    (["eval", "run", "--output", "{tmp}/run", "--task", "nothing"], 2, "There is no task"),
    (["eval", "run", "--output", "{tmp}/run", "--task", "dl19"], 2, "give --data"),
    (["eval", "run", "--output", "{tmp}/run", "--task", "dl19", "--data", "{tmp}/nowhere"], 2, "no data folder"),
    (["eval", "run", "--output", "{tmp}/run", "--task", "world-ranking", "--method", "odd"], 2, "There is no method"),
    (
        ["eval", "run", "--output", "{tmp}/run", "--task", "world-ranking", "--method", "read"],
        2,
        "can do world-ranking",
    ),
    (["eval", "run", "--output", "{tmp}/run", "--task", "world-ranking", "--method", "dense"], 2, "written dense:ID"),
    (["eval", "run", "--output", "{tmp}/run", "--task", "rerank:{tmp}/nowhere", "--method", "bm25"], 2, "BEIR folder"),
    (["eval", "run", "--output", "{tmp}/run", "--config", "{tmp}/missing.yaml"], 2, "no configuration"),
    (["eval", "run", "--output", "{tmp}/run", "--config", "{tmp}/bad.jsonl"], 2, ""),
    (
        ["eval", "run", "--output", "{tmp}/run", "--config", "{tmp}/x.yaml", "--limit", "3"],
        2,
        "--limit goes with --task",
    ),
    (["eval", "run", "--output", "{tmp}/run", "--suite", "main", "--method", "qr"], 2, "--method goes with --task"),
    (["eval", "run", "--output", "{tmp}/run", "--config", "{tmp}/x.yaml", "--model", "m"], 2, "write it into the file"),
    (["eval", "report", "{tmp}"], 2, "summary.json"),
    (
        ["eval", "run", "--suite", "main", "--output", "{tmp}/run", "--page", "{tmp}/missing.md"],
        2,
        "Cannot read the page",
    ),
    (
        ["eval", "run", "--suite", "main", "--output", "{tmp}/run", "--page", "{tmp}/binary.txt"],
        2,
        "no place for tables",
    ),
    (
        ["eval", "run", "--suite", "main", "--output", "{tmp}/bad.jsonl", "--model", "{model}"],
        2,
        "Cannot use the folder",
    ),
    (["demo", "--output", "{tmp}/bad.jsonl", "--model", "{model}"], 2, "Cannot use the folder"),
    (["demo", "--output", "{tmp}/out", "--questions", "1"], 2, ""),
    (["demo", "--output", "{tmp}/out", "--questions", "99999", "--model", "{model}"], 2, "asked for 99999"),
    (["nonsense"], 2, ""),
    # files that do not hold what their type promises
    ([*RANK, "{tmp}/empty.txt"], 2, "holds no documents"),
    ([*RANK, "{tmp}/half.jsonl"], 2, "line 2: not valid JSON"),
    ([*RANK, "{tmp}/schema.jsonl"], 2, "'text' is missing"),
    ([*RANK, "{tmp}/twice.jsonl"], 2, "'a' stands twice"),
    ([*RANK, "{tmp}/utf16.txt"], 2, "utf-16"),
    ([*RANK, "{tmp}/a.docx"], 2, "type '.docx'"),
    ([*RANK, "{tmp}/bad.csv"], 2, "no column is called text"),
    ([*RANK, "{tmp}/bad.pdf"], 2, "not a readable PDF"),
    ([*ASK, "{tmp}/empty.txt"], 2, "holds no documents"),
    ([*ASK, "{tmp}/half.jsonl"], 2, "line 2: not valid JSON"),
    ([*ASK, "{tmp}/twice.jsonl"], 2, "'a' stands twice"),
    ([*ASK, "{tmp}/missing"], 2, "no file or folder"),
    ([*ASK, "{tmp}/bad.pdf"], 2, "not a readable PDF"),
    ([*ASK, "{tmp}/binary.txt"], 2, "binary"),
    ([*ASK, "{notes}", "--index", "{notes}"], 2, "not an index, and not empty"),
    ([*ASK, "{notes}", "--index", "{tmp}/half.jsonl"], 2, "Cannot make an index"),
    ([*ASK, "{notes}", "--support", "2"], 2, ""),
    ([*ASK, "{notes}", "--ranker-model", "{tmp}/missing"], 1, "Could not load"),
    (["ask", "q", "--model", "{model}", "--heads", "all", "--index", "{tmp}/damaged"], 2, "does not describe an index"),
    (["ask", "q", "--docs", "{notes}", "--model", "{model}", "--no-detect"], 2, "No heads are known"),
    (["rank", "q", "--docs", "{notes}", "--model", "{model}", "--no-detect"], 2, "No heads are known"),
    (["ask", "q", "--model", "{model}", "--heads", "all", "--index", "{tmp}/typo"], 2, "There is no index"),
    ([*RANK, "{notes}", "--output", "{tmp}/out.trec"], 2, "belong to a TREC run"),
    ([*RANK[:4], "--heads", "{tmp}/deep.yaml", "--docs", "{notes}"], 2, "not valid YAML"),
    ([*RANK[:4], "--heads", "{tmp}/huge.json", "--docs", "{notes}"], 2, "no model has so many"),
    # an index
    ([*ADD, "{tmp}/missing"], 2, "no file or folder"),
    ([*ADD, "{tmp}/half.jsonl"], 2, "line 2: not valid JSON"),
    ([*ADD, "{tmp}/a.docx"], 2, "type '.docx'"),
    ([*ADD, "{notes}", "--passage-chars", "0"], 2, ""),
    (["index", "add", "{notes}"], 2, ""),
    (["index", "add", "{notes}", "--index", "{tmp}/damaged"], 2, "does not describe an index"),
    (["index", "search", " ", "--index", "{tmp}/good"], 2, "blank"),
    (["index", "search", "x", "--index", "{tmp}/missing"], 2, "There is no index"),
    (["index", "search", "x", "--index", "{notes}"], 2, "There is no index"),
    (["index", "info", "--index", "{tmp}/missing"], 2, "There is no index"),
    (["index", "delete", "x", "--index", "{tmp}/missing"], 2, "There is no index"),
    # a TREC run
    ([*RUN, "--run", "{tmp}/run.trec"], 2, "needs --docs"),
    ([*RUN, "q", *FILES], 2, "but no query"),
    ([*RUN, "--run", "{tmp}/missing", *FILES[2:]], 2, "no run file"),
    ([*RUN, "--run", "{tmp}/half.jsonl", *FILES[2:]], 2, "expected six fields"),
    ([*RUN, "--run", "{tmp}/nan.trec", *FILES[2:]], 2, "'nan' is not a number"),
    ([*RUN, "--run", "{tmp}/twice.trec", *FILES[2:]], 2, "stands twice"),
    ([*RUN, "--run", "{tmp}/empty.txt", *FILES[2:]], 2, "holds no ranking"),
    ([*RUN, "--run", "{tmp}/q9.trec", *FILES[2:]], 2, "query 'q9'"),
    ([*RUN, "--run", "{tmp}/d9.trec", *FILES[2:]], 2, "document 'd9'"),
    ([*RUN, *FILES[:2], "--queries", "{tmp}/missing", *FILES[4:]], 2, "no query file"),
    ([*RUN, *FILES[:2], "--queries", "{tmp}/nan.trec", *FILES[4:]], 2, "an id, a tab and a query"),
    ([*RUN[:-1], "{tmp}", *FILES], 2, "is a folder"),
    # models
    ([*RANK[:3], "{tmp}/truncated", "--docs", "{notes}"], 1, "Could not load"),
    ([*RANK[:3], "{tmp}/no-weights", "--docs", "{notes}"], 1, "Could not load"),
    ([*RANK[:3], "{tmp}/no-config", "--docs", "{notes}"], 1, "Could not load"),
    ([*RANK[:3], "{tmp}/other", "--docs", "{notes}"], 1, "Could not load"),
    ([*RANK[:3], "{tmp}/no-tokenizer", "--docs", "{notes}"], 1, "Could not load"),
    ([*RANK[:3], "some-gated/model", "--docs", "{notes}"], 1, "Could not load"),
    ([*RANK[:3], "{notes}/algeria.txt", "--docs", "{notes}"], 1, "Could not load"),
    # head sets
    ([*RANK[:4], "--heads", "llama-9/qr-nq", "--docs", "{notes}"], 2, "no published head set"),
    ([*RANK[:4], "--heads", "llama-3.1-8b-instruct/qr-nq", "--docs", "{notes}"], 2, "for a model of 32 layers"),
    ([*RANK[:4], "--heads", "{tmp}/bad.yaml", "--docs", "{notes}"], 2, "'attn_head_set' is missing"),
    ([*RANK[:4], "--heads", "{tmp}/half.jsonl", "--docs", "{notes}"], 2, "not JSON"),
    ([*RANK[:4], "--heads", "{tmp}/scores.json", "--docs", "{notes}"], 2, "not a file of retrieval scores"),
    (["heads", "show", "{tmp}/full_attention_heads.tsv"], 2, "--query-heads"),
    (["heads", "show", "{tmp}/full_attention_heads.tsv", "--query-heads", "3"], 2, "3 query heads cannot share"),
    (["heads", "show", "{tmp}/empty.txt", "--query-heads", "4"], 2, "not a table"),
    (["heads", "show", "{tmp}/empty"], 2, "Cannot read"),
]


@pytest.fixture
def faults(tmp_path: Path, notes: Path, model_folder: str) -> Path:
    """A folder of everything that can be wrong."""
    texts = {
        "bad.jsonl": '{"text": "x"}\n{"text": ',
        "half.jsonl": '{"text": "x"}\n{"text": ',
        "schema.jsonl": '{"body": "x"}',
        "twice.jsonl": '{"text": "x", "id": "a"}\n{"text": "y", "id": "a"}',
        "long.txt": "word " * 4000,
        "empty.txt": " \n",
        "a.docx": "PK",
        "bad.csv": "id,words\n1,x\n",
        "bad.pdf": "%PDF-1.7\nnonsense",
        "bad.yaml": "heads: 1-2",
        "deep.yaml": "[" * 20_000,
        "huge.json": '{"999999999-999999999": [1]}',
        "scores.json": '{"1-2": "high"}',
        "full_attention_heads.tsv": "0.1\t0.9\n0.2\t0.3\n",
        "queries.tsv": "q1\twhich one?\n",
        "corpus.jsonl": '{"text": "one", "id": "d1"}\n{"text": "two", "id": "d2"}\n',
        "run.trec": "q1 Q0 d1 1 2.5 bm25\nq1 Q0 d2 2 1.5 bm25\n",
        "nan.trec": "q1 Q0 d1 1 nan bm25\n",
        "twice.trec": "q1 Q0 d1 1 2 bm25\nq1 Q0 d1 2 1 bm25\n",
        "q9.trec": "q9 Q0 d1 1 2.5 bm25\n",
        "d9.trec": "q1 Q0 d9 1 2.5 bm25\n",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "binary.txt").write_bytes(b"a\x00b")
    (tmp_path / "utf16.txt").write_bytes(b"\xff\xfeabc")
    (tmp_path / "empty").mkdir()
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "index.json").write_text("{")
    for name in ("truncated", "no-weights", "no-config", "other", "no-tokenizer"):
        shutil.copytree(model_folder, tmp_path / name)
    weights = tmp_path / "truncated" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    (tmp_path / "no-weights" / "model.safetensors").unlink()
    (tmp_path / "no-config" / "config.json").write_text("{")
    (tmp_path / "other" / "config.json").write_text('{"model_type": "unheard-of"}')
    for path in (tmp_path / "no-tokenizer").glob("*token*"):
        path.unlink()
    return tmp_path


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file() and "/cache/" not in str(p)}


def test_there_are_enough_cases() -> None:
    assert len(BAD) >= 60


@pytest.mark.parametrize(("arguments", "code", "message"), BAD, ids=lambda value: str(value)[:70])
def test_bad_input(
    call: Any,
    faults: Path,
    notes: Path,
    model_folder: str,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    before = snapshot(faults)
    words = [a.format(tmp=faults, notes=notes, model=model_folder) for a in arguments]
    if f"{faults}/good" in words:
        assert call("index", "add", notes, "--index", f"{faults}/good").exit_code == 0
        before = snapshot(faults)
    result = call(*words)
    assert result.exit_code == code, result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not result.stdout
    assert result.exception is None or isinstance(result.exception, SystemExit)
    if message:
        last = result.stderr.strip().splitlines()[-1]
        assert last.startswith("Error: ")
        assert len(last) < 700
    after = snapshot(faults)
    assert before == {name: after.get(name) for name in before}, "no input is touched"
    assert not [name for name in after if name.endswith(("/out.trec", "/x.json"))], "nothing is half-written"


def test_a_full_disk(call: Any, tmp_path: Path, model_folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    examples = tmp_path / "e.jsonl"
    examples.write_text(json.dumps({"query": "q", "documents": ["a b", "c d"], "relevant": [0]}))
    (tmp_path / "out").mkdir()
    monkeypatch.setattr(os, "fsync", full)
    output = tmp_path / "out" / "x.json"
    result = call("heads", "find", "--model", model_folder, "--examples", examples, "--output", output)
    assert result.exit_code == 2
    assert "No space left" in result.stderr
    assert not list((tmp_path / "out").iterdir())


def test_a_folder_that_cannot_be_written(call: Any, notes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = call("index", "add", notes, "--index", "/proc/no/such")
    assert result.exit_code == 2
    assert "Cannot make an index" in result.stderr


RECORDS = st.dictionaries(
    st.sampled_from(["text", "id", "_id", "title", "query"]), st.none() | st.integers() | st.text(max_size=20)
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    raw=st.one_of(
        st.binary(max_size=200),
        st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")),
        st.lists(RECORDS).map(lambda records: "\n".join(map(json.dumps, records)).encode()),
    )
)  # fmt: skip
def test_parsers_give_documents_or_one_sentence(tmp_path: Path, raw: bytes) -> None:
    """Whatever the bytes, a reader returns or raises a `HeadwaterError`."""
    for suffix in READERS:
        path = tmp_path / f"file{suffix}"
        path.write_bytes(raw)
        with suppress(HeadwaterError):
            for document in read_documents(path).documents:
                document.text.encode()
    path = tmp_path / "file"
    path.write_bytes(raw)
    shutil.copyfile(path, tmp_path / "queries.jsonl")
    (tmp_path / "qrels").mkdir(exist_ok=True)
    shutil.copyfile(path, tmp_path / "qrels" / "test.tsv")
    (tmp_path / "corpus.jsonl").write_text('{"text": "x", "_id": "d"}')
    readers: list[Any] = [read_examples, read_queries, read_run, HeadSet.load, lambda p: read_duo_attention(p, 4)]
    readers += [lambda p: read_beir(p.parent), lambda p: parse_lines(p.read_text("latin-1"))]
    for name in ("file", "file.jsonl", "file.yaml"):
        (tmp_path / name).write_bytes(raw)
        for reader in readers:
            with suppress(HeadwaterError):
                reader(tmp_path / name)
