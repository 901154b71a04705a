"""Models come from the hub: what is needed of them, at the revision asked for, in as many attempts as it takes."""

from __future__ import annotations

import json
import logging
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined] # exported at run time
from integration.worker.hub_sources import NAME, reason_of, source
from safetensors.torch import load_file, save_file

from sd_common.parameters import DefaultParameters
from sd_worker.engine.errors import ModelUnavailable
from sd_worker.engine.models import hub_download
from sd_worker.engine.models.model_loading import ModelSource
from sd_worker.engine.reports import LoadProgress
from support.hub import TOKEN, Hub
from support.read_model import read_model
from support.waiting import PATIENCE_S

#: The first that is downloaded, and the largest.
CHECKER = "safety_checker/model.safetensors"
UNET = "unet/diffusion_pytorch_model.safetensors"


def downloaded(cache: Path) -> set[str]:
    """Names of the files in the cache's only snapshot."""
    [snapshot] = cache.glob("models--owner--tiny/snapshots/*")
    return {path.relative_to(snapshot).as_posix() for path in snapshot.rglob("*") if path.is_file()}


def add_fp16(directory: Path) -> None:
    """Beside each file of weights, one in float16."""
    for weights in list(directory.rglob("*.safetensors")):
        tensors = {name: tensor.half() for name, tensor in load_file(weights).items()}
        save_file(tensors, weights.with_suffix(".fp16.safetensors"), metadata={"format": "pt"})


def test_what_a_pipeline_needs_is_downloaded_and_nothing_else(
    hub: Hub, tmp_path: Path, own_tiny: Path, tiny: Path
) -> None:
    for unneeded in (
        "v1-4.ckpt",
        "v1-4.safetensors",
        "README.md",
        "unet/diffusion_pytorch_model.bin",
        "unet/diffusion_pytorch_model.non_ema.safetensors",
        "unet/diffusion_pytorch_model.bin.index.json",
        "text_encoder/pytorch_model.bin",
        "text_encoder/model.onnx",
        "text_encoder/flax_model.msgpack",
        "tokenizer/convert.py",
        "vae_1_0/diffusion_pytorch_model.safetensors",
        "vae_1_0/config.json",
    ):
        (own_tiny / unneeded).parent.mkdir(exist_ok=True)
        (own_tiny / unneeded).write_bytes(b"unneeded")
    hub.add(NAME, own_tiny)

    model = read_model(source(), NAME)

    needed = {path.relative_to(tiny).as_posix() for path in tiny.rglob("*") if path.is_file()}
    assert downloaded(tmp_path / "cache") == needed
    assert model.name == NAME
    assert model.default_parameters == DefaultParameters(steps=7, width=64, height=64)
    assert model.num_bytes == read_model(ModelSource(tiny.parent, dtype=torch.float32), tiny.name).num_bytes


def test_progress_tells_the_download_and_the_load(hub: Hub, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_download, "TOLD_EVERY_S", 0.0)
    hub.add(NAME, tiny)
    total = sum(path.stat().st_size for path in tiny.rglob("*") if path.is_file())
    small = sum((tiny / name).stat().st_size for name in ("model_index.json", "default_parameters.json"))
    told: list[LoadProgress] = []

    read_model(source(), NAME, told.append)

    downloads = [progress for progress in told if progress.stage == "downloading"]
    assert downloads[0] == LoadProgress("downloading", small, total)
    assert downloads[-1] == LoadProgress("downloading", total, total)
    assert len({progress.bytes_done for progress in downloads}) > 10
    assert [progress.bytes_done for progress in downloads] == sorted(progress.bytes_done for progress in downloads)
    assert {progress.bytes_total for progress in downloads} == {total}
    assert told[len(downloads) :] == [LoadProgress("loading", 0, total), LoadProgress("loading", total, total)]


def test_progress_is_not_told_at_every_chunk(hub: Hub, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_download, "TOLD_EVERY_S", 1000.0)
    hub.add(NAME, tiny)
    told: list[LoadProgress] = []

    read_model(source(), NAME, told.append)

    assert [progress.stage for progress in told] == ["downloading", "downloading", "loading", "loading"]


