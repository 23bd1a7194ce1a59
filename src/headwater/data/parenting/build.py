"""The sets of Parenting, built from probed questions (parenting.md 3.1)."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from headwater.data.documents import Document
from headwater.data.parenting.items import (
    ADHERE,
    AGREE,
    EDITED,
    EMPTY,
    EXTRACT,
    GOLD,
    KINDS,
    KNOWN,
    RESIST,
    SAME_TOPIC,
    WRONG,
    ItemDocument,
    ParentingItem,
    extraction_target,
)
from headwater.data.parenting.match import any_in, hits, tokens
from headwater.data.parenting.passages import Pool, pools, says, shown
from headwater.data.parenting.questions import SPLITS, ProbeQuestion, QuestionSet
from headwater.data.parenting.records import ProbeRecord
from headwater.errors import InputError

# Every question without documents, known or not, in development and test only: accuracy and abstention on all of them.
ASKED = "asked"
SIZES = {"train": 4000, "development": 400, "test": 1000}
Sets = dict[str, dict[str, list[ParentingItem]]]
Fits = Callable[[ParentingItem], bool]
Made = ParentingItem | str  # an item, or why there is none
_SILENT = "the paragraph does not state the answer"
Parts = tuple[list[ItemDocument], str, tuple[str, ...]]  # documents, target, what they state where that is not gold


@dataclass(frozen=True)
class ParentingSets:
    """Builds the sets of one model from what it said without documents.

    Attributes:
        conflict: where documents contradict memory (S_a): "wrong", the model is confidently wrong and the paragraph
            states the truth (the paper, second-hand); "edited", it is right and the paragraph was edited (KAFT and
            KnowPO); "both"; "auto", edited where the source makes its own edits (the fact world), else wrong.
        robust: noise (S_r): "known", questions whose answer the model knows, beside documents without it;
            "unanswerable", questions that their own paragraph does not answer, beside it (KnowPO); "both".
        documents: least and most documents of a prompt; extraction takes at least three.
        sizes: items of each set at most, by split.
        seed: of every draw.

    Raises:
        InputError: an unknown switch, or a number that cannot be.
    """

    conflict: Literal["auto", "edited", "wrong", "both"] = "auto"
    robust: Literal["known", "unanswerable", "both"] = "known"
    documents: tuple[int, int] = (1, 6)
    sizes: Mapping[str, int] = field(default_factory=lambda: dict(SIZES), hash=False)
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse unknown switches."""
        for name, known in (
            ("conflict", ("auto", "edited", "wrong", "both")),
            ("robust", ("known", "unanswerable", "both")),
        ):
            if getattr(self, name) not in known:
                raise InputError(f"Unknown {name} {getattr(self, name)!r}; use one of {', '.join(known)}.")
        if len(self.documents) != 2 or not 1 <= self.documents[0] <= self.documents[1]:
            raise InputError(f"documents are the least and the most of a prompt, from 1 on, got {self.documents}.")
        if set(self.sizes) - set(SPLITS) or any(size < 0 for size in self.sizes.values()):
            raise InputError(f"sizes are numbers from 0 on for {', '.join(SPLITS)}, got {dict(self.sizes)}.")

    def build(
        self,
        sources: Sequence[QuestionSet],
        splits: Mapping[tuple[str, str], str],
        probed: Mapping[str, ProbeRecord],
        fits: Fits | None = None,
    ) -> tuple[Sets, Counter[str]]:
        """All sets of all splits.

        Noise comes from the groups of the split; so do edited answers, but for a source that makes its own edits (the
        fact world: any known country). Every question is taken once in every set before one is taken again in another
        wording.

        Args:
            sources: where the questions come from.
            splits: (source, group) -> split, from `deal_sets`.
            probed: question id -> record; questions without one are left out.
            fits: whether an item is short enough for the model; None: all are.

        Returns:
            Split -> kind -> items, and how many questions gave none, by ``split/kind: reason``.
        """
        asked: dict[str, list[tuple[ProbeQuestion, ProbeRecord, Pool]]] = {split: [] for split in SPLITS}
        for source in sources:
            own = {group: split for (name, group), split in splits.items() if name == source.name}
            pool = pools(source.passages, source.questions, own, source.editor)
            for q in source.questions:
                if q.id in probed and q.group in own:
                    asked[own[q.group]].append((q, probed[q.id], pool[own[q.group]]))
        out: Sets = {}
        dropped: Counter[str] = Counter()
        for split, each in asked.items():
            random.Random(f"headwater/parenting/order/{split}/{self.seed}").shuffle(each)
            kinds = KINDS if split == "train" else (*KINDS, ASKED)
            out[split] = {kind: self._set(kind, split, each, dropped, fits) for kind in kinds} if each else {}
        return out, dropped

    def _set(
        self,
        kind: str,
        split: str,
        asked: Sequence[tuple[ProbeQuestion, ProbeRecord, Pool]],
        dropped: Counter[str],
        fits: Fits | None,
    ) -> list[ParentingItem]:
        """One set: question after question, then again in the next wording."""
        out: list[ParentingItem] = []
        told: set[tuple[str, str]] = set()
        size = self.sizes.get(split, SIZES[split])
        for turn in range(max(len(q.asked(split)) for q, _, _ in asked)):
            for q, record, pool in asked:
                if len(out) >= size:
                    return out
                wordings = q.asked(split)
                if turn < len(wordings):
                    made = self._item(kind, q, record, pool, wordings[turn])
                    if isinstance(made, ParentingItem) and fits is not None and not fits(made):
                        made = "longer than the model reads"
                    if isinstance(made, ParentingItem):
                        out.append(made)
                    elif made and (q.id, made) not in told:
                        told.add((q.id, made))
                        dropped[f"{split}/{kind}: {made}"] += 1
        return out

    def _item(self, kind: str, q: ProbeQuestion, record: ProbeRecord, pool: Pool, wording: tuple[int, str]) -> Made:
        """One item, or why there is none ("" where the set is not about such questions)."""
        place, text = wording
        draw = random.Random(f"headwater/parenting/{kind}/{q.id}/{place}/{self.seed}")
        makers = {ADHERE: self._adhere, RESIST: self._resist, EXTRACT: self._extract, AGREE: self._agree}
        stated: tuple[str, ...] = ()
        if kind in makers:
            made = makers[kind](q, record, pool, draw)
            if isinstance(made, str):
                return made
            documents, target, stated = made
        elif kind == EMPTY and record.label == KNOWN:
            documents, target = [], record.memory
        elif kind == ASKED and q.answers:
            documents, target = [], q.answers[0]
        else:
            return ""
        own = EMPTY if kind == ASKED else kind
        name = f"{q.id}#{place}/{kind}"
        return ParentingItem(
            name, q.group, own, text, tuple(documents), target, q.answers, record.memory, record.short, stated
        )

    def _adhere(self, q: ProbeQuestion, record: ProbeRecord, pool: Pool, draw: random.Random) -> Parts | str:
        edits, wrongs = self.conflict in ("edited", "both"), self.conflict in ("wrong", "both")
        if self.conflict == "auto":
            edits, wrongs = pool.edits, not pool.edits
        if record.label == KNOWN and edits:
            edit = pool.edited(q, (record.memory,), draw)
            if edit is None:
                return "no edit that hides the true answer"
            return self._with(q, pool, draw, edit[0], EDITED, edit[1], (record.memory,))
        if record.label == WRONG and wrongs and q.answers:
            gold = pool.paragraph(q)
            if not says(gold, q.answers):
                return _SILENT
            if any(any_in(tokens(answer), record.memory) for answer in q.answers) or says(gold, (record.memory,)):
                return "the paragraph states what the model says too"
            return self._with(q, pool, draw, gold, GOLD, q.answers, (record.memory,))
        return ""

    def _resist(self, q: ProbeQuestion, record: ProbeRecord, pool: Pool, draw: random.Random) -> Parts | str:
        avoid = (*q.answers, record.memory)
        count = draw.randint(*self.documents)
        if record.label == KNOWN and self.robust in ("known", "both"):
            noise = pool.beside(q, count, avoid, draw)
            return (noise, record.memory, ()) if noise else "no noise without the answer"
        if not q.answers and record.label == WRONG and self.robust in ("unanswerable", "both"):
            own = pool.paragraph(q)
            if says(own, avoid):
                return "the paragraph states what the model says too"
            noise = pool.beside(q, count - 1, avoid, draw)
            noise.insert(draw.randint(0, len(noise)), shown(own, SAME_TOPIC))
            return noise, record.memory, ()
        return ""

    def _extract(self, q: ProbeQuestion, record: ProbeRecord, pool: Pool, draw: random.Random) -> Parts | str:
        if not q.answers:
            return ""
        edit = pool.edited(q, (), draw) if draw.randrange(2) else None
        document, stated = edit or (pool.paragraph(q), q.answers)
        role = EDITED if edit else GOLD
        if not says(document, stated):
            return _SILENT
        count = max(3, draw.randint(*self.documents))
        others = pool.beside(q, count - 1, (*q.answers, *stated, record.memory), draw, both=True)
        if not others:
            return "no noise of both kinds without the answer"
        others.insert(draw.randint(0, len(others)), shown(document, role))
        return others, extraction_target(others), stated if role == EDITED else ()

    def _agree(self, q: ProbeQuestion, record: ProbeRecord, pool: Pool, draw: random.Random) -> Parts | str:
        if record.label != KNOWN:
            return ""
        if not says(pool.paragraph(q), q.answers):
            return _SILENT
        return self._with(q, pool, draw, pool.paragraph(q), GOLD, q.answers, (record.memory,))

    def _with(
        self,
        q: ProbeQuestion,
        pool: Pool,
        draw: random.Random,
        document: Document,
        role: str,
        stated: tuple[str, ...],
        memory: tuple[str, ...],
    ) -> Parts:
        """One relevant document, at a place drawn uniformly, among noise without either answer."""
        others = pool.beside(q, draw.randint(*self.documents) - 1, (*q.answers, *stated, *memory), draw)
        others.insert(draw.randint(0, len(others)), shown(document, role))
        return others, stated[0], stated if role == EDITED else ()


