"""What `headwater rank --run` does: a TREC run ranked again, query by query, going on where it was stopped."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headwater.cli import options
from headwater.cli.console import command_line, note, progress
from headwater.errors import InputError

if TYPE_CHECKING:
    from headwater.data.documents import Document
    from headwater.rank.qr import QRRetriever

ONE = "one prompt"  # the strategy of a list that fits


class Rerun:
    """A TREC run that is ranked again, query by query."""

    def __init__(
        self, run: Path, queries: Path, docs: Path, output: Path, depth: int, top_k: int | None, quiet: bool
    ) -> None:
        """Read everything and check that it fits together, before a model is loaded."""
        from headwater.data.formats import read_queries, read_run

        if output.is_dir():
            raise InputError(f"--output {output} is a folder; name a file, such as {output / 'ranked.trec'}.")
        options.writable_folder(output.parent)
        self.run = {name: [i for i, _ in ranked[:depth]] for name, ranked in read_run(run).items()}
        self.queries = read_queries(queries)
        unknown = next((name for name in self.run if name not in self.queries), None)
        if unknown is not None:
            raise InputError(f"The run {run} has the query {unknown!r}, which {queries} does not hold.")
        wanted = {i for ids in self.run.values() for i in ids}
        self.documents = {d.id: d for d in options.documents_at(docs, quiet) if d.id in wanted}
        missing = next((i for ids in self.run.values() for i in ids if i not in self.documents), None)
        if missing is not None:
            raise InputError(
                f"The run {run} has the document {missing!r}, which {docs} does not hold (or holds empty)."
            )
        self.output, self.depth, self.top_k, self.quiet = output, depth, top_k, quiet
        self.files = {"run": run, "queries": queries, "docs": docs}

    def longest(self) -> tuple[str, list[Document]]:
        """The query with the most text to read."""
        size = {name: sum(len(self.documents[i].text) for i in ids) for name, ids in self.run.items()}
        name = max(size, key=lambda each: size[each])
        return self.queries[name], [self.documents[i] for i in self.run[name]]

    def rank(self, ranker: QRRetriever, settings: dict[str, Any]) -> None:
        """Rank every query; what an interrupted run finished is kept beside the output and not done again."""
        import headwater
        from headwater.atomic import write_text
        from headwater.evaluate.files import Lines, made_with, same_run, write_json

        made = self.output.with_name(self.output.name + ".part.json")
        texts = [(i, self.documents[i].title, self.documents[i].text) for i in sorted(self.documents, key=str)]
        model = {
            "model": ranker.lm.fingerprint,
            "dtype": str(ranker.lm.dtype),
            "heads": str(ranker.heads),
            "coefficients": ranker.heads.coefficients,
            "queries": self.queries,
            "documents": hashlib.sha256(json.dumps(texts).encode()).hexdigest(),
            "switches": asdict(ranker.settings),
            "orders": ranker.orders,
            "headwater": headwater.__version__,
        }
        same_run(made, {**model, **settings})
        part = self.output.with_name(self.output.name + ".part.jsonl")
        lines = Lines(part)
        with progress("ranking", self.quiet) as step:
            for done, (name, ids) in enumerate(self.run.items()):
                step(done, len(self.run))
                if name in lines.done and lines.done[name].get("of") == ids:
                    continue
                ranking = ranker.rank(self.queries[name], [self.documents[i] for i in ids], self.top_k)
                # scores of windows are not comparable, so the run holds what its order says
                scores = [r.score for r in ranking] if ranking.windows == 1 else list(range(len(ranking), 0, -1))
                ranked = [[r.id, s] for r, s in zip(ranking, scores, strict=True)]
                lines.add({"id": name, "of": ids, "strategy": ranking.strategy, "ranked": ranked})
        rows = [
            f"{name} Q0 {document} {place} {score:.6f} headwater"
            for name in self.run
            for place, (document, score) in enumerate(lines.done[name]["ranked"], 1)
        ]
        lists = Counter(lines.done[name].get("strategy", ONE) for name in self.run)
        write_text(self.output, "\n".join(rows) + "\n")
        record = {
            "made": made_with(command_line(), ranker.lm.name, settings["seed"]),
            **{name: str(path) for name, path in self.files.items()},
            "depth": self.depth,
            "fingerprint": ranker.lm.fingerprint,
            "dtype": str(ranker.lm.dtype),
            "heads": [list(head) for head in ranker.heads.heads],
            "coefficients": ranker.heads.coefficients,
            "order": ranker.orders,
            "settings": asdict(ranker.settings),
            **{name: settings[name] for name in ("overflow", "window", "top_k")},
            "strategies": dict(lists),
        }
        write_json(self.output.with_name(self.output.name + ".json"), record)
        part.unlink()
        made.unlink()
        windows = "".join(
            f"; {n} of them by {how}, as they do not fit one prompt" for how, n in lists.items() if how != ONE
        )
        note(f"{len(self.run)} queries ranked into {self.output}{windows}.", self.quiet)
