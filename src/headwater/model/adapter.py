"""Low-rank adapters through peft: attached for training and taken off again, saved, loaded beside their base model."""

from __future__ import annotations

import json
import logging
import os
import shutil
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers.pytorch_utils import Conv1D

from headwater.atomic import write_text
from headwater.errors import FormatError, InputError, MissingExtraError, ModelError
from headwater.model.anatomy import FAMILIES, unwrapped, value_rows
from headwater.model.slots import add_tokens

if TYPE_CHECKING:
    from headwater.model.lm import LanguageModel

logger = logging.getLogger("headwater")

CONFIG = "adapter_config.json"  # written last: a folder with it holds a whole adapter
EMBEDDER = "headwater.json"  # beside the weights of an embedder: its prompt, and what made it


def require_peft() -> Any:
    """The package peft.

    Raises:
        MissingExtraError: names the extra that brings it.
    """
    try:
        import accelerate  # noqa: F401
        import peft
    except ImportError as error:
        raise MissingExtraError(
            f"Adapters need {error.name}, which the extra [train] brings: pip install 'headwater[train]'."
        ) from error
    return peft


def adapter_base(source: str | Path) -> str | None:
    """The base model of an adapter folder; None where `source` is not one.

    Raises:
        FormatError: the adapter's configuration is damaged, or names no base model.
    """
    path = Path(source) / CONFIG
    if not path.is_file() or (Path(source) / "config.json").is_file():
        return None
    try:
        base = json.loads(path.read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FormatError(f"{path} is not the configuration of an adapter ({error!r}).") from error
    if not isinstance(base, str) or not base:
        raise FormatError(
            f"{path} names no base model: load that one, wrap it with peft, and give headwater.load(model=..., "
            "tokenizer=...)."
        )
    return base


def with_adapter(lm: LanguageModel, folder: str | Path) -> LanguageModel:
    """The model with the adapter of a folder on it, named after the folder.

    Where a head set or a record beside the adapter tells what it was trained on, other weights are said in a warning.

    Raises:
        ModelError: the adapter cannot be read, or does not fit the model.
    """
    peft = require_peft()
    made_for = _trained_on(Path(folder))
    if made_for not in (None, lm.fingerprint):
        logger.warning("The adapter %s was trained on other weights than those of %s.", folder, lm.name)
    lm = add_tokens(lm, _own_tokens(Path(folder)))
    try:
        with _calm():
            warnings.filterwarnings("error", message="Found missing adapter keys")
            model = peft.PeftModel.from_pretrained(lm.model, str(folder))
    except Exception as error:  # peft and safetensors raise half a dozen unrelated types here
        reason = " ".join(str(error).split())[:300]
        raise ModelError(f"The adapter {str(folder)!r} cannot be put on {lm.name!r}. Reason: {reason}") from error
    return replace(lm, model=model.eval(), name=str(folder))


def _trained_on(folder: Path) -> str | None:
    """Fingerprint of the weights under an adapter, from the head set or the record beside it."""
    for name, keys in (
        ("heads.json", ("provenance", "base_fingerprint")),
        ("parenting.json", ("config", "fingerprint")),
        (EMBEDDER, ("base_fingerprint",)),
    ):
        try:
            found = json.loads((folder / name).read_text(encoding="utf-8"))
            for key in keys:
                found = found[key]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if isinstance(found, str):
            return found
    return None


def _own_tokens(folder: Path) -> list[str]:
    """Tokens that the embedder in a folder adds to those of its base model."""
    try:
        found = json.loads((folder / EMBEDDER).read_text(encoding="utf-8"))["prompt"]["slot_tokens"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [str(name) for name in found] if isinstance(found, list) else []


@contextmanager
def _calm() -> Iterator[None]:
    """Without what peft and transformers have to say to each other."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)
        yield


def refuse_adapted(lm: LanguageModel) -> None:
    """Refuse a model that carries an adapter.

    Raises:
        ModelError: says what to do.
    """
    if unwrapped(lm.model) is not lm.model:
        raise ModelError(f"{lm.name!r} carries an adapter already: merge it first (model.merge_and_unload()).")


def _ask_again(lm: LanguageModel, needed: Mapping[str, bool]) -> None:
    """Let every weight ask for a gradient as it did."""
    for name, parameter in lm.model.named_parameters():
        parameter.requires_grad_(needed[name])


@contextmanager
def adapted(
    lm: LanguageModel,
    modules: Iterable[str],
    rank: int,
    alpha: float,
    seed: int,
    values: bool = False,
    dropout: float = 0.0,
    tokens: Sequence[int] = (),
) -> Iterator[LanguageModel]:
    """The model with a fresh LoRA adapter, of which the second factor is zero: it changes nothing yet.

    Only the adapter's parameters get gradients. Where a projection holds query, key and value, the rows of the values
    stay zero unless `values`. On leaving, also on an exception, `lm.model` is as before.

    Args:
        lm: a loaded model without an adapter.
        modules: names of the modules to adapt, inside the model.
        rank: rank of the adapter.
        alpha: the adapter is scaled by alpha / rank.
        seed: of the first factor.
        values: let the value rows of such projections learn, too.
        dropout: of the adapter's input, off until `set_dropout`.
        tokens: whose rows of the input embeddings learn, too; the adapter keeps these rows.

    Raises:
        ModelError: the model carries an adapter already, or peft cannot adapt its modules.
        MissingExtraError: peft is not installed.
    """
    peft = require_peft()
    refuse_adapted(lm)
    names = sorted(modules)
    needed = {name: parameter.requires_grad for name, parameter in lm.model.named_parameters()}
    columns = isinstance(lm.model.get_submodule(names[0]), Conv1D)
    config = peft.LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=names,
        fan_in_fan_out=columns,
        task_type="CAUSAL_LM",
        trainable_token_indices={_embeddings(lm): sorted(tokens)} if tokens else None,
    )
    original = {name: lm.model.get_submodule(name) for name in names}
    try:
        with _calm(), torch.random.fork_rng():
            torch.manual_seed(seed)
            model = peft.get_peft_model(lm.model, config)
    except BaseException as error:
        for name, module in original.items():  # those that were wrapped already
            lm.model.set_submodule(name, module)
        _ask_again(lm, needed)
        if isinstance(error, (ValueError, TypeError, ImportError)):
            raise ModelError(f"{lm.name!r} cannot be adapted: {error}") from error
        raise
    try:
        config.base_model_name_or_path = lm.name
        rows = [] if values else value_rows(lm.anatomy)
        fused = FAMILIES[lm.anatomy.family].query_key
        for name, parameter in model.named_parameters():
            module, _, factor = name.partition(".lora_B.")
            if rows and factor and module.rpartition(".")[2] in fused:
                parameter.register_hook(lambda slope: slope.index_fill(0, torch.tensor(rows, device=slope.device), 0))
        yield replace(lm, model=model.eval())
    finally:
        model.unload()
        _ask_again(lm, needed)


def set_dropout(lm: LanguageModel, on: bool) -> None:
    """Switch the dropout of an adapter's inputs on or off; that of the model under it is left as it is."""
    for name, module in lm.model.named_modules():
        if ".lora_dropout." in name:
            module.train(on)


def _embeddings(lm: LanguageModel) -> str:
    """The last part of the input embeddings' name."""
    wanted = lm.model.get_input_embeddings()
    return next(name for name, module in lm.model.named_modules() if module is wanted).rpartition(".")[2]


def save_adapter(lm: LanguageModel, folder: Path, texts: dict[str, str]) -> None:
    """Write the adapter of a model as a peft folder, its configuration last.

    Args:
        lm: a model with an adapter.
        folder: an existing folder; files of the same names are replaced.
        texts: further files, by name.

    Raises:
        InputError: the folder cannot be written.
    """
    partial = folder / ".partial"
    try:
        shutil.rmtree(partial, ignore_errors=True)
        lm.model.save_pretrained(partial, save_embedding_layers=False)
        for name, text in texts.items():
            write_text(partial / name, text)
        for path in sorted(partial.iterdir(), key=lambda path: (path.name == CONFIG, path.name)):
            with open(path, "rb") as stream:
                os.fsync(stream.fileno())
            os.replace(path, folder / path.name)
        partial.rmdir()
    except OSError as error:
        raise InputError(f"Cannot write the adapter to {folder}: {error.strerror or error}.") from error
