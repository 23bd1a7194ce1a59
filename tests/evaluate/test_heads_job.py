"""The experiments on head sets, small: every table is there, a second run reads what the first one finished."""

import json
import shutil

import pytest

import headwater as hw
from headwater.errors import InputError, NoAcceptedRunsError
from headwater.evaluate import heads_found, heads_job, heads_masks
from headwater.evaluate.heads_settings import Settings
from headwater.evaluate.heads_tables import tables
from headwater.headset import parse_heads
from models import random_lm

SMALL = Settings(
    questions=4,
    long_questions=3,
    pool=24,
    examples=12,
    draws=2,
    random_sets=2,
    lengths=(300, 500),
    needle_lengths=(256,),
    needle_depths=(0.5,),
    cost_questions=1,
    masked_questions=2,
    masked_sizes=(2,),
    masked_draws=2,
)
MASKED = ({"task": "world-reading", "documents": 2, "name": "reading"},)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("heads")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(heads_masks, "MASKED_TASKS", MASKED)
        yield folder, heads_job.run(hw.load("tiny"), folder, SMALL)


def test_every_table_is_written(finished):
    _, summary = finished
    written = tables(summary)
    assert set(written) == {
        *("methods-20", "methods-50", "counts", "examples", "lengths", "overlap", "stability", "made", "cost"),
        *("masks-all", "masks-decode"),
    }
    rows = ("query-focused", "contrastive", "retrieval", "all heads", "random heads", "shuffled labels", "BM25")
    for name in (
        *rows,
        *([] if "layer-matched random heads" in summary["not_run"] else ["layer-matched random heads"]),
    ):
        assert written["methods-20"].count(f"| {name} |") == 1
    assert [line.split()[1] for line in written["examples"].splitlines()[2:]] == ["8", "16"], "the pool has 24"
    assert "300 tokens (" in written["lengths"]
    assert "% of known countries)" in written["lengths"]
    assert "threads" in written["cost"]
    assert written["counts"].count("\n") == 2 + len([n for n in heads_job.COUNTS if n < 48])
    for name in ("top of query-focused", "top of retrieval", "random (2 draws)", "bottom"):
        assert f"|  | {name} |" in written["masks-all"]
        assert f"|  | {name} |" in written["masks-decode"]
    assert "| 20 of the Factbook" in written["cost"]
    json.dumps(summary, allow_nan=False)


def test_a_second_run_goes_on(finished, monkeypatch):
    folder, summary = finished
    lm = hw.load("tiny")

    def never(*_):
        raise AssertionError("nothing is left to run")

    monkeypatch.setattr(heads_job, "head_scorer", lambda *_: never)
    monkeypatch.setattr(heads_found.QueryFocusedHeads, "score", never)
    again = heads_job.run(lm, folder, SMALL)
    assert again["results"] == summary["results"]
    with pytest.raises(InputError, match="another output folder"):
        heads_job.run(lm, folder, Settings(questions=5))


def test_a_model_that_finds_no_needle_lacks_those_heads_only(finished, tmp_path, monkeypatch):
    folder, _ = finished
    for path in folder.glob("*"):
        if path.is_file() and "retrieval" not in path.name and path.suffix != ".jsonl":
            shutil.copy(path, tmp_path)

    def nothing(*_):
        raise NoAcceptedRunsError("No needle was found.", reasons={}, responses=[])

    monkeypatch.setattr(heads_masks, "MASKED_TASKS", MASKED)
    monkeypatch.setattr(heads_found.RetrievalHeads, "score", nothing)
    summary = heads_job.run(hw.load("tiny"), tmp_path, SMALL)
    assert summary["not_run"]["retrieval"] == "No needle was found."
    assert "retrieval" not in summary["heads"]
    written = tables(summary)
    assert "Not run: retrieval: No needle was found." in written["made"]
    assert "| retrieval |" not in written["methods-20"]
    assert "top of retrieval" not in written["masks-all"]


def test_random_heads_of_the_same_layers_are_outside_the_set(finished):
    _, summary = finished
    own = parse_heads(summary["heads"]["query-focused"])
    drawn = [parse_heads(text) for name, text in summary["heads"].items() if name.startswith("layer-matched")]
    assert bool(drawn) == ("layer-matched random heads" not in summary["not_run"])
    for heads in drawn:
        assert sorted(layer for layer, _ in heads) == sorted(layer for layer, _ in own)
        assert not set(heads) & set(own)


def test_a_model_that_reads_too_little_is_refused_at_once(tmp_path):
    with pytest.raises(InputError, match=r"reads 1024 tokens, but lists that are ranked have up to"):
        heads_job.run(random_lm(max_position_embeddings=1024), tmp_path / "x", SMALL)
    assert not (tmp_path / "x").exists()


def test_fewer_questions_make_all_of_it_smaller():
    whole, small = Settings(), Settings.of_size(30, seed=4)
    assert Settings.of_size(300, 0) == whole
    assert (small.questions, small.long_questions, small.masked_questions, small.seed) == (30, 10, 4, 4)
    assert small.pool >= small.examples >= 12
    assert Settings.of_size(600, 0).masked_questions == whole.masked_questions


def test_ranks_become_measures(finished):
    folder, summary = finished
    lines = [json.loads(line) for line in (folder / "20-candidates.jsonl").read_text(encoding="utf-8").splitlines()]
    first = [line["ranks"]["query-focused"] == 0 for line in lines]
    assert summary["results"]["20 candidates"]["sets"]["query-focused"]["R@1"]["mean"] == sum(first) / len(first)
