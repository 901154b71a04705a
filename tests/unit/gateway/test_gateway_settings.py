"""Settings of the gateway that take more than a value."""

from __future__ import annotations

import pytest

from sd_common.settings import load_settings
from sd_gateway.remote_urls import RemoteImages
from sd_gateway.settings import GatewaySettings


def _loaded(monkeypatch: pytest.MonkeyPatch, **variables: str) -> GatewaySettings:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return load_settings(GatewaySettings, _env_file=None)


@pytest.mark.parametrize(
    ("value", "hosts"),
    [
        ("", "off"),
        ("off", "off"),
        ("Public", "public"),
        ("images.example.org", ("images.example.org",)),
        (" Images.example.org, *.example.com ,", ("images.example.org", "*.example.com")),
    ],
)
def test_hosts_of_remote_images_are_read(monkeypatch: pytest.MonkeyPatch, value: str, hosts: RemoteImages) -> None:
    assert _loaded(monkeypatch, REMOTE_IMAGES=value).remote_images == hosts


@pytest.mark.parametrize("value", ["https://example.org", "example.org/path", "a b", ",", "user@example.org"])
def test_what_is_no_host_is_an_error_at_start(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], value: str
) -> None:
    with pytest.raises(SystemExit):
        _loaded(monkeypatch, REMOTE_IMAGES=value)
    assert "must be off, public, or hosts such as images.example.org" in capsys.readouterr().err


def test_a_default_model_that_is_not_allowed_is_an_error_at_start(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _loaded(monkeypatch, DEFAULT_MODEL="shapes", ALLOWED_MODELS="other, sha*").allowed_models == (
        "other",
        "sha*",
    )
    with pytest.raises(SystemExit):
        _loaded(monkeypatch, DEFAULT_MODEL="shapes", ALLOWED_MODELS="other")
    assert "DEFAULT_MODEL is 'shapes', which ALLOWED_MODELS does not allow" in capsys.readouterr().err
