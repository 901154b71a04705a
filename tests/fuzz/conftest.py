"""The service as processes, with small limits, for all tests that send it random input."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator

import pytest
import requests

from support import tiny_pipelines
from support.deployment import Deployment
from support.pictures import data_url, png
from support.servers import S3Server, nats_server

MAX_UPLOAD_BYTES = 50_000
#: What is beyond them is refused, so that a picture takes a moment.
LIMITS = {
    "DEFAULT_MODEL": "tiny",
    "ALLOWED_MODELS": "tiny",
    "MAX_STEPS": "2",
    "MAX_PICTURE_PIXELS": str(96 * 96),
    "MAX_UPLOAD_BYTES": str(MAX_UPLOAD_BYTES),
}


#: As a data URL.
PICTURE = data_url(png())


@pytest.fixture(scope="session")
def deployment(tmp_path_factory: pytest.TempPathFactory, s3_server: S3Server, backend: str) -> Iterator[Deployment]:
    """auth, a gateway and a worker, open to all."""
    directory = tmp_path_factory.mktemp("fuzz")
    model_dir = directory / "models"
    tiny_pipelines.save_sd1(model_dir / "tiny")
    minio = s3_server.minio_settings(f"test-{secrets.token_hex(8)}")
    with nats_server(on=backend) as nats:
        deployment = Deployment(directory, nats, minio, model_dir, {"ENABLE_SIGNUP": "1"})
        deployment.provision()
        try:
            deployment.start_auth()
            deployment.start_gateway(LIMITS)
            deployment.start_worker("worker")
            deployment.services["worker"].wait_for_log("worker_started")
            yield deployment
        finally:
            deployment.stop()


@pytest.fixture(scope="session")
def gateway_url(deployment: Deployment) -> str:
    return deployment.gateway_url()


@pytest.fixture
def token(gateway_url: str) -> str:
    """Of a session that nothing was asked of yet."""
    answer = requests.post(f"{gateway_url}/token/all", timeout=30)
    return str(answer.json()["access_token"])


@pytest.fixture(autouse=True)
def _nothing_fails_in_the_service(deployment: Deployment) -> Iterator[None]:
    """An answer may be well-formed though something broke behind it: the logs tell."""
    told_before = {name: len(service.new_log) for name, service in deployment.services.items()}
    yield
    for name, service in deployment.services.items():
        lines = service.new_log[told_before.get(name, 0) :].splitlines()
        assert [line for line in lines if _is_failure(line)] == [], name


def _is_failure(line: str) -> bool:
    try:
        entry = json.loads(line)
    except ValueError:
        return line.startswith("Traceback")  # on its way past the log
    # Refusing what is no job is an error of who sent it.
    return entry["level"] in ("error", "critical") and entry["event"] != "not_a_job"
