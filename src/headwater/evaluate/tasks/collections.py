"""BEIR collections from a folder, or from a data set of the same layout on the Hub."""

from __future__ import annotations

from pathlib import Path

from headwater.data.formats import BeirData, read_beir
from headwater.errors import InputError

HUB = "hub:"


def collection(folder: str, split: str = "test") -> BeirData:
    """Read a BEIR folder; ``hub:owner/name`` is fetched first (or taken from the Hub's cache).

    A Hub data set needs corpus.jsonl, queries.jsonl and qrels/SPLIT.tsv, as those of the organisation ``mteb`` have.

    Raises:
        InputError: a missing file, or a data set that cannot be fetched.
        FormatError: a file that is not what it should be.
    """
    return read_beir(_fetched(folder.removeprefix(HUB), split) if folder.startswith(HUB) else folder, split)


def _fetched(name: str, split: str) -> Path:
    """The folder of a Hub data set."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    wanted = ["corpus.jsonl", "queries.jsonl", f"qrels/{split}.tsv"]
    try:
        return Path(snapshot_download(name, repo_type="dataset", allow_patterns=wanted))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().split("\n")[0]
        raise InputError(f"Cannot fetch the data set {name!r} from the Hub: {reason}") from error
