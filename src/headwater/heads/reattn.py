"""ReAttn-like weighting of a document's tokens, off by default (after arXiv 2602.19969; the formulas are ours:
qrhead.md 12.4).

Two terms, each a switch of `MassSettings`:

- ``overlap_idf``: words of the query that many candidates hold say little about any of them. Over the N distinct
  documents of the prompt, with df(t) of them holding token t in their span,
  ``idf(t) = ln(1 + (N - df(t) + 0.5) / (df(t) + 0.5))``, and for a token u that occurs in the query
  ``c'[u] = c[u] * idf(u) / max idf``, the maximum over the query's tokens that any document holds. Other tokens keep
  ``c'[u] = c[u]``. Tokens are the same where their texts are, without white space at the ends and without case.
- ``entropy``, the exponent gamma: a document that is looked at in one place only counts less. With
  ``p[u] = max(c'[u], 0) / sum max(c', 0)`` over the n tokens of its span,
  ``S(d) = (sum of c' over the span) * (-sum p ln p / ln n) ** gamma``; the factor is 1 where n < 2 or no c' is
  positive. It also shrinks a negative sum.

The first comes before the outlier filter, the second after it. With several heads, c' is their reduced sum.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch


def overlap_factors(
    tokenizer: Any, ids: Sequence[int], spans: Sequence[tuple[int, int]], query: Sequence[int]
) -> torch.Tensor:
    """What `overlap_idf` multiplies the attention to each prompt token with.

    Args:
        tokenizer: turns ids into text.
        ids: token ids of the prompt, up to the instruction.
        spans: half-open token span of each distinct document.
        query: token ids of the query's own part.

    Returns:
        float32 `[prompt tokens]`, 1 outside the spans and for tokens that are not in the query.
    """
    names = {token: _name(tokenizer, token) for token in {*query, *ids}}
    held = [{names[token] for token in ids[start:end]} for start, end in spans]
    idf = {}
    for name in {names[token] for token in query}:
        df = sum(name in document for document in held)
        if df:
            idf[name] = math.log(1 + (len(spans) - df + 0.5) / (df + 0.5))
    factors = torch.ones(len(ids))
    for start, end in spans:
        for place in range(start, end):
            if names[ids[place]] in idf:
                factors[place] = idf[names[ids[place]]] / max(idf.values())
    return factors


def evenness(tokens: torch.Tensor) -> torch.Tensor:
    """Normalised entropy of the positive part along the last axis: 1 where it is spread evenly, 0 on one token."""
    count = tokens.shape[-1]
    positive = tokens.clamp(min=0)
    total = positive.sum(-1, keepdim=True)
    if count < 2:
        return torch.ones_like(total.squeeze(-1))
    share = positive / total.clamp(min=torch.finfo(total.dtype).tiny)
    inside = torch.where(share > 0, share, 1.0)  # whose logarithm has a gradient everywhere
    entropy = (-(inside * inside.log()).sum(-1) / math.log(count)).clamp(0, 1)
    return torch.where(total.squeeze(-1) > 0, entropy, 1.0)


def _name(tokenizer: Any, token: int) -> str:
    """What a token is compared by: its text, or its id where it has none of its own (part of a character, a space)."""
    text = str(tokenizer.decode([token])).strip().casefold()
    return text if text and "\ufffd" not in text else f"\0{token}"
