"""The service as several processes, the way operators run it, over servers that tests can kill."""

from __future__ import annotations

import secrets
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

from sd_common.s3_client import MinioSettings
from support.client import Json
from support.ports import free_port
from support.servers import NatsServer, nats_env, nats_settings_of
from support.stack import Service

#: Not where the gateway listens: blob URLs are told with it, and tests use their paths.
BASE_URL = "http://gateway.test"
#: Short, so that jobs of lost workers change hands while a test watches.
ACK_WAIT_S = 3
_READY_WITHIN_S = 60.0


def path_of_picture(finished: Json) -> str:
    """Of the picture that a `finished` event tells of, at a gateway of a `Deployment`."""
    return str(finished["result"]["blob_url"]).removeprefix(BASE_URL)


class Deployment:
    """auth, gateways and workers, each a process. One that is started again takes the place of its predecessor."""

    def __init__(
        self,
        directory: Path,
        nats: NatsServer,
        minio: MinioSettings,
        model_dir: Path,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self._directory = directory
        self.nats = nats
        self.minio = minio
        self._model_dir = model_dir
        self._secret_key = secrets.token_hex(32)
        self._ports: dict[str, int] = {}
        self._env = {
            "MINIO_ENDPOINT": minio.minio_endpoint,
            "MINIO_ACCESS_KEY": minio.minio_access_key,
            "MINIO_SECRET_KEY": minio.minio_secret_key.get_secret_value(),
            "MINIO_BUCKET": minio.minio_bucket,
            "BASE_URL": BASE_URL,
            "HEALTH_PORT": "off",
            **(env or {}),
        }
        self.services: dict[str, Service] = {}

    @property
    def provision_env(self) -> Mapping[str, str]:
        """The settings of provisioning."""
        return {**self._env, **self._nats_env("provision")}

    def provision(self) -> None:
        """`python -m sd_common.provision`."""
        command = [sys.executable, "-m", "sd_common.provision"]
        subprocess.run(command, env=self.provision_env, check=True, capture_output=True, timeout=60)

    def start_auth(self, env: Mapping[str, str] | None = None, name: str = "auth") -> Service:
        defaults = {"SECRET_KEY": self._secret_key, "ENABLE_PUBLIC_ACCESS": "1"}
        return self._start(name, "sd_auth", {**defaults, **(env or {})})

    def start_gateway(self, env: Mapping[str, str] | None = None, name: str = "gateway") -> Service:
        """On a free port; on that of its predecessor, where there was one."""
        port = self._ports[name] = self._ports.get(name) or free_port()
        # All load comes from one user; that it comes from one address is seen to by `Service`.
        unlimited = {"MAX_UNFINISHED_TASKS_PER_USER": "0"}
        return self._start(name, "sd_gateway", {"PORT": str(port), **unlimited, **(env or {})})

    def start_worker(self, name: str, env: Mapping[str, str] | None = None, runner: Sequence[str] = ()) -> Service:
        # One picture at a time, so that tests can say which worker has which.
        defaults = {"MODEL_DIR": str(self._model_dir), "WORKER_NAME": name, "MAX_ROWS": "2"}
        ack_wait = {"JOB_ACK_WAIT_S": str(ACK_WAIT_S)}
        return self._start(name, "sd_worker", {**defaults, **ack_wait, **(env or {})}, runner)

    def gateway_url(self, name: str = "gateway") -> str:
        """Where the gateway listens."""
        self.services[name].wait_for_log("gateway_listening")
        return f"http://127.0.0.1:{self._ports[name]}"

    def wait_until_ready(self, name: str = "gateway") -> None:
        """Return when the gateway and all its parts are, as a load balancer waits before it sends requests."""
        url = f"{self.gateway_url(name)}/readyz"
        self.services[name].process.wait_until(lambda: _is_ready(url), _READY_WITHIN_S)

    def stop(self) -> None:
        """Kill what runs."""
        for service in self.services.values():
            service.process.kill()

    def _start(self, name: str, module: str, env: Mapping[str, str], runner: Sequence[str] = ()) -> Service:
        env = {**self._env, **self._nats_env(module.removeprefix("sd_")), **env}
        self.services[name] = Service(module, self._directory / name, env, runner)
        return self.services[name]

    def _nats_env(self, user: str) -> dict[str, str]:
        return nats_env(nats_settings_of(self.nats, user))


def _is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False
