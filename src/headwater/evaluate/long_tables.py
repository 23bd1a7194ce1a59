"""Markdown tables out of the summary of `headwater.evaluate.long_job`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from headwater.evaluate.long_summary import ALL, FULL, KEYWORDS, NOTHING, QR, RANDOM, SMALL
from headwater.evaluate.tables import interval, table

Json = Mapping[str, Any]


def tables(summary: Json) -> dict[str, str]:
    """Every table by name: long_recall, long_answers, long_differences, long_costs, long_made."""
    results, kept = summary["results"], [str(k) for k in summary["config"]["kept"]]
    middle = str(summary["config"]["control_kept"][0])
    return {
        "long_recall": table(["text", "chunks by", *(f"recall@{k}" for k in kept)], _figures(results, kept, "recall")),
        "long_answers": table(
            ["text", "read", *(f"{k} chunk{'' if k == '1' else 's'}" for k in kept), "whole"], _answers(results, kept)
        ),
        "long_differences": f"Of {middle} chunks:\n\n" + _differences(results, middle),
        "long_costs": f"Of one question, {middle} chunks read:\n\n" + _costs(results, middle),
        "long_made": _made(summary),
    }


def _figures(results: Json, kept: Sequence[str], what: str) -> list[list[str]]:
    return [
        [_length(length), name, *(interval(row[k][what]) if what in row[k] else "" for k in kept)]
        for length, result in results.items()
        for name, row in result["systems"].items()
    ]


def _answers(results: Json, kept: Sequence[str]) -> list[list[str]]:
    rows = []
    for length, result in results.items():
        for name in (FULL, NOTHING):
            rows.append([_length(length), name, *("" for _ in kept), interval(result["whole"][name]["answer"])])
        rows += [[*row, ""] for row in _figures({length: result}, kept, "answer")]
    return rows


def _differences(results: Json, k: str) -> str:
    header = ["text", "chunks by", f"answers less those of the {FULL}", f"answers less {KEYWORDS}'s"]
    return table(
        [*header, f"recall less {KEYWORDS}'s"],
        [
            [_length(length), name]
            + [
                "" if name == KEYWORDS and what.endswith(KEYWORDS) else interval(row[k][what], signed=True)
                for what in ("answer to full context", "answer to BM25", "recall to BM25")
            ]
            for length, result in results.items()
            for name, row in result["differences"].items()
        ],
    )


def _costs(results: Json, k: str) -> str:
    rows = []
    for length, result in results.items():
        whole = result["whole"][FULL]
        rows.append([_length(length), FULL, "", "", f"{whole['tokens']:,.0f}", _giga(whole["flops"]), "1.00"])
        for name, row in result["systems"].items():
            ranking, read = result["ranking"].get(name), row[k]
            if ranking is None and name != KEYWORDS:
                continue
            spent = ranking or {"tokens": 0, "flops": 0}
            rows.append(
                [
                    _length(length),
                    name,
                    f"{spent['tokens']:,.0f}",
                    _giga(spent["flops"]),
                    f"{read['tokens']:,.0f}",
                    _giga(read["flops"]),
                    f"{(spent['flops'] + read['flops']) / whole['flops']:.2f}",
                ]
            )
    header = ["text", "chunks by", "tokens ranked", "Gflop", "tokens read", "Gflop", "operations, full context = 1"]
    return table(header, rows)


def _made(summary: Json) -> str:
    """What stands behind the numbers."""
    made, config, results = summary["made"], summary["config"], summary["results"]
    sizes = [
        f"{_length(length)}: {result['n']} questions about {result['groups']} countries, {result['chunks']:.0f} chunks "
        f"of at most {config['chunk_chars']} characters, {result['shortened']} texts cut at the end for the {FULL}"
        for length, result in results.items()
    ]
    size = summary["parameters"]
    rows = [
        ["command", f"`{made['command']}`"],
        ["model", f"{made['model']}, {size['model'] / 1e6:.1f} M parameters, fingerprint `{config['fingerprint']}`"],
        ["texts", "; ".join(sizes)],
        [QR, f"`{summary['heads'][QR]}`"],
        [RANDOM, f"{config['random_sets']} sets; each question is read from the choice of one of them, in turn"],
    ]
    if SMALL in summary["heads"]:
        small = f"{config['scorer']}, {size['smaller'] / 1e6:.1f} M parameters, `{summary['heads'][SMALL]}`"
        rows.append([SMALL, f"{small}; lists that do not fit it: {', '.join(config['overflow'])}"])
    rows += [
        ["ranked in windows", _windows(results)],
        ["found on", _found_on(config)],
        [
            "ranking costs of",
            f"the first {config['costed']} questions; {QR}, {ALL} and the first of {RANDOM} each ranking alone",
        ],
        ["versions", ", ".join(f"{name} {version}" for name, version in made["versions"].items())],
        ["machine", ", ".join(f"{name} {value}" for name, value in made["machine"].items())],
        ["date", made["date"]],
    ]
    return table(["what", "value"], rows)


def _windows(results: Json) -> str:
    """How many texts each ranker took in several prompts."""
    counts = [
        f"{_length(length)}, {name}: {count} of {result['n']}"
        for length, result in results.items()
        for name, count in result["windows"].items()
        if count
    ]
    return "; ".join(counts) or "none"


def _found_on(config: Json) -> str:
    """The examples that heads were found on."""
    found = f"{config['examples']} questions about development countries with {config['candidates']} documents each"
    return found if config["scorer"] is None else f"{found}; the smaller model's with {config['scorer_candidates']}"


def _length(length: str) -> str:
    return f"{int(length):,} tokens"


def _giga(flops: float) -> str:
    return f"{flops / 1e9:.1f}"
