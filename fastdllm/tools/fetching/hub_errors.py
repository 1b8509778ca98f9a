"""Errors of the Hugging Face hub, or of the network before it, in one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from fastdllm.common.errors import UserError
from fastdllm.common.files import cannot
from fastdllm.machine.hub_cache import hub_cache

_LONGEST_REASON = 200
# Where the page of each kind is, and which key names its revision.
_PAGES = {"model": "", "data set": "datasets/"}
_KEYS = {"model": "model.revision in workflow_config.yaml", "data set": "metadata.source.revision"}


def refuse_offline() -> None:
    """Raise a UserError where huggingface_hub was told to use no network."""
    from huggingface_hub.constants import HF_HUB_OFFLINE

    if HF_HUB_OFFLINE:
        raise UserError("HF_HUB_OFFLINE is set, so nothing is fetched; unset HF_HUB_OFFLINE")


@contextmanager
def explained(kind: str, name: str, revision: str | None) -> Iterator[None]:
    """Turn errors of the hub or the network into one line.

    kind: "model" or "data set".
    """
    from httpx2 import HTTPError
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    where = f"{kind} {name!r}"
    try:
        yield
    except GatedRepoError:
        raise gated(kind, name) from None
    except RepositoryNotFoundError:
        raise UserError(
            f"{where}: the hub has no such {kind} (a private one needs: hf auth login)"
        ) from None
    except RevisionNotFoundError:
        raise UserError(
            f"{where}: the hub has no revision {revision!r} of it; see {_KEYS[kind]}"
        ) from None
    except HFValidationError as error:
        raise UserError(f"{where}: {short(error)}") from None
    except (HTTPError, LocalEntryNotFoundError, ConnectionError) as error:
        raise UserError(
            f"{where}: the hub cannot be reached or the download broke off ({short(error)}); on "
            "a node with network, the same command resumes there"
        ) from None
    except OSError as error:
        raise cannot("write", error.filename or hub_cache(), error) from None


def gated(kind: str, name: str) -> UserError:
    """Build the error for what is given only to those who have accepted its terms."""
    return UserError(
        f"{kind} {name!r}: is gated; accept its terms on https://huggingface.co/"
        f"{_PAGES[kind]}{name}, then give your token: hf auth login (or export HF_TOKEN=...)"
    )


def short(error: BaseException) -> str:
    """Return the message of an error in one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= _LONGEST_REASON else f"{text[:_LONGEST_REASON]}..."
