"""What a model can no longer do without its query-focused or its retrieval heads, beside random and bottom heads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headwater.evaluate.heads_settings import MASKED_TASKS, Settings
from headwater.evaluate.main_job import Progress
from headwater.evaluate.masking.run import run
from headwater.evaluate.masking.settings import Settings as MaskSettings
from headwater.headset import HeadSet
from headwater.instrument.outputs import Phase

if TYPE_CHECKING:
    from headwater.model.lm import LanguageModel


def masked(
    lm: LanguageModel,
    folder: Path,
    sets: Mapping[str, HeadSet],
    settings: Settings,
    progress: Progress,
    command: str,
) -> dict[str, Any]:
    """Zero the top K of each set and the controls of the first one, everywhere and while decoding only.

    Args:
        lm: the model.
        folder: of the run; masked-all and masked-decode are folders of `headwater heads mask`.
        sets: head sets with scores, by name.
        settings: sizes and seed; sizes beyond the model's heads are left out.
        progress: called with a label, gives a function of (done, total).
        command: written into the summaries.

    Returns:
        Phase -> "tasks" (task -> number of items and groups), "rows" (see `headwater.evaluate.masking.rows`) and
        "not_run".
    """
    sizes = tuple(size for size in settings.masked_sizes if size <= len(lm.anatomy.all_heads))
    out: dict[str, Any] = {}
    phases: tuple[Phase, ...] = ("all", "decode")
    for phase in phases:
        wanted = MaskSettings(
            tasks=MASKED_TASKS,
            sizes=sizes,
            phase=phase,
            seeds=tuple(range(settings.seed, settings.seed + settings.masked_draws)),
            limit=settings.masked_questions,
        )

        def stage(label: str, phase: Phase = phase) -> Any:
            return progress(f"without heads ({phase}): {label}")

        found = run(lm, sets, folder / f"masked-{phase}", wanted, stage, command)
        tasks = {name: {key: task[key] for key in ("n", "groups")} for name, task in found["tasks"].items()}
        out[phase] = {"tasks": tasks, "rows": found["rows"], "not_run": found["not_run"]}
    return out
