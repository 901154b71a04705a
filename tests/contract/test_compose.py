"""docker-compose.yml and what may be laid on top of it: they fit the schema, the code and the images."""

from __future__ import annotations

import asyncio
import json
import os
import re
import stat
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml
from contract.manifests import (
    COMPOSE,
    NATS_PASSWORDS,
    OVERLAYS,
    SECRETS,
    SERVICES,
    SETTINGS,
    Document,
    compose,
    compose_containers,
    compose_nats_config,
    compose_secrets,
    image_environment,
    port_of,
    variables_of,
)
from contract.rendered import BASE, PRODUCTION, container_of, workloads
from jsonschema.validators import validator_for
from pydantic import SecretStr

from sd_common.nats_client import NatsClient
from sd_common.nats_settings import NatsSettings
from sd_common.nats_users import SERVICES as NATS_SERVICES
from sd_common.nats_users import users
from sd_embedded.child_process import installed
from supply_chain.dockerfiles import ROOT, build_stage, final_stage, only, variables

GPU, MONITORING = OVERLAYS
#: Settings that are docker-compose's own business: addresses, and what must differ from one replica to the next.
FIXED_IN_COMPOSE = {"HOST", "PORT", "HEALTH_HOST", "HEALTH_PORT", "MODEL_DIR", "WORKER_NAME", "MINIO_SECURE"}
FIXED_IN_COMPOSE |= {"NATS_REPLICAS", "NATS_TLS_CA"}
#: Files in secrets/ that may be empty.
OPTIONAL_SECRETS = {"SECRET_KEY_PREVIOUS", "HUGGINGFACE_TOKEN"}

by_combination = pytest.mark.parametrize("overlays", [(), (GPU,), (MONITORING,), (GPU, MONITORING)], ids="+".join)


def _schema() -> dict[str, Any]:
    """compose-spec's own, which the package check-jsonschema brings."""
    file = files("check_jsonschema") / "builtin_schemas" / "vendor" / "compose-spec.json"
    schema: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return schema


def _breaches(document: Document) -> list[str]:
    schema = _schema()
    return [f"{error.json_path}: {error.message}" for error in validator_for(schema)(schema).iter_errors(document)]


@pytest.mark.parametrize("name", [COMPOSE, *OVERLAYS])
def test_each_file_follows_the_schema(name: str) -> None:
    assert _breaches(yaml.safe_load((ROOT / name).read_text())) == []


@by_combination
def test_what_the_files_make_together_follows_the_schema(overlays: tuple[str, ...]) -> None:
    document = compose(*overlays)
    assert _breaches(document) == []
    assert _breaches(document | {"service": {}}), "the schema refuses what it does not know"


@by_combination
def test_every_image_is_built_here_or_pinned(overlays: tuple[str, ...]) -> None:
    for name, service in compose(*overlays)["services"].items():
        if "build" in service:
            dockerfile = Path(service["build"]["dockerfile"])
            assert dockerfile.parent.name in SERVICES
            assert (ROOT / dockerfile).is_file()
            known = {argument for each in _stages(dockerfile.parent.name) for argument in each}
            assert set(service["build"]["args"]) <= known, f"{name}: the Dockerfile has no such argument"
        else:
            assert re.search(r":[^:/]*\d[^:/]*$", service["image"]), service["image"]


def _stages(service: str) -> list[dict[str, str]]:
    return [variables(build_stage(service), "ARG"), variables(final_stage(service), "ARG")]


@by_combination
def test_every_volume_config_and_secret_is_used_and_every_used_one_exists(overlays: tuple[str, ...]) -> None:
    document = compose(*overlays)
    for kind in ("volumes", "configs", "secrets"):
        used = {
            each["source"]
            for service in document["services"].values()
            for each in service.get(kind) or ()
            if each.get("type") != "bind"
        }
        assert used == set(document.get(kind, {})), kind
    assert {"nats", "minio", "model-cache"} <= set(document["volumes"])
    for service in document["services"].values():
        assert all(volume["type"] == "volume" or volume["read_only"] for volume in service.get("volumes", ())), (
            "data is in named volumes"
        )
    for name, config in document.get("configs", {}).items():
        assert Path(config["file"]).is_file(), name


