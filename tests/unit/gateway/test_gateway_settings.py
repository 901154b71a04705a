"""Settings of the gateway that take more than a value."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from sd_common.settings import load_settings
from sd_gateway.rate_limits import Rate
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


@pytest.mark.parametrize(
    "value",
    ["https://example.org", "example.org/path", "a b", ",", "user@example.org", "yes", "1", "False", "on,example.org"],
)
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


def test_by_default_no_other_page_and_no_proxy_is_believed_and_everything_is_limited(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = _loaded(monkeypatch)
    assert (settings.allowed_origins, settings.trusted_proxies) == ((), ())
    assert None not in (settings.sign_up_rate, settings.public_token_rate, settings.request_rate)
    # One address alone must not use up a name.
    assert settings.log_in_rate == Rate(10, 60)
    assert settings.name_rate == Rate(30, 60)


def test_lists_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = _loaded(
        monkeypatch,
        ALLOWED_ORIGINS="https://One.example, http://localhost:5173,http://[::1]:80",
        TRUSTED_PROXIES="10.1.2.3/8, 192.0.2.1,fd00::/8",
    )
    assert settings.allowed_origins == ("https://one.example", "http://localhost:5173", "http://[::1]:80")
    assert settings.trusted_proxies == tuple(map(ip_network, ("10.0.0.0/8", "192.0.2.1/32", "fd00::/8")))


def test_a_rate_is_set_or_off(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = _loaded(monkeypatch, SIGN_UP_RATE="5/hour", REQUEST_RATE="off")
    assert (settings.sign_up_rate, settings.request_rate) == (Rate(5, 3600), None)


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("ALLOWED_ORIGINS", "example.org", "is no origin"),
        ("ALLOWED_ORIGINS", "https://example.org/", "is no origin"),
        ("ALLOWED_ORIGINS", "https://*.example.org", "is no origin"),
        ("ALLOWED_ORIGINS", "null", "is no origin"),
        ("TRUSTED_PROXIES", "proxy.example", "does not appear to be an IPv4 or IPv6 network"),
        ("LOG_IN_RATE", "10", "such as 20/minute, or off"),
        ("LOG_IN_RATE", "0/minute", "such as 20/minute, or off"),
    ],
)
def test_what_is_wrong_is_told_with_its_variable(
    variable: str, value: str, told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        _loaded(monkeypatch, **{variable: value})
    [line] = capsys.readouterr().err.splitlines()[1:]
    assert line.startswith(f"  {variable}: ")
    assert told in line
