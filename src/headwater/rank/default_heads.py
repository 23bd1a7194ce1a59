"""Which heads a ranker uses when the user names none: shipped, cached, published, or found once and cached."""

from __future__ import annotations

import logging
from pathlib import Path

from headwater.cache import cache_folder
from headwater.errors import FormatError, HeadSetError, InputError
from headwater.heads import QueryFocusedHeads
from headwater.heads.detector import Progress
from headwater.heads.mass import MassSettings
from headwater.headset import HeadSet
from headwater.headset.published import published_for_ranking
from headwater.model.lm import TINY, LanguageModel
from headwater.prompt import prompt_template

logger = logging.getLogger("headwater")


def default_heads(
    lm: LanguageModel, template: str = "auto", progress: Progress | None = None, detect: bool = True
) -> HeadSet:
    """The query-focused heads of a model that came without a head set.

    In this order: the set in the folder that the model was loaded from, the set that ships with the embedded model, the
    set cached for these weights and this prompt, the one published for a model of this name and shape, or
    `QueryFocusedHeads().find` on the built-in examples, which is then cached. Which one it was is logged in one line.

    Raises:
        HeadSetError: none is known, and `detect` is off.
    """
    shipped = TINY / "heads.json"
    prompt = prompt_template(lm.tokenizer, template).fingerprint
    cached = cache_folder() / "heads" / f"{lm.fingerprint}-{prompt}.json"
    beside = Path(lm.name) / "heads.json"  # an adapter that was trained for these heads
    for path, what in ((beside, "own"), (shipped, "shipped"), (cached, "cached")):
        heads = _matching(path, lm, None if path is beside else prompt)
        if heads is not None:
            logger.info("Using the %s heads of %s: %s", what, lm.name, heads)
            return heads
    here = lm.anatomy
    known = published_for_ranking(lm.name, (here.num_layers, here.num_heads, here.num_kv_heads))
    if known is not None:
        logger.info("Using the published heads %s: %s", known.provenance["name"], known)
        return known
    if not detect:
        raise HeadSetError(
            f"No heads are known for {lm.name!r}, and finding them was ruled out; give a head set, 'all', or find them "
            "with `headwater heads find`."
        )
    logger.info("No heads are known for %s: finding them once on the built-in examples.", lm.name)
    found = QueryFocusedHeads(settings=MassSettings(template=template)).find(lm, progress=progress)
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        found.save(cached)
        logger.info("Found the heads of %s: %s (kept in %s)", lm.name, found, cached)
    except (InputError, OSError) as error:
        logger.warning("Found the heads of %s: %s (not cached: %s)", lm.name, found, error)
    return found


def _matching(path: Path, lm: LanguageModel, prompt: str | None) -> HeadSet | None:
    """The set in a file, if it was made for these weights and this prompt (None: any); a damaged one is passed over."""
    if not path.is_file():
        return None
    try:
        heads = HeadSet.load(path)
    except (FormatError, HeadSetError) as error:
        logger.warning("Ignoring %s: %s", path, error)
        return None
    same = prompt is None or heads.provenance.get("prompt") == prompt
    return heads if same and heads.provenance.get("fingerprint") == lm.fingerprint else None
