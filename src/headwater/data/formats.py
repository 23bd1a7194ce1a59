"""Collections and lists: lines of text, BEIR folders, ranking examples, TREC runs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headwater.data.documents import Document, RankingExample
from headwater.data.files import read_documents, refuse_duplicates
from headwater.data.records import json_document, json_lines, json_object
from headwater.data.text import lines, read_text
from headwater.errors import FormatError, InputError


@dataclass(frozen=True)
class BeirData:
    """A BEIR collection.

    Attributes:
        documents: the corpus.
        queries: query id -> text.
        qrels: query id -> document id -> grade, of one split.
    """

    documents: list[Document]
    queries: dict[str, str]
    qrels: dict[str, dict[str, int]]


def parse_lines(text: str, name: str = "standard input") -> list[Document]:
    """One document per line: plain text, or a JSON object with a text field (then every line has to be one).

    Raises:
        FormatError: when nothing is left, a line is not what the first one was, or an id stands twice.
    """
    lines = [(number, line.strip()) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines:
        raise FormatError(f"{name} holds no documents; give one per line.")
    if not lines[0][1].startswith("{"):
        return [Document(line, id=str(number)) for number, line in lines]
    documents = [
        json_document(json_object(line, Path(name), number), str(number), Path(name), number) for number, line in lines
    ]
    refuse_duplicates(documents, Path(name))
    return documents


def read_beir(folder: str | Path, split: str = "test") -> BeirData:
    """Read corpus.jsonl, queries.jsonl and qrels/<split>.tsv.

    Raises:
        InputError: when one of the files is missing.
        FormatError: for a bad line, or a judgement of a query that does not exist.
    """
    root = Path(folder)
    qrels_path = root / "qrels" / f"{split}.tsv"
    for path in (root / "corpus.jsonl", root / "queries.jsonl", qrels_path):
        if not path.is_file():
            raise InputError(f"{root} is not a BEIR folder with the split {split!r}: {path.name} is missing.")
    documents = read_documents(root).documents
    queries: dict[str, str] = {}
    for line, record in json_lines(root / "queries.jsonl"):
        query = json_document(record, str(line), root / "queries.jsonl", line)
        if query.id in queries:
            raise FormatError(f"{root / 'queries.jsonl'}, line {line}: query id {query.id!r} stands twice.")
        queries[str(query.id)] = query.text
    qrels: dict[str, dict[str, int]] = {}
    for line, text in enumerate(read_text(qrels_path).splitlines(), 1):
        fields = text.split("\t")
        if not text.strip() or (line == 1 and fields[-1].strip() == "score"):
            continue
        try:
            query_id, document_id, grade = fields[0], fields[1], int(fields[2])
        except (IndexError, ValueError):
            raise FormatError(f"{qrels_path}, line {line}: expected query id, document id, grade by tabs.") from None
        if query_id not in queries:
            raise FormatError(f"{qrels_path}, line {line}: there is no query {query_id!r} in queries.jsonl.")
        qrels.setdefault(query_id, {})[document_id] = grade
    if not qrels:
        raise FormatError(f"{qrels_path} holds no judgements.")
    return BeirData(documents, queries, qrels)


def read_examples(path: str | Path) -> list[RankingExample]:
    """Read ranking examples: one JSON object per line.

    `{"query": str, "documents": [str | {"text", "id", "title"}], "relevant": [id or index] | {id: grade},
    "id": str, "group": str}`; the last two may be left out. Documents without an id get none; as keys of a mapping
    they are named by their place.

    Raises:
        InputError: when there is no such file.
        FormatError: for a line that is not such an object; the message names the line.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"There is no examples file {str(path)!r}.")
    examples = []
    for line, record in json_lines(path):
        for key, kind in (("query", str), ("documents", list), ("relevant", (list, dict))):
            if not isinstance(record.get(key), kind):
                raise FormatError(f"{path}, line {line}: the field {key!r} is missing or of the wrong kind.")
        documents = [
            Document(item) if isinstance(item, str) else json_document(item, None, path, line)
            for item in record["documents"]
        ]
        known = {key: str(record[key]) for key in ("id", "group") if record.get(key) is not None}
        try:
            examples.append(RankingExample(record["query"], documents, _relevant(record, documents), **known))
        except InputError as error:
            raise FormatError(f"{path}, line {line}: {error}") from error
    if not examples:
        raise FormatError(f"{path} holds no examples.")
    return examples


def _relevant(record: dict[str, Any], documents: list[Document]) -> list[Any] | dict[Any, Any]:
    """What is relevant; a name that no document bears and that is a number means a place."""
    given, ids = record["relevant"], {document.id for document in documents}

    def meant(key: Any) -> Any:
        return int(key) if isinstance(key, str) and key not in ids and key.isdecimal() else key

    if isinstance(given, dict):
        return {meant(key): grade for key, grade in given.items()}
    return [meant(key) for key in given]


def read_queries(path: str | Path) -> dict[str, str]:
    """Queries by id: a .jsonl file (id or _id, text) or lines of id, tab, text.

    Raises:
        InputError: when there is no such file.
        FormatError: for a bad line, an id that stands twice, or no queries.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"There is no query file {str(path)!r}.")
    queries: dict[str, str] = {}
    if path.suffix.lower() == ".jsonl":
        found = ((line, json_document(record, str(line), path, line)) for line, record in json_lines(path))
        pairs = [(line, str(document.id), document.text) for line, document in found]
    else:
        pairs = []
        for line, text in lines(path):
            name, tab, query = text.partition("\t")
            if text.strip() and not tab:
                raise FormatError(f"{path}, line {line}: expected an id, a tab and a query.")
            if text.strip():
                pairs.append((line, name.strip(), query.strip()))
    for line, name, query in pairs:
        if name in queries:
            raise FormatError(f"{path}, line {line}: the query id {name!r} stands twice.")
        queries[name] = query
    if not queries:
        raise FormatError(f"{path} holds no queries.")
    return queries


def read_run(path: str | Path) -> dict[str, list[tuple[str, float]]]:
    """A TREC run: query id -> (document id, score), best first by score, ties in file order.

    Raises:
        InputError: when there is no such file.
        FormatError: for a line without the six fields query, Q0, document, rank, score, name; a score that is not a
            number; a document that stands twice for a query; or an empty run.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"There is no run file {str(path)!r}.")
    found: dict[str, dict[str, float]] = {}
    for line, text in lines(path):
        fields = text.split()
        if not fields:
            continue
        if len(fields) != 6:
            raise FormatError(f"{path}, line {line}: expected six fields (query Q0 document rank score name).")
        query, _, document, _, said, _ = fields
        try:
            score = float(said)
        except ValueError:
            score = math.nan
        if not math.isfinite(score):
            raise FormatError(f"{path}, line {line}: the score {said!r} is not a number.")
        if document in found.setdefault(query, {}):
            raise FormatError(f"{path}, line {line}: document {document!r} stands twice for query {query!r}.")
        found[query][document] = score
    if not found:
        raise FormatError(f"{path} holds no ranking.")
    return {query: sorted(scores.items(), key=lambda pair: -pair[1]) for query, scores in found.items()}
