"""The fact world: short real facts about countries, questions about them, and documents that state them.

Facts come from the World Factbook (public domain, CC0) and ship with the package (`data/factbook`). Every country is in
one split: ``known`` (the embedded model was trained on it), ``development`` (for finding heads and choosing settings)
or ``held_out`` (for reporting). No training text of the embedded model names a country of the last two.

Everything is a function of its arguments and the seed. Usable with any model; needs nothing but the standard library.
"""

from __future__ import annotations

import difflib
import json
import random
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

from headwater.data.documents import Document, RankingExample
from headwater.errors import InputError

SPLITS = ("known", "development", "held_out")
LONGEST_DOCUMENT = 200  # characters of text; below 80 tokens of the embedded model


@dataclass(frozen=True)
class Relation:
    """One kind of fact.

    Attributes:
        name: key in `facts`, for example ``highest_point``.
        label: its short name, for example ``Highest point``.
        kind: ``text`` or ``number``.
        statement: how documents state it, up to the answer: ``The highest point of {c} is``.
        questions: wordings with ``{c}`` for the country; the last one is never used in training.
    """

    name: str
    label: str
    kind: str
    statement: str
    questions: tuple[str, ...]


@dataclass(frozen=True)
class Question:
    """A question about one fact.

    Attributes:
        text: the question.
        country: whom it is about.
        relation: name of the relation it asks for.
        answers: accepted answers, the Factbook's own first.
        id: stable name, ``country/relation/wording``.
    """

    text: str
    country: str
    relation: str
    answers: tuple[str, ...]
    id: str


@dataclass(frozen=True)
class ReadingExample:
    """A question, the documents to read, and which of them states the answer.

    Attributes:
        question: the question.
        documents: gold document and distractors, shuffled.
        gold: index of the gold document.
    """

    question: Question
    documents: tuple[Document, ...]
    gold: int


@cache
def _load() -> tuple[dict[str, Relation], dict[str, dict[str, str]], dict[str, tuple[str, ...]]]:
    """Relations, facts and splits from the files beside this module, read once."""
    folder = resources.files("headwater.data") / "factbook"
    rows = json.loads((folder / "relations.json").read_text(encoding="utf-8"))
    relations = {
        r["name"]: Relation(r["name"], r["label"], r["kind"], r["statement"], tuple(r["questions"])) for r in rows
    }
    lines = (folder / "countries.jsonl").read_text(encoding="utf-8").splitlines()
    facts = {
        row["name"]: {k: row["facts"][k] for k in relations if k in row["facts"]} for row in map(json.loads, lines)
    }
    drawn = json.loads((folder / "splits.json").read_text(encoding="utf-8"))
    splits = {name: tuple(drawn[name]) for name in ("development", "held_out")}
    splits["known"] = tuple(c for c in facts if c not in splits["development"] and c not in splits["held_out"])
    return relations, facts, splits


def _relations() -> dict[str, Relation]:
    return _load()[0]


def __getattr__(name: str) -> dict[str, Relation]:
    """`RELATIONS`: relation name -> `Relation`, read on first use."""
    if name == "RELATIONS":
        return dict(_relations())
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def countries(split: str | None = None) -> tuple[str, ...]:
    """Names of the countries of a split (None: all), in alphabetical order.

    Raises:
        InputError: for a split that does not exist.
    """
    _, facts_of, splits = _load()
    if split is None:
        return tuple(facts_of)
    if split not in splits:
        raise InputError(f"Unknown split {split!r}; the splits are {', '.join(SPLITS)}.")
    return splits[split]


def facts(country: str) -> dict[str, str]:
    """Relation name -> answer for one country.

    Raises:
        InputError: for a country that the world does not have, naming the closest ones it has.
    """
    facts_of = _load()[1]
    if country not in facts_of:
        close = difflib.get_close_matches(str(country), facts_of, n=3)
        hint = f" Did you mean {' or '.join(close)}?" if close else ""
        raise InputError(f"The fact world has no country {country!r}.{hint}")
    return dict(facts_of[country])


def normalise(text: str) -> str:
    """Lower case, no articles, punctuation or doubled spaces (as SQuAD), but numbers keep their sign and point.

    SQuAD's own rule would make one string of ``2.9`` and ``29``, and of ``UTC+1`` and ``UTC-1``.
    """
    text = re.sub(r"(?<=\d),(?=\d)", "", text.lower())
    text = re.sub(r"(?!(?<=\d)\.(?=\d)|[+-](?=\d))[^\w\s]", " ", text.replace("'", ""))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def exact_match(prediction: str, answers: str | Iterable[str]) -> bool:
    """Whether the prediction equals one of the answers after `normalise`."""
    return normalise(prediction) in {normalise(a) for a in ((answers,) if isinstance(answers, str) else answers)}


