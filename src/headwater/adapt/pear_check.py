"""Whether a folded checkpoint is what it claims to be: an ordinary one that differs in the folded columns only."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from headwater.adapt.pear import ROUNDED
from headwater.adapt.text_kl import plain_texts, text_kl_of_models, windows
from headwater.errors import HeadSetError, ModelError
from headwater.headset import HeadSet
from headwater.instrument.fold import folded_columns
from headwater.instrument.outputs import coefficients_of, scaled
from headwater.model.lm import LanguageModel

logger = logging.getLogger("headwater")
FOLDED = 0.01  # bfloat16 moves a coefficient by 0.002 at most


@torch.no_grad()
def check_fold(
    folded: LanguageModel, base: LanguageModel, heads: HeadSet, texts: Sequence[str] | None = None
) -> dict[str, Any]:
    """Compare a folded model with the one it was made from (pear.md 7).

    Args:
        folded: the model after folding, loaded from its checkpoint.
        base: the model before, in the same dtype.
        heads: the set that was folded.
        texts: plain text (None: Factbook documents that ship with headwater).

    Returns:
        "same_names", "same_shapes", "same_dtypes": of all tensors; "bytes": of both checkpoints' weight files, where
        they are folders; "others_identical": whether everything but the folded columns is bit for bit the same;
        "folded": whether the stored weights realise every coefficient to 0.01;
        "effective": per head the coefficient that the stored weights realise, <W',W>/<W,W>, beside the one asked for;
        "logits": largest difference to the base under `hw.scaled`, relative to the largest logit; "text_kl": nats per
        token by which predictions of plain text moved.

    Raises:
        HeadSetError: the checkpoint was folded with another set, or not at all.
        ModelError: the two models are of different shapes.
    """
    wanted = {"heads": [list(head) for head in heads.heads], "coefficients": coefficients_of(heads)}
    mark = getattr(folded.model.config, "headwater_fold", None)
    if mark != wanted:
        state = "was not folded" if mark is None else "was folded with another head set"
        raise HeadSetError(f"{folded.name!r} {state}; give the head set it was folded with.")
    old, new = base.model.state_dict(), folded.model.state_dict()
    report: dict[str, Any] = {
        "same_names": list(old) == list(new),
        "same_shapes": {n: t.shape for n, t in old.items()} == {n: t.shape for n, t in new.items()},
        "same_dtypes": base.stored_dtype == folded.stored_dtype,
        "bytes": {"base": _size(base.name), "folded": _size(folded.name)},
    }
    if not (report["same_names"] and report["same_shapes"]):
        raise ModelError(f"{folded.name!r} and {base.name!r} do not hold the same tensors; which model was folded?")
    columns = list(folded_columns(base, heads))
    effective = []
    inside: dict[str, torch.Tensor] = {}
    for (layer, head), coefficient, name, part in columns:
        before, after = old[name][part].double(), new[name][part].double()
        value = ((after * before).sum() / before.square().sum()).item()
        effective.append({"head": f"{layer}-{head}", "coefficient": coefficient, "effective": value})
        inside.setdefault(name, torch.zeros_like(old[name], dtype=torch.bool))[part] = True
    report["effective"] = effective
    report["others_identical"] = all(
        torch.equal(old[name], new[name])
        if name not in inside
        else torch.equal(old[name][~inside[name]], new[name][~inside[name]])
        for name in old
    )
    given = windows(base, plain_texts() if texts is None else texts)
    with scaled(base, heads):
        run = base.model(input_ids=given[0], use_cache=False).logits
    stored = folded.model(input_ids=given[0], use_cache=False).logits
    report["logits"] = ((stored - run).abs().max() / run.abs().max()).item()
    report["text_kl"] = text_kl_of_models(base, folded, given)
    lost = max(abs(row["effective"] - row["coefficient"]) for row in effective)
    report["folded"] = lost <= FOLDED
    if ROUNDED < lost <= FOLDED:
        logger.warning("Rounding moves a coefficient by %.4f.", lost)
    return report


def _size(name: str) -> int | None:
    """Bytes of the weight files of a checkpoint folder."""
    files = list(Path(name).glob("*.safetensors")) if Path(name).is_dir() else []
    return sum(file.stat().st_size for file in files) or None
