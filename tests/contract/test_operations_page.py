"""`docs/operations.md`: what it names is there, and its commands are ones that the programs know.

Blocks that need nothing but servers are run, by `tests/e2e/test_backup.py`. The others are held against the manifests,
and against what docker-compose and kubectl tell of themselves.
"""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
from collections.abc import Iterator
from functools import cache
from itertools import chain

import pytest
import yaml
from contract.manifests import COMPOSE
from contract.rendered import PRODUCTION, manifests
from contract.test_settings_documented import EVERY_SETTING, OF_COMPOSE

from sd_common.nats_users import users
from sd_embedded.child_process import installed
from support.metrics import declared
from support.operations_page import PAGE
from support.stack import REPOSITORY as ROOT

_TEXT = PAGE.read_text(encoding="utf-8")
_CODE = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", _TEXT, flags=re.DOTALL))
_BLOCKS = re.findall(r"```sh\n(.*?)```", _TEXT, re.DOTALL)
_SOURCES = "".join(file.read_text() for file in ROOT.glob("*/**/src/**/*.py"))
#: Of the page's own examples, of huggingface_hub, and of the Makefile.
_VARIABLES = {"TASK_ID", "HF_HOME", "RUNBOOKS_URL"}
_OF_RCLONE = re.compile(r"RCLONE_CONFIG_PICTURES_(TYPE|PROVIDER|ENDPOINT|ACCESS_KEY_ID|SECRET_ACCESS_KEY)")


def test_every_setting_is_one() -> None:
    known = EVERY_SETTING | OF_COMPOSE | _VARIABLES | {user.password_variable for user in users()}
    named = set(re.findall(r"\b[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+\b", _TEXT))
    assert {name for name in named - known if not _OF_RCLONE.fullmatch(name)} == set()


def test_every_metric_is_shown() -> None:
    shown = set(chain.from_iterable(metric.series for group in declared().values() for metric in group))
    shown |= {metric.name for group in declared().values() for metric in group}
    named = {name.rstrip("_") for name in re.findall(r"\bsd_\w+", _TEXT) if not name.endswith("_")}
    modules = set(re.findall(r"\bsd_(?:common|worker|gateway|auth)\b", _TEXT))
    assert named - modules - shown == set()


def test_every_name_is_in_the_code() -> None:
    """Of log lines, codes, fields of answers, and columns."""
    names = {name for code in _CODE for name in re.findall(r"\b[a-z]+(?:_[a-z]+)+\b", code) if "/" not in code}
    elsewhere = {"grafana_dashboard"} | {"max_file_store", "sync_interval", "meta_cluster", "max_storage"}  # of NATS
    assert {name for name in names - elsewhere if name not in _SOURCES and not name.startswith("sd_")} == set()


def test_every_file_is_there() -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)[^)]*\)", _TEXT) if not link.startswith("http")]
    paths = [code for code in _CODE if re.fullmatch(r"(tests|benchmarks|k8s|monitoring|docs)/[\w./-]+", code)]
    assert paths
    assert [link for link in links if not (PAGE.parent / link).exists()] == []
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_every_link_into_a_page_leads_to_a_heading() -> None:
    for link, anchor in re.findall(r"\]\(([^)#\s]*)#([^)]+)\)", _TEXT):
        if not link.startswith("http"):
            page = (PAGE.parent / link).read_text() if link else _TEXT
            headings = re.findall(r"^#+ (.*)$", page, re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings}, (
                link,
                anchor,
            )


def test_every_module_and_target_is_there() -> None:
    modules = re.findall(r"python -m ([\w.]+)", _TEXT)
    assert [module for module in modules if importlib.util.find_spec(module) is None] == []
    targets = re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert [target for target in re.findall(r"`make ([a-z0-9-]+)", _TEXT) if target not in targets] == []


def _commands(program: str) -> Iterator[list[str]]:
    """What follows the program in each command of the page, in words."""
    texts = [*_BLOCKS, *_CODE]
    for line in chain.from_iterable(text.replace("\\\n", " ").splitlines() for text in texts):
        for command in re.split(r"&&|\||;|\{ | & | &$", line.partition("  # ")[0]):
            if command.strip().startswith(f"{program} "):
                yield shlex.split(command)[len(program.split()) :]


