"""Long texts: split, score, keep the best chunks, answer (qrhead.md 7; arXiv 2506.09944, section 4.1).

A text is longer than the model reads well, and one of its sentences answers. It is split into chunks as `headwater ask`
splits documents; a ranker scores them, the best k are read in the order of the text. Heads are found on questions about
development countries, texts are about held-out ones. Each text is read once for all head sets, equal choices of chunks
are read once, and finished questions stay on disk, so an interrupted run goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import headwater
from headwater.data import world
from headwater.data.documents import Document, DocumentLike, as_documents
from headwater.errors import ContextOverflowError, InputError
from headwater.evaluate.bench.cost import Cost, measured
from headwater.evaluate.files import Lines, made_with, same_run, write_json
from headwater.evaluate.long_rankers import Rankers, controls, plain_cost
from headwater.evaluate.long_summary import (
    ALL,
    DRAWN,
    FIRST,
    FULL,
    NOTHING,
    QR,
    RANDOM,
    key_of,
    summarise,
)
from headwater.evaluate.main_job import Progress, no_progress
from headwater.evaluate.metrics import require
from headwater.evaluate.questions import Step
from headwater.heads import QueryFocusedHeads, RandomHeads
from headwater.headset import HeadSet
from headwater.prompt import prompt_template
from headwater.rank.overflow import STRATEGIES
from headwater.read.reader import Reader, Reading
from headwater.search.chunk import passages

if TYPE_CHECKING:
    from headwater.model.lm import LanguageModel


@dataclass(frozen=True)
class Settings:
    """What the experiment is made of; the defaults are those of docs/results/heads.md.

    Attributes:
        questions: held-out questions at each length.
        lengths: sizes of the texts, in tokens of the model.
        chunk_chars: most characters of a chunk.
        kept: numbers of chunks that count for recall, and that are read.
        control_kept: those of them that are read for first chunks, random chunks and random heads as well.
        near: paragraphs of a text that are hard to tell from the one that answers.
        examples: development questions that heads are found on, each with `candidates` documents.
        candidates: documents of each of them.
        scorer_candidates: the same for the heads of a smaller model, which may read less.
        random_sets: head sets drawn at random. All of them count for recall; of each question the answer is read from
            the choice of one of them, in turn.
        overflow: how a ranker takes a list of chunks that does not fit it (`headwater.rank.overflow`); the smaller
            model ranks in each of these ways.
        costed: questions at each length on which the cost of ranking is measured.
        top_k: number of heads (None: the detector's own choice).
        seed: of everything that is drawn.
    """

    questions: int = 300
    lengths: tuple[int, ...] = (1800, 3500)
    chunk_chars: int = 200
    kept: tuple[int, ...] = (1, 3, 5, 10)
    control_kept: tuple[int, ...] = (5,)
    near: int = 19
    examples: int = 128
    candidates: int = 20
    scorer_candidates: int = 10
    random_sets: int = 5
    overflow: tuple[str, ...] = ("tournament",)
    costed: int = 10
    top_k: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what would fail only after the heads were found.

        Raises:
            InputError: a number below 1, control_kept that is not part of kept, or a strategy that is not known.
        """
        counts = (*self.lengths, *self.kept, self.questions, self.chunk_chars, self.random_sets, self.costed)
        if not self.lengths or not self.kept or min(counts) < 1:
            raise InputError("Lengths, chunks to keep and all numbers of a long-text experiment are at least 1.")
        if not self.control_kept or not set(self.control_kept) <= set(self.kept):
            raise InputError(f"control_kept {self.control_kept} is not some of kept {self.kept}.")
        unknown = [name for name in self.overflow if name not in STRATEGIES[1:]]
        if unknown or not self.overflow:
            raise InputError(
                f"overflow takes {', '.join(STRATEGIES[1:])}; got {', '.join(self.overflow) or 'nothing'}."
            )


def run(
    lm: LanguageModel,
    output: str | Path,
    settings: Settings = Settings(),
    progress: Progress = no_progress,
    command: str = "headwater eval run --suite long",
    scorer: LanguageModel | None = None,
) -> dict[str, Any]:
    """Run the experiment, or what is left of it.

    Args:
        lm: the model that reads, and ranks with its own heads.
        output: folder for config.json, heads-*.json, text-*.jsonl and summary.json.
        settings: sizes and seed.
        progress: called with a label, gives a function of (done, total).
        command: written into the summary.
        scorer: a smaller model whose heads rank for `lm` as well, or None.

    Returns:
        The summary.

    Raises:
        InputError: when the folder holds a run of another configuration, or numbers that the world cannot meet.
    """
    require()
    folder = Path(output)
    config = {
        "suite": "long",
        "model": lm.name,
        "fingerprint": lm.fingerprint,
        "dtype": str(lm.dtype),
        "prompts": [prompt_template(lm.tokenizer, instruction=kind).fingerprint for kind in ("rank", "answer")],
        "scorer": None if scorer is None else scorer.name,
        "scorer_fingerprint": None if scorer is None else scorer.fingerprint,
        "headwater": headwater.__version__,
        **{name: list(value) if isinstance(value, tuple) else value for name, value in asdict(settings).items()},
    }
    same_run(folder / "config.json", config)
    found = _found(lm, folder / "heads-qr.json", settings, settings.candidates, progress("finding QR heads"))
    sets = {QR: found, ALL: HeadSet(lm.anatomy.all_heads)}
    for i in range(settings.random_sets):
        sets[f"{RANDOM} {i}"] = RandomHeads(top_k=len(found), seed=settings.seed + i).find(lm)
    rankers = Rankers(lm, sets, settings.overflow)
    if scorer is not None:
        step, path = progress("finding heads of the smaller model"), folder / "heads-smaller.json"
        rankers.add(scorer, _found(scorer, path, settings, settings.scorer_candidates, step))
    results: dict[str, Any] = {}
    for length in settings.lengths:
        texts = world.long_examples("held_out", settings.questions, length, _tokens(lm), settings.near, settings.seed)
        lines = Lines(folder / f"text-{length}.jsonl")
        _measure(lm, texts, rankers, settings, lines, progress(f"texts of {length:,} tokens"))
        records = [lines.done[each.question.id] for each in texts]
        results[str(length)] = summarise(records, settings.kept, settings.control_kept, settings.seed)
    summary = {
        "made": made_with(command, lm.name, settings.seed),
        "config": config,
        "parameters": {"model": _size(lm), "smaller": None if scorer is None else _size(scorer)},
        "heads": {name: str(heads) for name, heads in rankers.named.items()},
        "results": results,
    }
    write_json(folder / "summary.json", summary)
    return summary


def _found(lm: LanguageModel, path: Path, settings: Settings, candidates: int, step: Step) -> HeadSet:
    """The model's query-focused heads, found once on development countries and kept in the folder."""
    if not path.exists():
        examples = world.ranking_examples("development", settings.examples, candidates, seed=settings.seed)
        QueryFocusedHeads(top_k=settings.top_k, seed=settings.seed).find(lm, examples, progress=step).save(path)
    return HeadSet.load(path)


def _measure(
    lm: LanguageModel,
    texts: Sequence[world.ReadingExample],
    rankers: Rankers,
    settings: Settings,
    lines: Lines,
    step: Step,
) -> None:
    """One record per text: which chunks every ranker keeps, and what the model says to them."""
    reader = Reader(lm)
    for number, example in enumerate(texts):
        step(number, len(texts))
        question = example.question
        if question.id in lines.done:
            continue
        text = as_documents(example.documents)[0]
        chunks = [passage.as_document() for passage in passages(text, settings.chunk_chars)]
        gold = gold_chunks(text, settings.chunk_chars)
        orders, ranking, ways = rankers.orders(question.text, chunks)
        if number < settings.costed:
            ranking |= rankers.costs(question.text, chunks)
        orders |= controls(question, chunks, gold, settings.seed)
        turn = f"{RANDOM} {number % settings.random_sets}"
        most = max(settings.kept)
        whole, shortened = _whole(lm, reader, question.text, text)
        reads = {FULL: _said(question, *whole), NOTHING: _said(question, *_metered(lm, reader, question.text, []))}
        for name, places in orders.items():
            if name.startswith(RANDOM) and name != turn:
                continue
            control = name in (FIRST, DRAWN, turn)
            for k in settings.control_kept if control else settings.kept:
                key = key_of(places, k)
                if key not in reads:
                    shown = [chunks[place] for place in sorted(places[:k])]
                    reads[key] = _said(question, *_metered(lm, reader, question.text, shown))
        lines.add(
            {
                "id": question.id,
                "group": question.country,
                "query": question.text,
                "answers": list(question.answers),
                "depth": round(text.metadata["depth"], 4),
                "chunks": len(chunks),
                "gold": gold,
                "shortened": shortened,
                "orders": {name: places[:most] for name, places in orders.items()},
                "read_of_random": turn,
                "reads": reads,
                "ranking": ranking,
                "ways": ways,
            }
        )
    step(len(texts), len(texts))


def gold_chunks(text: Document, chunk_chars: int) -> list[int]:
    """The chunks that hold the sentence that answers: one, or all that it runs through where it was split."""
    start, end = text.metadata["start"], text.metadata["end"]
    return [place for place, each in enumerate(passages(text, chunk_chars)) if each.start < end and each.end > start]


def _whole(lm: LanguageModel, reader: Reader, question: str, text: Document) -> tuple[tuple[Reading, Cost], int]:
    """The answer from the whole text, and how many tokens of its end were left out because the model reads no more."""
    template = prompt_template(lm.tokenizer, instruction="answer")
    try:
        return _metered(lm, reader, question, [text]), 0
    except ContextOverflowError as error:
        there, over = len(template.encode(text.text)), error.tokens - error.limit
    while True:
        try:
            return _metered(lm, reader, question, [template.shortened(text, there - over)]), over
        except ContextOverflowError:  # a text cut short may have other tokens at its end
            over += 8
            if over >= there:
                raise


def _metered(
    lm: LanguageModel, reader: Reader, question: str, documents: Sequence[DocumentLike]
) -> tuple[Reading, Cost]:
    """The answer from documents, or without any, and what it cost."""
    with measured(lm) as cost:
        reading = reader.read(question, documents) if documents else reader.recall(question)
    return reading, cost


def _said(question: world.Question, reading: Reading, cost: Cost) -> dict[str, Any]:
    return {"said": reading.text, "right": world.exact_match(reading.text, question.answers), **plain_cost(cost)}


def _tokens(lm: LanguageModel) -> Any:
    template = prompt_template(lm.tokenizer)
    return lambda text: len(template.encode(text))


def _size(lm: LanguageModel) -> int:
    return sum(parameter.numel() for parameter in lm.model.parameters())
