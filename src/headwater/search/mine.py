"""Hard negatives: passages that a search finds and that are not, or hardly, relevant (llara.md 3.8).

The margin is that of NV-Retriever (arXiv 2407.15831): a candidate whose score comes within 5 % of a known positive's is
likely a positive that nobody marked, and is left out.
"""

from __future__ import annotations

import hashlib
import logging
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from headwater.data.documents import Document, DocumentLike, RankingExample, as_documents
from headwater.data.lines import Lines, same_run, write_json
from headwater.errors import InputError
from headwater.search.bm25 import BM25, Hit
from headwater.search.embedder import Progress

logger = logging.getLogger("headwater")

Source = Callable[[str, int], Sequence[Hit]]
Judge = Callable[[str, Sequence[Document]], "Sequence[float] | np.ndarray"]
EXAMPLES, RECORD = "examples.jsonl", "mining.json"
_MARKS = ("source", "rank", "score")


def text_key(text: str) -> str:
    """The same for texts that differ in case and white space only: sixteen hex digits."""
    return hashlib.sha256(" ".join(text.casefold().split()).encode()).hexdigest()[:16]


def document_keys(document: Document) -> frozenset[str]:
    """What a document is known by: its text (its title, where it has no text), and its id where it has one."""
    own = {_text_name(document)}
    return frozenset(own if document.id is None else own | {f"id {document.id}"})


def judged(judge: Judge, query: str, documents: Sequence[Document], who: str) -> np.ndarray:
    """Scores of a judge, float64 `[documents]`.

    Args:
        judge: gives scores for (query, documents).
        query: what is asked.
        documents: none of them blank.
        who: what the judge is called in an error.

    Raises:
        InputError: another number of scores, NaN or infinity.
    """
    scores = np.asarray(judge(query, list(documents)), np.float64)
    if scores.shape != (len(documents),) or not np.isfinite(scores).all():
        raise InputError(
            f"{who} has to give a finite score for each of {len(documents)} documents; for {query[:80]!r} it gave "
            f"{scores.tolist()}."
        )
    return scores


def bm25_source(documents: Iterable[DocumentLike]) -> Source:
    """BM25 over documents, as a source of candidates: those that share a word with the query."""
    index = BM25(documents)
    return lambda query, depth: [hit for hit in index.search(query, depth) if hit.score > 0]


