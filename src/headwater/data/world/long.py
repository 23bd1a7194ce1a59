"""A long text of many facts, one of which answers the question."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from headwater.data.documents import Document
from headwater.data.world.corpus import document, documents, stating
from headwater.data.world.examples import ReadingExample, check_counts, distractors, enough, gives
from headwater.data.world.wordings import Question, questions
from headwater.errors import InputError

GAP = "\n\n"


def long_examples(
    split: str,
    n: int,
    length: int,
    measure: Callable[[str], int] = len,
    near: int = 19,
    seed: int = 0,
    wording: int | None = None,
) -> list[ReadingExample]:
    """`n` questions, each with one long document whose paragraphs state facts of the split; one sentence answers.

    The paragraphs are documents of the corpus: the one that states the answer, `near` distractors as in
    `ranking_examples` (half about the asked country, half about the relation), and others at random until the length is
    reached. None of them states the answer but one, which stands at a place drawn for each question. `metadata` of the
    document holds ``start`` and ``end``, the characters of the sentence that answers, and ``depth``, the share of the
    text before it.

    Args:
        split: of the countries.
        n: number of examples.
        length: size of the document at most, in units of `measure`; no more than one paragraph below it.
        measure: size of a text (default: characters; for tokens pass ``lambda t: len(tokenizer(t).input_ids)``).
        near: distractors that are hard to tell from the paragraph that answers.
        seed: of questions, paragraphs and places.
        wording: as in `questions`.

    Raises:
        InputError: for an unknown split, numbers that cannot be met, a length into which the answer and its distractors
            do not fit, or one that the facts of the split do not fill.
    """
    check_counts(n, near + 1)
    corpus = documents(split)
    size = {doc.id: measure(doc.text + GAP) for doc in corpus}
    out = []
    for q in questions(split, seed, wording, limit=n):
        draw = random.Random(f"headwater/long/{q.id}/{seed}/{length}/{near}")
        gold = stating(q.country, q.relation)
        others = distractors(q, split, near, draw, hard=False, avoid=q.answers[:1])
        room = length - sum(measure(doc.text + GAP) for doc in (gold, *others))
        if room < 0:
            raise InputError(
                f"The answer and {near} distractors do not fit into {length}; give more room or a smaller near."
            )
        shown = {doc.id for doc in (gold, *others)}
        for doc in draw.sample(corpus, len(corpus)):
            if doc.id in shown or gives(doc, q.answers[0]):
                continue
            if size[doc.id] > room:
                break
            room -= size[doc.id]
            others.append(doc)
        else:
            raise InputError(f"The facts of split {split!r} do not fill a text of {length}; ask for a shorter one.")
        share, key = draw.random(), draw.random()
        found = _placed(q, gold, others, share, key)
        while measure(found.text) > length and len(others) > near:  # sizes of parts need not add up to that of all
            others.pop()
            found = _placed(q, gold, others, share, key)
        out.append(ReadingExample(q, (found,), (0,), q.answers))
    return enough(out, n, split)


def _placed(question: Question, gold: Document, others: list[Document], share: float, key: float) -> Document:
    """The text: the other paragraphs shuffled by `key`, the gold one after so large a share of them."""
    order = random.Random(key).sample(others, len(others))
    at = round(share * len(order))
    text = GAP.join(doc.text for doc in (*order[:at], gold, *order[at:]))
    sentence = document(question.country, [question.relation]).text
    start = sum(len(doc.text + GAP) for doc in order[:at]) + gold.text.index(sentence)
    where: dict[str, Any] = {"country": question.country, "relations": (question.relation,)}
    where |= {"start": start, "end": start + len(sentence), "depth": start / len(text)}
    return Document(text, id=f"{question.id}/long", metadata=where)
