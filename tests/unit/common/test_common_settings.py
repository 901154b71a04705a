"""Settings from the environment, and what an operator is told where one is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from pydantic import Field, SecretStr

from sd_common.logs import LogSettings
from sd_common.nats_settings import NatsSettings
from sd_common.pictures import PictureSettings
from sd_common.s3_client import MinioSettings
from sd_common.settings import BaseUrl, Flag, Settings, load_settings, loading_settings
from sd_common.streams import StreamSettings
from sd_common.trace_export import TraceSettings
from support.certificates import make_certificate

_ALL = (NatsSettings, StreamSettings, MinioSettings, PictureSettings, LogSettings)


class _Flags(Settings):
    enable_it: Flag = False
    enable_that: Flag = True


class _Addresses(Settings):
    port: int = 8000
    base_url: BaseUrl = Field(default_factory=lambda data: f"http://localhost:{data['port']}")


@pytest.fixture(autouse=True)
def only_own_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for settings_class in (*_ALL, _Flags, _Addresses, TraceSettings):
        for name in settings_class.model_fields:
            monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.chdir(tmp_path)  # no .env
    monkeypatch.setenv("MINIO_ACCESS_KEY", "access")
    monkeypatch.setenv("MINIO_SECRET_KEY", "hunter2-hunter2")


@pytest.mark.parametrize("word", ["1", "true", "yes", "on", "TRUE", "Yes", " on "])
def test_words_that_turn_a_flag_on(word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENABLE_IT", word)
    assert load_settings(_Flags).enable_it is True


@pytest.mark.parametrize("word", ["0", "false", "no", "off", "FALSE", "No", "", " "])
def test_words_that_turn_a_flag_off(word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENABLE_THAT", word)
    assert load_settings(_Flags).enable_that is False


def test_a_flag_that_is_not_set_has_its_default() -> None:
    assert load_settings(_Flags) == _Flags(enable_it=False, enable_that=True)


@pytest.mark.parametrize("word", ["2", "-1", "y", "enabled", "hunter2", "tru", "None"])
def test_any_other_word_for_a_flag_is_told_but_not_shown(
    word: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ENABLE_IT", word)
    with pytest.raises(SystemExit) as ended:
        load_settings(_Flags)
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert told == "Wrong settings:\n  ENABLE_IT: must be one of 1, 0, true, false, yes, no, on, off\n"


def test_the_defaults() -> None:
    assert load_settings(NatsSettings).nats_url.get_secret_value() == "nats://127.0.0.1:4222"
    streams = load_settings(StreamSettings)
    assert (streams.nats_replicas, streams.events_max_age_s, streams.jobs_max_per_model) == (1, 86_400, 10_000)
    pictures = load_settings(PictureSettings)
    assert (pictures.max_upload_bytes, pictures.max_picture_pixels) == (20 * 1024 * 1024, 2048 * 2048)
    minio = load_settings(MinioSettings)
    assert (minio.minio_endpoint, minio.minio_bucket) == ("127.0.0.1:9000", "pictures")
    assert (minio.minio_secure, minio.minio_region) == (False, "us-east-1")
    logs = load_settings(LogSettings)
    assert (logs.log_level, logs.log_format) == ("INFO", "json")


@pytest.mark.parametrize("name", ["NATS_URL", "NATS_REPLICAS", "EVENTS_MAX_AGE_S", "JOBS_MAX_PER_MODEL"])
def test_an_empty_variable_is_as_good_as_none(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """docker-compose hands variables that `.env` leaves out on as empty ones."""
    default = (load_settings(NatsSettings), load_settings(StreamSettings))
    monkeypatch.setenv(name, "")
    assert (load_settings(NatsSettings), load_settings(StreamSettings)) == default


def test_variables_win_over_the_env_file(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").write_text("NATS_REPLICAS=3\nEVENTS_MAX_AGE_S=100\nSOMETHING_ELSE=1\nJOBS_MAX_PER_MODEL=\n")
    monkeypatch.setenv("NATS_REPLICAS", "5")
    settings = load_settings(StreamSettings)
    assert (settings.nats_replicas, settings.events_max_age_s) == (5, 100)
    assert settings.jobs_max_per_model == 10_000


def test_every_wrong_variable_has_a_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("NATS_REPLICAS", "hunter2")
    monkeypatch.setenv("EVENTS_MAX_AGE_S", "1")
    monkeypatch.setenv("JOBS_MAX_PER_MODEL", "0")
    with pytest.raises(SystemExit) as ended:
        load_settings(StreamSettings)
    assert ended.value.code == 2
    told = capsys.readouterr()
    assert told.out == ""
    first, *lines = told.err.splitlines()
    assert first == "Wrong settings:"
    assert [line.split(":")[0].strip() for line in lines] == ["NATS_REPLICAS", "EVENTS_MAX_AGE_S", "JOBS_MAX_PER_MODEL"]
    assert "hunter2" not in told.err


@pytest.mark.parametrize("value", [None, ""])
def test_a_variable_that_is_needed_is_told(
    value: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("MINIO_ACCESS_KEY", "MINIO_SECRET_KEY"):
        if value is None:
            monkeypatch.delenv(name)
        else:
            monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit):
        load_settings(MinioSettings)
    assert capsys.readouterr().err.splitlines() == [
        "Wrong settings:",
        "  MINIO_ACCESS_KEY: is needed but not set",
        "  MINIO_SECRET_KEY: is needed but not set",
    ]


@pytest.mark.parametrize(("name", "value"), [("LOG_LEVEL", "LOUD"), ("LOG_LEVEL", "info\n"), ("LOG_FORMAT", "xml")])
def test_a_wrong_form_of_logs_is_told(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit):
        load_settings(LogSettings)
    assert f"  {name}: Input should be '" in capsys.readouterr().err


def test_secrets_do_not_show_in_representations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NATS_URL", "nats://user:hunter2-hunter2@host")
    assert "hunter2" not in repr(load_settings(NatsSettings))
    assert "hunter2" not in repr(load_settings(MinioSettings))


def test_settings_do_not_change() -> None:
    settings = load_settings(StreamSettings)
    with pytest.raises(ValueError, match="frozen"):
        settings.nats_replicas = 3  # type: ignore[misc]


def _told(settings_class: type[Settings], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit):
        load_settings(settings_class)
    return capsys.readouterr().err


def test_an_authority_of_nats_that_is_not_there_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NATS_TLS_CA", "/nowhere/file")
    assert "  NATS_TLS_CA: Path does not point to a file" in _told(NatsSettings, capsys)


def test_an_authority_of_nats_that_is_no_certificate_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("no certificate")
    monkeypatch.setenv("NATS_TLS_CA", str(tmp_path / "file"))
    assert "  NATS_TLS_CA: the file holds no certificate in PEM form" in _told(NatsSettings, capsys)


@pytest.mark.parametrize("url", ["ws://host:80", "nats://host,WS://host:80"])
def test_a_server_that_can_speak_no_tls_is_told_where_an_authority_is_set(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """nats-py asks no `ws://` for TLS, whatever the server says: the password would go to whoever is there."""
    _, authority = make_certificate(tmp_path, "host")
    monkeypatch.setenv("NATS_TLS_CA", str(authority))
    monkeypatch.setenv("NATS_URL", url)
    assert "NATS_TLS_CA and tls:// need servers that speak TLS" in _told(NatsSettings, capsys)


def test_the_password_of_nats_is_read_from_its_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("hunter2-hunter2\n")
    monkeypatch.setenv("NATS_USER", "gateway")
    monkeypatch.setenv("NATS_PASSWORD_FILE", str(tmp_path / "file"))
    settings = load_settings(NatsSettings)
    assert (settings.user, settings.password) == ("gateway", "hunter2-hunter2")
    assert "hunter2" not in repr(settings)


@pytest.mark.parametrize("names", [("NATS_USER",), ("NATS_PASSWORD",), ("NATS_PASSWORD_FILE",)])
def test_a_user_of_nats_needs_a_password_and_a_password_a_user(
    names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("hunter2")
    for name in names:
        monkeypatch.setenv(name, str(tmp_path / "file"))
    assert "NATS_USER needs NATS_PASSWORD or NATS_PASSWORD_FILE" in _told(NatsSettings, capsys)


def test_a_setting_is_read_from_the_file_that_a_variable_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("from-the-file\n")
    monkeypatch.delenv("MINIO_SECRET_KEY")
    monkeypatch.setenv("MINIO_SECRET_KEY_FILE", str(tmp_path / "key"))
    assert load_settings(MinioSettings).minio_secret_key.get_secret_value() == "from-the-file"


def test_env_may_name_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("from-the-file")
    monkeypatch.delenv("MINIO_SECRET_KEY")
    (tmp_path / ".env").write_text("MINIO_SECRET_KEY_FILE=key\n")
    assert load_settings(MinioSettings).minio_secret_key.get_secret_value() == "from-the-file"


def test_every_setting_may_be_in_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "flag").write_text(" off\n")
    monkeypatch.setenv("ENABLE_THAT_FILE", str(tmp_path / "flag"))
    assert load_settings(_Flags).enable_that is False


def test_an_empty_file_is_as_good_as_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "empty").write_text("\n")
    monkeypatch.setenv("LOG_LEVEL_FILE", str(tmp_path / "empty"))
    assert load_settings(LogSettings).log_level == "INFO"
    monkeypatch.delenv("MINIO_SECRET_KEY")
    monkeypatch.setenv("MINIO_SECRET_KEY_FILE", str(tmp_path / "empty"))
    assert "MINIO_SECRET_KEY: is needed but not set" in _told(MinioSettings, capsys)


def test_an_empty_variable_names_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINIO_SECRET_KEY_FILE", "")
    assert load_settings(MinioSettings).minio_secret_key.get_secret_value() == "hunter2-hunter2"


def test_files_that_cannot_be_read_are_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    monkeypatch.delenv("MINIO_ACCESS_KEY")
    monkeypatch.delenv("MINIO_SECRET_KEY")
    monkeypatch.setenv("MINIO_ACCESS_KEY_FILE", "/nowhere/file")
    monkeypatch.setenv("MINIO_SECRET_KEY_FILE", str(tmp_path / "binary"))
    assert _told(MinioSettings, capsys).splitlines() == [
        "Wrong settings:",
        "  MINIO_ACCESS_KEY_FILE: the file cannot be read: No such file or directory",
        "  MINIO_SECRET_KEY_FILE: the file holds no UTF-8 text",
    ]


@pytest.mark.parametrize(
    ("settings_class", "name", "held", "sentence"),
    [
        (MinioSettings, "MINIO_SECRET_KEY", "x", "MINIO_SECRET_KEY_FILE: MINIO_SECRET_KEY is set as well: keep one of"),
        (LogSettings, "LOG_LEVEL", "hunter2", "LOG_LEVEL: Input should be 'DEBUG'"),
    ],
    ids=["a value and a file", "a wrong value in the file"],
)
def test_what_is_wrong_with_a_file_is_told_and_no_value_shown(
    settings_class: type[Settings],
    name: str,
    held: str,
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    (tmp_path / "file").write_text(held)
    monkeypatch.setenv(f"{name}_FILE", str(tmp_path / "file"))
    told = _told(settings_class, capsys)
    assert sentence in told
    assert "hunter2" not in told


def test_what_a_program_gives_goes_before_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINIO_SECRET_KEY_FILE", "/nowhere/file")
    assert MinioSettings(minio_secret_key=SecretStr("given")).minio_secret_key.get_secret_value() == "given"


@pytest.mark.parametrize(
    "url",
    [
        "nats://user:hunter2/hunter2@host:4222",
        "nats://user:12/hunter2@host:4222",
        "nats://user:hunter2#hunter2@host",
        "nats://user:hunter2?hunter2@host",
        "nats://user:hunter2[@host",
        "nats://host:port",
        "nats://host:4222,nats://user:hunter2/2@host",
        "nats://",
        "http://127.0.0.1:4222",
        "nats://host,unix:///socket",
    ],
)
def test_what_is_no_url_of_a_server_is_told_with_what_to_do(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NATS_URL", url)
    with pytest.raises(SystemExit):
        load_settings(NatsSettings)
    told = capsys.readouterr().err
    assert "NATS_URL: must be URLs such as nats://127.0.0.1:4222" in told
    assert "goes to NATS_PASSWORD" in told
    assert "hunter2" not in told


@pytest.mark.parametrize(
    "url",
    [
        "host",
        "host:4222",
        "nats://u:p%2F@host",
        "nats://u:p@p@[::1]:1,tls://b",
        "ws://host:80/path,wss://host",
        "nats://host/",
    ],
)
def test_urls_of_servers_are_taken(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NATS_URL", url)
    assert load_settings(NatsSettings).servers == url.split(",")


def _told_of_all(groups: Sequence[type[Settings]], capture: pytest.CaptureFixture[str]) -> str:
    def load_all() -> None:
        with loading_settings() as loader:
            for settings_class in groups:
                loader.load(settings_class)

    with pytest.raises(SystemExit) as ended:
        load_all()
    assert ended.value.code == 2
    return capture.readouterr().err


def test_what_is_wrong_in_several_groups_is_told_at_once_and_each_variable_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ENABLE_IT", "maybe")
    monkeypatch.setenv("NATS_REPLICAS", "none")
    first, *lines = _told_of_all((_Flags, StreamSettings, _Flags), capsys).splitlines()
    assert first == "Wrong settings:"
    assert [line.split(":")[0].strip() for line in lines] == ["ENABLE_IT", "NATS_REPLICAS"]


def test_groups_that_are_loaded_together_are_as_those_loaded_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NATS_REPLICAS", "3")
    with loading_settings() as loader:
        streams, flags = loader.load(StreamSettings, jobs_max_per_model=1), loader.load(_Flags)
    assert (streams.nats_replicas, streams.jobs_max_per_model, flags) == (3, 1, load_settings(_Flags))


def test_a_default_that_follows_from_a_wrong_variable_is_no_second_mistake(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PORT", "abc")
    told = _told(_Addresses, capsys)
    assert [line.split(":")[0].strip() for line in told.splitlines()] == ["Wrong settings", "PORT"]


@pytest.mark.parametrize(
    ("settings_class", "name", "value", "sentence"),
    [
        (_Addresses, "BASE_URL", "http://host/", "must be a URL such as https://example.org or"),
        (_Addresses, "BASE_URL", "localhost:8000", "must be a URL such as https://example.org or"),
        (MinioSettings, "MINIO_ENDPOINT", "http://host:9000", "must be host:port, without a scheme and a path"),
        (TraceSettings, "OTEL_EXPORTER_OTLP_ENDPOINT", "host:4318", "must be a URL such as http://collector:4318"),
    ],
)
def test_what_an_address_should_look_like_is_told(
    settings_class: type[Settings],
    name: str,
    value: str,
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(name, value)
    assert f"  {name}: {sentence}" in _told(settings_class, capsys)


@pytest.mark.parametrize("url", ["http://localhost:8000", "https://example.org/sd", "http://[::1]:80"])
def test_base_urls_are_taken(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BASE_URL", url)
    assert load_settings(_Addresses).base_url == url


@pytest.mark.parametrize("line", ["ENABLE_IT: hunter2", "ENABLE_IT:hunter2", "ENABLE_IT hunter2", 'ENABLE_IT="hunter2'])
def test_a_line_of_the_env_file_that_is_no_setting_is_told_once_with_its_number(
    line: str, capfd: pytest.CaptureFixture[str]
) -> None:
    Path(".env").write_text(f"# A comment\nexport NATS_REPLICAS=3\n\n{line}\n")
    told = _told_of_all((_Flags, StreamSettings), capfd)
    assert told == "Wrong settings:\n  .env: line 4 must be empty, a comment after #, or NAME=value\n"


def test_an_env_file_that_is_no_text_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    Path(".env").write_bytes("LOG_LEVEL=INFO # größer\n".encode("latin-1"))
    assert _told(LogSettings, capsys) == "Wrong settings:\n  .env: holds no UTF-8 text: save it in this encoding\n"


def test_what_an_env_file_may_hold() -> None:
    Path(".env").write_text(
        "\ufeff# One\n\nexport NATS_REPLICAS=3 # three\nEVENTS_MAX_AGE_S = '100'\nEMPTY=\nBARE\nLONG=\"a\nb\"\n"
    )
    settings = load_settings(StreamSettings)
    assert (settings.nats_replicas, settings.events_max_age_s) == (3, 100)
