"""Why a model could not be loaded, as a sentence for the client."""

from __future__ import annotations

import errno

from huggingface_hub.errors import (
    DisabledRepoError,
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from sd_common.model_names import split_revision
from sd_worker.engine.errors import DownloadDamaged, chain_of

_DISK_IS_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_PERMISSION = {errno.EACCES, errno.EPERM, errno.EROFS}


def explain(name: str, error: Exception) -> str:
    """What went wrong with model `name`, and what to do. Holds no path and nothing of `error`'s own text.

    diffusers wraps the hub's errors in `OSError`, often without `from`: the first known one in the chain counts.
    """
    for cause in chain_of(error):
        sentence = _explain_one(name, cause)
        if sentence is not None:
            return sentence
    return f"Model '{name}' cannot be loaded: its files are damaged or not of a kind that diffusers knows"


def lacks_safetensors(name: str) -> str:
    """For a model with weights in other formats only."""
    return (
        f"Model '{name}' has parts without safetensors weights: only those are loaded, because a pickle can "
        "run code; choose another model or have its weights converted"
    )


def lacks_part(name: str, part: str) -> str:
    """For a model whose index names a part that is not there."""
    return f"Model '{name}' lacks its part '{part}': choose another model, or have the missing files added"


def needs_code(name: str) -> str:
    """For a model with classes of its own."""
    return f"Model '{name}' needs code of its own, which is never run: choose another model"


def _explain_one(name: str, error: BaseException) -> str | None:
    repository, revision = split_revision(name)
    match error:
        case GatedRepoError():  # before RepositoryNotFoundError, which it is a kind of
            return (
                f"Model '{name}' is gated: ask for access at https://huggingface.co/{repository}, "
                "and have the operator set HUGGINGFACE_TOKEN to a token of that account"
            )
        case RepositoryNotFoundError() | HFValidationError():
            return (
                f"There is no model '{repository}' on the hub, or it is private: check the name, "
                "or have the operator set HUGGINGFACE_TOKEN to a token that may read it"
            )
        case RevisionNotFoundError():
            return (
                f"Model '{repository}' has no revision '{revision or 'main'}' on the hub: name a branch, a tag or a "
                "commit of it after '@'"
            )
        case DisabledRepoError():
            return f"Model '{name}' was disabled on the hub: choose another model"
        case LocalEntryNotFoundError() if isinstance(error.__cause__, HfHubHTTPError):
            return None  # nothing is at hand, since the hub refused: what it said comes next in the chain
        case LocalEntryNotFoundError() | OfflineModeIsEnabled():
            return _unreachable(name)
        case _ if _is_transport_error(error):
            return _unreachable(name)
        case EntryNotFoundError():
            return f"Model '{name}' lacks a file on the hub: it must be in the layout of diffusers"
        case HfHubHTTPError() if error.response.status_code in (401, 403):
            return f"The hub refused model '{name}': have the operator check HUGGINGFACE_TOKEN"
        case HfHubHTTPError():
            return f"The hub failed to give model '{name}': try again later"
        case DownloadDamaged():
            return f"Model '{name}' was damaged on its way from the hub: try again"
        case OSError() if error.errno in _DISK_IS_FULL:
            return (
                f"The worker's disk is too full for model '{name}': choose another model, or have the operator make "
                "room in the cache of models"
            )
        case OSError() if error.errno in _NO_PERMISSION:
            return (
                f"The worker may not use the files of model '{name}': have the operator let it read MODEL_DIR, and "
                "write to the cache of models (HF_HOME)"
            )
        # diffusers and transformers have no class for this one.
        case OSError() if "safetensors" in str(error) and ("find" in str(error) or "no file named" in str(error)):
            return lacks_safetensors(name)
    return None


def _unreachable(name: str) -> str:
    return (
        f"Model '{name}' has not been downloaded, and the worker cannot reach the hub: try again later, "
        "or have the operator put it below MODEL_DIR"
    )


def _is_transport_error(error: BaseException) -> bool:
    # By its name: huggingface_hub 1 raises httpx's, huggingface_hub 2 httpx2's.
    is_named_so = any(base.__name__ == "TransportError" for base in type(error).__mro__)
    return is_named_so or isinstance(error, ConnectionError | TimeoutError)
