"""`load` and `LanguageModel`: a transformers model, its tokenizer, its name and its anatomy, kept together."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

import headwater
from headwater.atomic import write_text
from headwater.errors import InputError, InsufficientMemoryError, ModelError
from headwater.model.adapter import adapter_base, with_adapter
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
        stored_dtype: floating type of the checkpoint it was read from; `save` writes that one again.
        card: text of the model card (README.md) beside that checkpoint, or None.
    """

    model: Any
    tokenizer: Any
    name: str
    anatomy: Anatomy
    revision: str | None = None
    stored_dtype: torch.dtype | None = None
    card: str | None = None

    @property
    def device(self) -> torch.device:
        """Where token ids go: where the input embeddings are, or run where their weights are offloaded."""
        embeddings = unwrapped(self.model).get_input_embeddings()
        found: torch.device = embeddings.weight.device
        if found.type == "meta":
            found = torch.device(embeddings._hf_hook.execution_device)
        return found

    @property
    def dtype(self) -> torch.dtype:
        """Floating type of the weights."""
        return next(self.model.parameters()).dtype

    @property
    def max_length(self) -> int:
        """Positions the model was configured for."""
        return self.anatomy.max_length

    @property
    def fingerprint(self) -> str:
        """Sixteen hex digits that change with the architecture or the weights (a fixed random sample of every tensor).

        Read afresh each time, so that it follows `hw.fold` and any other change of the weights.
        """
        config = unwrapped(self.model).config.to_diff_dict()
        for volatile in ("transformers_version", "_name_or_path", "dtype"):
            config.pop(volatile, None)
        digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
        for name, tensor in sorted(self.model.named_parameters()):
            digest.update(f"{name}{tuple(tensor.shape)}".encode())
            if tensor.device.type == "meta":
                tensor = self._offloaded(name)
            plain = type(tensor.data) is torch.Tensor
            flat = (tensor.detach() if plain else tensor.dequantize().detach()).reshape(-1)
            if flat.numel() > _SAMPLE:
                places = torch.randint(flat.numel(), (_SAMPLE,), generator=torch.Generator().manual_seed(flat.numel()))
                flat = flat[places.to(flat.device)]
            sample = flat.to("cpu", torch.bfloat16)
            digest.update(sample.view(torch.int16).numpy().tobytes())
        return digest.hexdigest()[:16]

    def _offloaded(self, name: str) -> torch.Tensor:
        """A weight that accelerate keeps elsewhere (in memory or on a disk)."""
        module, _, leaf = name.rpartition(".")
        hook = self.model.get_submodule(module)._hf_hook
        for part in getattr(hook, "hooks", (hook,)):
            weights = getattr(part, "weights_map", None)
            if weights is not None:
                found: torch.Tensor = weights[leaf]
                return found
        raise ModelError(f"The weight {name} of {self.name!r} is not loaded, and no hook says where it is.")

    def provenance(self) -> dict[str, Any]:
        """What an artefact made from this model keeps about it: name, revision, fingerprint, shape, versions."""
        anatomy = self.anatomy
        return {
            "model": self.name,
            "revision": self.revision,
            "fingerprint": self.fingerprint,
            "shape": [anatomy.num_layers, anatomy.num_heads, anatomy.num_kv_heads],
            "versions": {
                "headwater": headwater.__version__,
                "torch": torch.__version__,
                "transformers": transformers.__version__,
            },
        }

    def save(self, folder: str | Path) -> Path:
        """Write an ordinary checkpoint: the same keys, shapes and dtypes, safetensors, with tokenizer and card.

        Args:
            folder: created if missing.

        Returns:
            The folder.
        """
        target = Path(folder)
        if target.exists() and not target.is_dir():
            raise InputError(f"Cannot save to {target}: it is a file, give a folder.")
        target.mkdir(parents=True, exist_ok=True)
        with _quiet_progress():
            self._save_model(target)
            self.tokenizer.save_pretrained(target)
        if self.card is not None:
            write_text(target / "README.md", self.card)
        return target

    def _save_model(self, target: Path) -> None:
        """Write the weights in the dtype they were stored in, whatever the model runs in."""
        if self.stored_dtype in (None, self.dtype) or unwrapped(self.model) is not self.model:
            self.model.save_pretrained(target)
            return
        state = {
            name: tensor.to(self.stored_dtype) if tensor.is_floating_point() else tensor
            for name, tensor in self.model.state_dict().items()
        }
        self.model.save_pretrained(target, state_dict=state)
        config = json.loads((target / "config.json").read_text(encoding="utf-8"))
        config["dtype"] = str(self.stored_dtype).removeprefix("torch.")
        write_text(target / "config.json", json.dumps(config, indent=2) + "\n")


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
        name: "tiny" (the model that ships with headwater), a hub id, or a path: a checkpoint folder, or the folder of
            a peft adapter, which is put on the base model that it names (with `revision` and dtype of that one).
        model: a loaded transformers model or peft wrapper, instead of `name`; needs `tokenizer`.
        tokenizer: overrides the checkpoint's tokenizer, or comes with `model`.
        device: default: "cuda" where there is one, else "cpu" (a loaded `model` stays where it is).
        dtype: "auto" is the checkpoint's own. Default: float32 on a CPU, the checkpoint's own elsewhere (a loaded
            `model` keeps its own).
        revision: branch, tag or commit of a hub model.
        trust_remote_code: run code from the model's repository; off unless you say so.

    Returns:
        The model in eval mode with its tokenizer and anatomy.

    Raises:
        InputError: neither or both of `name` and `model`, a missing tokenizer, an unknown dtype or device.
        ModelError: the checkpoint cannot be read or lacks weights, or the architecture is not supported.
        MissingExtraError: an adapter folder without peft installed.
    """
    if (name is None) == (model is None):
        raise InputError("Give either a model name (headwater.load('tiny')) or model= with tokenizer=, not both.")
    if model is not None:
        return _wrap(model, tokenizer, device, dtype, revision)
    base = adapter_base(str(name))
    if base is not None:
        more: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
        return with_adapter(load(base, tokenizer=tokenizer, device=device, dtype=dtype, **more), str(name))
    target = _device(device if device is not None else "cuda" if torch.cuda.is_available() else "cpu")
    wanted = torch.float32 if dtype is None and target.type == "cpu" else _dtype(dtype)
    source = str(TINY) if name == "tiny" else str(name)
    if name == "tiny" and not (TINY / "config.json").is_file():
        raise ModelError("The embedded model is not in this installation; build it with `make tiny`.")
    loaded, own, stored = _from_pretrained(source, wanted, revision, trust_remote_code, tokenizer is None)
    anatomy = read_anatomy(loaded)
    card = Path(source) / "README.md"
    try:
        loaded = loaded.to(target)
    except torch.OutOfMemoryError as error:
        raise InsufficientMemoryError(
            f"The weights of {str(name)!r} do not fit the memory of {target}; load it in bfloat16, on another "
            "device, or use a smaller model."
        ) from error
    return LanguageModel(
        loaded.eval(),
        tokenizer or own,
        str(name),
        anatomy,
        getattr(loaded.config, "_commit_hash", None) or revision,
        stored,
        card.read_text(encoding="utf-8") if card.is_file() else None,
    )


def _wrap(
    model: Any,
    tokenizer: Any,
    device: str | torch.device | None,
    dtype: str | torch.dtype | None,
    revision: str | None,
) -> LanguageModel:
    """Wrap a loaded model."""
    if tokenizer is None:
        raise InputError("headwater.load(model=...) needs tokenizer= as well.")
    if not isinstance(model, torch.nn.Module) or not hasattr(unwrapped(model), "config"):
        raise InputError(f"model= takes a loaded transformers model, got {type(model).__name__}; names go first.")
    anatomy = read_anatomy(model)
    if device is not None or _dtype(dtype) is not None:  # a model with a device map, or quantised, refuses any move
        model = model.to(device=None if device is None else _device(device), dtype=_dtype(dtype))
    label = str(getattr(unwrapped(model).config, "_name_or_path", "") or type(unwrapped(model)).__name__)
    return LanguageModel(model.eval(), tokenizer, label, anatomy, revision)


def _from_pretrained(
    source: str, dtype: torch.dtype | None, revision: str | None, trust_remote_code: bool, with_tokenizer: bool
) -> tuple[Any, Any, torch.dtype | None]:
    """Model, tokenizer, and the dtype that the checkpoint says it is stored in."""
    from transformers import (
        MODEL_FOR_CAUSAL_LM_MAPPING,
        AutoConfig,
        AutoModelForCausalLM,
        AutoModelForImageTextToText,
        AutoTokenizer,
    )

    common: dict[str, Any] = {"revision": revision or "main", "trust_remote_code": trust_remote_code}
    try:
        with _quiet_progress():
            config = AutoConfig.from_pretrained(source, **common)
            stored = getattr(config, "dtype", None)
            composite = type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING and config.get_text_config() is not config
            family = AutoModelForImageTextToText if composite else AutoModelForCausalLM
            model, found = family.from_pretrained(
                source, dtype=dtype or "auto", use_safetensors=True, output_loading_info=True, **common
            )
            tokenizer = AutoTokenizer.from_pretrained(source, **common) if with_tokenizer else None
    except Exception as error:  # transformers, safetensors and the hub client raise a dozen unrelated types here
        reason = " ".join(str(error).split())[:400]
        raise ModelError(
            f"Could not load the model {source!r}: give 'tiny', a checkpoint folder or a hub id that can be reached. "
            f"Reason: {reason}"
        ) from error
    missing = sorted(found["missing_keys"])
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise ModelError(f"The checkpoint {source!r} lacks the weights {', '.join(missing[:3])}{more}.")
    return model, tokenizer, stored if isinstance(stored, torch.dtype) else None


@contextmanager
def _quiet_progress() -> Iterator[None]:
    """No progress bar of transformers: ours is the only one on the terminal."""
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


def _device(device: str | torch.device) -> torch.device:
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, TypeError) as error:
        raise InputError(f"The device {device!r} cannot be used here: {str(error).splitlines()[0]}") from error
    return found