def check_item(item: ParentingItem) -> None:
    """Refuse an item that does not measure what its kind says.

    Raises:
        InputError: noise that states an answer, a relevant document that does not, a set without the documents it
            needs, or an edited document that still states what is remembered.
    """
    answers = {*item.in_documents, *item.in_memory, *item.gold}
    relevant = [d for d in item.documents if d.role in (GOLD, EDITED)]
    needed = {ADHERE: 1, AGREE: 1, EXTRACT: 1, RESIST: 0, EMPTY: 0}[item.kind]
    if len(relevant) != needed or (item.kind == RESIST and not item.documents):
        raise InputError(f"The item {item.id!r} of kind {item.kind!r} has {len(relevant)} relevant documents.")
    for document in item.documents:
        if document not in relevant and says(document, answers):
            raise InputError(f"The noise {document.id!r} of the item {item.id!r} states an answer.")
        if document in relevant and not says(document, item.in_documents):
            raise InputError(f"The relevant document {document.id!r} of the item {item.id!r} states no answer.")
        if document in relevant and item.kind == ADHERE and says(document, item.in_memory):
            raise InputError(f"The document {document.id!r} of the item {item.id!r} states what is remembered.")
    if item.kind == AGREE and not hits(item.memory, item.gold):
        raise InputError(f"The memory of the item {item.id!r} does not agree with its document.")