@by_combination
def test_every_service_is_asked_how_it_is(overlays: tuple[str, ...]) -> None:
    for name, service in compose(*overlays)["services"].items():
        if name == "provision":
            assert service["healthcheck"] == {"disable": True}, "it ends"
        elif "build" in service:
            assert "healthcheck" not in service, "the image has its own"
            assert only(final_stage(name), "HEALTHCHECK")
        else:
            assert service["healthcheck"]["test"][0] == "CMD"


@pytest.mark.parametrize(("server", "port"), [("nats", 8222), ("prometheus", 9090), ("grafana", 3000)])
def test_servers_are_asked_on_loopback_where_they_listen(server: str, port: int) -> None:
    _, program, *options, url = compose(MONITORING)["services"][server]["healthcheck"]["test"]
    assert (program, options) == ("wget", ["-q", "-O", "/dev/null"])
    assert url.startswith(f"http://127.0.0.1:{port}/")


def test_nats_listens_where_it_is_asked_and_where_services_look_for_it() -> None:
    listening = re.findall(r"^(?:listen|http): (\S+)", "\n".join(compose_nats_config().values()), re.MULTILINE)
    assert listening == ["0.0.0.0:4222", "0.0.0.0:8222"]


@by_combination
def test_nobody_from_outside_reaches_anything_but_the_gateway(overlays: tuple[str, ...]) -> None:
    services = compose(*overlays)["services"]
    published = {
        (name, port.get("host_ip", ""), port["published"], port["target"])
        for name, service in services.items()
        for port in service.get("ports", [])
        if not port.get("host_ip", "").startswith("127.")
    }
    assert published == {("gateway", "", "8000", port_of("gateway"))}
    assert not any("network_mode" in service or service.get("privileged") for service in services.values())


def test_compose_runs_five_workers() -> None:
    assert compose()["services"]["worker"]["deploy"]["replicas"] == 5


def test_compose_runs_as_many_workers_as_env_says() -> None:
    """And goes on doing so: what `--scale` says, the next `up` undoes."""
    assert compose(env=(("WORKER_REPLICAS", "2"),))["services"]["worker"]["deploy"]["replicas"] == 2
    assert compose(GPU, env=(("WORKER_REPLICAS", "2"),))["services"]["worker"]["deploy"]["replicas"] == 1
    assert "--scale" not in (ROOT / "docs/containers.md").read_text() + (ROOT / "docs/operations.md").read_text()


def _models_of_workers(env: tuple[tuple[str, str], ...] = ()) -> Document:
    target = image_environment("worker")["MODEL_DIR"]
    volumes = compose(env=env)["services"]["worker"]["volumes"]
    [mount] = [each for each in volumes if each["target"] == target]
    assert isinstance(mount, dict)
    return mount


def test_workers_read_the_models_of_the_machine_where_the_image_looks_for_them() -> None:
    """The bundled one, where nobody says otherwise; what is set and is not there is told, not made."""
    mount = _models_of_workers()
    assert (mount["type"], mount["read_only"], mount["bind"]["create_host_path"]) == ("bind", True, False)
    assert (Path(mount["source"]) / "shapes/model_index.json").is_file()
    assert _models_of_workers((("MODEL_DIR", "/srv/models"),))["source"] == "/srv/models"
    assert _models_of_workers((("MODEL_DIR", "own"),))["source"] == str(ROOT / "own")


def test_workers_download_models_as_env_says() -> None:
    env = {"HF_ENDPOINT": "https://mirror.example", "HF_HUB_OFFLINE": "1", "HTTPS_PROXY": "http://proxy:3128"}
    env |= {"NO_PROXY": "mirror.example"}
    assert env.items() <= compose(env=tuple(env.items()))["services"]["worker"]["environment"].items()
    emptied = compose(env=tuple(dict.fromkeys(env, "").items()))["services"]["worker"]["environment"]
    assert emptied["HF_ENDPOINT"] == "https://huggingface.co", "huggingface_hub would take an empty one as an address"


