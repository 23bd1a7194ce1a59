"""Lists to train on, their scores with gradients, and the listwise loss."""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from headwater.data.documents import Document, RankingExample
from headwater.heads.mass import PreparedDocuments
from headwater.heads.switches import MassSettings, Order, counted_tail, prompt_order
from headwater.headset import HeadSet
from headwater.instrument.prefix import SharedPrefix
from headwater.instrument.trainable import TrainablePrefix
from headwater.model.lm import LanguageModel
from headwater.prompt import prompt_template
from headwater.search.mine import text_key

logger = logging.getLogger("headwater")


@dataclass(frozen=True)
class TrainingList:
    """A query with its documents, in a fixed order of the prompt.

    Attributes:
        example: the query, the documents, the gold ones.
        order: places of the documents in the order of the prompt.
        grades: fp32 `[documents]`, 0 for a blank document.
        tokens: length of the prompt with the longer tail.
    """

    example: RankingExample
    order: tuple[int, ...]
    grades: torch.Tensor
    tokens: int

    def scores(self, lm: LanguageModel, heads: HeadSet, settings: MassSettings) -> torch.Tensor:
        """Document scores as `QRRetriever` computes them, fp32 `[documents]`, -inf for blank ones.

        With gradients where autograd is on.

        Raises:
            LocalHeadError: a head's sliding window is shorter than the prompt.
            NonFiniteAttentionError: NaN or infinity in an attention row.
        """
        prefix = TrainablePrefix if torch.is_grad_enabled() else SharedPrefix
        documents = [document for document in self.example.documents if isinstance(document, Document)]
        prepared = PreparedDocuments(lm, documents, heads.heads, settings, self.order, prefix)
        mass = prepared.mass(self.example.query)
        mass.require_global(heads.heads)
        return mass.combined(weights=heads.coefficients)


def held_out(examples: Sequence[RankingExample], seed: int) -> tuple[list[RankingExample], list[RankingExample]]:
    """A tenth of the groups to validate on; none where there are fewer than ten. Without one, a query is a group."""
    names = [example.group or text_key(example.query) for example in examples]
    groups = sorted(set(names))
    random.Random(f"{seed}:held out").shuffle(groups)
    held = set(groups[: len(groups) // 10])
    if not held:
        logger.warning("Fewer than ten groups of examples: all of them are trained on, and no step is chosen.")
    kept = [example for example, name in zip(examples, names, strict=True) if name not in held]
    return kept, [example for example, name in zip(examples, names, strict=True) if name in held]


def training_lists(
    lm: LanguageModel, examples: Sequence[RankingExample], settings: MassSettings, shuffle: str | None
) -> list[TrainingList]:
    """The examples that have a gold document with text.

    Args:
        lm: its tokenizer measures the prompts.
        examples: queries with gold documents.
        settings: switches of the score.
        shuffle: documents are shuffled by this and the example's id; None: reversed, as a ranker lays them out.
    """
    template = prompt_template(lm.tokenizer, settings.template, settings.instruction)
    null = len(counted_tail(template, settings, settings.null_query)[0]) if settings.calibrate else 0
    found = []
    for example in examples:
        documents = [document for document in example.documents if isinstance(document, Document)]
        grades = torch.tensor(example.grades(), dtype=torch.float32).clamp(min=0)
        grades[[place for place, document in enumerate(documents) if document.blank]] = 0
        if not grades.sum() > 0:
            continue
        how: Order = "reversed" if shuffle is None else "shuffled"
        order = prompt_order(how, len(documents), f"{shuffle}:{example.id or example.query}")
        shown = [documents[place] for place in order if not documents[place].blank]
        if settings.max_doc_tokens is not None:
            shown = [template.shortened(document, settings.max_doc_tokens) for document in shown]
        tail = len(counted_tail(template, settings, example.query)[0])
        tokens = len(template.prefix(shown).ids) + max(tail, null)
        found.append(TrainingList(example, tuple(order), grades, tokens))
    return found


def listwise_loss(scores: torch.Tensor, grades: torch.Tensor, temperature: float) -> torch.Tensor:
    """Cross-entropy between softmax(scores / temperature) and the grades' shares of their sum.

    Args:
        scores: `[documents]`; documents at -inf (blank ones) take no part.
        grades: `[documents]`, not negative, above 0 for at least one document with a score.
        temperature: of the softmax.
    """
    here = scores != -torch.inf
    target = grades.to(scores)[here]
    shares = (scores[here] / temperature).log_softmax(-1)
    return -(target / target.sum() * shares).sum()
