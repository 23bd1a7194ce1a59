"""An n-gram model to stand beside the embedded model: interpolated modified Kneser-Ney (Chen and Goodman, 1999).

python -m recipes.tiny.kneser_ney --data FOLDER [--model tiny] [--page docs/results/tiny.md]

Measures both on WikiText-2 test, in the windows and tokens of the bench's task `wikitext`: bits per byte.

Counts are sorted arrays of packed n-grams, so that tens of millions of tokens take seconds. A vocabulary of at most
4,096 tokens packs five of them into one 64-bit integer.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import headwater as hw
from headwater.evaluate.statistics import mean_interval
from headwater.evaluate.tables import check_page, fill_page, table
from headwater.evaluate.tasks.perplexity import Perplexity
from headwater.evaluate.tasks.task import TextLoss
from headwater.read.likelihood import text_loss
from recipes.tiny.text import data_folder, novel_paragraphs

BITS = 12


@dataclass(frozen=True)
class _Order:
    """What one order knows: its n-grams with their discounted counts, and its contexts.

    Attributes:
        keys: packed n-grams, sorted.
        discounted: count minus discount of each.
        contexts: packed (n-1)-grams that were followed by something, sorted.
        totals: sum of the counts that follow each.
        back: weight of the next lower order after each.
    """

    keys: np.ndarray
    discounted: np.ndarray
    contexts: np.ndarray
    totals: np.ndarray
    back: np.ndarray


class KneserNey:
    """Probabilities of tokens after the `order` - 1 before them.

    Args:
        tokens: the training text, integers below 4,096.
        vocabulary: number of tokens there are.
        order: n.
    """

    def __init__(self, tokens: np.ndarray, vocabulary: int, order: int = 5) -> None:
        """Count."""
        if vocabulary > 2**BITS or order * BITS > 62:
            raise ValueError(f"At most {2**BITS} tokens and order {62 // BITS}, got {vocabulary} and {order}.")
        self.vocabulary, self.order = vocabulary, order
        keys, counts = np.unique(_pack(np.asarray(tokens, np.int64), order), return_counts=True)
        orders = [_order(keys, counts)]
        for length in range(order - 1, 0, -1):
            # a lower order counts in how many contexts an n-gram stands, not how often
            keys, counts = np.unique(keys & (2 ** (length * BITS) - 1), return_counts=True)
            orders.append(_order(keys, counts))
        self.orders = orders[::-1]  # unigrams first

    def log_probabilities(self, tokens: np.ndarray) -> np.ndarray:
        """Natural log probability of each token but the first `order` - 1, `[tokens - order + 1]`."""
        tokens = np.asarray(tokens, np.int64)
        whole = _pack(tokens, self.order)
        probability = np.full(len(whole), 1 / self.vocabulary)
        for length, known in enumerate(self.orders, 1):
            key = whole & (2 ** (length * BITS) - 1)
            share, total = (
                _look_up(known.keys, known.discounted, key),
                _look_up(known.contexts, known.totals, key >> BITS),
            )
            back = _look_up(known.contexts, known.back, key >> BITS)
            seen = total > 0
            probability = np.where(seen, (share + back * probability) / np.where(seen, total, 1), probability)
        return np.log(probability)


def _pack(tokens: np.ndarray, order: int) -> np.ndarray:
    """Every n-gram as one integer, the last token in the lowest bits."""
    count = len(tokens) - order + 1
    packed = np.zeros(max(0, count), np.int64)
    for place in range(order):
        packed = (packed << BITS) | tokens[place : place + count]
    return packed


def _order(keys: np.ndarray, counts: np.ndarray) -> _Order:
    """Discounts from the counts of counts, and what each context leaves to the order below."""
    ones, twos, threes, fours = ((counts == n).sum() for n in (1, 2, 3, 4))
    steps = [0.5, 0.75, 0.9]  # where there is too little text for the estimate
    if ones and twos and threes and fours:
        ratio = ones / (ones + 2 * twos)
        steps = [1 - 2 * ratio * twos / ones, 2 - 3 * ratio * threes / twos, 3 - 4 * ratio * fours / threes]
    discounts = np.clip([0.0, *steps], [0, 0.1, 0.1, 0.1], [0, 1, 2, 3])[np.minimum(counts, 3)]
    contexts, starts = np.unique(keys >> BITS, return_index=True)
    totals, back = np.add.reduceat(counts, starts), np.add.reduceat(discounts, starts)
    return _Order(keys, counts - discounts, contexts, totals.astype(np.float64), back)


def _look_up(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The value of each wanted key, 0 where it is not there."""
    places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[places] == wanted, values[places], 0.0)


def main() -> None:
    """Train the n-gram model on the novels, and measure both."""
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--data", help="folder of the raw data sets (default: HEADWATER_DATA)")
    cli.add_argument("--model", default="tiny")
    cli.add_argument("--characters", type=int, default=40_000_000, help="of the novels, at most")
    cli.add_argument("--page", type=Path, help="page whose table is written")
    args = cli.parse_args()
    if args.page:
        check_page(args.page)
    data = data_folder(cli, args.data)
    lm = hw.load(args.model, dtype="float32")
    vocabulary, begin = len(lm.tokenizer), int(lm.tokenizer.bos_token_id)

    def encode(text: str) -> list[int]:
        return list(lm.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    train: list[int] = []
    for paragraph in novel_paragraphs(data, args.characters):
        train += [begin] * 4 + encode(paragraph)
    model = KneserNey(np.array(train), vocabulary)
    task = Perplexity(data / "text" / "wikitext-2" / "test.txt")
    losses: dict[str, list[TextLoss]] = {"5-gram, Kneser-Ney": [], f"headwater {args.model}": []}
    items = task.load()
    for item in items:
        size = len(item.text.encode("utf-8"))
        ids = encode(item.text)
        nats = -float(model.log_probabilities(np.array([begin] * 4 + ids)).sum())
        losses["5-gram, Kneser-Ney"].append(TextLoss(nats, len(ids), size))
        losses[f"headwater {args.model}"].append(TextLoss(*text_loss(lm, item.text), size))
    rows = []
    for name, found in losses.items():
        bits = [loss.nats / math.log(2) / loss.bytes for loss in found]
        every = sum(loss.nats for loss in found) / math.log(2) / sum(loss.bytes for loss in found)
        rows.append([name, f"{every:.3f}", str(mean_interval(bits, [item.group for item in items]))])
    print(json.dumps({"training tokens": len(train), "rows": rows}, indent=1))
    if args.page:
        header = ["model", "bits per byte, WikiText-2 test", "mean over windows"]
        note = f"The n-gram model read {len(train):,} tokens of the novels; the other one read none of their sentences."
        fill_page(args.page, {"general": f"{table(header, rows)}\n\n{note}"})


if __name__ == "__main__":
    main()