@dataclass(frozen=True)
class Mining:
    """How negatives are mined.

    Attributes:
        depth: candidates taken from each source.
        keep: negatives of a query.
        relative_margin: a candidate is left out when a judge scores it above s - relative_margin * |s|, s being the
            lowest score of a known positive.
        group: candidates that a judge sees at a time, beside the positives.
        fill: fill short lists with random passages, marked as such; never by repeating.
        seed: of the order in which candidates are judged, and of the random passages.
    """

    depth: int = 200
    keep: int = 30
    relative_margin: float = 0.05
    group: int = 20
    fill: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse numbers that cannot be."""
        for name in ("depth", "keep", "group"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if not 0 <= self.relative_margin < 1:
            raise InputError(f"relative_margin must be at least 0 and below 1, got {self.relative_margin}.")

    def mine(
        self,
        example: RankingExample,
        corpus: Sequence[Document],
        sources: Mapping[str, Source],
        judges: Mapping[str, Judge] | None = None,
        exclude: Iterable[str] = (),
    ) -> tuple[RankingExample, Counter[str]]:
        """The example with mined negatives in place of its own, and how many candidates each rule took out.

        Args:
            example: a query with its known positives; its other documents are not looked at.
            corpus: where random passages come from.
            sources: searches by name; each gives hits for (query, depth), best first.
            judges: scorers by name; each gives scores for (query, documents), higher is better. Applied in order.
            exclude: ids of documents that may not be used (those of an evaluation).

        Returns:
            The example: positives first, then negatives, whose metadata hold source, rank and score. The counts add
            up: candidates = positive + query + evaluation + duplicate + above <judge> + surplus + mined.

        Raises:
            InputError: the example has no known positive with text.
        """
        positives = _positives(example)
        if not positives:
            raise InputError(f"The query {example.query!r} has no known positive with text.")
        known = frozenset().union(*map(document_keys, positives))
        barred = frozenset(f"id {name}" for name in exclude)
        counts: Counter[str] = Counter(queries=1)
        left: list[Document] = []
        seen: set[str] = set()
        for name, search in sources.items():
            for rank, hit in enumerate(search(example.query, self.depth), 1):
                counts["candidates"] += 1
                keys = document_keys(hit.document)
                text = _text_name(hit.document)
                if not known.isdisjoint(keys):
                    counts["positive"] += 1
                elif text == f"text {text_key(example.query)}" or hit.document.blank:
                    counts["query"] += 1
                elif not barred.isdisjoint(keys):
                    counts["evaluation"] += 1
                elif text in seen:
                    counts["duplicate"] += 1
                else:
                    left.append(_marked(hit.document, name, rank, hit.score))
                seen.add(text)
        draw = random.Random(f"{self.seed}:{example.id or example.query}")
        draw.shuffle(left)
        kept: list[Document] = []
        while left and len(kept) < self.keep:
            group, left = left[: self.group], left[self.group :]
            for name, judge in (judges or {}).items():
                passed = self._passed(example.query, positives, group, name, judge)
                counts[f"above {name}"] += len(group) - len(passed)
                group = passed
            kept += group
        counts["surplus"] += len(left) + max(0, len(kept) - self.keep)
        kept = kept[: self.keep]
        counts["mined"] += len(kept)
        if self.fill and len(kept) < self.keep:
            shut = known | barred | seen | {f"text {text_key(example.query)}"}
            more = self._random(corpus, self.keep - len(kept), shut, draw)
            counts["random"] += len(more)
            kept += more
        counts["short lists"] += len(kept) < self.keep
        found = RankingExample(
            example.query, [*positives, *kept], list(range(len(positives))), example.id, example.group
        )
        return found, counts

    def _passed(
        self, query: str, positives: Sequence[Document], group: Sequence[Document], name: str, judge: Judge
    ) -> list[Document]:
        """Those of a group that score clearly below the lowest positive."""
        if not group:
            return []
        scores = judged(judge, query, [*positives, *group], f"The judge {name!r}")
        lowest = scores[: len(positives)].min()
        limit = lowest - self.relative_margin * abs(lowest)
        return [document for document, score in zip(group, scores[len(positives) :], strict=True) if score <= limit]

    def _random(
        self, corpus: Sequence[Document], wanted: int, shut: frozenset[str], draw: random.Random
    ) -> list[Document]:
        """Passages of the corpus that no rule took out, each once."""
        found: list[Document] = []
        used = set(shut)
        for place in draw.sample(range(len(corpus)), min(len(corpus), 1000 + 10 * wanted)):
            document = corpus[place]
            keys = document_keys(document)
            if document.blank or not used.isdisjoint(keys):
                continue
            found.append(_marked(document, "random", 0, 0.0))
            used |= keys
            if len(found) == wanted:
                break
        return found

    def run(
        self,
        examples: Sequence[RankingExample],
        corpus: Iterable[DocumentLike],
        sources: Mapping[str, Source],
        output: str | Path,
        judges: Mapping[str, Judge] | None = None,
        exclude: Iterable[str] = (),
        made_with: Mapping[str, Any] | None = None,
        progress: Progress | None = None,
    ) -> Counter[str]:
        """Mine for many queries into a folder; called again after an interruption, go on.

        The folder gets `examples.jsonl` (what `headwater.data.formats.read_examples` reads) and `mining.json`
        (settings and counts). Queries without a known positive that has text are left out and counted.

        Args:
            examples: queries with known positives.
            corpus: where random passages come from.
            sources: searches by name.
            output: the folder.
            judges: scorers by name.
            exclude: ids that may not be used.
            made_with: further facts that make two runs the same, such as the fingerprint of a model.
            progress: called with (queries done, queries).

        Returns:
            The counts of all queries.

        Raises:
            InputError: no query has a known positive, an id stands twice, a judge gives something else than finite
                scores, or the folder holds another run.
        """
        documents, barred = as_documents(corpus), sorted(set(exclude))
        named = [example.id or str(place) for place, example in enumerate(examples)]
        twice = next((name for name, count in Counter(named).items() if count > 1), None)
        if twice is not None:
            raise InputError(f"The query id {twice!r} stands twice (a query without one is called by its place).")
        names = {"sources": list(sources), "judges": list(judges or {})}
        own = [(e.id, e.group, e.query, e.grades(), _facts(as_documents(e.documents))) for e in examples]
        data = _digest(repr(own), *map(repr, _facts(documents)))
        config = {**asdict(self), **names, "exclude": _digest(*barred), **(made_with or {}), "data": data}
        folder = Path(output)
        same_run(folder / "config.json", config)
        lines = Lines(folder / EXAMPLES)
        total: Counter[str] = Counter()
        for place, (name, example) in enumerate(zip(named, examples, strict=True)):
            if not _positives(example):
                total["without a positive"] += 1
                continue
            record = lines.done.get(name)
            if record is None:
                found, counts = self.mine(example, documents, sources, judges, barred)
                record = {**_plain(found, name), "counts": dict(counts)}
                lines.add(record)
            total.update(record["counts"])
            if progress is not None:
                progress(place + 1, len(examples))
        if not lines.done:
            raise InputError("No query has a known positive, so there is nothing to mine for.")
        write_json(folder / RECORD, {"config": config, "counts": dict(sorted(total.items()))})
        return total


def _positives(example: RankingExample) -> list[Document]:
    """Its known positives that have text."""
    graded = zip(as_documents(example.documents), example.grades(), strict=True)
    return [document for document, grade in graded if grade > 0 and not document.blank]


def _text_name(document: Document) -> str:
    """The same for documents that read alike; titles count only where there is no text."""
    return f"text {text_key(document.text if document.text.strip() else document.title or '')}"


def _facts(documents: Sequence[Document]) -> list[tuple[str | None, str | None, str]]:
    return [(document.id, document.title, document.text) for document in documents]


def _digest(*parts: str) -> str:
    """Sixteen hex digits."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{part}\x1e".encode())
    return digest.hexdigest()[:16]


def _marked(document: Document, source: str, rank: int, score: float) -> Document:
    metadata = {**document.metadata, "source": source, "rank": rank, "score": float(score)}
    return Document(document.text, document.id, document.title, metadata)


def _plain(example: RankingExample, name: str) -> dict[str, Any]:
    """An example as `read_examples` reads it; positives stand first."""
    own = {"id": name, "query": example.query} | ({"group": example.group} if example.group else {})
    documents = []
    for document in as_documents(example.documents):
        record: dict[str, Any] = {"text": document.text}
        record |= {name: found for name in ("id", "title") if (found := getattr(document, name)) is not None}
        documents.append(record | {key: document.metadata[key] for key in _MARKS if key in document.metadata})
    return {**own, "documents": documents, "relevant": list(example.relevant)}
