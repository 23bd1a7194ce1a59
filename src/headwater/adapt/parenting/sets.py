"""The sets of a model, and what goes with them: refused where they were made for something else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from headwater.adapt.parenting.classes import UnitMap
from headwater.adapt.parenting.losses import PromptWriter
from headwater.data.parenting.folder import ParentingData, Sets, as_data
from headwater.errors import InputError
from headwater.model.lm import LanguageModel

Source = ParentingData | Sets | str | Path


def sets_of(lm: LanguageModel, source: Source) -> ParentingData:
    """Sets of items for a model.

    Args:
        lm: a loaded model.
        source: the folder of `headwater parent data`, or sets as `as_data` takes them.

    Raises:
        InputError: no sets, sets that cannot be used (`as_data`), or sets that were probed with other weights: what
            the model remembers, and so every target, may be another one.
    """
    data = as_data(source)
    if data.model is not None and data.model != lm.fingerprint:
        raise InputError(
            f"These sets were probed with other weights than those of {lm.name!r}, which may remember other things: "
            "run `headwater parent data` with this model."
        )
    return data


def writer_for(lm: LanguageModel, data: ParentingData, template: str) -> PromptWriter:
    """What writes the items of some sets as prompts: questions without documents as the probe asked them.

    Args:
        lm: a loaded model.
        data: the sets.
        template: as in `prompt_template`.

    Raises:
        InputError: the model was probed in another template: there it may remember other things.
    """
    writer = PromptWriter(lm, template, str(data.probe.get("instruction", "auto")))
    if data.probe.get("prompt") not in (None, writer.closed_book):
        raise InputError(
            f"These sets were probed in another prompt than that of template={template!r}: give the template of "
            "`headwater parent data`, or make the sets again."
        )
    return writer


def refuse_foreign(units: UnitMap, data: ParentingData, writer: PromptWriter, rank: int) -> None:
    """Refuse units of another model, of other sets, of other prompts, or of another rank.

    Raises:
        ModelError: the units are those of another model.
        InputError: anything else.
    """
    units.check(writer.lm)
    own, mined = data.fingerprints(), units.provenance.get("data")
    for name in ("a", "r"):
        if isinstance(mined, Mapping) and name in own and mined.get(name) not in (None, own[name]):
            raise InputError(f"The units were mined on another set {name!r} than the given one; mine them again.")
    if units.provenance.get("prompt") not in (None, writer.fingerprint):
        raise InputError(
            f"The units were mined in another prompt than that of template={writer.template!r}: give the template of "
            "`headwater parent mine`, or mine them again."
        )
    ranks = {int(unit.part) for unit in units.units if unit.kind == "rank"}
    if ranks and max(ranks) + 1 != rank:
        raise InputError(f"The units are those of an adapter of rank {max(ranks) + 1}; give rank={max(ranks) + 1}.")
