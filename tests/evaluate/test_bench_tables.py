"""Tables and sentences out of a benchmark's summary: what is bold, what is escaped, what is missing."""

import csv
import io
import re
from typing import Any

import pytest

import bench_run
from bench_run import EVIL, ODD, difference, interval, system
from headwater.evaluate.bench import tables as bench_tables
from headwater.evaluate.bench.layout import (
    baseline,
    costs,
    count_of,
    curves,
    differences,
    facets,
    number,
    ordered,
    p_value,
    results,
    short,
)
from headwater.evaluate.bench.verdict import resolved, standing, verdict


@pytest.fixture
def summary() -> dict[str, Any]:
    return bench_run.summary()


def best(task: dict[str, Any]) -> set[tuple[str, str]]:
    found = results(task)
    return {(row[0].text, found.header[i]) for row in found.rows for i, cell in enumerate(row) if cell.best}


def test_the_best_of_a_column_is_marked(summary: dict[str, Any]) -> None:
    tasks = summary["tasks"]
    assert best(tasks["world"]) == {("qr", "nDCG@10"), ("bm25", "R@1"), ("qr", "R@1")}
    assert best(tasks["position_10"]) == set(), "a single system is no winner"
    assert best(tasks["text"]) == {("model", "perplexity ↓")}, "less is better, a value that is missing wins nothing"
    tasks["position_10"]["systems"]["other"] = system({"EM": 0.5, "words": 9.0, "abstained": 0.9})
    assert best(tasks["position_10"]) == set(), "equal, and neither more nor fewer words are better"


def test_numbers() -> None:
    assert [number(x) for x in (0.91349, 12.3456, 123.456, 12345.6, -0.0001, None)] == [
        *("0.913", "12.35", "123.5", "12,346", "0.000", "–"),
    ]
    assert (number(0.2, signed=True), number(-0.2, signed=True)) == ("+0.200", "-0.200")
    assert [short(x) for x in (0, 3e-5, 0.000412, 3.14159, 99.5, 12345.6, None)] == [
        *("0", "< 0.0001", "0.000412", "3.14", "99.5", "12,346", "–"),
    ]
    assert [p_value(p) for p in (0.0004, 0.0404, 1.0, None, float("nan"))] == ["< 0.001", "0.040", "1.000", "–", "–"]
    assert [count_of(n, "query", "queries") for n in (1, 1200, None)] == ["1 query", "1,200 queries", "0 queries"]
    assert ordered(["10", "2", "10", "-1.5"]) == ["-1.5", "2", "10"]
    assert ordered(["yes", "no", "yes", "2"]) == ["yes", "no", "2"]


def test_facets_are_in_order_and_need_two_values(summary: dict[str, Any]) -> None:
    task = summary["tasks"]["position_10"]
    assert {facet: list(lines["read"]) for facet, lines in curves(task).items()} == {"position": ["1", "5", "10"]}
    (found,) = facets(task)
    assert [[cell.text for cell in row] for row in found.rows] == [["1", "0.800"], ["5", "0.500"], ["10", "0.400"]]
    assert found.title == "EM by position"


def test_costs_and_differences_come_where_there_are_any(summary: dict[str, Any]) -> None:
    (found,) = costs(summary["tasks"]["world"])
    rows = {row[0].text: [cell.text for cell in row[1:]] for row in found.rows}
    assert rows["qr"] == ["0.0123", "512", "3", "512", "0", "120"]
    assert rows["bm25"] == ["0.0004", "–", "–", "–", "0", "–"]
    assert rows["random-heads (2 seeds)"] == ["–", "–", "–", "–", "3", "–"]
    bare = {"metrics": ["EM"], "systems": {"a": {"metrics": {"EM": interval(0.5)}}}}
    assert costs(bare) == []
    assert differences(bare) == []
    assert facets(bare) == []


def test_verdicts(summary: dict[str, Any]) -> None:
    world = summary["tasks"]["world"]
    text = verdict(world)
    assert text.startswith("qr has the best nDCG@10, 0.913. It is 0.201 higher than bm25")
    assert "the interval excludes 0, so the difference is resolved." in text
    assert text.endswith("Of 3 systems compared with bm25: 1 better, 1 worse, 1 not resolved.")
    assert [standing(world, name) for name in ("qr", ODD, "random-heads", "bm25")] == [
        *("better", "not resolved", "worse", ""),
    ]
    assert verdict(summary["tasks"]["position_10"]) == "Only read was measured: EM 0.500."
    assert verdict(summary["tasks"]["text"]) == "Only model was measured: bits per byte 1.200."
    assert baseline(summary, world) == "bm25"
    assert baseline(summary, summary["tasks"]["text"]) is None, "it does not do this task"


def test_verdicts_that_are_no_win() -> None:
    def task(first: float | None, second: float | None, *gaps: dict[str, Any], lower: bool = False) -> dict[str, Any]:
        systems = {"bm25": system({"loss": first}), "a": system({"loss": second})}
        return {
            "metrics": ["loss"],
            "systems": systems,
            "differences": gaps,
            "lower_is_better": ["loss"] if lower else [],
        }

    unclear = verdict(task(0.5, 0.51, difference("a", "loss", 0.01)))
    assert "does not exclude 0, so the difference is not resolved; about 0.040 could have been seen." in unclear
    assert "after Holm's correction" in verdict(task(0.5, 0.6, difference("a", "loss", 0.1, p_holm=0.2)))
    assert "bm25 has the best loss, 0.500. It is the baseline; the best of the others, a, is 0.100 lower" in verdict(
        task(0.5, 0.4, difference("a", "loss", -0.1))
    )
    lower = task(0.5, 0.4, difference("a", "loss", -0.1), lower=True)
    assert verdict(lower).startswith("a has the best loss, 0.400. It is 0.100 lower than bm25")
    assert standing(lower, "a") == "better"
    assert verdict(task(0.5, 0.5)) == "All systems have the same loss, 0.500."
    assert verdict(task(None, None)) == "No system has a loss."
    assert not resolved({"mean": 0.5, "low": None, "high": None})


