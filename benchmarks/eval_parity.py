"""Known retrieval figures again: published runs, trec_eval itself, and BM25 on complete collections.

python -m benchmarks.eval_parity --data FOLDER [--page docs/results/bench.md]

The data folder holds ir/msmarco_dl19, ir/msmarco_dl20 (BEIR folders with runs/), ir/cranfield and ir/cacm.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from headwater.data.formats import read_beir, read_run
from headwater.evaluate.files import made_with, write_json
from headwater.evaluate.metrics import per_query, trec_order
from headwater.evaluate.tables import check_page, fill_page, table
from headwater.search.bm25 import BM25

RESULT = Path(__file__).parent / "results" / "eval_parity.json"
# Figures published with the runs: castorini/rank_llm for BM25, the papers' own for the others (three digits).
PUBLISHED = {
    ("dl19", "bm25"): "0.5058",
    ("dl20", "bm25"): "0.4796",
    ("dl19", "tasb"): "0.721",
    ("dl19", "ada2"): "0.704",
    ("dl19", "spladepp"): "0.731",
    ("dl19", "repllama"): "0.744",
}
# Anserini's regression for CACM: BM25, k1 0.9, b 0.4, with stemming, which ours goes without.
ANSERINI = {"cacm": "AP 0.3123, P@30 0.1942"}
K1_B = ((0.9, 0.4), (1.2, 0.75))


def mean(values: Mapping[str, float]) -> float:
    """Over queries."""
    return sum(values.values()) / len(values)


def published_runs(data: Path) -> list[dict[str, Any]]:
    """nDCG@10 of every run file, ours and trec_eval's own."""
    import pytrec_eval

    rows = []
    for year in ("dl19", "dl20"):
        folder = data / "ir" / f"msmarco_{year}"
        qrels = read_beir(folder, "full").qrels
        for path in sorted((folder / "runs").glob("*.trec")):
            run = {query: pairs for query, pairs in read_run(path).items() if query in qrels}
            ours = per_query(qrels, {query: trec_order(pairs) for query, pairs in run.items()}, ["nDCG@10"])["nDCG@10"]
            judge = pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut_10"})
            theirs = judge.evaluate({query: dict(pairs) for query, pairs in run.items()})
            listed = per_query(qrels, {query: [name for name, _ in pairs] for query, pairs in run.items()}, ["nDCG@10"])
            apart = max(abs(value - theirs.get(q, {}).get("ndcg_cut_10", 0.0)) for q, value in ours.items())
            rows.append(
                {
                    "run": f"{year} {path.stem}",
                    "queries": len(qrels),
                    "nDCG@10 (ties by id, as trec_eval)": round(mean(ours), 4),
                    "nDCG@10 (ties in the file's order)": round(mean(listed["nDCG@10"]), 4),
                    "published": PUBLISHED.get((year, path.stem), ""),
                    "largest difference to trec_eval, per query": apart,
                }
            )
    return rows


def keyword_search(data: Path) -> list[dict[str, Any]]:
    """BM25 on complete collections, at two settings of k1 and b."""
    rows = []
    for name in ("cranfield", "cacm"):
        found = read_beir(data / "ir" / name)
        for k1, b in K1_B:
            index = BM25(found.documents, k1, b)
            rankings = {
                query: [str(hit.document.id) for hit in index.search(found.queries[query], 1000) if hit.score > 0]
                for query in found.qrels
            }
            scored = per_query(found.qrels, rankings, ["nDCG@10", "R@100", "AP", "P@30"])
            rows.append(
                {
                    "collection": name,
                    "queries": len(found.qrels),
                    "k1": k1,
                    "b": b,
                    **{measure: round(mean(values), 4) for measure, values in scored.items()},
                    "published (stemmed)": ANSERINI.get(name, "") if (k1, b) == K1_B[0] else "",
                }
            )
    return rows


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    return table(list(rows[0]), [[f"{v:.0e}" if 0 < _number(v) < 1e-4 else v for v in row.values()] for row in rows])


def _number(value: Any) -> float:
    return value if isinstance(value, float) else 1.0


def main() -> None:
    """Measure and write."""
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--data", type=Path, required=True)
    cli.add_argument("--page", type=Path, help="page whose tables are written")
    args = cli.parse_args()
    if args.page:
        check_page(args.page)
    runs, search = published_runs(args.data), keyword_search(args.data)
    report = {
        "runs": runs,
        "search": search,
        "made": made_with("python -m benchmarks.eval_parity", "none", 0),
    }
    write_json(RESULT, report)
    print(json.dumps(report, indent=1))
    if args.page:
        fill_page(args.page, {"parity": f"{_table(runs)}\n\n{_table(search)}"})


if __name__ == "__main__":
    main()
