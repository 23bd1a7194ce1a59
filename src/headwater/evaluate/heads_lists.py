"""Head sets on the candidates of a search engine: MS MARCO passages and Natural Questions, in several prompt orders.

The candidates are the 20 best of BM25. In the prompt they stand as BM25 gives them ("given"), the best one last
("reversed", the default of `QRRetriever`), and shuffled. A list that the model cannot read whole is cut as
`overflow="truncate"` does it, the same way for every order. nDCG@10 is taken against all judgements, so a relevant
passage that BM25 does not find is lost for every set.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from headwater.data.documents import RankingExample
from headwater.errors import InputError
from headwater.evaluate.bench.catalogue import build_task
from headwater.evaluate.files import Lines, same_run
from headwater.evaluate.heads_found import kept
from headwater.evaluate.heads_settings import ALL, COLLECTIONS, ON_NQ, QR, Settings, shown_as
from headwater.evaluate.main_job import Progress
from headwater.evaluate.metrics import order as best_first
from headwater.evaluate.questions import KEYWORDS, head_scorer
from headwater.evaluate.statistics import mean_interval, paired_difference
from headwater.evaluate.tasks.task import RankingItem, Task, sample
from headwater.heads import QueryFocusedHeads
from headwater.heads.detector import data_fingerprint
from headwater.heads.switches import Order
from headwater.headset import HeadScores, HeadSet
from headwater.prompt import prompt_template
from headwater.rank.qr import QRRetriever

if TYPE_CHECKING:
    from headwater.model.lm import LanguageModel

METRIC = "nDCG@10"
OWN, OWN_CANDIDATES = "nq", 10  # heads are also found on this collection, on lists of so many


@dataclass(frozen=True)
class Collection:
    """One collection.

    Attributes:
        name: of it.
        task: knows the judgements.
        items: queries that are ranked, with their candidates.
        examples: other queries, to find heads on; none shares a relevant passage with an item.
    """

    name: str
    task: Task
    items: Sequence[RankingItem]
    examples: Sequence[RankingExample] = ()

    def fingerprint(self) -> str:
        """Sixteen hex digits over queries, candidates with their texts, and judgements."""
        digest, grades = hashlib.sha256(), getattr(self.task, "grades", {})
        for item in self.items:
            shown = [(document.id, document.title, document.text) for document in item.documents]
            judged = sorted(grades.get(item.id, {}).items())
            digest.update(json.dumps([item.id, item.query, shown, judged, self.task.relevant(item)]).encode())
        return digest.hexdigest()[:16]


def collections(data: Path, settings: Settings) -> list[Collection]:
    """The collections below a data folder, the one with examples of its own first.

    Raises:
        InputError: one of them is not there.
    """
    if not data.is_dir():
        raise InputError(f"There is no data folder {str(data)!r}.")
    out = []
    for name, form in COLLECTIONS.items():
        task = build_task({"task": form, "depth": settings.collection_depth, "name": name}, data)
        items: list[RankingItem] = list(task.load())
        free = [item for item in items if name == OWN and _for_finding(item.id)]
        taken = {item.id for item in free}
        test = sample([item for item in items if item.id not in taken], settings.collection_questions, name)
        known = {gold for item in test for gold in task.relevant(item)}
        free = [item for item in free if not known & set(task.relevant(item))]
        examples = [example for item in free if (example := _example(task, item)) is not None]
        examples = examples[: settings.collection_examples]
        out.append(Collection(name, task, test, examples))
    return sorted(out, key=lambda each: not each.examples)


def _for_finding(query: str) -> bool:
    """Whether heads may be found on a query: half of them, by a digest of the id."""
    return hashlib.sha256(query.encode()).digest()[0] < 128


def _example(task: Task, item: RankingItem) -> RankingExample | None:
    """A query with its first candidates, if any of them is relevant and any is not."""
    documents = item.documents[:OWN_CANDIDATES]
    wanted = set(task.relevant(item))
    gold = [str(document.id) for document in documents if str(document.id) in wanted]
    if not gold or len(gold) == len(documents):
        return None
    return RankingExample(item.query, documents, gold, id=item.id)


def own_heads(
    lm: LanguageModel, folder: Path, collection: Collection, settings: Settings, progress: Progress
) -> HeadScores:
    """Query-focused heads found on the collection's examples, once; what does not fit the model is cut.

    Raises:
        InputError: the folder holds heads found on other examples.
    """
    made = {"examples": data_fingerprint(collection.examples), "candidates": OWN_CANDIDATES}
    same_run(folder / f"collection-{collection.name}-examples.json", made)
    ranker = QRRetriever(lm, "all")

    def fitting(example: RankingExample) -> RankingExample:
        documents = ranker.fitted(example.query, example.documents)
        return RankingExample(example.query, documents, example.relevant, id=example.id)

    detector = QueryFocusedHeads(seed=settings.seed)
    examples = [fitting(example) for example in collection.examples]
    return kept(folder, ON_NQ, lambda step: detector.score(lm, examples, step), progress(f"finding: {ON_NQ}"))


def ranked_collection(
    lm: LanguageModel,
    folder: Path,
    collection: Collection,
    sets: Mapping[str, HeadSet],
    settings: Settings,
    progress: Progress,
) -> dict[str, Any]:
    """Rank every query's candidates by every set in every order, or what is left of them.

    Returns:
        "n", "cut" (lists that had to be cut), "tokens" (mean length of the prompts), "found" (share of the queries with
        a relevant passage among the candidates); "sets": name -> order -> mean with interval; "minus": name -> order
        ("reversed", "shuffled") -> paired differences to BM25 and to all heads, and of the query-focused heads to this
        set; "orders": paired differences of the orders, and Kendall's tau between the rankings that two orders give.

    Raises:
        InputError: the folder holds rankings of other candidates or by other sets.
    """
    made = {"items": collection.fingerprint(), "sets": {name: str(heads) for name, heads in sets.items()}}
    same_run(folder / f"collection-{collection.name}.json", made)
    lines = Lines(folder / f"collection-{collection.name}.jsonl")
    orders: dict[str, tuple[Order, int]] = {"reversed": ("reversed", 0), "given": ("given", 0)}
    orders |= {f"shuffled {i}": ("shuffled", settings.seed + i) for i in range(settings.shuffles)}
    ranker, step = QRRetriever(lm, "all"), progress(f"ranking {collection.name}")
    template = prompt_template(lm.tokenizer)
    for done, item in enumerate(collection.items):
        step(done, len(collection.items))
        if item.id in lines.done:
            continue
        names = [str(document.id) for document in item.documents]
        found: dict[str, Any] = {KEYWORDS: _value(collection.task, item, names)}
        documents = ranker.fitted(item.query, item.documents) if names else []
        rows: dict[str, Mapping[str, np.ndarray]] = {}
        if names:
            for label, (order, seed) in orders.items():
                rows[label] = head_scorer(lm, sets, order, seed)(item.query, documents)
        for name in sets:
            ranked = {label: [names[place] for place in best_first(row[name])] for label, row in rows.items()}
            found[name] = {label: _value(collection.task, item, ranked.get(label, [])) for label in orders}
        record = {
            "id": item.id,
            "found": bool(set(names) & set(collection.task.relevant(item))),
            "cut": sum(new is not old for new, old in zip(documents, item.documents, strict=False)),
            "tokens": len(template.prefix(documents).ids) + len(template.tail(item.query)) if names else 0,
            "values": found,
            "tau": {name: _taus({label: row[name] for label, row in rows.items()}) for name in sets},
        }
        lines.add(record)
    step(len(collection.items), len(collection.items))
    return _summary([lines.done[item.id] for item in collection.items], list(sets), list(orders), settings.seed)


def _value(task: Task, item: RankingItem, ranking: Sequence[str]) -> float:
    return round(task.score(item, ranking)[METRIC], 6)


def _taus(rows: Mapping[str, np.ndarray]) -> dict[str, float | None]:
    """Kendall's tau between the scores of the default order and those of every other one; None where undefined."""
    from scipy.stats import kendalltau

    out = {}
    for label, row in rows.items():
        if label != "reversed":
            tau = float(kendalltau(rows["reversed"], row).statistic)
            out[label] = tau if np.isfinite(tau) else None
    return out