def states(text: str, answer: str) -> bool:
    """Whether the text contains the answer as whole words, after `normalise`."""
    return f" {normalise(answer)} " in f" {normalise(text)} "


@cache
def majority_answer(relation: str, split: str = "known") -> str:
    """The most frequent answer of a relation (ties: alphabetical order), a floor for every model."""
    _relation(relation)
    counts = Counter(facts(c)[relation] for c in countries(split) if relation in facts(c))
    return min(counts, key=lambda answer: (-counts[answer], answer))


def _relation(name: str) -> Relation:
    if name not in _relations():
        raise InputError(f"Unknown relation {name!r}; the relations are {', '.join(_relations())}.")
    return _relations()[name]


def _slug(country: str) -> str:
    return re.sub(r"[^\w]+", "-", country.lower())


def document(country: str, relations: Sequence[str], edits: Mapping[str, str] | None = None) -> Document:
    """A document that states facts of a country: ``The capital of Algeria is Algiers.``, country as title.

    Args:
        country: the country.
        relations: what to state, in order.
        edits: answers to put in place of the true ones (a counterfactual document).

    Raises:
        InputError: for an unknown country, a relation it has no answer for, or an empty list.
    """
    answers = facts(country)
    if isinstance(relations, str) or not relations:
        raise InputError("Give a non-empty list of relation names for the document.")
    for name in relations:
        if name not in answers:
            raise InputError(f"The fact world has no {_relation(name).label.lower()} of {country}.")
    values = {name: (edits or {}).get(name, answers[name]) for name in relations}
    text = " ".join(f"{_relation(name).statement.format(c=country)} {value}." for name, value in values.items())
    kind = "/edited" if any(values[name] != answers[name] for name in relations) else ""
    metadata = {"country": country, "relations": tuple(relations)}
    return Document(text, id=f"{_slug(country)}/{'+'.join(relations)}{kind}", title=country, metadata=metadata)


@cache
def _grouped(country: str, grouping: int = 0) -> tuple[Document, ...]:
    """All facts of a country in documents of one to four, each fact once; another `grouping` deals them otherwise."""
    draw = random.Random(f"headwater/{country}/{grouping}")
    names = list(facts(country))
    draw.shuffle(names)
    out: list[Document] = []
    while names:
        size = draw.choices((1, 2, 3, 4), (25, 35, 25, 15))[0]
        while size > 1 and len(document(country, names[:size]).text) > LONGEST_DOCUMENT:
            size -= 1
        out.append(document(country, names[:size]))
        names = names[size:]
    return tuple(out)


def documents(split: str | None = None) -> list[Document]:
    """The corpus: every fact of the split's countries (None: all countries) in exactly one document of 1-4 facts."""
    return [doc for country in countries(split) for doc in _grouped(country)]


def _accepted(relation: str, answer: str) -> tuple[str, ...]:
    """The answer, and for a number with a unit the bare number too."""
    bare = re.match(r"^\$?([\d.,]+)(?! [mb]illion)", answer)
    if _relation(relation).kind == "number" and bare and bare.group(1) != answer:
        return (answer, bare.group(1))
    return (answer,)


def questions(split: str, seed: int = 0, wording: int | None = None, limit: int | None = None) -> list[Question]:
    """One question per fact of the split, shuffled by the seed.

    Args:
        split: ``known``, ``development`` or ``held_out``.
        seed: of the order, and of the wordings where they are drawn.
        wording: index into `Relation.questions` (-1: the wording no training text has); None draws one of the others.
        limit: keep the first so many.

    Raises:
        InputError: for an unknown split, wording or limit.
    """
    names = countries(split)
    draw = random.Random(f"headwater/questions/{split}/{seed}")
    pairs = [(country, relation) for country in names for relation in facts(country)]
    draw.shuffle(pairs)
    if limit is not None and limit < 0:
        raise InputError(f"limit must not be negative, got {limit}.")
    return [_question(country, relation, wording, draw) for country, relation in pairs[:limit]]


def _question(country: str, relation: str, wording: int | None, draw: random.Random) -> Question:
    wordings = _relation(relation).questions
    index = draw.randrange(len(wordings) - 1) if wording is None else wording
    if not -len(wordings) <= index < len(wordings):
        raise InputError(f"Relation {relation!r} has wordings 0 to {len(wordings) - 1} (-1: the last), got {wording}.")
    answers = _accepted(relation, facts(country)[relation])
    name = f"{_slug(country)}/{relation}/{index % len(wordings)}"
    return Question(wordings[index].format(c=country), country, relation, answers, name)