def test_memory_of_the_machine_is_short_for_workers_first() -> None:
    """They are many and large; without NATS or the S3 server everything stands."""
    services = compose()["services"]
    assert {name for name, service in services.items() if service.get("oom_score_adj", 0) > 0} == {"worker"}
    for overlays, kustomization in ((), BASE), ((GPU,), PRODUCTION):
        limit = compose(*overlays)["services"]["worker"]["deploy"]["resources"]["limits"]["memory"]
        of_kubernetes = container_of(workloads(kustomization)["worker"])["resources"]["limits"]["memory"]
        assert int(limit) == int(of_kubernetes.removesuffix("Gi")) * 2**30
        changed = compose(*overlays, env=(("WORKER_MEMORY_LIMIT", "3g"),))["services"]["worker"]
        assert int(changed["deploy"]["resources"]["limits"]["memory"]) == 3 * 2**30


def test_compose_links_follow_the_published_port() -> None:
    gateway = compose(env=(("PORT", "9000"),))["services"]["gateway"]
    assert [port["published"] for port in gateway["ports"]] == ["9000"]
    assert gateway["environment"]["BASE_URL"] == "http://localhost:9000"


def test_compose_hands_on_every_setting_of_env() -> None:
    for name, container in compose_containers().items():
        wanted = set().union(*map(variables_of, SETTINGS[name])) - FIXED_IN_COMPOSE
        assert wanted - set(container.environment) - container.secrets == set(), name


@by_combination
def test_containers_write_nowhere_but_in_their_volumes_and_may_do_nothing_else(overlays: tuple[str, ...]) -> None:
    for name, service in compose(*overlays)["services"].items():
        assert service["read_only"] is True, name
        assert service["tmpfs"] == ["/tmp"]
        assert service["cap_drop"] == ["ALL"]
        assert "cap_add" not in service
        assert service["security_opt"] == ["no-new-privileges:true"]


@by_combination
def test_compose_waits_for_what_can_be_waited_for(overlays: tuple[str, ...]) -> None:
    services = compose(*overlays)["services"]
    for name, service in services.items():
        for needed, how in service.get("depends_on", {}).items():
            if how["condition"] == "service_completed_successfully":
                assert services[needed]["restart"] == "no", f"{name} would wait for {needed} for ever"
            else:
                has_image_of_ours = "build" in services[needed]
                assert how["condition"] == "service_healthy"
                assert "healthcheck" in services[needed] or has_image_of_ours
        if name in SETTINGS and name != "provision":
            assert service["depends_on"]["provision"]["condition"] == "service_completed_successfully"
            assert service["depends_on"]["nats"]["condition"] == "service_healthy"


# --- Secrets ---------------------------------------------------------------------------------------------------------


@by_combination
def test_secrets_are_read_where_they_are_mounted(overlays: tuple[str, ...]) -> None:
    for name, service in compose(*overlays)["services"].items():
        if name == "nats":  # which reads whatever is there
            continue
        named = {value for variable, value in service.get("environment", {}).items() if variable.endswith("_FILE")}
        assert named == set(compose_secrets(service).values()), name


@by_combination
def test_no_secret_is_in_an_environment(overlays: tuple[str, ...]) -> None:
    document = compose(*overlays, env=tuple((name, "told to nobody") for name in SECRETS))
    assert "told to nobody" not in json.dumps(document)


@by_combination
def test_secrets_are_files_that_git_does_not_see(overlays: tuple[str, ...]) -> None:
    for name, secret in compose(*overlays)["secrets"].items():
        assert Path(secret["file"]) == ROOT / "secrets" / name
    assert "/secrets/" in (ROOT / ".gitignore").read_text().splitlines()


def _make_secrets(directory: Path) -> dict[str, str]:
    command = ["make", "--silent", f"--makefile={ROOT / 'Makefile'}", "compose-secrets"]
    subprocess.run(command, cwd=directory, check=True)
    return {file.name: file.read_text() for file in (directory / "secrets").iterdir()}


