"""Head sets: the readable, shareable artefact that detectors make and everything else uses."""

from headwater.headset.headset import Head, HeadScores, HeadSet, HeadsLike, as_heads, parse_heads

__all__ = ["Head", "HeadScores", "HeadSet", "HeadsLike", "as_heads", "parse_heads"]
