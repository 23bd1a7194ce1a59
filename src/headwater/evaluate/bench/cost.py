"""What an output cost: wall time, tokens, floating-point operations, peak memory."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headwater.instrument.meter import metered

if TYPE_CHECKING:
    from headwater.model.lm import LanguageModel


@dataclass
class Cost:
    """The cost of one output.

    Attributes:
        seconds: wall time.
        tokens: tokens that entered the model under test; None where it did not run.
        flops: floating-point operations of it, counted by `headwater.instrument.meter`.
        peak_bytes: most memory of the process (of the device, on CUDA) while it ran, weights included; None where the
            system does not tell.
    """

    seconds: float = 0.0
    tokens: int | None = None
    flops: int | None = None
    peak_bytes: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers, for JSON."""
        return {**asdict(self), "seconds": round(self.seconds, 5)}


@contextmanager
def measured(lm: LanguageModel | None) -> Iterator[Cost]:
    """Measure what runs inside; of the model under test where one is given."""
    cost = Cost()
    on_cuda = lm is not None and lm.device.type == "cuda"
    _reset_peak(on_cuda)
    started = time.perf_counter()
    with nullcontext() if lm is None else metered(lm) as used:
        yield cost
    cost.seconds = time.perf_counter() - started
    if used is not None:
        cost.tokens, cost.flops = int(used.tokens), int(used.flops)
    cost.peak_bytes = _peak(on_cuda)


def _reset_peak(on_cuda: bool) -> None:
    """Start the high-water mark anew."""
    if on_cuda:
        import torch

        torch.cuda.reset_peak_memory_stats()
        return
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return


def _peak(on_cuda: bool) -> int | None:
    """The high-water mark in bytes."""
    if on_cuda:
        import torch

        torch.cuda.synchronize()
        return int(torch.cuda.max_memory_allocated())
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        return None
    return None