def test_markdown_is_escaped_and_whole(summary: dict[str, Any]) -> None:
    text = bench_tables.markdown(summary)
    assert "<script>" not in text
    assert "&lt;script&gt;" in text
    assert r"a_b \| \$c\$" in text
    assert "**0.913** [0.863, 0.963]" in text
    for line in ("**Difference to bm25**", "**EM by position**", "**Cost**", "heads 2-1, 3-0"):
        assert line in text
    for lines in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines.splitlines()}) == 1


def test_headlines_lay_all_tasks_side_by_side(summary: dict[str, Any]) -> None:
    summary["tasks"]["more"] = {"kind": "text", "metrics": ["loss"], "systems": {"other": system({"loss": 2.0})}}
    text = bench_tables.headlines(summary)
    lines = text.splitlines()
    assert lines[:3] == ["**Ranking**", "", "| task | metric | bm25 | qr | random-heads | my_heads &amp; co 50% |"]
    assert lines[4].startswith("| world | nDCG@10 | 0.712 [0.662, 0.762] | **0.913** [0.863, 0.963] |")
    assert "| more | loss | – | – | 2.000 [1.950, 2.050] |" in lines, (
        "a system that does not do a task has a dash there"
    )
    assert "**Ranking: difference to bm25**" in lines
    assert "**Ranking: seconds / tokens / GFLOP per query**" in lines


def test_latex_is_escaped_and_balanced(summary: dict[str, Any]) -> None:
    text = bench_tables.latex(summary)
    assert r"my\_heads \& co 50\%" in text
    assert r"\textless{}script\textgreater{}" in text
    assert r"\$c\$" in text
    assert r"\textbf{0.913} {\scriptsize [0.863, 0.963]}" in text
    assert r"$-$0.302 {\scriptsize [$-$0.332, $-$0.272]}" in text
    assert r"perplexity $\downarrow$" in text
    begun, ended = (re.findall(rf"\\{word}{{(\w+)}}", text) for word in ("begin", "end"))
    assert sorted(begun) == sorted(ended)
    code = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    assert not re.findall(r"(?<!\\)[%#_]", re.sub(r"\\label{[^}]*}", "", code))
    assert code.count("{") - code.count(r"\{") == code.count("}") - code.count(r"\}")
    for rows in re.findall(r"\\toprule\n(.*?)\\bottomrule", code, re.DOTALL):
        lines = [line for line in rows.splitlines() if line != r"\midrule"]
        assert all(line.endswith(r" \\") for line in lines)
        assert len({len(re.findall(r"(?<!\\)&", line)) for line in lines}) == 1


def test_latex_does_not_take_a_name_for_an_argument() -> None:
    found = bench_run.summary()
    found["tasks"]["text"]["systems"]["[2pt] *~^\\{}"] = system({"bits per byte": 1.0})
    text = bench_tables.latex(found)
    assert r"{[}2pt] {*}\textasciitilde{}\textasciicircum{}\textbackslash{}\{\}" in text


def test_csv_holds_every_number(summary: dict[str, Any]) -> None:
    rows = list(csv.DictReader(io.StringIO(bench_tables.csv(summary))))
    assert tuple(rows[0]) == bench_tables.COLUMNS

    def find(**wanted: str) -> dict[str, str]:
        (found,) = [row for row in rows if all(row[name] == value for name, value in wanted.items())]
        return found

    first = find(task="world", part="result", system="qr", metric="nDCG@10")
    assert [first[name] for name in ("mean", "n", "groups", "seeds")] == ["0.913", "60", "20", ""]
    assert find(part="result", system="random-heads", metric="nDCG@10")["seeds"] == "2"
    assert find(part="result", system="random-heads", metric="R@1")["mean"] == ""
    assert find(task="text", part="result", system="smaller", metric="bits per byte")["mean"] == ""
    assert find(part="figure", metric="bits per byte (all)")["mean"] == "1.19"
    assert find(part="facet", facet="position", value="5")["mean"] == "0.5"
    assert find(task="world", part="cost", system="qr", metric="flops")["mean"] == "3000000000.0"
    assert find(part="cost", metric="calls")["mean"] == "120.0"
    gap = find(part="difference", system=ODD)
    assert [gap[name] for name in ("baseline", "mean", "p", "p_holm", "detectable")] == [
        *("bm25", "0.008", "0.0004", "0.002", "0.04"),
    ]
    assert find(part="note", task="world", note=EVIL)["system"] == ""
    assert find(part="not run")["note"].endswith("| x")


def test_empty_summaries() -> None:
    nothing: dict[str, Any] = {"made": {}, "tasks": {"a": {"metrics": ["EM"], "systems": {}}}}
    assert "No system has a EM." in bench_tables.markdown(nothing)
    assert "No system has a EM." in bench_tables.latex(nothing)
    assert bench_tables.csv(nothing).count("\n") == 1