def _summary(
    records: Sequence[Mapping[str, Any]], names: Sequence[str], labels: Sequence[str], seed: int
) -> dict[str, Any]:
    """Means and differences over the queries; random sets are seeds."""
    shown = shown_as(names)
    orders = {"reversed": ["reversed"], "given": ["given"], "shuffled": [x for x in labels if x.startswith("shuffled")]}
    orders = {name: members for name, members in orders.items() if members}

    def values(name: str, order: str) -> np.ndarray:
        """`[sets, queries]`, the mean over shuffles."""
        return np.array([[np.mean([r["values"][n][o] for o in orders[order]]) for r in records] for n in shown[name]])

    def difference(first: np.ndarray, second: np.ndarray) -> dict[str, Any]:
        return paired_difference(first, second, seed=seed).as_dict()

    keywords = np.array([[record["values"][KEYWORDS] for record in records]])
    base = {name: values(name, "reversed") for name in shown}

    def minus(name: str, order: str) -> dict[str, Any]:
        row = values(name, order)
        rows = {KEYWORDS: difference(row, keywords)}
        if name != ALL and ALL in shown:
            rows[ALL] = difference(row, values(ALL, order))
        if name != QR and QR in shown:
            rows[QR] = difference(values(QR, order), row)
        return rows

    out: dict[str, Any] = {
        "n": len(records),
        "found": float(np.mean([record["found"] for record in records])),
        "cut": sum(record["cut"] > 0 for record in records),
        "cut documents": float(np.mean([record["cut"] for record in records])),
        "tokens": float(np.mean([record["tokens"] for record in records])),
        KEYWORDS: mean_interval(keywords, seed=seed).as_dict(),
        "sets": {
            name: {order: mean_interval(values(name, order), seed=seed).as_dict() for order in orders} for name in shown
        },
        "minus": {},
        "orders": {},
    }
    for name in shown:
        out["minus"][name] = {order: minus(name, order) for order in ("reversed", "shuffled") if order in orders}
        gaps: dict[str, Any] = {o: difference(base[name], values(name, o)) for o in orders if o != "reversed"}
        for order in gaps:
            taus = [r["tau"][n].get(o) for r in records for n in shown[name] for o in orders[order]]
            known = [tau for tau in taus if tau is not None]
            gaps[order]["tau"] = float(np.mean(known)) if known else None
        out["orders"][name] = gaps
    return out