def test_a_model_in_the_cache_is_not_downloaded_again(hub: Hub, tiny: Path) -> None:
    hub.add(NAME, tiny)
    read_model(source(), NAME)
    hub.requests.clear()
    told: list[LoadProgress] = []

    read_model(source(), NAME, told.append)

    assert [progress.stage for progress in told] == ["loading", "loading"]
    assert not any(request.path.startswith(("/large/", f"/{NAME}/resolve")) for request in hub.requests)


@pytest.mark.parametrize(
    ("dtype", "lacking", "suffix"),
    [
        (torch.float16, None, ".fp16.safetensors"),
        (torch.float16, "vae", "l.safetensors"),
        (torch.float32, None, "l.safetensors"),
        (torch.bfloat16, None, "l.safetensors"),
    ],
)
def test_weights_come_in_one_format(
    hub: Hub, tmp_path: Path, own_tiny: Path, dtype: torch.dtype, lacking: str | None, suffix: str
) -> None:
    add_fp16(own_tiny)
    if lacking is not None:
        (own_tiny / lacking / "diffusion_pytorch_model.fp16.safetensors").unlink()
    hub.add(NAME, own_tiny)

    model = read_model(source(dtype), NAME)

    weights = [name for name in downloaded(tmp_path / "cache") if name.endswith(".safetensors")]
    assert len(weights) == 4
    assert all(name.endswith(suffix) for name in weights)
    unet = model.pipeline.components["unet"]
    assert isinstance(unet, torch.nn.Module)
    assert next(unet.parameters()).dtype == dtype


def test_weights_that_are_there_in_float16_alone_are_taken_for_any_format(hub: Hub, own_tiny: Path) -> None:
    add_fp16(own_tiny)
    for weights in own_tiny.rglob("*l.safetensors"):
        weights.unlink()
    hub.add(NAME, own_tiny)

    unet = read_model(source(torch.float32), NAME).pipeline.components["unet"]

    assert isinstance(unet, torch.nn.Module)
    assert next(unet.parameters()).dtype == torch.float32


@pytest.mark.parametrize("revision", ["v1", "feature/x", "commit"])
def test_a_revision_is_loaded_and_its_commit_told(
    hub: Hub, own_tiny: Path, revision: str, caplog: pytest.LogCaptureFixture
) -> None:
    old = hub.add(NAME, own_tiny, "v1", "feature/x")
    (own_tiny / "default_parameters.json").write_text('{"steps": 9}')
    new = hub.add(NAME, own_tiny, "main")
    caplog.set_level(logging.INFO)

    at_revision = read_model(source(), f"{NAME}@{old if revision == 'commit' else revision}")
    newest = read_model(source(), NAME)

    assert (at_revision.default_parameters.steps, newest.default_parameters.steps) == (7, 9)
    commits = [vars(record)["commit"] for record in caplog.records if record.message == "model loaded"]
    assert commits == [old, new]


def test_a_newer_commit_costs_what_has_changed(hub: Hub, own_tiny: Path) -> None:
    hub.add(NAME, own_tiny)
    read_model(source(), NAME)
    hub.requests.clear()
    shutil.copy(own_tiny / "default_parameters.json", own_tiny / "tokenizer" / "added.json")
    hub.add(NAME, own_tiny)

    read_model(source(), NAME)

    assert hub.contents_asked_for() == []


@pytest.mark.parametrize("kind", ["gated", "private"])
def test_the_token_opens_what_is_gated_or_private(hub: Hub, tiny: Path, kind: str) -> None:
    hub.add(NAME, tiny, gated=kind == "gated", private=kind == "private")

    read_model(source(token=TOKEN), NAME)

    assert {request.token for request in hub.requests if request.path.startswith(f"/{NAME}/resolve")} == {TOKEN}
    assert {request.token for request in hub.contents_asked_for()} == {None}


