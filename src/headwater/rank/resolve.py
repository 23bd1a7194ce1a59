"""What a ranker works with: its head set, and the switches of the score, some of which come with the head set."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from headwater.errors import HeadSetError, InputError
from headwater.heads.switches import PROMPT_SWITCHES, MassSettings, Order, check_choice
from headwater.headset import HeadSet, HeadsLike, as_heads, parse_heads
from headwater.instrument.rows import check_origin
from headwater.model.lm import LanguageModel
from headwater.prompt import prompt_template
from headwater.rank.default_heads import default_heads

logger = logging.getLogger("headwater")
_NOT_ASKED = {"template": "auto"}


def resolve_heads(lm: LanguageModel, heads: HeadSet | HeadsLike | str | Path | None, template: str) -> HeadSet:
    """Turn what the user gave into a head set of this model.

    Raises:
        HeadSetError: not a head set, or one of a model of another shape.
    """
    if heads is None:
        return default_heads(lm, template)
    if isinstance(heads, HeadSet):
        found = heads
    elif not isinstance(heads, (str, Path)):
        found = HeadSet(as_heads(heads))
    elif heads == "all":
        return HeadSet(lm.anatomy.all_heads, provenance={"method": "all", "model": lm.name})
    elif re.fullmatch(r"[\d\s,-]+", str(heads)):
        found = HeadSet(parse_heads(str(heads)))
    elif os.path.exists(heads) or "/" in str(heads):
        found = HeadSet.load(heads)
    else:
        raise HeadSetError(
            f"{str(heads)!r} is not a head set file, a published set (`headwater heads published`), 'all', or a list "
            "of heads such as 13-18,13-21."
        )
    check_origin(found, lm)
    return found


def ranking_settings(lm: LanguageModel, heads: HeadSet, asked: Mapping[str, Any], **rest: Any) -> MassSettings:
    """The switches of a ranker: those that were asked for, else those the heads were found with, else the published.

    Only the switches of the prompt and of what is read in it (`PROMPT_SWITCHES`) come with a head set. One that was
    asked for and differs is used, and said in a warning.

    Args:
        lm: the model.
        heads: the head set; its provenance holds the settings of its detector, where that ranks documents.
        asked: prompt switches; None, or "auto" for the template, where nothing was asked for.
        **rest: the other switches.

    Raises:
        InputError: a value that a switch does not know.
    """
    wanted = {name: value for name, value in asked.items() if value not in (None, _NOT_ASKED.get(name))}
    made = _found_with(heads)
    own = MassSettings(**{**made, **wanted, **rest})
    other = [name for name in made if getattr(own, name) != made[name]]
    if other and heads.provenance.get("prompt") == _prompt(lm, own):  # written otherwise, but the same prompt
        other = [name for name in other if name not in ("template", "instruction")]
    if other:
        said = ", ".join(f"{name}={made[name]!r} (here {getattr(own, name)!r})" for name in other)
        logger.warning("These heads were found with %s; other heads may be better here.", said)
    return own


def ranking_orders(order: Order | Sequence[Order]) -> list[Order]:
    """One order of documents, or several whose scores are averaged, as a list.

    Raises:
        InputError: none, or one that is not known.
    """
    orders: list[Any] = [order] if isinstance(order, str) else list(order)
    if not orders:
        raise InputError("Give at least one order of the documents, for example order='reversed'.")
    for each in orders:
        check_choice("order", each)
    return orders


def _prompt(lm: LanguageModel, settings: MassSettings) -> str:
    return prompt_template(lm.tokenizer, settings.template, settings.instruction).fingerprint


def _found_with(heads: HeadSet) -> dict[str, Any]:
    """The prompt switches that the detector of a head set had; empty for lists and other kinds of detectors."""
    detector = heads.provenance.get("settings")
    mass = detector.get("settings") if isinstance(detector, Mapping) else None
    known = mass if isinstance(mass, Mapping) else {}
    return {name: known[name] for name in PROMPT_SWITCHES if isinstance(known.get(name), str)}
