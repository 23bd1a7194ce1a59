"""What is asked of every row: conflicts, noise, agreement, the closed book, and countries that no one has seen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch

from headwater.data import world
from headwater.data.parenting.build import ASKED as ASKED_FILE
from headwater.data.parenting.folder import read_data
from headwater.data.parenting.items import AGREE, GOLD, OFF_TOPIC, ItemDocument, ParentingItem, load_items
from headwater.errors import InputError
from headwater.evaluate.parenting.settings import Settings
from headwater.model.lm import LanguageModel

CONFLICT, NOISE, AGREEMENT, CLOSED, ASKED, UNSEEN = "conflict", "noise", "agreement", "closed", "asked", "unseen"
OF_SETS = {CONFLICT: "a", NOISE: "r", AGREEMENT: "agree", CLOSED: "empty"}
AXES = (CONFLICT, NOISE, CLOSED)  # asked behind the last step, too
Tests = dict[str, list[ParentingItem]]


def tests(folder: Path, settings: Settings) -> Tests:
    """Test -> its items; those of the sets are about countries, in wordings, that no training item has.

    Args:
        folder: of `headwater parent data`.
        settings: sizes.

    Raises:
        InputError: the model knows too little for a test.
    """
    sets, n = read_data(folder).test, settings.questions
    out = {name: list(sets.get(kind, ()))[:n] for name, kind in OF_SETS.items()}
    out[ASKED] = load_items(folder / "test" / f"{ASKED_FILE}.jsonl")[:n]
    out[UNSEEN] = unseen(n, settings.shown, settings.seed)
    for name, items in out.items():
        if len({item.group for item in items}) < 2:
            raise InputError(
                f"The model knows too few of the {settings.asked} facts that it was asked: the test {name!r} has "
                f"{len(items)} questions, of less than two countries. Ask more (--questions), or take another model."
            )
    return out


def unseen(n: int, documents: int, seed: int) -> list[ParentingItem]:
    """Questions about held-out countries with the document that answers them among others, in the unseen wording."""
    found = []
    for e in world.reading_examples("held_out", n, documents, seed=seed, wording=-1):
        shown = [
            ItemDocument(document.text, GOLD if place in e.gold else OFF_TOPIC, document.title, document.id)
            for place, document in enumerate(e.documents)
        ]
        q = e.question
        found.append(ParentingItem(f"{q.id}/{UNSEEN}", q.country, AGREE, q.text, tuple(shown), e.stated[0], e.stated))
    return found


@torch.no_grad()
def perplexity(lm: LanguageModel, given: Sequence[torch.Tensor]) -> float:
    """Perplexity per token of windows of plain text `[1, tokens]`, each predicted from its own beginning."""
    total, count = 0.0, 0
    for ids in given:
        logits = lm.model(input_ids=ids, use_cache=False).logits[0, :-1].float()
        total += float(torch.nn.functional.cross_entropy(logits, ids[0, 1:].to(logits.device), reduction="sum"))
        count += ids.shape[1] - 1
    return math.exp(total / count)
