"""Training of an adapter with transformers' `Trainer`, one example at a time.

`Trainer` gives what a loop would have to write again: resumable checkpoints (weights, optimizer, schedule, random
states, place in the data), accumulation, clipping, and several processes under `accelerate launch`. It wants a module
whose forward returns a loss; `Objective` is one, and its only parameters are the adapter's.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from headwater.heads.detector import Progress
from headwater.model.anatomy import unwrapped
from headwater.model.lm import LanguageModel

Validate = Callable[[], dict[str, float]]


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train.

    Attributes:
        steps: optimizer steps.
        batch: examples of a step, over all processes.
        learning_rate: the highest; a linear warm-up leads to it and a linear decay to zero from it.
        warmup: share of the steps that warm up.
        every: steps between two validations (checkpoints, too).
        patience: stop after so many validations without a new best.
        seed: of the order of the examples.
        in_order: the examples come as they are numbered, `batch` of them in each step, dealt to the processes in turn;
            else in a random order.
    """

    steps: int
    batch: int
    learning_rate: float
    warmup: float
    every: int
    patience: int
    seed: int
    in_order: bool = False


@dataclass(frozen=True)
class Trained:
    """What came of a training.

    Attributes:
        steps: optimizer steps that ran.
        best: the step whose weights the adapter has now (0: those it began with).
        log: records of the training, with `step`; the validation before the first step comes first.
    """

    steps: int
    best: int
    log: list[dict[str, float]]


class Objective(torch.nn.Module):
    """The loss of an example, given by its number. Its parameters are the trained ones of the model, no others."""

    def __init__(self, lm: LanguageModel, loss: Callable[[int], torch.Tensor]) -> None:
        """Collect what is trained."""
        super().__init__()
        self.adapter = torch.nn.ParameterList([p for p in lm.model.parameters() if p.requires_grad])
        self._loss = loss
        spread = getattr(unwrapped(lm.model), "hf_device_map", None)
        if spread is not None or lm.device.type == "cuda":  # the model stays where it is
            self.hf_device_map = spread or {"": str(lm.device)}

    def forward(self, example: torch.Tensor) -> dict[str, torch.Tensor]:
        """The loss of one example `[1]`."""
        return {"loss": self._loss(int(example))}


class _Trainer(Trainer):
    """A `Trainer` whose validation is a function of ours."""

    validate: Validate
    in_order = False
    control: Any

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
        """Which example comes when."""
        if self.in_order:
            return torch.utils.data.SequentialSampler(self.train_dataset)
        return super()._get_train_sampler(*args, **kwargs)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Validate, log, tell the callbacks."""
        metrics = {f"eval_{name}": value for name, value in self.validate().items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


class _Report(TrainerCallback):
    """Hands the steps done to a progress bar."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """One more step is done; the last one is validated like the others."""
        if self._progress is not None:
            self._progress(state.global_step, state.max_steps)
        if state.global_step == state.max_steps and args.eval_strategy != "no":
            control.should_evaluate = control.should_save = True


class _Patience(TrainerCallback):
    """Stops where validation no longer gets better; counted from the log, which a resumed training has too."""

    def __init__(self, metric: str, start: float, patience: int) -> None:
        self._metric, self._start, self._patience = f"eval_{metric}", start, patience

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Count the validations since the best one."""
        values = [self._start, *(record[self._metric] for record in state.log_history if self._metric in record)]
        if len(values) - 1 - values.index(max(values)) >= self._patience:
            control.should_training_stop = True


def main_process() -> bool:
    """Whether this process writes what all of them trained."""
    return int(os.environ.get("RANK", "0")) == 0


def train(
    lm: LanguageModel,
    loss: Callable[[int], torch.Tensor],
    examples: int,
    schedule: Schedule,
    checkpoints: Path,
    validate: Validate | None = None,
    metric: str = "",
    progress: Progress | None = None,
) -> Trained:
    """Train what has gradients in a model; started again on the same folder, go on behind the last checkpoint.

    Args:
        lm: the model with its adapter. With several processes it is moved to the device of its process.
        loss: the loss of example `0 <= i < examples`, with gradients.
        examples: how many there are.
        schedule: steps, batch, rates.
        checkpoints: folder of this training alone.
        validate: metrics by name, on examples that are not trained on.
        metric: which of them is to rise: the adapter ends with the weights of the best validation, which may be the one
            before the first step. "": validations are only written down, the last weights stay.
        progress: called with (steps done, steps).
    """
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    arguments = TrainingArguments(
        output_dir=str(checkpoints),
        seed=schedule.seed,
        max_steps=schedule.steps,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=math.ceil(schedule.batch / processes),
        learning_rate=schedule.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=math.ceil(schedule.warmup * schedule.steps),
        weight_decay=0.0,
        max_grad_norm=1.0,
        logging_steps=max(1, min(10, schedule.every)),
        eval_strategy="no" if validate is None else "steps",
        eval_steps=schedule.every,
        save_strategy="steps",
        save_steps=schedule.every,
        save_total_limit=2,
        load_best_model_at_end=validate is not None and bool(metric),
        metric_for_best_model=f"eval_{metric}" if metric else None,
        greater_is_better=True,
        remove_unused_columns=False,
        report_to="none",
        disable_tqdm=True,
        use_cpu=lm.device.type == "cpu",
    )
    if processes > 1:
        lm.model.to(arguments.device)
    elif arguments.n_gpu > 1:
        arguments._n_gpu = 1  # one process, one model: never copies of it on other devices
    log: list[dict[str, float]] = []
    start = None
    if validate is not None:
        first = validate()
        start = first[metric] if metric else None
        log.append({"step": 0, **{f"eval_{name}": value for name, value in first.items()}})
    objective = Objective(lm, loss)
    weights = {} if start is None else objective.state_dict()
    initial = {name: tensor.detach().clone() for name, tensor in weights.items()}
    trainer = _Trainer(
        model=objective,
        args=arguments,
        train_dataset=list(range(examples)),
        eval_dataset=None if validate is None else [0],
        data_collator=lambda numbers: {"example": torch.tensor(numbers)},
        callbacks=[_Report(progress)],
    )
    trainer.in_order = schedule.in_order
    trainer.remove_callback(PrinterCallback)
    if validate is not None:
        trainer.validate = validate
    if start is not None:
        trainer.add_callback(_Patience(metric, start, schedule.patience))
    last = _last_checkpoint(checkpoints)
    trainer.train(resume_from_checkpoint=None if last is None else str(last))
    state = trainer.state
    log += [dict(record) for record in state.log_history]
    if start is None:
        return Trained(state.global_step, state.global_step, log)
    if state.best_metric is None or state.best_metric <= start:
        objective.load_state_dict(initial)
        return Trained(state.global_step, 0, log)
    return Trained(state.global_step, int(state.best_global_step), log)


def _last_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint: the state of the trainer is the last file that one gets."""
    found: Sequence[Path] = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    for path in reversed(found):
        try:
            json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        return path
    return None
