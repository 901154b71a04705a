"""Models that a worker is dedicated to, from the environment and the command line."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from sd_common.settings import load_settings
from sd_worker.__main__ import main
from sd_worker.settings import WorkerSettings


@pytest.fixture(autouse=True)
def only_own_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in WorkerSettings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.chdir(tmp_path)  # no .env


def _refusal(capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        load_settings(WorkerSettings)
    assert ended.value.code == 2
    return capsys.readouterr().err


def test_models_are_names_separated_by_commas_in_the_form_that_tasks_name_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELS", "shapes, runwayml/stable-diffusion-v1-5")
    monkeypatch.setenv("PRELOAD_MODELS", "runwayml/stable-diffusion-v1-5")
    assert load_settings(WorkerSettings).models == ("shapes", "stable-diffusion-v1-5/stable-diffusion-v1-5")


def test_without_models_a_worker_serves_all() -> None:
    assert load_settings(WorkerSettings).models == ()


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"MODELS": "../etc"}, "must be a repository id on the hub"),
        (
            {"MODELS": "shapes", "ALLOWED_MODELS": "owner/*"},
            "MODELS names 'shapes', which ALLOWED_MODELS does not allow",
        ),
        ({"MODELS": "shapes", "PRELOAD_MODELS": "tiny"}, "PRELOAD_MODELS names 'tiny', which is not among MODELS"),
    ],
)
def test_models_that_make_no_sense_are_refused(
    variables: dict[str, str], told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert told in _refusal(capsys)


def test_models_of_the_command_line_come_before_those_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MODELS", "shapes")
    monkeypatch.setenv("ALLOWED_MODELS", "shapes")
    monkeypatch.setattr(sys, "argv", ["sd_worker", "--models", "shapes,tiny"])
    with pytest.raises(SystemExit):
        main()
    assert "MODELS names 'tiny', which ALLOWED_MODELS does not allow" in capsys.readouterr().err


def test_a_directory_of_models_that_is_given_must_be_there(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A worker without any serves models of the hub."""
    assert load_settings(WorkerSettings).model_dir == Path("models")
    monkeypatch.setenv("MODEL_DIR", str(tmp_path))
    assert load_settings(WorkerSettings).model_dir == tmp_path
    monkeypatch.setenv("MODEL_DIR", str(tmp_path / "nowhere"))
    assert "  MODEL_DIR: Path does not point to a directory" in _refusal(capsys)
