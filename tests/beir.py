"""A BEIR collection small enough to check by hand."""

import json
from pathlib import Path


def write_beir(folder: Path) -> Path:
    """Three documents, three judged queries; query "b" has a document's id."""
    (folder / "qrels").mkdir(parents=True)
    texts = {"a1": "red apples", "b": "blue whales", "c1": "green cars and apples"}
    queries = {"q1": "apples", "b": "whales", "q3": "nothing of it"}
    rows = [("q1", "a1", 2), ("q1", "c1", 1), ("b", "b", 1), ("q3", "c1", 1)]
    lines = [json.dumps({"_id": k, "text": v}) for k, v in texts.items()]
    (folder / "corpus.jsonl").write_text("\n".join(lines), encoding="utf-8")
    lines = [json.dumps({"_id": k, "text": v}) for k, v in queries.items()]
    (folder / "queries.jsonl").write_text("\n".join(lines), encoding="utf-8")
    table = "query-id\tcorpus-id\tscore\n" + "".join(f"{q}\t{d}\t{g}\n" for q, d, g in rows)
    (folder / "qrels" / "test.tsv").write_text(table, encoding="utf-8")
    return folder