@cache
def _help(*command: str) -> str:
    return subprocess.run([*command, "--help"], capture_output=True, text=True, check=True, timeout=30).stdout


def _options(words: list[str]) -> list[str]:
    return [word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)]


def _check_options(words: list[str], told: str) -> None:
    for option in _options(words):
        assert re.search(rf"(^|[\s,]){option}\b", told), f"{option} is no option: {words}"


def _subcommands(words: list[str]) -> list[str]:
    """The words before the first option and the first name."""
    words = [word for word in words if word not in ("-n", "stable-diffusion")]
    return words[:2] if words[0] in ("rollout", "create") else words[:1]


def test_commands_of_docker_compose_are_known_and_name_its_services() -> None:
    services = yaml.safe_load((ROOT / COMPOSE).read_text())["services"]
    commands = list(_commands("docker compose"))
    assert len(commands) > 10
    for words in commands:
        told = _help(installed("docker-compose"), words[0])
        own = words
        if words[0] in ("run", "exec"):  # what follows the service is a command inside of it
            [service, *_] = [word for word in words if word in services]
            own = words[: words.index(service) + 1]
        _check_options(own, told)
        if words[0] in ("up", "stop"):
            assert {word for word in own[1:] if not word.startswith("-") and "=" not in word} <= set(services), words
    volumes = yaml.safe_load((ROOT / COMPOSE).read_text())
    named = re.findall(rf"{volumes['name']}_(\w+)", _TEXT)
    assert set(named) == {"default", "nats", "minio"}
    assert set(named) - {"default"} <= set(volumes["volumes"])


def test_commands_of_kubectl_are_known_and_name_what_is_there() -> None:
    there = {f"{each['kind'].lower()}/{each['metadata']['name']}" for each in manifests(PRODUCTION)}
    there |= {f"{name}nats-{number}" for name in ("pvc/data-", "pod/") for number in range(3)}
    commands = list(_commands("kubectl"))
    assert len(commands) > 10
    for words in commands:
        subcommands = _subcommands(words)
        told = _help(installed("kubectl"), *subcommands) + _help_of_all()
        _check_options([word for word in words if word != "-n"], told)
        objects = {word for word in words if re.fullmatch(r"[a-z]+/[a-z0-9-]+", word) and not word.startswith("app.")}
        assert objects <= there, words


def test_what_is_scaled_to_none_is_scaled_back() -> None:
    """`kubectl apply` does not: autoscaled workloads have no number of replicas in the manifests."""
    stopped = [block for block in _BLOCKS if "--replicas=0" in block]
    assert stopped
    for block in stopped:
        counts: dict[str, set[str]] = {}
        for objects, count in re.findall(r"scale ((?:[a-z]+/[a-z]+ )+)--replicas=(\d+)", block):
            for each in objects.split():
                counts.setdefault(each, set()).add(count)
        assert all(len(each) == 2 for each in counts.values()), block


@cache
def _help_of_all() -> str:
    return subprocess.run(
        [installed("kubectl"), "options"], capture_output=True, text=True, check=True, timeout=30
    ).stdout


def test_secrets_of_kubernetes_have_the_keys_that_are_changed() -> None:
    read = {(ref["name"], ref["key"]) for each in manifests(PRODUCTION) for ref in _references(each)}
    named = re.findall(r"secret (sd-\w+) --patch .*?(NATS_\w+)", _TEXT) + re.findall(
        r"\(secret (sd-\w+) (\w+)\)", _TEXT
    )
    assert named
    assert set(named) <= read


def _references(node: object) -> Iterator[dict[str, str]]:
    """All `secretKeyRef` in a manifest."""
    if isinstance(node, dict):
        if "secretKeyRef" in node:
            yield node["secretKeyRef"]
        for each in node.values():
            yield from _references(each)
    elif isinstance(node, list):
        for each in node:
            yield from _references(each)


@pytest.mark.parametrize("wrong", [["up", "--detached"], ["stop", "--no-such"]])
def test_the_check_of_options_sees_what_is_wrong(wrong: list[str]) -> None:
    with pytest.raises(AssertionError, match="is no option"):
        _check_options(wrong, _help(installed("docker-compose"), wrong[0]))
