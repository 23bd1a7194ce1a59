"""headwater: better retrieval-augmented generation from inside the model.

The public names are listed in `__all__`; each is imported on first use, so that `import headwater` stays quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_EXPORTS = {
    "Pipeline": "headwater.pipeline",
    "Embedder": "headwater.search.embedder",
    "Index": "headwater.search.index",
    "Document": "headwater.data.documents",
    "RankingExample": "headwater.data.documents",
    "HeadScores": "headwater.headset.headset",
    "HeadSet": "headwater.headset.headset",
    "HeadwaterError": "headwater.errors",
    "QRRetriever": "headwater.rank.qr",
    "ContrastiveHeads": "headwater.heads.contrastive",
    "QueryFocusedHeads": "headwater.heads.query_focused",
    "RandomHeads": "headwater.heads.random_heads",
    "RetrievalHeads": "headwater.heads.retrieval",
    "SuppressionHeads": "headwater.heads.suppression",
    "ContrastiveTuning": "headwater.adapt.contrastive",
    "Llara": "headwater.adapt.llara",
    "Pear": "headwater.adapt.pear",
    "Parenting": "headwater.adapt.parenting.method",
    "RankerTuning": "headwater.adapt.ranker",
    "ablated": "headwater.instrument.outputs",
    "replaced": "headwater.instrument.outputs",
    "scaled": "headwater.instrument.outputs",
    "fold": "headwater.instrument.fold",
    "unfold": "headwater.instrument.fold",
    "capture": "headwater.instrument.rows",
    "load": "headwater.model.lm",
}
_MODULES = {"world": "headwater.data.world"}

__all__ = ["__version__", *sorted(_EXPORTS), *sorted(_MODULES)]


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(import_module(_EXPORTS[name]), name)
    if name in _MODULES:
        return import_module(_MODULES[name])
    raise AttributeError(f"module 'headwater' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS, *_MODULES})
