"""What a benchmark run is made of, from a YAML file or from flags."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from headwater.data.text import read_text
from headwater.errors import FormatError, InputError


@dataclass(frozen=True)
class BenchConfig:
    """A benchmark run.

    Attributes:
        tasks: names or mappings, as `headwater.evaluate.bench.catalogue.build_task` takes them.
        methods: names, as `headwater.evaluate.bench.catalogue.method_named` takes them.
        model: "tiny", a hub id or a path.
        data: folder of data sets, for the named tasks that need one.
        seeds: of methods that draw something; the others run once.
        limit: examples per task, drawn by a fixed seed (None: all).
        baselines: the methods that others are compared with, each on the tasks it can do (none: the first method that
            can do the task).
        device: where the model runs.
        dtype: of the model.
    """

    tasks: tuple[str | Mapping[str, Any], ...]
    methods: tuple[str, ...]
    model: str = "tiny"
    data: str | None = None
    seeds: tuple[int, ...] = (0,)
    limit: int | None = None
    baselines: tuple[str, ...] = ()
    device: str | None = None
    dtype: str | None = None

    def __post_init__(self) -> None:
        """Check what can be checked without loading anything.

        Raises:
            InputError: no tasks or methods, one twice, no seeds or a negative one, a baseline that is no method.
        """
        for name in ("tasks", "methods", "seeds"):
            given = getattr(self, name)
            if not given:
                raise InputError(f"A benchmark needs at least one of its {name}.")
            repeated = next((item for place, item in enumerate(given) if item in given[:place]), None)
            if repeated is not None:
                raise InputError(f"{repeated!r} stands twice among the {name}.")
        if any(isinstance(seed, bool) or not isinstance(seed, int) or seed < 0 for seed in self.seeds):
            raise InputError(f"Seeds are whole numbers from 0 on, got {list(self.seeds)}.")
        if self.limit is not None and (not isinstance(self.limit, int) or self.limit < 1):
            raise InputError(f"A limit is a whole number from 1 on, got {self.limit!r}.")
        strange = [name for name in self.baselines if name not in self.methods]
        if strange:
            raise InputError(f"The baseline {strange[0]!r} is none of the methods {', '.join(self.methods)}.")

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON and YAML."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


def read_config(path: str | Path) -> BenchConfig:
    """Read a configuration: YAML with the fields of `BenchConfig`; relative paths are relative to where one stands.

    Raises:
        InputError: no such file, an unknown field, or values that `BenchConfig` refuses.
        FormatError: not a YAML mapping.
    """
    import yaml

    path = Path(path)
    if not path.is_file():
        raise InputError(f"There is no configuration {str(path)!r}.")
    try:
        given = yaml.safe_load(read_text(path))
    except yaml.YAMLError as error:
        raise FormatError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(given, dict):
        raise FormatError(f"{path} has to be a mapping with tasks and methods.")
    known = [field.name for field in fields(BenchConfig)]
    strange = [str(name) for name in given if name not in known]
    if strange:
        raise InputError(f"{path}: unknown field {strange[0]!r}; there are {', '.join(known)}.")
    for name in ("tasks", "methods", "seeds", "baselines"):
        value = given.get(name, () if name != "seeds" else (0,))
        if not isinstance(value, (list, tuple)):
            raise FormatError(f"{path}: {name} has to be a list.")
        given[name] = tuple(value)
    for item in given["tasks"]:
        if not isinstance(item, (str, dict)):
            raise FormatError(f"{path}: a task is a name or a mapping, not {item!r}.")
    if not all(isinstance(item, str) for item in given["methods"] + given["baselines"]):
        raise FormatError(f"{path}: methods and baselines are names.")
    return BenchConfig(**given)
