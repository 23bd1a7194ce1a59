"""A shared prefix whose attention can be trained: the same numbers, with gradients."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from headwater.errors import ModelError
from headwater.headset import HeadSet, HeadsLike
from headwater.instrument.prefix import SharedPrefix, Span
from headwater.instrument.softmax import mean_rows_with_graph
from headwater.model.anatomy import FAMILIES
from headwater.model.lm import LanguageModel


class TrainablePrefix(SharedPrefix):
    """`SharedPrefix` that keeps what the backward pass needs: `attention` gives tensors with gradients.

    One prefix serves one backward pass. Tails that are read together (`attentions`) share the prefill of the prefix, so
    a query and the null query cost one backward pass through the documents. Layers above the deepest head do not run;
    of the layers below, the activations are held.

    Args:
        lm: a loaded model; nothing is trained here, so its parameters say what gets a gradient.
        ids: token ids of the prefix.
        heads: (layer, head) pairs that will be read.

    Raises:
        ModelError: a model whose prefix cannot be shared (attention outside transformers' interface, hybrid layers).
    """

    _gradients = torch.enable_grad
    _means = staticmethod(mean_rows_with_graph)  # type: ignore[assignment]

    def __init__(self, lm: LanguageModel, ids: Sequence[int], heads: HeadSet | HeadsLike) -> None:
        """Prefill the prefix."""
        require_trainable(lm)
        super().__init__(lm, ids, heads)

    def _whole(self, tail: Sequence[int], counted: Span) -> torch.Tensor:
        raise ModelError(
            f"Lists of {self.length + len(tail)} tokens cannot be trained on with {self._lm.name!r}: its rotary "
            "embedding changes with the length there; give fewer or shorter documents."
        )


def require_trainable(lm: LanguageModel) -> None:
    """Refuse a model whose attention gradients cannot reach.

    Raises:
        ModelError: names the family.
    """
    if not FAMILIES[lm.anatomy.family].interface or lm.anatomy.headless:
        raise ModelError(
            f"The heads of {lm.name!r} cannot be trained: {lm.anatomy.family} models compute attention outside "
            "transformers' attention interface or have layers without heads (`headwater models`)."
        )
