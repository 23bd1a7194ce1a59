"""Training of the heads that rank: a listwise loss on their document scores (QRRanker, in our form)."""

from __future__ import annotations

import json
import logging
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

import headwater
from headwater.adapt.folder import CARD, RECORD, begin
from headwater.adapt.listwise import TrainingList, held_out, listwise_loss, training_lists
from headwater.data import world
from headwater.data.documents import RankingExample
from headwater.errors import ContextOverflowError, HeadSetError, InputError, InsufficientMemoryError
from headwater.heads.detector import Progress, data_fingerprint
from headwater.heads.query_focused import ndcg
from headwater.heads.switches import MassSettings
from headwater.headset import HeadSet, HeadsLike
from headwater.instrument.trainable import require_trainable
from headwater.model.adapter import adapted, refuse_adapted, require_peft, save_adapter
from headwater.model.anatomy import query_key_projections
from headwater.model.lm import LanguageModel
from headwater.prompt import prompt_template
from headwater.rank.default_heads import default_heads
from headwater.rank.qr import QRRetriever

logger = logging.getLogger("headwater")

BUILT_IN = 512  # training questions where none are given, about the known countries
BUILT_IN_DEVELOPMENT = 64


@dataclass(frozen=True)
class TuningPlan:
    """What a training will do.

    Attributes:
        heads: the heads that are trained; where none are known, that they are found first: layers, modules and
            parameters are then those of all layers, the most there can be.
        layers: layers that run, and whose projections are adapted.
        modules: adapted projections.
        parameters: trained numbers.
        examples: lists to train on.
        development: lists to validate on.
        skipped: examples without a gold document that can be read.
        steps: optimizer steps at most.
        longest: tokens of the longest prompt.
    """

    heads: str
    layers: int
    modules: int
    parameters: int
    examples: int
    development: int
    skipped: int
    steps: int
    longest: int


