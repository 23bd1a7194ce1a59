"""What the experiments on head sets are about: lists of many lengths, and detections that are made once."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from headwater.data import world
from headwater.data.documents import Document, RankingExample
from headwater.errors import InputError, NoAcceptedRunsError
from headwater.evaluate.heads_settings import CORE, NDCG, POOL, QR, SHUFFLED, WU, Settings
from headwater.evaluate.main_job import Progress, no_progress, shuffle_labels
from headwater.evaluate.questions import Step
from headwater.heads import ContrastiveHeads, QueryFocusedHeads, RetrievalHeads
from headwater.headset import HeadScores, HeadSet
from headwater.prompt import prompt_template

if TYPE_CHECKING:
    from headwater.model.lm import LanguageModel

SHORT_DOCUMENT = 36  # tokens of a document that is shorter than most, its separator included
MOST_CANDIDATES = 120  # that every question of the fact world has


def lengths_of(lm: LanguageModel, settings: Settings) -> tuple[int, ...]:
    """The lengths that the model reads.

    Raises:
        InputError: it reads none of them.
    """
    found = tuple(length for length in settings.lengths if length <= (lm.max_length or length))
    if not found:
        raise InputError(f"{lm.name} reads {lm.max_length} tokens, which is less than any of {settings.lengths}.")
    return found


def check_room(lm: LanguageModel, examples: Sequence[RankingExample]) -> None:
    """Refuse a model that cannot read one of the lists, before anything is measured.

    Raises:
        InputError: says what it reads and how long the lists are.
    """
    template = prompt_template(lm.tokenizer)
    longest = 0
    for example in examples:
        documents = [document for document in example.documents if isinstance(document, Document)]
        tail = max(len(template.tail(text)) for text in (example.query, "N/A"))
        longest = max(longest, len(template.prefix(documents).ids) + tail)
    if lm.max_length is not None and longest > lm.max_length:
        raise InputError(
            f"{lm.name} reads {lm.max_length} tokens, but lists that are ranked have up to {longest}; give a model "
            "that reads more."
        )


def known_share(examples: Sequence[RankingExample]) -> float:
    """Mean share of a list's documents that are about known countries, those that the embedded model was taught."""
    known = set(world.countries("known"))
    shares = [
        [document.metadata["country"] in known for document in example.documents if isinstance(document, Document)]
        for example in examples
    ]
    return float(np.mean([np.mean(share) for share in shares]))


def lists_of_length(
    lm: LanguageModel, split: str, n: int, lengths: Sequence[int], seed: int
) -> dict[int, list[RankingExample]]:
    """`n` questions with lists that fill prompts of so many tokens; shorter lists are parts of the longer ones."""
    most = min(MOST_CANDIDATES, max(2, max(lengths) // SHORT_DOCUMENT))
    examples = world.ranking_examples(split, n, most, seed=seed)
    return {length: [_shorter(lm, example, length) for example in examples] for length in lengths}


def _shorter(lm: LanguageModel, example: RankingExample, length: int) -> RankingExample:
    """The gold document and others drawn in one order for all lengths, as many as fit; their places stay in order."""
    template = prompt_template(lm.tokenizer)
    documents = [document for document in example.documents if isinstance(document, Document)]
    gap, last = len(template.encode(template.separator)), len(documents)
    sizes = [gap + len(template.encode(template.piece(last, document))) for document in documents]
    room = length - len(template.prefix([]).ids) - max(len(template.tail(text)) for text in (example.query, "N/A"))
    gold = example.grades().index(1.0)
    others = [place for place in range(last) if place != gold]
    random.Random(f"headwater/lengths/{example.id}").shuffle(others)  # the first ones would put gold last
    kept, room = [gold], room - sizes[gold]
    for place in others:
        if sizes[place] > room:
            break
        kept.append(place)
        room -= sizes[place]
    return replace(example, documents=[documents[place] for place in sorted(kept)], relevant=[str(documents[gold].id)])


def detections(
    lm: LanguageModel, folder: Path, settings: Settings, progress: Progress = no_progress
) -> tuple[dict[str, HeadScores], dict[str, str]]:
    """Scores of every detector, found once and kept in the folder (heads-NAME.json and scores-NAME.npy).

    Returns:
        The scores by name, and why there are none of the retrieval heads where the model finds no needle.
    """
    pool = world.ranking_examples("development", settings.pool, 20, seed=settings.seed)
    hard = world.ranking_examples("development", settings.examples, 20, seed=settings.seed, hard=True)

    def ranked(detector: Any, examples: Sequence[RankingExample]) -> Callable[[Step], HeadScores]:
        return lambda step: detector.score(lm, examples, step)

    seed, some = settings.seed, pool[: settings.examples]
    needles = RetrievalHeads(seed=seed, lengths=settings.needle_lengths, depths=settings.needle_depths)
    wanted: dict[str, Callable[[Step], HeadScores]] = {
        QR: ranked(QueryFocusedHeads(seed=seed), some),
        POOL: ranked(QueryFocusedHeads(seed=seed), pool),
        NDCG: ranked(QueryFocusedHeads(metric="ndcg", seed=seed), some),
        "query-focused (look-alikes)": ranked(QueryFocusedHeads(seed=seed), hard),
        CORE: ranked(ContrastiveHeads(seed=seed), some),
        SHUFFLED: ranked(QueryFocusedHeads(seed=seed), shuffle_labels(some, seed)),
        WU: lambda step: needles.score(lm, None, step),
    }
    lists = lists_of_length(lm, "development", settings.examples // 2, lengths_of(lm, settings), seed)
    for length, examples in lists.items():
        wanted[at_length(length)] = ranked(QueryFocusedHeads(seed=seed), examples)
    scores, missing = {}, {}
    for name, find in wanted.items():
        try:
            scores[name] = kept(folder, name, find, progress(f"finding: {name}"))
        except NoAcceptedRunsError as error:
            missing[name] = str(error)
    return scores, missing


def at_length(length: int) -> str:
    """Name of the heads found on prompts of so many tokens."""
    return f"{QR} at {length} tokens"


def kept(folder: Path, name: str, find: Callable[[Step], HeadScores], step: Step) -> HeadScores:
    """Scores from the folder, or found and put there."""
    stem = "".join(c if c.isalnum() else "-" for c in name)
    heads, array = folder / f"heads-{stem}.json", folder / f"scores-{stem}.npy"
    if not (heads.exists() and array.exists()):
        found = find(step)
        samples = found.scores[None] if found.samples is None else found.samples
        np.save(array, samples.astype(np.float32), allow_pickle=False)
        groups = [f"{i}" for i in range(len(samples))] if found.groups is None else [str(g) for g in found.groups]
        whole = found.top(int(np.isfinite(found.scores).sum()))
        HeadSet(whole.heads, None, found.scores, {**found.provenance, "groups": groups}).save(heads)
    loaded = HeadSet.load(heads)
    assert loaded.scores is not None
    samples = np.load(array, allow_pickle=False)
    return HeadScores(loaded.scores, loaded.provenance, samples, loaded.provenance["groups"])
