"""The questions of the PEAR experiment: reading about unseen countries, and memory against documents about known ones.

What a model knows is measured first: it answers questions about the known countries without documents, in one wording.
Facts it gets right there are *known*, but for those whose answer is the relation's most frequent one, which a guess
gets right; known facts are tested in other wordings. Tests of known facts are thus conditional on what the model as it
is gets right, and overstate what a treatment spoils; `ASKED` takes facts as they come. A fifth of the known countries
serves development only, as do the development countries.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch

from headwater.data import world
from headwater.data.documents import Document
from headwater.data.world.contexts import counterfactual, other_answer
from headwater.data.world.examples import distractors, gives
from headwater.data.world.wordings import Question, accepted, question
from headwater.evaluate.pear.settings import Settings
from headwater.instrument.variants import continuation
from headwater.model.lm import LanguageModel
from headwater.prompt import prompt_template

FEW, MANY, FIRST, MIDDLE, LAST = "few", "many", "first", "middle", "last"
CONFLICT, ASKED, CLOSED, NOISE, HARMLESS = "conflict", "asked", "closed", "noise", "harmless"
READING = (FEW, MANY, FIRST, MIDDLE, LAST)
MEMORY = (CONFLICT, ASKED, CLOSED, NOISE, HARMLESS)
ASKED_FIRST, TESTED = 0, (-1, 1, 2)  # wordings: which facts are known; how they are tested
DEVELOPMENT_SHARE = 5  # every fifth known country
GUESSES = 500  # held-out facts that show how much is guessed right
CHUNK, BATCH = 512, 32
Fact = tuple[str, str]


@dataclass(frozen=True)
class Item:
    """A question with what is shown beside it.

    Attributes:
        id: its name, the same for one question in all tests.
        group: the country.
        question: the question.
        documents: shown; none for the question alone.
        answers: what is right: what the documents state; where they state nothing, what the world says.
        memory: what the world says, where the documents say something else.
    """

    id: str
    group: str
    question: str
    documents: tuple[Document, ...]
    answers: tuple[str, ...]
    memory: tuple[str, ...] = ()


Tests = dict[str, list[Item]]
Step = Callable[[int, int], None]


def tests(lm: LanguageModel, settings: Settings, known: Sequence[Fact]) -> tuple[Tests, int]:
    """Test -> its items, and the number of documents of a long list."""
    n, seed = settings.questions, settings.seed
    many = settings.many
    long = _reading("held_out", settings.long, many, seed)
    while many > settings.few and not fits(lm, long, settings.new_tokens):
        many = max(settings.few, many // 2)
        long = _reading("held_out", settings.long, many, seed)
    out = {FEW: [_item(e) for e in _reading("held_out", n, settings.few, seed)], MANY: [_item(e) for e in long]}
    for name, place in ((FIRST, 0), (MIDDLE, many // 2), (LAST, many - 1)):
        out[name] = [_item(e, place) for e in long[: settings.places]]
    return out | about_memory(known, every_fact(settings)[0], n, settings), many


def development(settings: Settings, known: Sequence[Fact]) -> Tests:
    """Items to choose on: development countries to read about, and known facts of countries that are not tested."""
    n = settings.development
    found = {FEW: [_item(e) for e in _reading("development", n, settings.few, settings.seed)]}
    about = about_memory(known, every_fact(settings)[1], n, settings)
    return found | {name: rows for name, rows in about.items() if name != HARMLESS}


def every_fact(settings: Settings) -> tuple[list[Fact], list[Fact]]:
    """The facts of the known countries in random order, known to the model or not: to test with, to choose with."""
    names = sorted(world.countries("known"))
    random.Random(f"headwater/pear/{settings.seed}").shuffle(names)
    choosing = set(names[::DEVELOPMENT_SHARE])
    facts = [(country, relation) for country in names for relation in world.facts(country)]
    random.Random(settings.seed).shuffle(facts)
    return [fact for fact in facts if fact[0] not in choosing], [fact for fact in facts if fact[0] in choosing]


def about_memory(known: Sequence[Fact], every: Sequence[Fact], n: int, settings: Settings) -> Tests:
    """Items about known facts: alone, beside an edited document, beside noise, beside one harmless document.

    The facts in their order in a wording that no training text has, then in others, until there are `n`. `ASKED` holds
    `every` fact alone, in the same wordings, known or not.
    """
    asked = _asked(known, settings.seed)
    out: Tests = {name: [] for name in MEMORY}
    out[ASKED] = [Item(q.id, q.country, q.text, (), q.answers) for q in islice(_asked(every, settings.seed), n)]
    for q in islice(asked, n):
        draw = random.Random(f"headwater/pear/{q.id}/{settings.seed}")
        beside = distractors(q, "known", settings.noise, draw, False, avoid=q.answers[:1])
        draw.shuffle(beside)
        out[CLOSED].append(Item(q.id, q.country, q.text, (), q.answers))
        out[NOISE].append(Item(q.id, q.country, q.text, tuple(beside), q.answers))
        out[HARMLESS].append(Item(q.id, q.country, q.text, (harmless(q, draw),), q.answers))
    for e in conflicts(known, n, settings):
        q = e.question
        out[CONFLICT].append(Item(q.id, q.country, q.text, e.documents, e.stated, q.answers))
    return out


def conflicts(
    known: Sequence[Fact], n: int, settings: Settings, wordings: Sequence[int] = TESTED
) -> list[world.ReadingExample]:
    """Known facts beside their document, edited to state another answer; facts without another answer are skipped."""
    out: list[world.ReadingExample] = []
    for q in _asked(known, settings.seed, wordings):
        if len(out) == n:
            break
        answer = other_answer(q, random.Random(f"headwater/pear/conflict/{q.id}/{settings.seed}"))
        if answer is not None:
            shown = (counterfactual(q, answer),)
            out.append(world.ReadingExample(q, shown, (0,), accepted(q.relation, answer)))
    return out


def to_find_with(known: Sequence[Fact], n: int, settings: Settings) -> list[world.ReadingExample]:
    """`n` conflicts that `development` does not hold; where there are too few, in the wording of no other test."""
    chosen = settings.development
    found = conflicts(known, chosen + n, settings)[chosen:]
    return found + conflicts(known, n - len(found), settings, (ASKED_FIRST,))


def harmless(q: Question, draw: random.Random) -> Document:
    """A document about another country that neither answers the question nor speaks of its relation."""
    pool = world.documents("known")
    while True:
        document = draw.choice(pool)
        about = document.metadata
        if about["country"] != q.country and q.relation not in about["relations"] and not gives(document, q.answers[0]):
            return document


def known_facts(lm: LanguageModel, settings: Settings, step: Step) -> tuple[list[Fact], list[Fact], dict[str, float]]:
    """Facts that the model knows without documents: to test with, to choose with; and counts.

    Facts are asked in random order until there are enough, or all have been. Those whose answer is the most frequent of
    their relation are not counted among the known. What is left of guessing shows in facts that the model cannot know:
    counts["guessed"] is the share said right of up to 500 about held-out countries, asked and counted in the same way.

    Returns:
        Facts to test with, facts to choose with, and "asked", "tested", "development" (numbers), "guessed" (a share).
    """
    parts = every_fact(settings)
    facts = [fact for part in parts for fact in part]
    choosing = {country for country, _ in parts[1]}
    draw = random.Random(settings.seed)
    draw.shuffle(facts)
    tested: list[Fact] = []
    chosen: list[Fact] = []
    asked = 0
    for start in range(0, len(facts), CHUNK):
        if len(tested) >= settings.questions and len(chosen) >= settings.development:
            break
        step(start, len(facts))
        part = facts[start : start + CHUNK]
        for fact in _right(lm, part, settings, draw):
            (chosen if fact[0] in choosing else tested).append(fact)
        asked += len(part)
    unseen = [(country, relation) for country in world.countries("held_out") for relation in world.facts(country)]
    draw.shuffle(unseen)
    unseen = [fact for fact in unseen if not _most_frequent(fact)][:GUESSES]
    guessed = len(_right(lm, unseen, settings, draw)) / len(unseen)
    step(len(facts), len(facts))
    return tested, chosen, {"asked": asked, "tested": len(tested), "development": len(chosen), "guessed": guessed}


def _right(lm: LanguageModel, facts: Sequence[Fact], settings: Settings, draw: random.Random) -> list[Fact]:
    """Facts said right without documents, but for those that the most frequent answer of the relation gets right."""
    put = [question(country, relation, ASKED_FIRST, draw) for country, relation in facts]
    said = recalled(lm, [q.text for q in put], settings.new_tokens)
    pairs = zip(facts, put, said, strict=True)
    return [fact for fact, q, text in pairs if world.exact_match(text, q.answers) and not _most_frequent(fact)]


def _most_frequent(fact: Fact) -> bool:
    country, relation = fact
    return bool(world.exact_match(world.majority_answer(relation), accepted(relation, world.facts(country)[relation])))


@torch.no_grad()
def recalled(lm: LanguageModel, questions: Sequence[str], new_tokens: int) -> list[str]:
    """Greedy answers to questions without documents, in batches of equal length."""
    template = prompt_template(lm.tokenizer, instruction="answer")
    prompts = [template.alone(text) for text in questions]
    out = [""] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda place: len(prompts[place]))
    while order:
        same = [place for place in order[:BATCH] if len(prompts[place]) == len(prompts[order[0]])]
        order = order[len(same) :]
        ids = torch.tensor([prompts[place] for place in same], device=lm.device)
        read = lm.model(input_ids=ids, use_cache=True, logits_to_keep=1)

        def over(_: int, new: list[int], __: float) -> bool:
            return "\n" in _text(lm, new)

        found = continuation(lm, read.logits[:, -1], read.past_key_values, new_tokens, over)
        for place, new in zip(same, found, strict=True):
            out[place] = _text(lm, new).split("\n")[0].strip()
    return out


def fits(lm: LanguageModel, examples: Sequence[world.ReadingExample], new_tokens: int) -> bool:
    """Whether every prompt and its answer fit what the model reads."""
    template = prompt_template(lm.tokenizer, instruction="answer")
    room = lm.max_length - new_tokens
    sizes = (len(template.prefix(e.documents).ids) + len(template.tail(e.question.text)) for e in examples)
    return all(size <= room for size in sizes)


def _text(lm: LanguageModel, new: Sequence[int]) -> str:
    return str(lm.tokenizer.decode(new, skip_special_tokens=True)).lstrip()


def _reading(split: str, n: int, documents: int, seed: int) -> list[world.ReadingExample]:
    """Every fact of a split once, in a wording that is drawn; then in the one that no training text has."""
    facts = len(world.questions(split))
    found = world.reading_examples(split, min(n, facts), documents, seed=seed)
    return found + (world.reading_examples(split, n - facts, documents, seed=seed, wording=-1) if n > facts else [])


def _item(example: world.ReadingExample, place: int | None = None) -> Item:
    """The example, its gold document moved to `place`."""
    shown = list(example.documents)
    if place is not None:
        shown.insert(place, shown.pop(example.gold[0]))
    q = example.question
    return Item(q.id, q.country, q.text, tuple(shown), example.stated)


def _asked(known: Sequence[Fact], seed: int, wordings: Sequence[int] = TESTED) -> Iterator[Question]:
    draw = random.Random(seed)
    for wording in wordings:
        for country, relation in known:
            yield question(country, relation, wording, draw)
