"""CoRe: the heads that tell a document that answers from hard negatives."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch

from headwater.errors import InputError
from headwater.heads.mass_detector import MassDetector
from headwater.heads.switches import MassSettings


def core_settings() -> MassSettings:
    """The document score of CoRe's released code: no calibration, no filter, labels and most of the suffix left out."""
    return MassSettings(calibrate=False, outlier_filter=False, tail="core", doc_span="unlabelled")


@dataclass
class ContrastiveHeads(MassDetector):
    """Contrastive retrieval heads, "CoRe" (arXiv 2510.02219; qrhead.md 3.6).

    For each head, `s_h(d)` is the sum over the document's tokens of its mean attention from the tail, not calibrated.
    An example's score is the share of the positive document d+ in a softmax among it and the negatives,

        exp(s_h(d+) / tau) / (exp(s_h(d+) / tau) + sum over d- of exp(s_h(d-) / tau)),

    with several positives the mean of their shares, each beside the negatives only; the head's score is the mean over
    examples. It lies between 0 and 1: `1 / (1 + negatives)` for a head that treats all documents alike, 1 without
    negatives. So examples want hard negatives; the paper has 49. A QRRetriever ranks with these heads calibrated, but
    takes tail and spans from here (see there). Heads are (layer, head), 0-based; scores are `[layer, head]`.

    Attributes:
        temperature: tau; the released code has 0.001 (Mistral, Granite) or 0.1 (Llama, Phi), picked on results.
        settings: switches of the document score, by default those of the released code.
    """

    temperature: float = 0.1
    settings: MassSettings = field(default_factory=core_settings, kw_only=True)

    def __post_init__(self, *switches: Any) -> None:
        """Refuse a temperature that is not positive before any forward runs."""
        super().__post_init__(*switches)
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise InputError(f"The temperature must be positive, got {self.temperature}.")

    def _measure(self, scores: torch.Tensor, grades: torch.Tensor) -> torch.Tensor:
        logits = scores / self.temperature
        positive, negative = logits[:, grades > 0], logits[:, grades <= 0]
        share = torch.sigmoid(positive - negative.logsumexp(-1, keepdim=True))
        return torch.where(positive.isfinite(), share, 0.0).mean(-1)  # a blank positive was not in the prompt
