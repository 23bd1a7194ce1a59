"""Head lists in the formats of other projects: QRHead yaml, Retrieval_Head json, DuoAttention patterns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from headwater.errors import FormatError, HeadSetError
from headwater.headset.headset import HeadScores, HeadSet, parse_heads
from headwater.headset.published import RETRIEVAL_THRESHOLD

MOST = 10_000  # layers, and heads of a layer


def read_qrhead(path: str | Path) -> HeadSet:
    """A QRHead configuration (yaml): `attn_head_set: "13-18,13-21,..."`, best first, and the model's name.

    Raises:
        FormatError: not yaml, or without such a list.
    """
    import yaml

    text = _read(path)
    try:
        record = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise FormatError(f"{path} is not valid YAML: {' '.join(str(error).split())[:200]}") from error
    heads = record.get("attn_head_set") if isinstance(record, dict) else None
    if not isinstance(heads, str):
        raise FormatError(f"{path} holds no QRHead list: the text field 'attn_head_set' is missing.")
    try:
        parsed = parse_heads(heads)
    except HeadSetError as error:
        raise FormatError(f"{path}: {error}") from error
    return HeadSet(
        parsed, provenance={"method": "QRHead", "model": record.get("model_name_or_path"), "file": str(path)}
    )


def read_retrieval_scores(path: str | Path) -> HeadScores:
    """Retrieval_Head scores (json): `{"layer-head": [score, ...]}`; a head's score is the mean of its list.

    Raises:
        FormatError: not such a file; heads without a score get NaN.
    """
    try:
        record = json.loads(_read(path))
        table = {parse_heads(key)[0]: float(np.mean(np.asarray(values, float))) for key, values in record.items()}
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise FormatError(f'{path} is not a file of retrieval scores {{"layer-head": [scores]}}: {error}') from error
    if not table:
        raise FormatError(f"{path} holds no scores.")
    if max(max(head) for head in table) >= MOST:
        raise FormatError(f"{path} names a layer or head of {MOST} or more; no model has so many.")
    scores = np.full((max(layer for layer, _ in table) + 1, max(head for _, head in table) + 1), np.nan)
    for head, score in table.items():
        scores[head] = score
    return HeadScores(scores, {"method": "retrieval heads", "file": str(path)})


def read_duo_attention(path: str | Path, num_heads: int) -> HeadScores:
    """A DuoAttention pattern: `full_attention_heads.tsv` (layers x key/value heads) or the folder that holds it.

    Patterns belong to key/value heads; each query head gets the value of the key/value head it reads.

    Args:
        path: the file or its folder.
        num_heads: query heads per layer of the model.

    Raises:
        FormatError: no such table, or num_heads is not a multiple of its columns.
    """
    source = Path(path)
    source = source / "full_attention_heads.tsv" if source.is_dir() else source
    try:
        rows = [[float(value) for value in line.split()] for line in _read(source).splitlines() if line.strip()]
        table = np.array(rows, float)
    except ValueError as error:
        raise FormatError(f"{source} is not a table of numbers: {error}") from error
    if table.ndim != 2 or not table.size or not np.isfinite(table).all():
        raise FormatError(f"{source} is not a table with one row of numbers per layer.")
    if num_heads < 1 or num_heads % table.shape[1]:
        raise FormatError(f"{source} has {table.shape[1]} key/value heads, which {num_heads} query heads cannot share.")
    return HeadScores(table.repeat(num_heads // table.shape[1], 1), {"method": "DuoAttention", "file": str(source)})


def read_foreign(path: str | Path) -> HeadSet | None:
    """The set in a file of one of the first two formats; None when it is neither.

    Of retrieval scores all heads above 0.1 are taken.
    """
    source = Path(path)
    if source.suffix.lower() in (".yaml", ".yml"):
        return read_qrhead(source)
    if source.name == "full_attention_heads.tsv" or (source / "full_attention_heads.tsv").is_file():
        raise FormatError(
            f"{source} is a DuoAttention pattern; it needs the number of query heads: use "
            "headwater.headset.importers.read_duo_attention(path, num_heads), or --query-heads on the command line."
        )
    try:
        record: Any = json.loads(_read(source))
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or "schema" in record or not record or "-" not in next(iter(record)):
        return None
    scores = read_retrieval_scores(source)
    above = int(np.nansum(scores.scores > RETRIEVAL_THRESHOLD))
    if not above:
        raise FormatError(f"{source}: no head scores more than {RETRIEVAL_THRESHOLD}.")
    return scores.top(above)


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise FormatError(f"Cannot read {path}: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise FormatError(f"{path} is not UTF-8 text.") from error
