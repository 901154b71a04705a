"""Every setting is told to operators, and nothing that is told is not there."""

from __future__ import annotations

import importlib
import pkgutil
import re
from typing import Any

import pytest
from contract.manifests import SECRET_VALUE, compose_text, variables_of

import sd_common
from sd_common.settings import Settings
from supply_chain.dockerfiles import ROOT

PACKAGES = {
    "sd_common": "libs/common",
    "sd_gateway": "services/gateway",
    "sd_auth": "services/auth",
    "sd_worker": "services/worker",
    "sd_embedded": "embedded",
}
#: docker-compose's own, read by no service.
OF_COMPOSE = {"NATS_IMAGE", "MINIO_IMAGE", "PROMETHEUS_IMAGE", "GRAFANA_IMAGE", "GRAFANA_PORT", "TORCH_INDEX_URL"}
OF_COMPOSE |= {"IMAGE_REVISION", "IMAGE_SOURCE", "WORKER_REPLICAS", "WORKER_MEMORY_LIMIT"}
#: Hugging Face's own, which docker-compose hands on.
OF_COMPOSE |= {"HF_ENDPOINT", "HF_HUB_OFFLINE"}
#: Read by docker-compose itself.
OF_COMPOSE_ITSELF = {"COMPOSE_FILE"}
#: Handed on by docker-compose, and read by what downloads models: everybody's names for proxies.
OF_PROXIES = {"HTTPS_PROXY", "NO_PROXY"}
#: They are made up anew in each process.
WITHOUT_ONE_DEFAULT = {"WORKER_NAME"}


def _settings_classes() -> list[type[Settings]]:
    for package in PACKAGES:
        importlib.import_module(f"{package}.settings")
    for module in pkgutil.iter_modules(sd_common.__path__, "sd_common."):  # its groups are with their parts
        importlib.import_module(module.name)
    found: list[type[Settings]] = []
    waiting: list[type[Settings]] = [Settings]
    while waiting:
        subclasses = waiting.pop().__subclasses__()
        waiting += subclasses
        found += [each for each in subclasses if each.__module__.partition(".")[0] in PACKAGES]
    return sorted(set(found), key=lambda each: each.__name__)


CLASSES = _settings_classes()
EVERY_SETTING = set().union(*map(variables_of, CLASSES))

#: Lines of .env.example: `NAME=value`, or `#NAME=default`.
ENV_EXAMPLE = re.findall(r"^(#?)([A-Z][A-Z0-9_]*)=(.*)$", (ROOT / ".env.example").read_text(), re.MULTILINE)


def test_env_example_names_every_setting_once_and_nothing_else() -> None:
    names = [name for _, name, _ in ENV_EXAMPLE]
    assert sorted(names) == sorted(EVERY_SETTING | OF_COMPOSE | OF_COMPOSE_ITSELF | OF_PROXIES)


def test_env_example_holds_no_value_but_defaults() -> None:
    """A copy of it changes nothing: what is not commented out has to be filled in."""
    set_here = {name: value for comment, name, value in ENV_EXAMPLE if not comment}
    assert set_here == {"SECRET_KEY": "", "MINIO_ACCESS_KEY": "", "MINIO_SECRET_KEY": ""}


def _loaded(settings_class: type[Settings], monkeypatch: pytest.MonkeyPatch, **variables: str) -> Any:
    needed = {"SECRET_KEY": SECRET_VALUE, "MINIO_ACCESS_KEY": SECRET_VALUE, "MINIO_SECRET_KEY": SECRET_VALUE}
    with monkeypatch.context() as patch:
        for name in EVERY_SETTING:
            patch.delenv(name, raising=False)
        for name, value in {**needed, **variables}.items():
            patch.setenv(name, value)
        return settings_class(_env_file=None)


@pytest.mark.parametrize(
    ("name", "shown"), [(name, value) for comment, name, value in ENV_EXAMPLE if comment and name in EVERY_SETTING]
)
def test_default_in_env_example_is_the_default(name: str, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is one service's, where services differ: the comment says which others have another."""
    if name in WITHOUT_ONE_DEFAULT:
        assert shown == ""
        return
    classes = [each for each in CLASSES if name in variables_of(each)]
    shown_values = [getattr(_loaded(each, monkeypatch, **{name: shown}), name.lower()) for each in classes]
    defaults = [getattr(_loaded(each, monkeypatch), name.lower()) for each in classes]
    agreeing = [value == default for value, default in zip(shown_values, defaults, strict=True)]
    assert any(agreeing), f"{shown!r} is shown, {defaults} are the defaults"


def test_env_example_names_every_variable_of_docker_compose() -> None:
    used = set(re.findall(r"(?<!\$)\$\{(\w+)", compose_text()))
    assert OF_COMPOSE <= used <= {name for _, name, _ in ENV_EXAMPLE}


@pytest.mark.parametrize("name", sorted(OF_COMPOSE))
def test_default_of_docker_compose_is_the_one_in_env_example(name: str) -> None:
    """That of docker-compose.yml, where the files on top of it have another."""
    [shown] = [value for _, each, value in ENV_EXAMPLE if each == name]
    assert re.findall(rf"\$\{{{name}:-([^}}]*)\}}", compose_text())[0] == shown


@pytest.mark.parametrize("settings_class", CLASSES, ids=lambda each: each.__name__)
def test_readme_of_the_package_has_a_row_for_every_setting(settings_class: type[Settings]) -> None:
    package = settings_class.__module__.partition(".")[0]
    readme = (ROOT / PACKAGES[package] / "README.md").read_text()
    rows = set(re.findall(r"^\|\s*`([A-Z][A-Z0-9_]*)`\s*\|", readme, re.MULTILINE))
    own = {name.upper() for name in settings_class.__annotations__} & variables_of(settings_class)
    # A setting of another package that only gets another default here has its row there.
    of_others = set().union(*(variables_of(base) for base in settings_class.__bases__ if issubclass(base, Settings)))
    assert sorted(own - of_others - rows) == [], f"{PACKAGES[package]}/README.md has no row for them"
    assert [name for name in own & of_others if f"`{name}`" not in readme] == []
