"""What a prefill takes, and what there is: weights, keys and values, activations, free memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from headwater.errors import InsufficientMemoryError
from headwater.model.anatomy import unwrapped

if TYPE_CHECKING:
    import torch

    from headwater.model.lm import LanguageModel


@dataclass(frozen=True)
class Memory:
    """Memory of one prefill, in bytes.

    Attributes:
        tokens: length of the prompt.
        device: where it runs.
        weights: of the whole model, already taken.
        keys_values: keys and values of the layers that are kept.
        activations: about what one layer needs at a time.
        free: what is free on the device before the prefill (None: unknown).
    """

    tokens: int
    device: str
    weights: int
    keys_values: int
    activations: int
    free: int | None

    @property
    def fits(self) -> bool:
        """Whether keys, values and activations fit what is free."""
        return self.free is None or self.keys_values + self.activations <= self.free

    def __str__(self) -> str:
        """All of it in one line."""
        free = "unknown" if self.free is None else size(self.free)
        return (
            f"{self.tokens} tokens on {self.device}: keys and values {size(self.keys_values)}, activations about "
            f"{size(self.activations)}, weights {size(self.weights)} (loaded), free {free}"
        )


def size(count: float) -> str:
    """Bytes for people: `1.5 GiB`."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def memory(lm: LanguageModel, tokens: int, last_layer: int | None = None) -> Memory:
    """What a prefill of so many tokens up to a layer (None: all) takes."""
    here = lm.anatomy
    item = lm.dtype.itemsize
    layers = here.num_layers if last_layer is None else last_layer + 1
    config = unwrapped(lm.model).config.get_text_config()
    hidden = int(getattr(config, "hidden_size", here.num_heads * here.head_dim))
    inner = getattr(config, "intermediate_size", None)
    wide = inner if isinstance(inner, int) else 4 * hidden
    return Memory(
        tokens,
        str(lm.device),
        sum(p.numel() * p.element_size() for p in lm.model.parameters()),
        2 * layers * here.num_kv_heads * here.head_dim * item * tokens,
        (6 * hidden + 3 * wide) * item * tokens,
        free_bytes(lm.device),
    )


def free_bytes(device: torch.device) -> int | None:
    """Free memory of a device; None where it cannot be asked."""
    if device.type == "cuda":
        import torch

        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # free within PyTorch
        return int(torch.cuda.mem_get_info(device)[0]) + kept
    if device.type == "cpu":
        import psutil

        return int(psutil.virtual_memory().available)
    return None


def require(needed: Memory) -> None:
    """Refuse a prefill that cannot fit.

    Raises:
        InsufficientMemoryError: names what it takes and what to do.
    """
    if not needed.fits:
        raise InsufficientMemoryError(f"The prompt does not fit the memory ({needed}). {OPTIONS}")


OPTIONS = (
    "Give fewer or shorter documents, rank them in windows (overflow='tournament', `headwater rank --overflow "
    "tournament`), load the model in bfloat16, or use a smaller model."
)


@contextmanager
def within_memory(what: str) -> Iterator[None]:
    """One sentence when a device runs out of memory all the same."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        raise InsufficientMemoryError(f"The device ran out of memory {what}. {OPTIONS}") from error


def tokens_that_fit(lm: LanguageModel, last_layer: int | None = None) -> int | None:
    """How many tokens of a prompt the free memory takes; None: unknown."""
    one = memory(lm, 1, last_layer)
    return None if one.free is None else one.free // max(1, one.keys_values + one.activations)
