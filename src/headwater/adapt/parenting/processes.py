"""Several processes that train one adapter: who does what, and what they sum (parenting.md 6, "DDP")."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from headwater.errors import InputError, ModelError
from headwater.model.lm import LanguageModel

_Any = TypeVar("_Any")
_SHARDING = {"ACCELERATE_USE_DEEPSPEED": "DeepSpeed ZeRO", "ACCELERATE_USE_FSDP": "FSDP"}


@dataclass(frozen=True)
class Team:
    """The processes of a training.

    Attributes:
        rank: number of this one, from 0.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes what all of them trained."""
        return self.rank == 0

    def share(self, work: Callable[[], _Any]) -> _Any:
        """What the first process finds out, in all of them; its errors, too."""
        if self.size == 1:
            return work()
        found: list[Any] = [None, None]
        if self.leads:
            try:
                found[0] = work()
            except Exception as error:  # the others wait for an answer, whatever went wrong
                found[1] = error
        dist.broadcast_object_list(found, src=0)
        if found[1] is not None:
            raise found[1]
        answer: _Any = found[0]
        return answer

    def agree(self, config: Mapping[str, Any]) -> None:
        """Refuse processes that were started for different trainings.

        Args:
            config: what makes this process's training, as plain JSON values.

        Raises:
            InputError: another process has something else; names it, in all of them.
        """
        if self.size == 1:
            return
        every: list[Any] = [None] * self.size
        dist.all_gather_object(every, dict(config))
        for other in every[1:]:
            odd = next((key for key in sorted({*every[0], *other}) if every[0].get(key) != other.get(key)), None)
            if odd is not None:
                raise InputError(
                    f"The processes of this training differ in {odd}: start them all with the same model, data and "
                    "settings."
                )

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor, summed over all processes in place."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def begin_alike(self, tensors: Sequence[torch.Tensor]) -> None:
        """Give every process the values of the first."""
        if self.size > 1:
            for tensor in tensors:
                dist.broadcast(tensor.data, src=0)

    def check_alike(self, tensors: Sequence[torch.Tensor]) -> None:
        """Refuse to go on where the processes no longer hold the same values.

        Raises:
            ModelError: they differ.
        """
        if self.size == 1:
            return
        own = torch.stack([part for t in tensors for part in (t.detach().double().sum(), t.detach().double().norm())])
        first = own.clone()
        dist.broadcast(first, src=0)
        apart = torch.tensor([0.0 if torch.equal(own, first) else 1.0], device=own.device)
        dist.all_reduce(apart)
        if apart.item():
            raise ModelError("The processes of this training hold different weights; start them from the same model.")


def first_process() -> bool:
    """Whether this process speaks for all that `accelerate launch` or `torchrun` started, if they did."""
    return _processes() == 1 or os.environ.get("RANK", "0") == "0"


def _processes() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def team(lm: LanguageModel) -> Iterator[Team]:
    """The processes that `accelerate launch` or `torchrun` started; one, where nothing did.

    Several processes each hold the whole model; on GPUs, each on its own.

    Raises:
        ModelError: they were started to shard the model (DeepSpeed ZeRO, FSDP), which is not trained here.
    """
    for variable, name in _SHARDING.items():
        if os.environ.get(variable, "").lower() in ("1", "true"):
            raise ModelError(
                f"headwater does not train a model sharded by {name}: start plain processes, each with a whole model "
                "(accelerate launch --multi_gpu), or spread one model over devices with device_map."
            )
    if _processes() == 1:
        yield Team()
        return
    joined = not dist.is_initialized()
    on_gpu = lm.device.type == "cuda"
    if on_gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        lm.model.to(torch.device("cuda", torch.cuda.current_device()))
    if joined:
        dist.init_process_group("nccl" if on_gpu else "gloo")
    try:
        yield Team(dist.get_rank(), dist.get_world_size())
    finally:
        if joined:
            dist.destroy_process_group()