def test_make_makes_every_secret_once(tmp_path: Path) -> None:
    made = _make_secrets(tmp_path)
    assert set(made) == set(compose(*OVERLAYS)["secrets"])
    assert {name for name, value in made.items() if not value} == OPTIONAL_SECRETS
    values = [value for value in made.values() if value]
    assert all(re.fullmatch(r"[0-9a-f]{64}", value) for value in values)
    assert len(set(values)) == len(values)
    (tmp_path / "secrets" / "MINIO_ACCESS_KEY").write_text("mine")
    assert _make_secrets(tmp_path) == made | {"MINIO_ACCESS_KEY": "mine"}


def test_containers_can_read_the_secrets_and_others_of_the_machine_cannot(tmp_path: Path) -> None:
    _make_secrets(tmp_path)
    assert stat.S_IMODE((tmp_path / "secrets").stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "secrets").iterdir()} == {0o644}


@pytest.mark.parametrize("name", SETTINGS)
def test_each_service_takes_the_secrets_that_make_makes(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = _make_secrets(tmp_path)
    service = compose()["services"][name]
    sources = {target: source for source, target in compose_secrets(service).items()}
    for variable in os.environ.keys() & set().union(*map(variables_of, SETTINGS[name])):
        monkeypatch.delenv(variable)
    for variable, value in service["environment"].items():
        if value is not None:
            monkeypatch.setenv(variable, str(tmp_path / "secrets" / sources[value]) if value in sources else value)
    found: dict[str, Any] = {}
    for settings_class in SETTINGS[name]:
        found |= dict(settings_class(_env_file=None))
    for secret in compose_containers()[name].secrets:
        value = found[secret.lower()]
        text = value.get_secret_value() if isinstance(value, SecretStr) else value
        assert (text or "") == made[sources[service["environment"][f"{secret}_FILE"]]], secret


def test_each_user_of_nats_gets_its_own_password_and_the_server_all() -> None:
    services = compose()["services"]
    assert set(compose_secrets(services["nats"])) == NATS_PASSWORDS
    for user in NATS_SERVICES:
        assert set(compose_secrets(services[user.name])) & NATS_PASSWORDS == {user.password_variable}
        file = services[user.name]["environment"]["NATS_PASSWORD_FILE"]
        assert compose_secrets(services[user.name])[user.password_variable] == file


@contextmanager
def _compose_nats(directory: Path, secrets: Path) -> Iterator[tuple[str, str]]:
    """nats-server by the command and files of docker-compose, on ports of its own; its URL, and that of its monitor."""
    service = compose()["services"]["nats"]

    places = {"/run/secrets": secrets} | {name: Path(f"{directory}{name}") for name in ("/data", "/tmp", "/etc/nats")}

    def here(text: str) -> str:
        text = re.sub(r"0\.0\.0\.0:\d+", "127.0.0.1:-1", text)
        return re.sub(rf"(?<![\w/])({'|'.join(places)})\b", lambda match: str(places[match[1]]), text)

    for file, text in compose_nats_config().items():
        copy = Path(here(str(file)))
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(here(text))
    (directory / "tmp").mkdir()
    # As docker-compose hands it on: it writes $ twice.
    command = [here(word).replace("$$", "$") for word in (*service["entrypoint"], *service["command"])]
    path = f"{Path(installed('nats-server')).parent}:{os.environ['PATH']}"
    environment = service["environment"] | {"PATH": path}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr is not None
            log = []
            for line in server.stderr:
                log.append(line)
                if "Server is ready" in line:
                    break
            else:
                pytest.fail("".join(log))
            [address] = re.findall(r"Listening for client connections on (\S+)", "".join(log))
            [monitor] = re.findall(r"Starting http monitor on (\S+)", "".join(log))
            yield f"nats://{address}", f"http://{monitor}"
        finally:
            server.terminate()


async def test_nats_server_takes_the_passwords_from_their_files(tmp_path: Path) -> None:
    _make_secrets(tmp_path)
    secrets = tmp_path / "secrets"
    (secrets / "NATS_WORKER_PASSWORD").write_text("12345678")  # no number, though it looks like one
    with _compose_nats(tmp_path, secrets) as (url, _):
        for user in users():
            client = NatsClient(
                NatsSettings(
                    _env_file=None,
                    nats_url=SecretStr(url),
                    nats_user=user.name,
                    nats_password=SecretStr((secrets / user.password_variable).read_text()),
                ),
                user.name,
            )
            async with asyncio.timeout(10):
                await client.open()
            await client.shut()


def test_nats_server_is_limited_and_flushes_to_disk_each_second(tmp_path: Path) -> None:
    """By itself it would fill three quarters of the disk, and flush every two minutes."""
    _make_secrets(tmp_path)
    with (
        _compose_nats(tmp_path, tmp_path / "secrets") as (_, monitor),
        urllib.request.urlopen(f"{monitor}/jsz", timeout=10) as answer,
    ):
        config = json.load(answer)["config"]
    assert config["sync_interval"] == 1e9  # ns
    assert config["max_storage"] == 8 * 2**30
    assert config["store_dir"] == str(tmp_path / "data/jetstream")


def test_a_further_publisher_as_in_the_docs_is_a_user_of_nats(tmp_path: Path) -> None:
    [override] = re.findall(r"```yaml\n(services:\n.*?)```", (ROOT / "docs/containers.md").read_text(), re.DOTALL)
    (tmp_path / "docker-compose.override.yml").write_text(override)
    changed, plain = compose(str(tmp_path / "docker-compose.override.yml")), compose()
    assert set(compose_secrets(changed["services"]["nats"])) == NATS_PASSWORDS | {"NATS_BILLING_PASSWORD"}
    assert changed["services"]["nats"]["configs"] == plain["services"]["nats"]["configs"]
    own = plain["configs"]["nats"] | {"file": str(ROOT / "nats.conf")}
    assert changed["configs"] == plain["configs"] | {"nats": own}


# --- On top of it ----------------------------------------------------------------------------------------------------


def test_the_gpu_is_the_workers_alone() -> None:
    plain, with_gpu = compose()["services"], compose(GPU)["services"]
    assert {name for name in plain if plain[name] != with_gpu[name]} == {"worker"}
    worker = with_gpu["worker"]
    [device] = worker["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
    assert "/cu" in worker["build"]["args"]["TORCH_INDEX_URL"]
    assert worker["environment"]["DEVICE"] == "cuda"


def test_monitoring_changes_nothing_of_the_rest() -> None:
    plain, monitored = compose()["services"], compose(MONITORING)["services"]
    assert plain.items() <= monitored.items()
    assert set(monitored) - set(plain) == {"prometheus", "grafana"}


def _config(service: str, source: str) -> tuple[str, Any]:
    """Where a file is mounted, and what it says."""
    document = compose(MONITORING)
    [mount] = [each for each in document["services"][service]["configs"] if each["source"] == source]
    return mount["target"], yaml.safe_load(Path(document["configs"][source]["file"]).read_text())


def test_prometheus_asks_every_replica_of_every_service_on_its_port() -> None:
    target, document = _config("prometheus", "prometheus")
    assert f"--config.file={target}" in compose(MONITORING)["services"]["prometheus"]["command"]
    asked = {
        (job["job_name"], tuple(found["names"]), found["type"], found["port"])
        for job in document["scrape_configs"]
        for found in job["dns_sd_configs"]
    }
    assert asked == {
        (service, (service,), "A", SETTINGS[service][0].model_fields["health_port"].default) for service in SERVICES
    }


def test_prometheus_finds_its_alerts() -> None:
    target, document = _config("prometheus", "prometheus")
    alerts, _ = _config("prometheus", "alerts")
    assert [str(Path(target).parent / name) for name in document["rule_files"]] == [alerts]


def test_grafana_finds_prometheus_and_the_dashboard() -> None:
    _, datasources = _config("grafana", "grafana-datasources")
    [datasource] = datasources["datasources"]
    assert (datasource["type"], datasource["url"]) == ("prometheus", "http://prometheus:9090")
    _, providers = _config("grafana", "grafana-dashboards")
    dashboard, _ = _config("grafana", "grafana-dashboard")
    [provider] = providers["providers"]
    assert provider["options"]["path"] == str(Path(dashboard).parent)
