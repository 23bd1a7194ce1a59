"""The contrastive loss (InfoNCE) over several processes, distillation, nested dimensions (llara.md 3.6, 3.7)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist

from headwater.errors import InputError


@dataclass(frozen=True)
class Lists:
    """What a batch of queries with their passages knows beside the vectors; query-major, the positive first.

    Attributes:
        keys: of each passage, what it may be known by (its id, the hash of its text), `[queries * group]`.
        known: of each query, the keys of all of its known positives, `[queries]`.
        teacher: scores of a teacher, fp32 `[queries, group]`, or None.
    """

    keys: Sequence[frozenset[str]]
    known: Sequence[frozenset[str]]
    teacher: torch.Tensor | None = None

    @property
    def group(self) -> int:
        """Passages of each query."""
        return len(self.keys) // len(self.known)

    def hidden(self) -> torch.Tensor:
        """Passages that are known positives of a query and not its target: bool `[queries, queries * group]`."""
        places: dict[str, list[int]] = {}
        for column, keys in enumerate(self.keys):
            for key in keys:
                places.setdefault(key, []).append(column)
        out = torch.zeros(len(self.known), len(self.keys), dtype=torch.bool)
        for row, known in enumerate(self.known):
            out[row, [column for key in known for column in places.get(key, ())]] = True
            out[row, row * self.group] = False
        return out


def info_nce(
    queries: torch.Tensor,
    passages: torch.Tensor,
    temperature: float,
    hidden: torch.Tensor | None = None,
    margin: float | None = None,
) -> torch.Tensor:
    """Mean cross-entropy of each query's own positive against all passages.

    Args:
        queries: unit vectors `[queries, dimension]`.
        passages: unit vectors `[queries * group, dimension]`, query-major, the positive first.
        temperature: of the softmax; scores are cosines divided by it, in fp32 at least.
        hidden: bool `[queries, passages]`, passages that take no part for a query; never its positive.
        margin: hide passages whose cosine is above the positive's by more than this, too.
    """
    wide = torch.float64 if queries.dtype == torch.float64 else torch.float32
    cosines = queries.to(wide) @ passages.to(wide).T
    targets = torch.arange(len(queries), device=cosines.device) * (len(passages) // len(queries))
    out = torch.zeros_like(cosines, dtype=torch.bool) if hidden is None else hidden.to(cosines.device).clone()
    if margin is not None:
        own = cosines.detach().gather(1, targets[:, None])
        out |= cosines.detach() > own + margin
        out.scatter_(1, targets[:, None], False)
    scores = (cosines / temperature).masked_fill(out, -torch.inf)
    return torch.nn.functional.cross_entropy(scores, targets)


def list_kl(
    queries: torch.Tensor,
    passages: torch.Tensor,
    teacher: torch.Tensor,
    temperature: float,
    teacher_temperature: float,
) -> torch.Tensor:
    """Mean KL(teacher || student) over the softmax of each query's own passages.

    Args:
        queries: unit vectors `[queries, dimension]`.
        passages: unit vectors `[queries * group, dimension]`, query-major.
        teacher: scores `[queries, group]`; passages at -inf get no probability.
        temperature: of the student's cosines.
        teacher_temperature: of the teacher's scores.
    """
    wide = torch.float64 if queries.dtype == torch.float64 else torch.float32
    lists = passages.to(wide).view(len(queries), -1, passages.shape[-1])
    student = (torch.einsum("nd,ngd->ng", queries.to(wide), lists) / temperature).log_softmax(-1)
    target = (teacher.to(student) / teacher_temperature).log_softmax(-1)
    return torch.nn.functional.kl_div(student, target.clamp_min(-1e4), log_target=True, reduction="none").sum(-1).mean()


@dataclass(frozen=True)
class ContrastiveLoss:
    """InfoNCE over the passages of all processes, mixed with the distillation of a teacher's lists.

    Every process computes the loss of all queries, and only its own vectors carry gradients; the gradient (not the
    value) is multiplied by the number of processes, so that the mean that distributed training takes over them is the
    gradient of one big batch.

    Attributes:
        temperature: of the softmax over cosines.
        dimensions: also train the first so many dimensions, re-normalised: the loss is the mean over these sizes
            (Matryoshka). Empty: the whole vector alone.
        mask_known: hide other queries' passages that are known positives of a query.
        mask_margin: hide passages whose cosine is above the positive's by more than this (None: none).
        distill: share of the distillation in the loss, 0 to 1.
        teacher_temperature: of the teacher's scores.
    """

    temperature: float
    dimensions: tuple[int, ...] = ()
    mask_known: bool = True
    mask_margin: float | None = None
    distill: float = 0.0
    teacher_temperature: float = 1.0

    def __call__(self, queries: torch.Tensor, passages: torch.Tensor, lists: Lists) -> torch.Tensor:
        """The loss, a scalar.

        Args:
            queries: this process's unit vectors `[queries, dimension]`.
            passages: its unit vectors `[queries * group, dimension]`, query-major, the positive first.
            lists: what is known about them.

        Raises:
            InputError: a size above the dimension of the vectors, or processes with unequal shares.
        """
        too_wide = [size for size in self.dimensions if not 1 <= size <= queries.shape[-1]]
        if too_wide:
            raise InputError(f"dimensions must lie between 1 and {queries.shape[-1]}, got {too_wide[0]}.")
        processes = dist.get_world_size() if dist.is_initialized() else 1
        if processes > 1:
            lists = _gathered_lists(lists)  # first: it refuses unequal shares, with which gathering rows would hang
            queries, passages = gathered(queries), gathered(passages)
        hidden = lists.hidden() if self.mask_known else None
        losses = []
        for size in self.dimensions or (queries.shape[-1],):
            q = torch.nn.functional.normalize(queries[:, :size], dim=-1)
            p = torch.nn.functional.normalize(passages[:, :size], dim=-1)
            loss = (1 - self.distill) * info_nce(q, p, self.temperature, hidden, self.mask_margin)
            if self.distill and lists.teacher is not None:
                kl = list_kl(q, p, lists.teacher, self.temperature, self.teacher_temperature)
                loss = loss + self.distill * kl
            losses.append(loss)
        whole = torch.stack(losses).mean()
        return whole + (processes - 1) * (whole - whole.detach())


def gathered(own: torch.Tensor) -> torch.Tensor:
    """The rows of all processes in order of their rank; only this one's carry gradients."""
    parts = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, own.detach().contiguous())
    parts[dist.get_rank()] = own
    return torch.cat(parts)


def _gathered_lists(own: Lists) -> Lists:
    parts: list[Lists] = [own] * dist.get_world_size()
    dist.all_gather_object(parts, own)
    if len({(len(part.keys), len(part.known)) for part in parts}) > 1:
        raise InputError("The processes of this training hold unequal shares of a batch; start all with one call.")
    teachers = [part.teacher for part in parts if part.teacher is not None]
    return Lists(
        [keys for part in parts for keys in part.keys],
        [known for part in parts for known in part.known],
        torch.cat(teachers) if len(teachers) == len(parts) else None,
    )
