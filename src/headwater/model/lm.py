"""`load` and `LanguageModel`: a transformers model, its tokenizer, its name and its anatomy, kept together."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from headwater.errors import InputError, ModelError
from headwater.model.anatomy import Anatomy, read_anatomy, unwrapped

logger = logging.getLogger("headwater")

TINY = Path(__file__).parent / "tiny"
_SAMPLE = 4096


@dataclass
class LanguageModel:
    """A causal language model ready for ranking, reading and experiments.

    Attributes:
        model: the transformers model (or peft wrapper), in eval mode.
        tokenizer: its tokenizer.
        name: what the user called it: "tiny", a hub id or a path.
        anatomy: layers, heads and where they are.
        revision: commit of a hub model, where known.
    """

    model: Any
    tokenizer: Any
    name: str
    anatomy: Anatomy
    revision: str | None = None

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Floating type of the weights."""
        return next(self.model.parameters()).dtype

    @property
    def max_length(self) -> int:
        """Positions the model was configured for."""
        return self.anatomy.max_length

    @cached_property
    def fingerprint(self) -> str:
        """Sixteen hex digits that change with the architecture or the weights (a strided sample of every tensor)."""
        config = unwrapped(self.model).config.to_diff_dict()
        for volatile in ("transformers_version", "_name_or_path", "dtype"):
            config.pop(volatile, None)
        digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
        for name, tensor in sorted(self.model.named_parameters()):
            flat = tensor.detach().reshape(-1)
            sample = flat[:: max(1, flat.numel() // _SAMPLE)].to("cpu", torch.bfloat16)
            digest.update(f"{name}{tuple(tensor.shape)}".encode())
            digest.update(sample.view(torch.int16).numpy().tobytes())
        return digest.hexdigest()[:16]

    def save(self, folder: str | Path) -> Path:
        """Write an ordinary checkpoint: the same keys, shapes and dtypes, safetensors, with the tokenizer.

        Args:
            folder: created if missing; a folder that holds other files than a checkpoint's is left to the caller.

        Returns:
            The folder.
        """
        target = Path(folder)
        if target.exists() and not target.is_dir():
            raise InputError(f"Cannot save to {target}: it is a file, give a folder.")
        target.mkdir(parents=True, exist_ok=True)
        self.model.save_pretrained(target)
        self.tokenizer.save_pretrained(target)
        return target


def load(
    name: str | Path | None = None,
    *,
    model: Any = None,
    tokenizer: Any = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> LanguageModel:
    """Load a causal language model, or wrap one that is already loaded.

    Args:
        name: "tiny" (the model that ships with headwater), a hub id, or a path to a checkpoint folder.
        model: a loaded transformers model or peft wrapper, instead of `name`; needs `tokenizer`.
        tokenizer: overrides the checkpoint's tokenizer, or comes with `model`.
        device: default: "cuda" where there is one, else "cpu" (a loaded `model` stays where it is).
        dtype: default: float32 on a CPU, the checkpoint's own elsewhere (a loaded `model` keeps its own).
        revision: branch, tag or commit of a hub model.
        trust_remote_code: run code from the model's repository; off unless you say so.

    Returns:
        The model in eval mode with its tokenizer and anatomy.

    Raises:
        InputError: neither or both of `name` and `model`, a missing tokenizer, an unknown dtype.
        ModelError: the checkpoint cannot be read, or the architecture is not supported.
    """
    if (name is None) == (model is None):
        raise InputError("Give either a model name (headwater.load('tiny')) or model= with tokenizer=, not both.")
    resolved = _dtype(dtype)
    if model is not None:
        if tokenizer is None:
            raise InputError("headwater.load(model=...) needs tokenizer= as well.")
        if device is not None or resolved is not None:
            model = model.to(device=device, dtype=resolved)
        label = str(getattr(unwrapped(model).config, "_name_or_path", "") or type(unwrapped(model)).__name__)
        return LanguageModel(model.eval(), tokenizer, label, read_anatomy(model), revision)
    target = (
        torch.device(device) if device is not None else torch.device("cuda" if torch.cuda.is_available() else "cpu")
    )
    if resolved is None and target.type == "cpu":
        resolved = torch.float32
    source = str(TINY) if name == "tiny" else str(name)
    if name == "tiny" and not (TINY / "config.json").is_file():
        raise ModelError("The embedded model is not in this installation; build it with `make tiny`.")
    loaded, own = _from_pretrained(source, resolved, revision, trust_remote_code, tokenizer is None)
    commit = getattr(loaded.config, "_commit_hash", None)
    wrapped = loaded.to(target).eval()
    return LanguageModel(wrapped, tokenizer or own, str(name), read_anatomy(wrapped), commit or revision)


def _from_pretrained(
    source: str, dtype: torch.dtype | None, revision: str | None, trust_remote_code: bool, with_tokenizer: bool
) -> tuple[Any, Any]:
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer

    common = {"revision": revision or "main", "trust_remote_code": trust_remote_code}
    try:
        with _quiet_loading():
            model = AutoModelForCausalLM.from_pretrained(source, dtype=dtype or "auto", use_safetensors=True, **common)
            tokenizer = AutoTokenizer.from_pretrained(source, **common) if with_tokenizer else None
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:400]
        raise ModelError(
            f"Could not load the model {source!r}: give 'tiny', a checkpoint folder or a hub id that can be reached. "
            f"Reason: {reason}"
        ) from error
    return model, tokenizer


@contextmanager
def _quiet_loading() -> Iterator[None]:
    """No weight-loading progress bar of transformers: ours is the only one on the terminal."""
    from transformers.utils import logging as transformers_logging

    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


def _dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    if dtype is None or dtype == "auto" or isinstance(dtype, torch.dtype):
        return dtype if isinstance(dtype, torch.dtype) else None
    found = getattr(torch, dtype, None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise InputError(f"Unknown dtype {dtype!r}; use float32, bfloat16, float16 or auto.")
    return found