@cache
def _look_alikes(country: str, pool: tuple[str, ...]) -> tuple[str, ...]:
    """The pool, most confusable first: shared letters and words of the name, and the same region."""

    def likeness(other: str) -> float:
        letters = difflib.SequenceMatcher(None, country.lower(), other.lower()).ratio()
        words = len(set(country.lower().split()) & set(other.lower().split()))
        same_region = facts(country).get("region") == facts(other).get("region")
        return letters + 0.5 * words + 0.3 * same_region

    return tuple(sorted((c for c in pool if c != country), key=lambda other: (-likeness(other), other)))


def _gives(doc: Document, answer: str) -> bool:
    """Whether the document's title or one of its values states the answer (`is` of the sentences is not `.is`)."""
    values = facts(str(doc.title))
    return any(states(text, answer) for text in (str(doc.title), *(values[r] for r in doc.metadata["relations"])))


def _candidates(
    question: Question, split: str, count: int, draw: random.Random, hard: bool
) -> tuple[tuple[Document, ...], int]:
    """Gold document and distractors that do not state the answer, shuffled; and where the gold one landed."""
    country, relation, answer = question.country, question.relation, question.answers[0]
    gold = next(doc for doc in _grouped(country) if relation in doc.metadata["relations"])
    others = (count - 1) // 2
    own: dict[str | None, Document] = {}
    for grouping in range(8):  # a country with few documents lends the same facts in other groups
        fresh = [d for d in _grouped(country, grouping) if d.id not in own and relation not in d.metadata["relations"]]
        draw.shuffle(fresh)
        own.update({d.id: d for d in fresh if not _gives(d, answer)})
        if len(own) >= others:
            break
    chosen = list(own.values())[:others]
    pool = tuple(c for c in (countries(split) + (countries("known") if hard else ())) if c != country)
    order = list(_look_alikes(country, tuple(dict.fromkeys(pool))) if hard else draw.sample(pool, len(pool)))
    for other in order:
        if len(chosen) == count - 1:
            break
        chosen += [d for d in _grouped(other) if relation in d.metadata["relations"] and not _gives(d, answer)]
    if len(chosen) < count - 1:
        raise InputError(
            f"Only {len(chosen) + 1} candidates can be built for {question.text!r} in split {split!r}; "
            f"ask for fewer than {count}, or hard=True, which draws from the known countries too."
        )
    mixed = [gold, *chosen]
    draw.shuffle(mixed)
    return tuple(mixed), mixed.index(gold)


def reading_examples(
    split: str, n: int, documents: int = 5, seed: int = 0, wording: int | None = None, hard: bool = False
) -> list[ReadingExample]:
    """`n` questions with one document that states the answer among `documents`; distractors as in `ranking_examples`.

    Raises:
        InputError: for an unknown split, or numbers that cannot be met.
    """
    if n < 0 or documents < 1:
        raise InputError(f"Need n >= 0 and at least 1 document, got n={n}, documents={documents}.")
    out = []
    for q in questions(split, seed, wording, limit=n):
        draw = random.Random(f"headwater/candidates/{q.id}/{seed}/{documents}/{hard}")
        mixed, gold = _candidates(q, split, documents, draw, hard)
        out.append(ReadingExample(q, mixed, gold))
    if len(out) < n:
        raise InputError(f"Split {split!r} has {len(out)} questions, asked for {n}.")
    return out


def ranking_examples(
    split: str, n: int, candidates: int = 20, seed: int = 0, wording: int | None = None, hard: bool = False
) -> list[RankingExample]:
    """`n` questions with `candidates` documents each, of which one states the answer.

    Half of the distractors state the same relation of other countries of the same split, half state other relations of
    the asked country; none states the answer. `hard=True` takes the countries from the split and the known ones
    together, those with look-alike names or in the same region first. `group` is the country.

    Raises:
        InputError: for an unknown split, or numbers that cannot be met.
    """
    if candidates < 2:
        raise InputError(f"Ranking needs at least 2 candidates, got {candidates}.")
    return [
        RankingExample(
            e.question.text, e.documents, [e.documents[e.gold].id or e.gold], id=e.question.id, group=e.question.country
        )
        for e in reading_examples(split, n, candidates, seed, wording, hard)
    ]