def test_a_download_that_was_cut_goes_on_where_it_ended(hub: Hub, tmp_path: Path, tiny: Path) -> None:
    hub.add(NAME, tiny)
    size = (tiny / UNET).stat().st_size
    hub.cut_after[UNET] = size // 2
    with pytest.raises(ModelUnavailable, match="The hub failed to give model 'owner/tiny': try again later"):
        read_model(source(), NAME)
    [partial] = tmp_path.glob("cache/**/*.incomplete")
    present = partial.stat().st_size
    assert size // 2 - 1000 < present <= size // 2
    hub.cut_after.clear()
    hub.requests.clear()

    read_model(source(), NAME)

    sha256 = partial.name.removesuffix(".incomplete")
    [request] = [request for request in hub.contents_asked_for() if sha256 in request.path]
    assert request.byte_range == f"bytes={present}-"
    assert (partial.parent / sha256).read_bytes() == (tiny / UNET).read_bytes()
    assert not list(tmp_path.glob("cache/**/*.incomplete"))


class Stop(Exception):
    """What a caller raises to stop a download."""


def test_who_is_told_of_the_progress_may_stop_the_download(
    hub: Hub, tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_download, "TOLD_EVERY_S", 0.0)
    hub.add(NAME, tiny)
    total = sum(path.stat().st_size for path in tiny.rglob("*") if path.is_file())

    def stop_half_way(progress: LoadProgress) -> None:
        if progress.bytes_done > total // 2:
            raise Stop

    with pytest.raises(Stop):
        read_model(source(), NAME, stop_half_way)
    [partial] = tmp_path.glob("cache/**/*.incomplete")
    present = partial.stat().st_size
    hub.requests.clear()
    told: list[LoadProgress] = []

    read_model(source(), NAME, told.append)

    assert f"bytes={present}-" in {request.byte_range for request in hub.contents_asked_for()}
    assert told[0].bytes_done > 0


def test_what_is_not_what_the_hub_has_is_thrown_away(hub: Hub, tmp_path: Path, tiny: Path) -> None:
    """As where two workers write one file, on a disk whose locks do not hold."""
    hub.add(NAME, tiny)
    hub.cut_after[UNET] = 5000
    reason_of(NAME)
    hub.cut_after.clear()
    [partial] = tmp_path.glob("cache/**/*.incomplete")
    partial.write_bytes(b"x" * partial.stat().st_size)

    assert reason_of(NAME) == "Model 'owner/tiny' was damaged on its way from the hub: try again"
    read_model(source(), NAME)


def test_one_worker_tells_of_the_download_of_another(
    hub: Hub, tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_download, "TOLD_EVERY_S", 0.0)
    hub.add(NAME, tiny)
    hub.cut_after[CHECKER] = 5000
    reason_of(NAME)
    hub.cut_after.clear()
    [partial] = tmp_path.glob("cache/**/*.incomplete")
    lock = f"{partial.name.removesuffix('.incomplete')}.lock"
    told: list[LoadProgress] = []
    is_waiting = threading.Event()

    def on_progress(progress: LoadProgress) -> None:
        told.append(progress)
        if len(told) == 2:
            is_waiting.set()

    with ThreadPoolExecutor(1) as threads:
        with WeakFileLock(tmp_path / "cache" / ".locks" / "models--owner--tiny" / lock):
            loading = threads.submit(read_model, source(), NAME, on_progress)
            assert is_waiting.wait(PATIENCE_S)
            assert told[1].bytes_done == told[0].bytes_done + partial.stat().st_size
        loading.result(PATIENCE_S)

    assert told[-1].stage == "loading"


def test_a_downloaded_model_outlives_the_hub(hub: Hub, tiny: Path) -> None:
    commit = hub.add(NAME, tiny, "main", "v1")
    read_model(source(), NAME)
    read_model(source(), f"{NAME}@v1")
    hub.status = 503

    read_model(source(), NAME)
    read_model(source(), f"{NAME}@v1")
    read_model(source(), f"{NAME}@{commit}")


def test_a_model_with_code_of_its_own_is_refused_before_its_weights_come(hub: Hub, own_tiny: Path) -> None:
    (own_tiny / "unet" / "my_unet.py").write_text("raise SystemExit('the code was run')")
    index_file = own_tiny / "model_index.json"
    index_file.write_text(json.dumps({**json.loads(index_file.read_text()), "unet": ["my_unet", "MyUNet"]}))
    hub.add(NAME, own_tiny)

    assert reason_of(NAME) == "Model 'owner/tiny' needs code of its own, which is never run: choose another model"
    assert hub.contents_asked_for() == []
