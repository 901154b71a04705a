"""A model that the hub does not give ends its tasks with a sentence that says what to do, and holds no secret."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants
from integration.worker.conftest import StartWorker, Tasks
from integration.worker.hub_sources import NAME, reason_of

from sd_common.events import AbortedEvent
from sd_worker.engine.models import hub_blobs
from support.hub import TOKEN, TOKEN_OF_A_STRANGER, Hub

WRONG_TOKEN = "hf_wrong"


def add_gated(hub: Hub, directory: Path) -> None:
    hub.add(NAME, directory, gated=True)


def add_private(hub: Hub, directory: Path) -> None:
    hub.add(NAME, directory, private=True)


def add_without_index(hub: Hub, directory: Path) -> None:
    (directory / "model_index.json").unlink()
    hub.add(NAME, directory)


def add_without_unet(hub: Hub, directory: Path) -> None:
    shutil.rmtree(directory / "unet")
    hub.add(NAME, directory)


def add_pickled(hub: Hub, directory: Path) -> None:
    (directory / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    (directory / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"a pickle")
    hub.add(NAME, directory)


def add_and_fail(hub: Hub, directory: Path) -> None:
    hub.add(NAME, directory)
    hub.status = 503


def add_nothing(hub: Hub, directory: Path) -> None:
    pass


def add_plain(hub: Hub, directory: Path) -> None:
    hub.add(NAME, directory)


GATED = (
    "Model 'owner/tiny' is gated: ask for access at https://huggingface.co/owner/tiny, and have the operator set "
    "HUGGINGFACE_TOKEN to a token of that account"
)
MISSING = (
    "There is no model 'owner/tiny' on the hub, or it is private: check the name, or have the operator set "
    "HUGGINGFACE_TOKEN to a token that may read it"
)


@pytest.mark.parametrize(
    ("add", "token", "name", "sentence"),
    [
        (add_gated, None, NAME, GATED),
        (add_gated, TOKEN_OF_A_STRANGER, NAME, GATED),
        (add_gated, None, f"{NAME}@main", GATED.replace("Model 'owner/tiny'", "Model 'owner/tiny@main'")),
        (add_private, None, NAME, MISSING),
        (add_private, TOKEN_OF_A_STRANGER, NAME, MISSING),
        (add_nothing, None, NAME, MISSING),
        (add_nothing, TOKEN, f"{NAME}@v1", MISSING),
        (
            add_plain,
            WRONG_TOKEN,
            NAME,
            "The hub refused model 'owner/tiny': have the operator check HUGGINGFACE_TOKEN",
        ),
        (
            add_plain,
            None,
            f"{NAME}@v2",
            "Model 'owner/tiny' has no revision 'v2' on the hub: name a branch, a tag or a commit of it after '@'",
        ),
        (
            add_plain,
            None,
            f"{NAME}@{'0' * 40}",
            f"Model 'owner/tiny' has no revision '{'0' * 40}' on the hub: name a branch, a tag or a commit of it after "
            "'@'",
        ),
        (
            add_without_index,
            None,
            NAME,
            "Model 'owner/tiny' lacks a file on the hub: it must be in the layout of diffusers",
        ),
        (
            add_without_unet,
            None,
            NAME,
            "Model 'owner/tiny' lacks its part 'unet': choose another model, or have the missing files added",
        ),
        (
            add_pickled,
            None,
            NAME,
            "Model 'owner/tiny' has parts without safetensors weights: only those are loaded, because a pickle can run "
            "code; choose another model or have its weights converted",
        ),
        (add_and_fail, None, NAME, "The hub failed to give model 'owner/tiny': try again later"),
    ],
)
def test_the_hubs_refusals_become_sentences(
    hub: Hub,
    own_tiny: Path,
    add: Callable[[Hub, Path], None],
    token: str | None,
    name: str,
    sentence: str,
) -> None:
    add(hub, own_tiny)

    assert reason_of(name, token) == sentence
    assert hub.contents_asked_for() == []


def test_a_hub_that_is_away_is_told(hub: Hub, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add(NAME, tiny)
    # Port 9 of the loopback takes no connections.
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")

    assert reason_of(NAME) == (
        "Model 'owner/tiny' has not been downloaded, and the worker cannot reach the hub: try again later, "
        "or have the operator put it below MODEL_DIR"
    )


def test_a_hub_that_goes_away_in_the_middle_is_told(hub: Hub, tiny: Path) -> None:
    hub.add(NAME, tiny)
    hub.cut_after["unet/diffusion_pytorch_model.safetensors"] = 5000
    reason_of(NAME)
    hub.status = 503

    assert reason_of(NAME) == "The hub failed to give model 'owner/tiny': try again later"


def full_from_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(".")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage._replace(free=1000))


def full_in_the_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    def write(*args: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(hub_blobs._PartialFile, "write", write)


@pytest.mark.parametrize("fill", [full_from_the_start, full_in_the_middle])
def test_a_full_disk_is_told(
    hub: Hub, tiny: Path, monkeypatch: pytest.MonkeyPatch, fill: Callable[[pytest.MonkeyPatch], None]
) -> None:
    hub.add(NAME, tiny)
    fill(monkeypatch)

    assert reason_of(NAME) == (
        "The worker's disk is too full for model 'owner/tiny': choose another model, or have the operator make room in "
        "the cache of models"
    )


def test_a_cache_that_cannot_be_written_is_told(hub: Hub, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add(NAME, tiny)

    def make(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "mkdir", make)
    monkeypatch.setattr(os, "makedirs", make)

    assert reason_of(NAME) == (
        "The worker may not use the files of model 'owner/tiny': have the operator let it read MODEL_DIR, and write to "
        "the cache of models (HF_HOME)"
    )


async def test_a_gated_model_aborts_its_tasks_and_others_run(
    hub: Hub, tiny: Path, start_worker: StartWorker, tasks: Tasks
) -> None:
    hub.add(NAME, tiny, gated=True)
    hub.add("owner/open", tiny, "v1")
    await start_worker()
    await tasks.publish("gated", model=NAME)
    await tasks.publish("open", model="owner/open@v1")

    aborted = (await tasks.wait_for("gated", "aborted")).event
    await tasks.wait_for("open", "finished")

    assert isinstance(aborted, AbortedEvent)
    assert (aborted.code, aborted.reason) == ("model_unavailable", GATED)
