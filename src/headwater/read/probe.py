"""The closed-book probe: what a model says without documents, greedily and by sampling (parenting.md 3.1.1)."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from headwater.data.lines import Lines, same_run
from headwater.data.parenting.items import UNKNOWN
from headwater.data.parenting.questions import ProbeQuestion
from headwater.data.parenting.records import ProbeRecord, label
from headwater.errors import ContextOverflowError, InputError, ModelError
from headwater.heads.detector import Progress
from headwater.model.greedy import end_ids
from headwater.model.memory import within_memory
from headwater.prompt import PromptTemplate, prompt_template
from headwater.prompt.closed_book import closed_book, closed_book_ids
from headwater.read.reader import THINKING

if TYPE_CHECKING:
    from headwater.model.lm import LanguageModel

_HEAD = 256  # tokens that hold the nucleus nearly always; the rest of the vocabulary need not be sorted
Said = tuple[str, bool]  # the first line of an answer, and whether it came to its end within the tokens it had


@dataclass(frozen=True)
class ClosedBookProbe:
    """Asks questions without documents: once greedily and several times by sampling, in batches.

    Every sample draws from a random generator of its own (seed, question, number), so an answer depends neither on the
    batch nor on what an interrupted run had finished, but for the last digits of batched sums.

    Attributes:
        samples: sampled answers per question.
        wordings: how many wordings are asked greedily, of questions that have several.
        temperature: of the samples.
        top_p: samples come from the most probable tokens that together have at least this probability.
        new_tokens: an answer's longest; a greedy answer that is cut off there is not counted as known or believed.
        batch: prompts read at once; each is continued 1 + `samples` times.
        template: as in `prompt_template`.
        instruction: a sentence before the question, as in `closed_book`: "auto" asks chat models for a short phrase.
        seed: of the samples.

    Raises:
        InputError: a number outside its range.
    """

    samples: int = 8
    wordings: int = 1
    temperature: float = 0.7
    top_p: float = 0.95
    new_tokens: int = 32
    batch: int = 16
    template: str = "auto"
    instruction: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be asked."""
        for name, least in (("samples", 0), ("wordings", 1), ("new_tokens", 1), ("batch", 1)):
            if getattr(self, name) < least:
                raise InputError(f"{name} must be at least {least}, got {getattr(self, name)}.")
        if self.temperature <= 0 or not 0 < self.top_p <= 1:
            raise InputError(
                f"Sampling needs a temperature above 0 and top_p in (0, 1], got {self.temperature} and {self.top_p}."
            )

    def run(
        self,
        lm: LanguageModel,
        questions: Sequence[ProbeQuestion],
        folder: str | Path | None = None,
        progress: Progress | None = None,
    ) -> dict[str, ProbeRecord]:
        """Ask every question.

        Args:
            lm: the model to probe.
            questions: with ids that stand once.
            folder: keeps `probe.jsonl` (an answered question a line) and `probe.json` (what it was made with); what
                stands there already is not asked again. None: nothing is kept.
            progress: called with questions done and in all.

        Returns:
            Question id -> record, in the order of the questions.

        Raises:
            InputError: the folder holds the probe of another model, prompt or setting, or of other questions.
            ModelError: a model that thinks before it answers.
            ContextOverflowError: a question longer than what the model reads.
        """
        lines = None
        if folder is not None:
            same_run(Path(folder) / "probe.json", self.made_with(lm))
            lines = Lines(Path(folder) / "probe.jsonl")
        out: dict[str, ProbeRecord] = {}
        todo: list[tuple[list[int], ProbeQuestion, int]] = []
        write = self._writer(lm)
        for question in questions:
            if lines is not None and question.id in lines.done:
                out[question.id] = ProbeRecord.of(question, self.wordings, lines.done[question.id])
            else:
                asked = question.wordings[: self.wordings]
                todo += [(write(text), question, place) for place, text in enumerate(asked)]
        said: dict[str, dict[int, list[Said]]] = {}
        todo.sort(key=lambda each: len(each[0]))
        while todo:
            part = [each for each in todo[: self.batch] if len(each[0]) == len(todo[0][0])]
            todo = todo[len(part) :]
            rows = [self._draws(question, place) for _, question, place in part]
            answers = self._answers(lm, [ids for ids, _, _ in part], rows)
            for (_, question, place), found in zip(part, answers, strict=True):
                whole = said.setdefault(question.id, {})
                whole[place] = found
                if len(whole) == len(question.wordings[: self.wordings]):
                    out[question.id] = self._record(question, said.pop(question.id))
                    if lines is not None:
                        lines.add(out[question.id].record())
            if progress is not None:
                progress(len(out), len(questions))
        return {question.id: out[question.id] for question in questions}

    def made_with(self, lm: LanguageModel) -> dict[str, Any]:
        """What answers depend on: weights, prompt and settings."""
        template, instructed = closed_book(self._plain(lm), self.instruction)
        settings = {name: value for name, value in asdict(self).items() if name not in ("batch", "template")}
        return {
            "fingerprint": lm.fingerprint,
            "dtype": str(lm.dtype),
            "prompt": template.fingerprint,
            **settings,
            "instruction": template.instruction if instructed else "",
        }

    def _plain(self, lm: LanguageModel) -> PromptTemplate:
        return prompt_template(lm.tokenizer, self.template, instruction="answer")

    def _writer(self, lm: LanguageModel) -> Callable[[str], list[int]]:
        template = self._plain(lm)
        opening = str(lm.tokenizer.decode(list(template.suffix), skip_special_tokens=False))
        if any(opening.rfind(mark) > opening.rfind(close) for mark, close in THINKING):
            raise _thinks(lm)

        def write(text: str) -> list[int]:
            ids = closed_book_ids(template, text, self.instruction)
            needed, limit = len(ids) + self.new_tokens, lm.max_length
            if limit and needed > limit:
                raise ContextOverflowError(
                    f"The question {text[:60]!r} takes {needed} tokens with its answer, but {lm.name} reads {limit}; "
                    "shorten it.",
                    tokens=needed,
                    limit=limit,
                )
            return ids

        return write

    def _draws(self, question: ProbeQuestion, place: int) -> list[random.Random | None]:
        """What each continuation of a wording draws from: None decodes greedily."""
        asked = len(question.wordings[: self.wordings])
        own = [n for n in range(self.samples) if n % asked == place]
        return [None, *(random.Random(f"headwater/probe/{self.seed}/{question.id}/{n}") for n in own)]

    def _record(self, question: ProbeQuestion, said: dict[int, list[Said]]) -> ProbeRecord:
        asked = len(said)
        greedy = tuple(said[place][0][0] for place in range(asked))
        samples = tuple(said[n % asked][1 + n // asked][0] for n in range(self.samples))
        ended = said[0][0][1]
        verdict = label(greedy, samples, question.answers) if ended else UNKNOWN
        wordings = question.wordings[: self.wordings]
        return ProbeRecord(question.id, wordings, question.answers, greedy, samples, verdict, ended)

    @torch.inference_mode()
    def _answers(
        self, lm: LanguageModel, prompts: Sequence[list[int]], draws: Sequence[Sequence[random.Random | None]]
    ) -> list[list[Said]]:
        """Every continuation of prompts of one length."""
        counts = [len(row) for row in draws]
        repeats = torch.tensor(counts, device=lm.device)
        flat = [draw for row in draws for draw in row]
        ids = torch.tensor(prompts, device=lm.device)
        with within_memory(f"continuing {len(prompts)} prompts {max(counts)} times"):
            ids = ids.repeat_interleave(repeats, 0) if lm.anatomy.headless or len(set(counts)) > 1 else ids
            read = lm.model(input_ids=ids, use_cache=True, logits_to_keep=1)
            cache, logits = read.past_key_values, read.logits[:, -1]
            if len(logits) < len(flat):  # keys and values of a prompt are copied, not computed again
                cache.batch_repeat_interleave(counts[0])
                logits = logits.repeat_interleave(repeats, 0)
            new = self._decode(lm, logits, cache, flat)
        out: list[list[Said]] = []
        for count in counts:
            out.append([(_line(lm, ids), _over(lm, ids)) for ids in new[:count]])
            new = new[count:]
        return out

    def _decode(
        self, lm: LanguageModel, logits: torch.Tensor, cache: Any, draws: Sequence[random.Random | None]
    ) -> list[list[int]]:
        """New ids of every row; rows that are over leave the batch when they are half of it."""
        new: list[list[int]] = [[] for _ in draws]
        rows, going = list(range(len(new))), set(range(len(new)))
        for left in reversed(range(self.new_tokens)):
            tokens = chosen(logits, [draws[row] for row in rows], self.temperature, self.top_p)
            for row, token in zip(rows, tokens.tolist(), strict=True):
                if row in going:
                    new[row].append(token)
                    if _over(lm, new[row]):
                        going.discard(row)
            if not going or not left:
                break
            if 2 * len(going) <= len(rows) and not lm.anatomy.headless:
                places = torch.tensor([place for place, row in enumerate(rows) if row in going], device=tokens.device)
                cache.batch_select_indices(places)
                tokens, rows = tokens[places], [row for row in rows if row in going]
            result = lm.model(input_ids=tokens[:, None], past_key_values=cache, use_cache=True)
            cache, logits = result.past_key_values, result.logits[:, -1]
        return new


def chosen(
    logits: torch.Tensor, draws: Sequence[random.Random | None], temperature: float, top_p: float
) -> torch.Tensor:
    """The next token of each row: the most probable one, or one drawn from the nucleus (Holtzman et al. 2020).

    Args:
        logits: `[rows, vocabulary]`.
        draws: a row's generator, which gives one number per call; None for the most probable token.
        temperature: what logits are divided by before drawing.
        top_p: the nucleus: the most probable tokens up to and with the one that reaches this probability.

    Returns:
        Token ids `[rows]`.
    """
    tokens = logits.argmax(-1)
    rows = [row for row, draw in enumerate(draws) if draw is not None]
    if not rows:
        return tokens
    uniform = [draw.random() for draw in draws if draw is not None]
    every = (logits[rows].float() / temperature).softmax(-1)
    probabilities, order = every.topk(min(_HEAD, every.shape[-1]))
    if float(probabilities.sum(-1).min()) < top_p:
        probabilities, order = every.sort(dim=-1, descending=True, stable=True)
    before = probabilities.cumsum(-1) - probabilities
    kept = probabilities.masked_fill(before >= top_p, 0).double().cumsum(-1)
    wanted = torch.tensor(uniform, dtype=torch.float64, device=logits.device)[:, None] * kept[:, -1:]
    places = torch.searchsorted(kept, wanted, right=True)
    last = (kept < kept[:, -1:]).sum(-1, keepdim=True)  # the last token of the nucleus, for a draw at its very end
    tokens[rows] = order.gather(-1, torch.minimum(places, last))[:, 0]
    return tokens


def _over(lm: LanguageModel, new: Sequence[int]) -> bool:
    """Whether an answer has come to its end: an end token, or a line break behind its first text."""
    return new[-1] in end_ids(lm) or "\n" in _text(lm, new)


def _text(lm: LanguageModel, new: Sequence[int]) -> str:
    return str(lm.tokenizer.decode(new, skip_special_tokens=True)).lstrip()


def _line(lm: LanguageModel, new: Sequence[int]) -> str:
    """The first line of an answer.

    Raises:
        ModelError: it opens with the model's thinking.
    """
    raw = str(lm.tokenizer.decode(new, skip_special_tokens=False)).lstrip()
    if any(raw.startswith(mark) for mark, _ in THINKING):
        raise _thinks(lm)
    return _text(lm, new).split("\n")[0].strip()


def _thinks(lm: LanguageModel) -> ModelError:
    return ModelError(
        f"{lm.name!r} thinks before it answers, so its first line is no answer; probe a model, or a chat template, "
        "that answers at once."
    )
