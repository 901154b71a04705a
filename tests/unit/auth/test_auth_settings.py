"""What an operator may set, and is told where it is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from sd_auth.settings import AuthSettings
from sd_common.settings import load_settings

_SECRET_KEY = "0123456789abcdef0123456789abcdef"


@pytest.fixture(autouse=True)
def only_own_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in AuthSettings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.chdir(tmp_path)  # no .env


def test_the_defaults_let_nobody_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_KEY", _SECRET_KEY)
    settings = load_settings(AuthSettings)
    assert not settings.enable_signup
    assert not settings.enable_public_access
    assert not settings.print_link_with_token
    assert settings.access_token_expire_minutes == 240
    assert (settings.health_host, settings.health_port) == ("127.0.0.1", 8081)


@pytest.mark.parametrize("secret_key", [None, "", "0123456789abcdef0123456789abcde"])
def test_a_secret_key_that_misses_or_is_short_is_told_with_the_remedy(
    secret_key: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if secret_key is not None:
        monkeypatch.setenv("SECRET_KEY", secret_key)
    with pytest.raises(SystemExit) as ended:
        load_settings(AuthSettings)
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert "SECRET_KEY: needs at least 32 characters: make one with `openssl rand -hex 32`" in told
    assert not secret_key or secret_key not in told


def test_previous_secrets_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_KEY", _SECRET_KEY)
    assert load_settings(AuthSettings).previous_secret_keys == []
    monkeypatch.setenv("SECRET_KEY_PREVIOUS", f" {'a' * 32} , {'b' * 40},")
    settings = load_settings(AuthSettings)
    assert [each.get_secret_value() for each in settings.previous_secret_keys] == ["a" * 32, "b" * 40]
    assert "a" * 32 not in repr(settings)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("SECRET_KEY_PREVIOUS", "too short"),
        ("SECRET_KEY_PREVIOUS", f"{'a' * 32},{'b' * 31}"),
        ("ENABLE_SIGNUP", "maybe"),
        ("ACCESS_TOKEN_EXPIRE_MINUTES", "0"),
        ("HEALTH_PORT", "65536"),
        ("HEALTH_PORT", "none"),
        ("PUBLISHERS", "a b"),
        ("PUBLISHERS", "internal,a.b"),
    ],
)
def test_a_wrong_variable_is_named_and_its_value_is_not_shown(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SECRET_KEY", _SECRET_KEY)
    monkeypatch.setenv(variable, value)
    with pytest.raises(SystemExit):
        load_settings(AuthSettings)
    told = capsys.readouterr().err
    assert f"{variable}: " in told
    assert _SECRET_KEY not in told


@pytest.mark.parametrize(("value", "port"), [("off", None), ("0", 0), ("9000", 9000), ("", 8081)])
def test_the_health_port_can_be_chosen_or_off(value: str, port: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_KEY", _SECRET_KEY)
    monkeypatch.setenv("HEALTH_PORT", value)
    assert load_settings(AuthSettings).health_port == port


def test_the_secret_key_is_not_in_the_repr(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_KEY", _SECRET_KEY)
    assert _SECRET_KEY not in repr(load_settings(AuthSettings))


def test_every_setting_is_described() -> None:
    assert [name for name, field in AuthSettings.model_fields.items() if not field.description] == []


def test_every_setting_is_in_the_readme() -> None:
    readme = Path(__file__).parents[3].joinpath("services/auth/README.md").read_text()
    names = AuthSettings.model_fields
    assert [name for name in names if f"| `{name.upper()}` |" not in readme] == []
