"""Groups into train, development and test: a group is never parted (parenting.md 3.1)."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from urllib.parse import unquote

from headwater.data.parenting.questions import SPLITS, QuestionSet, start_of
from headwater.errors import InputError

SHARES = (0.6, 0.1, 0.3)  # parenting.md 8.3: 24, 4 and 12 of 40 families


def deal(
    groups: Iterable[str],
    shares: Sequence[float] = SHARES,
    seed: int = 0,
    placed: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Group -> split, at random by the seed; a split with a share above zero gets a group where there are enough.

    Args:
        groups: names; their order does not matter.
        shares: of train, development and test.
        seed: of the draw.
        placed: groups whose split is fixed; they do not count towards the shares.

    Raises:
        InputError: shares that are no shares, or a group placed in a split that does not exist.
    """
    if len(shares) != len(SPLITS) or min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
        raise InputError(f"The shares of {', '.join(SPLITS)} are three numbers that sum to 1, got {list(shares)}.")
    fixed = dict(placed or {})
    wrong = next((split for split in fixed.values() if split not in SPLITS), None)
    if wrong is not None:
        raise InputError(f"Unknown split {wrong!r}; the splits are {', '.join(SPLITS)}.")
    names = sorted(set(groups))
    free = [name for name in names if name not in fixed]
    random.Random(f"headwater/parenting/splits/{seed}").shuffle(free)
    sizes = portions(len(free), shares)
    drawn = [split for split, size in zip(SPLITS, sizes, strict=True) for _ in range(size)]
    return {name: fixed[name] for name in names if name in fixed} | dict(zip(free, drawn, strict=True))


def deal_sets(
    train: Sequence[QuestionSet], evaluate: Sequence[QuestionSet], shares: Sequence[float] = SHARES, seed: int = 0
) -> tuple[dict[tuple[str, str], str], int]:
    """(Source, group) -> split, for sources that may train and sources that only evaluate.

    Groups of sources that only evaluate are dealt to development and test, in the proportion of their shares. A group
    of a training source is left out altogether where its name is that of a group that only evaluates, or where one of
    its passages begins like a passage there. What is one for that is one split, too: groups of the same name in other
    letters (Super_Bowl_50, Super Bowl 50), and groups that have a passage in common that a question is about.

    Returns:
        The splits, and how many groups were left out.

    Raises:
        InputError: a source that may not train, two sources of one name, or shares that do not fit.
    """
    for source in train:
        if source.reserved is not None:
            raise InputError(
                f"{source.name} is the development set of {source.reserved}, which measures and never trains; give it "
                "with --evaluate (evaluate=), and training questions of your own with --train (train=)."
            )
    names = [source.name for source in (*train, *evaluate)]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"The source {twice!r} is given twice; give every source once, for training or evaluation.")
    out = _together(evaluate, [source.groups for source in evaluate], (0.0, *measured(shares)), seed)
    titles = {_plain(group) for source in evaluate for group in source.groups}
    starts = {passage.start for source in evaluate for passage in source.passages} - {""}
    free: list[list[str]] = []
    left_out = 0
    for source in train:
        shared = {passage.group for passage in source.passages if passage.start in starts}
        free.append([group for group in source.groups if group not in shared and _plain(group) not in titles])
        left_out += len(source.groups) - len(free[-1])
    return out | _together(train, free, shares, seed), left_out


def measured(shares: Sequence[float]) -> tuple[float, float]:
    """Shares of development and test among what only evaluates; a quarter and the rest where they have none."""
    kept = sum(shares[1:])
    return (shares[1] / kept, shares[2] / kept) if kept > 0 else (0.25, 0.75)


def _together(
    sources: Sequence[QuestionSet], groups: Sequence[Sequence[str]], shares: Sequence[float], seed: int
) -> dict[tuple[str, str], str]:
    """Groups of several sources dealt at once."""
    names = _joined(sources, groups)
    placed: dict[str, str] = {}
    for source in sources:
        for group, split in source.placed.items():
            name = names.get((source.name, group))
            if name is not None and (shares[0] or split != "train") and placed.get(name, "train") == "train":
                placed[name] = split
    dealt = deal(names.values(), shares, seed, placed)
    return {group: dealt[name] for group, name in names.items()}


def _joined(sources: Sequence[QuestionSet], groups: Sequence[Sequence[str]]) -> dict[tuple[str, str], str]:
    """(Source, group) -> the first name among the groups that it must not be parted from."""
    above: dict[tuple[str, str], tuple[str, str]] = {}  # names and passages, each below one that it belongs with

    def top(sign: tuple[str, str]) -> tuple[str, str]:
        while above.setdefault(sign, sign) != sign:
            above[sign] = sign = above[above[sign]]
        return sign

    pairs = [(source, group) for source, own in zip(sources, groups, strict=True) for group in own]
    dealt = {(source.name, group) for source, group in pairs}
    asked = {(source.name, question.paragraph) for source in sources for question in source.questions}
    about = {p.start for source in sources for p in source.passages if (source.name, p.document.id) in asked} - {""}
    for source in sources:
        for passage in source.passages:
            if (source.name, passage.group) in dealt and passage.start in about:
                above[top(("passage", passage.start))] = top(("group", _plain(passage.group)))
    first: dict[tuple[str, str], str] = {}
    for _, group in pairs:
        place = top(("group", _plain(group)))
        first[place] = min(group, first.get(place, group))
    return {(source.name, group): first[top(("group", _plain(group)))] for source, group in pairs}


def _plain(group: str) -> str:
    return start_of(unquote(group)) or group


def portions(count: int, shares: Sequence[float]) -> list[int]:
    """How many of `count` each share is, by largest remainders; each share above zero gets one where there are enough.

    Args:
        count: what is parted.
        shares: that sum to 1.
    """
    sizes = [int(count * share) for share in shares]
    by_need = sorted(range(len(shares)), key=lambda i: sizes[i] - count * shares[i])
    for place in range(count - sum(sizes)):
        sizes[by_need[place % len(shares)]] += 1
    for place, share in enumerate(shares):
        if share > 0 and not sizes[place] and count >= sum(share > 0 for share in shares):
            sizes[max(range(len(sizes)), key=lambda i: sizes[i])] -= 1
            sizes[place] += 1
    return sizes
