"""The names of tasks and methods, and what they are made of.

A task is a name of `TASKS`, or a form of `FORMS` with arguments of one's own: ``{"task": "rerank", "folder": "my/beir",
"depth": 50}``, on the command line ``rerank:my/beir``. A method is a name of `METHODS`, some with an argument behind a
colon: ``dense:sentence-transformers/all-MiniLM-L6-v2``, ``run:my/run.trec``.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headwater.errors import InputError
from headwater.evaluate.systems import lists, rankers, readers
from headwater.evaluate.systems.system import System
from headwater.evaluate.tasks.counterfact import Counterfact
from headwater.evaluate.tasks.invented import InventedFacts
from headwater.evaluate.tasks.multihop import HotpotQa, MuSiQue
from headwater.evaluate.tasks.needle import NeedleGrid
from headwater.evaluate.tasks.perplexity import Perplexity
from headwater.evaluate.tasks.positions import GoldPosition, KeyValue
from headwater.evaluate.tasks.qed import Qed
from headwater.evaluate.tasks.ranking import Reranking, WorldRanking
from headwater.evaluate.tasks.rgb import Rgb
from headwater.evaluate.tasks.search import Search
from headwater.evaluate.tasks.spans import ChunkSpans
from headwater.evaluate.tasks.squad import Squad
from headwater.evaluate.tasks.task import Task
from headwater.evaluate.tasks.world import WorldMemory, WorldReading

if TYPE_CHECKING:
    from headwater.model.lm import LanguageModel

FORMS: dict[str, type[Task]] = {
    "chunk-spans": ChunkSpans,
    "counterfact": Counterfact,
    "gold-position": GoldPosition,
    "hotpotqa": HotpotQa,
    "invented-facts": InventedFacts,
    "key-value": KeyValue,
    "musique": MuSiQue,
    "needle": NeedleGrid,
    "perplexity": Perplexity,
    "qed": Qed,
    "rerank": Reranking,
    "rgb": Rgb,
    "search": Search,
    "squad": Squad,
    "world-memory": WorldMemory,
    "world-ranking": WorldRanking,
    "world-reading": WorldReading,
}


@dataclass(frozen=True)
class Named:
    """A task with a name: a form, its arguments (``{data}`` stands for the data folder), and a line about it."""

    form: str
    arguments: Mapping[str, Any]
    about: str

    @property
    def needs(self) -> list[str]:
        """Paths below the data folder that have to be there."""
        texts = [value for value in self.arguments.values() if isinstance(value, str)]
        return [value.removeprefix("{data}/") for value in texts if value.startswith("{data}/")]


def _ir(name: str) -> str:
    return f"{{data}}/ir/{name}"


def _positions(documents: int) -> dict[str, Any]:
    return {
        "oracle_path": "{data}/qa/lost_in_the_middle/nq-open-oracle.jsonl.gz",
        "passages_folder": _ir("nq_oracle_ir"),
        "documents": documents,
    }


def _keys(count: int) -> dict[str, Any]:
    return {"path": f"{{data}}/qa/lost_in_the_middle/kv-retrieval-{count}_keys.jsonl.gz"}


def _passages(year: str) -> dict[str, Any]:
    return {"folder": _ir(f"msmarco_{year}"), "run": _ir(f"msmarco_{year}/runs/bm25.trec"), "split": "full"}


_SQUAD, _RGB, _FACTS = "{data}/qa/squad", "{data}/conflict/rgb/en_fact.json", "{data}/conflict/counterfact_compmech"
TASKS: dict[str, Named] = {
    "world-ranking": Named("world-ranking", {}, "Factbook, held-out countries: 1 gold document among 20"),
    "world-gold-1": Named("world-reading", {"documents": 1}, "held-out countries, the gold document alone"),
    "world-gold-5": Named("world-reading", {"documents": 5}, "held-out countries, gold among 5"),
    "world-gold-20": Named("world-reading", {"documents": 20}, "held-out countries, gold among 20"),
    "world-hops": Named("world-reading", {"documents": 5, "n": 110, "hops": True}, "two documents of 5 are needed"),
    "world-noise": Named("world-memory", {"kind": "noise", "documents": 4}, "known countries beside 4 of noise"),
    "world-conflict": Named("world-memory", {"kind": "conflict"}, "known countries, an edited document"),
    "world-agreement": Named("world-memory", {"kind": "agreement", "documents": 5}, "memory and context agree"),
    "dl19": Named("rerank", _passages("dl19"), "MS MARCO passages, TREC DL 2019, BM25 top 100"),
    "dl20": Named("rerank", _passages("dl20"), "MS MARCO passages, TREC DL 2020, BM25 top 100"),
    "cranfield-rerank": Named("rerank", {"folder": _ir("cranfield"), "depth": 20}, "Cranfield, BM25 top 20"),
    "cacm-rerank": Named("rerank", {"folder": _ir("cacm"), "depth": 20}, "CACM, BM25 top 20"),
    "squad-rerank": Named("rerank", {"folder": _ir("squad_dev_ir"), "depth": 20}, "SQuAD paragraphs, BM25 top 20"),
    "nq-rerank": Named("rerank", {"folder": _ir("nq_oracle_ir"), "depth": 20}, "NQ gold passages, BM25 top 20"),
    "cranfield": Named("search", {"folder": _ir("cranfield"), "drop_identical": False}, "1,400 abstracts"),
    "cacm": Named("search", {"folder": _ir("cacm"), "drop_identical": False}, "3,204 titles and abstracts"),
    "squad-search": Named("search", {"folder": _ir("squad_dev_ir")}, "question to paragraph, 2,067 paragraphs"),
    "nq-search": Named("search", {"folder": _ir("nq_oracle_ir")}, "question to passage, 2,600 passages"),
    "chunk-spans": Named("chunk-spans", {"folder": "{data}/long/chunking_spans"}, "exact spans in five long texts"),
    "squad1": Named("squad", {"path": f"{_SQUAD}/squad-dev-v1.1.rebuilt.json"}, "SQuAD 1.1 dev, gold paragraph"),
    "squad2": Named("squad", {"path": f"{_SQUAD}/squad-dev-v2.0.rebuilt.json"}, "SQuAD 2.0 dev, abstention"),
    "qed": Named("qed", {"path": "{data}/qa/qed/qed-dev.jsonlines"}, "Natural Questions, gold paragraph"),
    "rgb-right": Named("rgb", {"path": _RGB, "documents": "right"}, "RGB, passages that are right"),
    "rgb-wrong": Named("rgb", {"path": _RGB, "documents": "wrong"}, "RGB, passages edited to be wrong"),
    "rgb-noise": Named("rgb", {"path": _RGB, "documents": "negative"}, "RGB, passages that do not help"),
    "hotpotqa": Named("hotpotqa", {"path": "{data}/qa/multihop/hotpotqa_train.json"}, "100 two-hop questions"),
    "musique": Named("musique", {"path": "{data}/qa/multihop/musique_train.json"}, "100 two- to four-hop questions"),
    "position-10": Named("gold-position", _positions(10), "gold at chosen places among 10 passages"),
    "position-20": Named("gold-position", _positions(20), "gold at chosen places among 20 passages"),
    "position-30": Named("gold-position", _positions(30), "gold at chosen places among 30 passages"),
    "key-value-20": Named("key-value", {**_keys(75), "keys": 20}, "one value among 20 keys, for small models"),
    "key-value-75": Named("key-value", _keys(75), "one value among 75 keys"),
    "key-value-140": Named("key-value", _keys(140), "one value among 140 keys"),
    "invented-facts": Named("invented-facts", {}, "facts of invented countries hidden in text, no data"),
    "needle": Named("needle", {"paragraphs_folder": "{data}/long/paul_graham_essays"}, "a fact hidden in essays"),
    "counterfact": Named(
        "counterfact", {"path": f"{_FACTS}/full_data_sampled_gpt2_with_subjects.json"}, "in-context fact against memory"
    ),
    "wikitext": Named("perplexity", {"path": "{data}/text/wikitext-2/test.txt"}, "bits per byte of general text"),
}


Model = Callable[[], "LanguageModel"]
RANKING, SEARCH, READING = frozenset({"ranking"}), frozenset({"search"}), frozenset({"reading"})


@dataclass(frozen=True)
class Method:
    """A method with a name.

    Attributes:
        make: the system, from the model, the seed and the text behind the colon.
        kinds: the kinds of tasks it can do (see `headwater.evaluate.tasks.task`).
        about: a line about it.
        argument: what stands behind the colon, if anything does.
        seeded: whether it draws something; others run once.
        uses_model: whether it runs the model under test.
    """

    make: Callable[[Model, int, str], System]
    kinds: frozenset[str]
    about: str
    argument: str = ""
    seeded: bool = False
    uses_model: bool = True


METHODS: dict[str, Method] = {
    "first-stage": Method(
        lambda lm, seed, text: lists.FirstStage(),
        RANKING,
        "candidates as the first stage orders them",
        uses_model=False,
    ),
    "bm25": Method(
        lambda lm, seed, text: lists.Keywords(), RANKING | SEARCH, "BM25 (bm25s, k1 0.9, b 0.4)", uses_model=False
    ),
    "run": Method(
        lambda lm, seed, text: lists.RunFile(text),
        RANKING | SEARCH,
        "a TREC run made elsewhere",
        "PATH",
        uses_model=False,
    ),
    "qr": Method(lambda lm, seed, text: rankers.HeadRanking(lm()), RANKING, "QRRetriever with the model's own heads"),
    "icr": Method(
        lambda lm, seed, text: rankers.HeadRanking(lm(), "all"), RANKING, "all heads (ICR, arXiv 2410.02642)"
    ),
    "heads": Method(
        lambda lm, seed, text: rankers.HeadRanking(lm(), text), RANKING, "QRRetriever with a head set", "HEADS"
    ),
    "random-heads": Method(
        lambda lm, seed, text: rankers.RandomHeadRanking(lm(), seed), RANKING, "as many heads, drawn", seeded=True
    ),
    "rankgpt": Method(
        lambda lm, seed, text: rankers.RankGPTRanking(lm()), RANKING, "RankGPT (arXiv 2304.09542), windows of 20"
    ),
    "rankgpt-one-shot": Method(
        lambda lm, seed, text: rankers.RankGPTRanking(lm(), one_shot=True), RANKING, "RankGPT, the list in one prompt"
    ),
    "dense": Method(
        lambda lm, seed, text: rankers.Dense(text),
        RANKING | SEARCH,
        "a sentence-transformers model",
        "ID",
        uses_model=False,
    ),
    "cross-encoder": Method(
        lambda lm, seed, text: rankers.CrossEncoding(text), RANKING, "a cross-encoder", "ID", uses_model=False
    ),
    "bm25+qr": Method(
        lambda lm, seed, text: rankers.SearchThenRank(rankers.HeadRanking(lm())), SEARCH, "BM25, its 20 best by qr"
    ),
    "bm25+icr": Method(
        lambda lm, seed, text: rankers.SearchThenRank(rankers.HeadRanking(lm(), "all")),
        SEARCH,
        "BM25, its 20 best by icr",
    ),
    "read": Method(lambda lm, seed, text: readers.FullContext(lm()), READING, "reads all documents"),
    "no-context": Method(lambda lm, seed, text: readers.NoContext(lm()), READING, "answers from memory"),
    "cad": Method(lambda lm, seed, text: readers.ContextAware(lm()), READING, "context-aware decoding, weight 1"),
    "juice": Method(lambda lm, seed, text: readers.TwoRuns(lm(), text), READING, "JuICE, two runs per token", "HEADS"),
    "qr+read": Method(
        lambda lm, seed, text: readers.RankThenRead(lm(), rankers.HeadRanking(lm())), READING, "reads the 5 best by qr"
    ),
    "bm25+read": Method(
        lambda lm, seed, text: readers.RankThenRead(lm(), lists.Keywords()), READING, "reads the 5 best by bm25"
    ),
    "model": Method(
        lambda lm, seed, text: readers.PlainModel(lm()), frozenset({"choice", "text"}), "probabilities of texts"
    ),
}


def build_task(wanted: str | Mapping[str, Any], data: Path | None) -> Task:
    """A task by name, by ``form:path``, or by a mapping with "task" and its arguments (and "name", for results).

    Raises:
        InputError: an unknown name or argument, or a task that needs a data folder where none is given.
    """
    if isinstance(wanted, str):
        form, colon, path = wanted.partition(":")
        given: dict[str, Any] = {"task": form, **({_first_argument(form): path} if colon else {})}
    else:
        given = dict(wanted)
    form = str(given.pop("task", ""))
    name = str(given.pop("name", wanted if isinstance(wanted, str) else form))
    named = TASKS.get(form, Named(form, {}, ""))
    if named.form not in FORMS:
        raise InputError(f"There is no task {form!r}; `headwater eval list` names them.")
    arguments = {**named.arguments, **given}
    if data is None and (lacking := Named(form, arguments, "").needs):
        raise InputError(f"The task {form} needs {lacking[0]} of a data folder; give --data.")
    arguments = {
        key: value.replace("{data}", str(data)) if isinstance(value, str) else value for key, value in arguments.items()
    }
    try:
        inspect.signature(FORMS[named.form]).bind(**arguments)
    except TypeError as error:
        known = ", ".join(inspect.signature(FORMS[named.form]).parameters)
        raise InputError(f"Task {name}: {error}; its arguments are {known}.") from None
    task = FORMS[named.form](**arguments)
    task.name = re.sub(r"[^\w.+-]+", "-", name)
    task.definition = {"form": named.form, **arguments}
    return task


@dataclass(frozen=True)
class Chosen:
    """A method as it was asked for.

    Attributes:
        method: the method.
        argument: the text behind the colon, "" where it takes none.
        model: the model behind the @, None for the run's own.
    """

    method: Method
    argument: str
    model: str | None


def method_named(text: str) -> Chosen:
    """The method, its argument and its model: ``NAME``, ``NAME:ARGUMENT``, either with ``@MODEL``.

    Raises:
        InputError: an unknown method, an argument or a model that is missing or not taken.
    """
    name = re.split("[:@]", text, maxsplit=1)[0]
    method = METHODS.get(name)
    if method is None:
        raise InputError(f"There is no method {name!r}; there are {', '.join(METHODS)}.")
    rest, model = text.removeprefix(name), None
    if method.uses_model and "@" in rest:
        rest, _, model = rest.rpartition("@")
    argument = rest.removeprefix(":")
    if bool(method.argument) != bool(argument) or rest[:1] not in ("", ":") or model == "":
        wanted = f"{name}:{method.argument}" if method.argument else name
        raise InputError(f"The method {text!r} is written {wanted}{' or with @MODEL' if method.uses_model else ''}.")
    return Chosen(method, argument, model)


def _first_argument(form: str) -> str:
    """The argument that stands behind the colon."""
    if form not in FORMS:
        raise InputError(f"There is no task {form!r} that takes a path; there are {', '.join(FORMS)}.")
    return next(iter(inspect.signature(FORMS[form]).parameters))