@dataclass
class RankerTuning:
    """Train chosen heads to rank (QRRanker, arXiv 2602.12192; in our form qrhead.md 12.5).

    A low-rank adapter on the query and key projections of the layers up to the deepest chosen head learns to put the
    gold documents first: the loss of an example is the cross-entropy between softmax(S / temperature) over its
    documents, S being exactly the score that `QRRetriever` ranks by, and the gold documents' shares of the grades.
    Layers above do not run. The paper scales the scores of a list to 0..1 and trains whole layers; this does neither.

    With development examples the adapter of the best nDCG@10 on them is kept, and training stops when it no longer
    rises; where no step beats the start, the adapter changes nothing, and a log line says so.

    Attributes:
        heads: what `QRRetriever` takes; None: the model's own query-focused heads.
        steps: optimizer steps at most.
        batch: examples of a step.
        rank: rank of the adapter.
        alpha: the adapter is scaled by alpha / rank.
        learning_rate: the highest, after a warm-up over a tenth of the steps; AdamW, linear decay.
        temperature: of the softmax over document scores (which lie between -1 and 1).
        every: steps between validations, and between checkpoints.
        patience: validations without a new best until training stops.
        seed: of the adapter's first values, the order of the examples and of their documents.
        settings: switches of the score (None: those a ranker takes with these heads).
    """

    heads: HeadSet | HeadsLike | str | Path | None = None
    steps: int = 120
    batch: int = 8
    rank: int = 8
    alpha: float = 16.0
    learning_rate: float = 5e-4
    temperature: float = 0.01
    every: int = 20
    patience: int = 3
    seed: int = 0
    settings: MassSettings | None = None

    def __post_init__(self) -> None:
        """Refuse numbers that cannot train before any model runs."""
        for name in ("steps", "batch", "rank", "every", "patience"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}.")
        for name in ("alpha", "learning_rate", "temperature"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise InputError(f"{name} must be above 0, got {getattr(self, name)}.")

    def plan(
        self,
        lm: LanguageModel,
        examples: Sequence[RankingExample] | None = None,
        development: Sequence[RankingExample] | None = None,
    ) -> TuningPlan:
        """What `fit` will do, without running the model. Raises what `fit` raises before it trains."""
        return self._prepare(lm, examples, development, detect=False)[0]

    def fit(
        self,
        lm: LanguageModel,
        examples: Sequence[RankingExample] | None = None,
        output: str | Path = "ranker-adapter",
        development: Sequence[RankingExample] | None = None,
        progress: Progress | None = None,
    ) -> Path:
        """Train, and write an ordinary peft adapter folder with the head set in it.

        The folder holds adapter_model.safetensors, adapter_config.json, heads.json, tuning.json (settings and log) and
        a card; `headwater.load(folder)` puts the adapter on its base model, and `QRRetriever` finds the heads. Called
        again after an interruption, training goes on behind the last checkpoint. `lm` itself is left as it was.

        Args:
            lm: a loaded model without an adapter. Several processes (`accelerate launch`) each load their own.
            examples: queries with gold documents (None: questions about the known countries of the fact world).
            output: the folder; created if missing, and empty or from the same call.
            development: examples to choose the best step on (None: a tenth of the groups of `examples`; for the
                built-in examples, questions about the development countries).
            progress: called with (steps done, steps).

        Returns:
            The folder.

        Raises:
            InputError: no example has a gold document, or the folder holds something else.
            HeadSetError: heads of a model of another shape.
            ContextOverflowError: an example does not fit what the model reads.
            ModelError: a model whose heads cannot be trained, or that carries an adapter already.
            MissingExtraError: peft is not installed.
        """
        require_peft()
        plan, heads, settings, lists, development_lists = self._prepare(lm, examples, development)
        from headwater.adapt.training import Schedule, main_process, train

        folder = Path(output)
        config = self._config(lm, heads, settings, lists, development_lists)
        if main_process() and begin(folder, config):
            logger.info("%s holds this adapter already.", folder)
            return folder
        schedule = Schedule(
            self.steps, self.batch, self.learning_rate, 0.1, min(self.every, self.steps), self.patience, self.seed
        )
        modules = query_key_projections(lm.model, heads.last_layer)
        with adapted(lm, modules, self.rank, self.alpha, self.seed) as tuned:

            def loss(number: int) -> torch.Tensor:
                scores = lists[number].scores(tuned, heads, settings)
                return listwise_loss(scores, lists[number].grades, self.temperature)

            def validate() -> dict[str, float]:
                return self._validate(tuned, heads, settings, development_lists)

            try:
                done = train(
                    tuned,
                    loss,
                    len(lists),
                    schedule,
                    folder / "checkpoints",
                    validate if development_lists else None,
                    "ndcg@10" if development_lists else "",
                    progress,
                )
            except torch.OutOfMemoryError as error:
                raise InsufficientMemoryError(
                    f"Training ran out of memory (the longest prompt has {plan.longest:,} tokens): give fewer or "
                    "shorter documents, or a smaller model."
                ) from error
            if done.best == 0:
                logger.warning("No step was better than the model itself on the development examples.")
            if main_process():
                self._write(folder, lm, tuned, heads, settings, config, done.__dict__)
        return folder

    def _prepare(
        self,
        lm: LanguageModel,
        examples: Sequence[RankingExample] | None,
        development: Sequence[RankingExample] | None,
        detect: bool = True,
    ) -> tuple[TuningPlan, HeadSet, MassSettings, list[TrainingList], list[TrainingList]]:
        """Check everything that can be checked before training; heads that are not known are found if `detect`."""
        require_trainable(lm)
        refuse_adapted(lm)
        if examples is None:
            examples = world.ranking_examples("known", BUILT_IN)
            if development is None:
                development = world.ranking_examples("development", BUILT_IN_DEVELOPMENT)
        ranker, told = self._ranker(lm, detect)
        heads, settings = ranker.heads, self.settings or ranker.settings
        given = list(examples)
        if development is None:
            given, development = held_out(given, self.seed)
        lists = training_lists(lm, given, settings, f"{self.seed}")
        checks = training_lists(lm, development, settings, None)
        if not lists:
            raise InputError("No example has a gold document that can be read, so there is nothing to train on.")
        longest = max(item.tokens for item in [*lists, *checks])
        if lm.max_length and longest > lm.max_length:
            raise ContextOverflowError(
                f"The longest example has {longest:,} tokens, {lm.name!r} reads {lm.max_length:,}: give fewer or "
                "shorter documents.",
                tokens=longest,
                limit=lm.max_length,
            )
        modules = query_key_projections(lm.model, heads.last_layer)
        sizes = [sum(module.weight.shape) for module in modules.values()]  # type: ignore[arg-type]
        plan = TuningPlan(
            told,
            heads.last_layer + 1,
            len(modules),
            self.rank * sum(sizes),
            len(lists),
            len(checks),
            len(given) + len(development) - len(lists) - len(checks),
            self.steps,
            longest,
        )
        if plan.skipped:
            logger.warning("%d examples have no gold document that can be read; they are left out.", plan.skipped)
        return plan, heads, settings, lists, checks

    def _ranker(self, lm: LanguageModel, detect: bool) -> tuple[QRRetriever, str]:
        """What ranks with the heads, and which they are; all heads where none are known and none are to be found."""
        if self.heads is None and not detect:
            try:
                ranker = QRRetriever(lm, default_heads(lm, detect=False))
            except HeadSetError:
                return QRRetriever(lm, "all"), "none known: found first, on the built-in examples"
        else:
            ranker = QRRetriever(lm, self.heads)
        return ranker, str(ranker.heads)

    def _config(
        self,
        lm: LanguageModel,
        heads: HeadSet,
        settings: MassSettings,
        lists: Sequence[TrainingList],
        development: Sequence[TrainingList],
    ) -> dict[str, Any]:
        """What makes two trainings the same."""
        own = {name: value for name, value in vars(self).items() if name not in ("heads", "settings")}
        config = {
            "method": type(self).__name__,
            **own,
            "settings": asdict(settings),
            "heads": [list(head) for head in heads.heads],
            "coefficients": heads.coefficients,
            "model": lm.name,
            "fingerprint": lm.fingerprint,
            "dtype": str(lm.dtype),
            "headwater": headwater.__version__,
            "examples": len(lists),
            "data": data_fingerprint([item.example for item in lists]),
            "development": data_fingerprint([item.example for item in development]),
        }
        found: dict[str, Any] = json.loads(json.dumps(config))
        return found

    @torch.no_grad()
    def _validate(
        self, lm: LanguageModel, heads: HeadSet, settings: MassSettings, lists: Sequence[TrainingList]
    ) -> dict[str, float]:
        quality, losses = 0.0, 0.0
        for item in lists:
            scores = item.scores(lm, heads, settings).cpu()
            quality += ndcg(scores.double()[None], item.grades.double(), 10).item()
            losses += listwise_loss(scores, item.grades, self.temperature).item()
        return {"ndcg@10": quality / len(lists), "loss": losses / len(lists)}

    def _write(
        self,
        folder: Path,
        lm: LanguageModel,
        tuned: LanguageModel,
        heads: HeadSet,
        settings: MassSettings,
        config: dict[str, Any],
        result: dict[str, Any],
    ) -> None:
        """The adapter, its heads, the record, the card; then the checkpoints are no longer needed."""
        provenance = {
            **heads.provenance,
            "method": f"{type(self).__name__} of {heads.provenance.get('method', 'given heads')}",
            "settings": {**_mapping(heads.provenance.get("settings")), "settings": asdict(settings)},
            **tuned.provenance(),
            "prompt": prompt_template(lm.tokenizer, settings.template, settings.instruction).fingerprint,
            "base_fingerprint": config["fingerprint"],
        }
        trained = replace(heads, scores=None, provenance=provenance)
        trained.save(folder / "heads.json")
        card = CARD.format(
            name=lm.name,
            heads=trained,
            examples=config["examples"],
            steps=result["steps"],
            best=result["best"],
            layers=heads.last_layer + 1,
        )
        record = json.dumps({"config": config, "result": result}, indent=1) + "\n"
        save_adapter(tuned, folder, {"README.md": card, RECORD: record})
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)


def _mapping(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}
