"""The document score the obvious way: whole prompts as strings, one byte one token, eager maps, python loops."""

from __future__ import annotations

import math

import numpy as np
import torch

import headwater as hw
from headwater.prompt import RANK
from models import byte_tokenizer, random_model

SUFFIX = "</u><bot>"
_CHAT = "{{ bos_token }}<u>{{ messages[0].content }}</u>{% if add_generation_prompt %}<bot>{% endif %}"


def chat_lm(family: str = "llama", **kwargs):
    """A random model whose prompts have a suffix."""
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = _CHAT
    return hw.load(model=random_model(family, **kwargs), tokenizer=tokenizer)


def twin_scores(lm, query, documents, heads, settings, order=None) -> np.ndarray:
    """Scores `[heads, documents]` by every head alone, for ASCII documents that are neither blank nor alike."""
    prefix, spans = "<u> Here are some paragraphs:", {}
    for number, index in enumerate(order if order is not None else range(len(documents)), 1):
        title, text = documents[index].title, documents[index].text
        text = text if settings.max_doc_tokens is None else text[: settings.max_doc_tokens].strip()
        prefix += "\n\n"
        start = len(prefix)
        label = f"[{number}] "
        prefix += label + (f"{title}\n{text}" if title else text)
        skip = {"full": 0, "unlabelled": len(label), "body": len(label) + (len(title) + 1 if title else 0)}
        spans[index] = (start + skip[settings.doc_span], len(prefix))
    prefix += "\n\n"
    rows = [_mean_rows(lm, prefix, query, heads, settings.tail)]
    if settings.calibrate:
        rows.append(-_mean_rows(lm, prefix, settings.null_query, heads, settings.tail))
    calibrated = sum(rows)
    out = np.zeros((len(heads), len(documents)))
    for h in range(len(heads)):
        for d, span in spans.items():
            out[h, d] = _document_score(calibrated[h], prefix, query, span, list(spans.values()), settings)
    return out


def _mean_rows(lm, prefix, query, heads, which) -> np.ndarray:
    shared, own = f"{RANK}\n\nQuery:", f" {query}" if query else ""
    texts = {
        "full": (0, len(shared + own + SUFFIX)),
        "query+suffix": (len(shared), len(shared + own + SUFFIX)),
        "query": (len(shared), len(shared + own)),
        "core": (0, len(shared + own) + 1),
    }
    first, last = texts[which]
    ids = [lm.tokenizer.bos_token_id]
    ids += lm.tokenizer(prefix + shared + own + SUFFIX, add_special_tokens=False)["input_ids"]
    assert len(ids) == 1 + len(prefix + shared + own + SUFFIX)
    stock = lm.model.config._attn_implementation
    lm.model.set_attn_implementation("eager")
    with torch.no_grad():
        maps = lm.model(input_ids=torch.tensor([ids]), output_attentions=True).attentions
    lm.model.set_attn_implementation(stock)
    end = 1 + len(prefix)
    return np.stack([maps[layer][0, head, end + first : end + last, 1:end].double().mean(0) for layer, head in heads])


def _document_score(c, prefix, query, span, spans, settings) -> float:
    values = [float(c[place]) for place in range(*span)]
    if settings.overlap_idf:
        idf = {}
        for letter in set(f" {query}"):
            df = sum(_letter(letter) in map(_letter, prefix[a:b]) for a, b in spans)
            if df:
                idf[_letter(letter)] = math.log(1 + (len(spans) - df + 0.5) / (df + 0.5))
        for offset, place in enumerate(range(*span)):
            if _letter(prefix[place]) in idf:
                values[offset] *= idf[_letter(prefix[place])] / max(idf.values())
    if settings.outlier_filter and len(values) > 1 and np.std(values) > 0:
        floor = np.mean(values) - 2 * np.std(values, ddof=1)
        values = [value if value > floor else 0.0 for value in values]
    total = sum(values)
    if settings.entropy:
        positive = [value for value in values if value > 0]
        if positive and len(values) > 1:
            shares = [value / sum(positive) for value in positive]
            total *= (-sum(p * math.log(p) for p in shares) / math.log(len(values))) ** settings.entropy
    return total


def _letter(letter: str) -> str:
    return letter.strip().casefold() or letter
