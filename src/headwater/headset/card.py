"""The model card of a checkpoint into which coefficients were folded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from headwater.errors import InputError
from headwater.headset.headset import HeadSet

_TAGS = ("headwater", "pear", "attention-heads")


def fold_card(heads: HeadSet, base: str, card: str | None = None) -> str:
    """Card (README.md) of a folded checkpoint: where it comes from, which heads were scaled, by how much.

    Args:
        heads: the folded set, with coefficients.
        base: name of the checkpoint before folding.
        card: card of that checkpoint; its licence, language and text are kept.

    Raises:
        InputError: a set without coefficients.
    """
    if heads.coefficients is None:
        raise InputError("This head set has no coefficients, so there was nothing to fold.")
    meta, text = _split(card or "")
    own = list(meta.get("tags") or [])
    tags = own + [tag for tag in _TAGS if tag not in own]
    meta = {**meta, "base_model": base, "base_model_relation": "finetune", "tags": tags}
    rows = [f"| {layer}-{head} | {c:.4f} |" for (layer, head), c in zip(heads.heads, heads.coefficients, strict=True)]
    lines = [
        "---",
        yaml.safe_dump(meta, sort_keys=False, allow_unicode=True).strip(),
        "---",
        "",
        f"# {base}, with {len(heads)} attention heads re-weighted",
        "",
        f"The columns of the attention output projections that read these heads of `{base}` were multiplied by the "
        "coefficients below (PEAR, arXiv 2409.19745; made with headwater). All other weights are bit for bit those of "
        "the original; size and speed are the same. `headwater_fold` in config.json lists them too, so that a second "
        "fold is refused. Key/value caches of the original are not valid for this model.",
        "",
        "| head (layer-head, 0-based) | coefficient |",
        "|---|---|",
        *rows,
        "",
        _origin(heads.provenance),
    ]
    if text.strip():
        lines += ["", f"## The card of {base}", "", text.strip()]
    return "\n".join(lines).rstrip() + "\n"


def _split(card: str) -> tuple[dict[str, Any], str]:
    """Front matter and text of a card; a card without valid front matter is all text."""
    if card.startswith("---\n") and "\n---" in card[4:]:
        head, _, rest = card[4:].partition("\n---")
        try:
            meta = yaml.safe_load(head)
        except yaml.YAMLError:
            return {}, card
        if isinstance(meta, dict):
            return meta, rest.partition("\n")[2]
    return {}, card


def _origin(provenance: Mapping[str, Any]) -> str:
    known = {key: provenance[key] for key in ("method", "fingerprint", "step", "text_kl") if key in provenance}
    versions = ", ".join(f"{name} {version}" for name, version in dict(provenance.get("versions") or {}).items())
    parts = [f"{key.replace('_', ' ')} {value}" for key, value in known.items() if value is not None]
    return "Coefficients: " + "; ".join([*parts, *([versions] if versions else [])]) + "."
