"""What a run leaves on disk survives a kill and refuses to be mixed with another run."""

import json
import subprocess
from pathlib import Path

import pytest

from headwater.errors import FormatError, InputError
from headwater.evaluate.files import Lines, _commit, made_with, same_run, write_json, write_page
from headwater.evaluate.tables import check_page, fill_page, markdown, speed


def test_lines_keep_what_is_finished_and_drop_half_a_line(tmp_path: Path) -> None:
    path = tmp_path / "new" / "lines.jsonl"
    lines = Lines(path)
    lines.add({"id": "a", "text": "é\u2028"})
    lines.add({"id": "b"})
    with open(path, "a", encoding="utf-8") as file:
        file.write('{"id": "c", "te')
    again = Lines(path)
    assert list(again.done) == ["a", "b"]
    again.add({"id": "c"})
    assert list(Lines(path).done) == ["a", "b", "c"]


@pytest.mark.parametrize("line", ["no json\n", "[1]\n", '{"no": "id"}\n'])
def test_damaged_lines(tmp_path: Path, line: str) -> None:
    (tmp_path / "lines.jsonl").write_text('{"id": "a"}\n' + line, encoding="utf-8")
    with pytest.raises(FormatError, match="line 2"):
        Lines(tmp_path / "lines.jsonl")


def test_a_folder_where_the_file_should_be(tmp_path: Path) -> None:
    (tmp_path / "lines.jsonl").mkdir()
    with pytest.raises(InputError, match="Cannot use"):
        Lines(tmp_path / "lines.jsonl")


def test_same_run(tmp_path: Path) -> None:
    path = tmp_path / "run" / "config.json"
    same_run(path, {"seed": 0, "sizes": (1, 2)})
    same_run(path, {"seed": 0, "sizes": (1, 2)})
    with pytest.raises(InputError, match="seed=0, not 1"):
        same_run(path, {"seed": 1, "sizes": (1, 2)})
    path.write_text("{", encoding="utf-8")
    with pytest.raises(FormatError, match="not a readable configuration"):
        same_run(path, {})


def test_json_refuses_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", {"a": float("nan")})
    assert not list(tmp_path.iterdir())


def test_what_it_was_made_with_is_json() -> None:
    made = json.loads(json.dumps(made_with("headwater demo", "tiny", 3, seconds=1.5)))
    assert (made["seed"], made["seconds"]) == (3, 1.5)
    assert {"headwater", "torch", "scipy"} <= set(made["versions"])


def summary() -> dict:
    row = {"mean": 0.5, "low": 0.25, "high": 0.75}
    both = {"nDCG@10": row, "R@1": row}
    return {
        "made": made_with("headwater eval run", "tiny", 0),
        "config": {"fingerprint": "f00", "examples": 3},
        "heads": {"QR heads": "1-2"},
        "ranking": {
            "n": 4,
            "groups": 2,
            "candidates": 20,
            "layers": 6,
            "bm25": {"k1": 0.9, "b": 0.4},
            "systems": {
                "QR heads": {**both, "layers": 4},
                "all heads": {**both, "layers": 6},
                "random heads": {**both, "layers": 6, "R@1 of each set": [0.1, 0.3]},
                "BM25": {**both, "layers": 0},
            },
            "differences": {"QR heads - BM25": both, "QR heads - all heads": both},
        },
        "reading": {"n": 4, "groups": 2, "systems": {"model": row}},
    }


def test_a_page_is_filled_between_its_markers(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- begin: ranking -->\nold\n<!-- end: ranking -->\nb\n", encoding="utf-8")
    fill_page(page, markdown(summary()))
    text = page.read_text(encoding="utf-8")
    assert text.startswith("a\n<!-- begin: ranking -->\n| ranker |")
    assert text.endswith("<!-- end: ranking -->\nb\n")
    assert "| QR heads | 0.500 [0.250, 0.750] | 0.500 [0.250, 0.750] | 4 of 6 |" in text
    assert "random heads (mean of 2 sets, 0.100 to 0.300)" in text
    assert "no model" in text
    fill_page(page, markdown(summary()))
    assert page.read_text(encoding="utf-8") == text
    both = write_page(tmp_path / "both.md", text + "<!-- begin: speed -->\nkept\n<!-- end: speed -->\n")
    fill_page(both, markdown(summary()))
    assert both.read_text(encoding="utf-8").endswith("kept\n<!-- end: speed -->\n")


def test_the_speed_table() -> None:
    row = {"median_s": 1.5, "min_s": 1.0, "max_s": 2.0, "ratio": 0.5, "ratio_min": 0.4, "ratio_max": 0.6}
    made = made_with("benchmark", "random", 0, parameters=10**8, dtype="float32", heads=16, rows=64, repeats=7)
    table = speed({"made": made, "lengths": {"4096": {"capture": row}}})["speed"]
    assert "| 4,096 | capture | 1.500 | 1.000 to 2.000 | 0.50 [0.40, 0.60] |" in table
    assert "100 M random Llama" in table


def test_bad_pages(tmp_path: Path) -> None:
    page = write_page(tmp_path / "page.md", "<!-- begin: odd -->\n<!-- end: odd -->\n")
    with pytest.raises(InputError, match="no place for any"):
        fill_page(page, markdown(summary()))
    with pytest.raises(InputError, match="no place for tables"):
        check_page(write_page(tmp_path / "page.md", "text"))
    with pytest.raises(InputError, match="Cannot read"):
        check_page(tmp_path / "missing.md")


def test_the_commit_is_that_of_headwaters_own_checkout(tmp_path: Path) -> None:
    package = tmp_path / "src" / "headwater"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("", encoding="utf-8")

    def git(*words: str) -> str:
        author = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        return subprocess.run(["git", *author, *words], cwd=tmp_path, check=True, capture_output=True, text=True).stdout

    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "--message", "one")
    commit = git("rev-parse", "HEAD")[:12]
    assert _commit(package) == {"commit": commit}
    (package / "__init__.py").write_text("changed = 1\n", encoding="utf-8")
    assert _commit(package) == {"commit": f"{commit}-dirty"}
    installed = tmp_path / "venv" / "site-packages" / "headwater"  # inside somebody's repository, but not its own
    installed.mkdir(parents=True)
    assert _commit(installed) == {}
    assert _commit(tmp_path / "nowhere") == {}
