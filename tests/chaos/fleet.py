"""The whole service as processes, any of which can be disturbed: servers, auths, gateways and workers."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from chaos.parts import Part, PartKind, ServerPart, ServicePart
from sd_common.nats_settings import NatsSettings
from sd_common.s3_client import MinioSettings
from sd_embedded.nats_server import NatsServer
from sd_embedded.s3_server import S3Server
from support.deployment import Deployment
from support.nats_cluster import NUM_NODES, NatsCluster
from support.network_namespace import OtherHost, other_host, why_no_namespaces
from support.servers import NatsServerWithUsers, nats_settings_of

#: The worker that runs on another host, where the machine allows one.
FAR_WORKER = "worker-two"
_LOOPBACK = "127.0.0.1"
_WORKER_ENV = {
    "MAX_ATTEMPTS": "100",  # however often its workers are lost, a task is not given up
    "DRAIN_TIMEOUT_S": "30",
}
#: Processes that may be waited for at once: one for each part, since some wait for others.
_NUM_HANDS = 12


class Fleet:
    """What runs, by name."""

    def __init__(self, deployment: Deployment, minio: MinioSettings, host: OtherHost | None) -> None:
        self.deployment = deployment
        self.minio_settings = minio
        self.nats_settings: NatsSettings = nats_settings_of(deployment.nats)
        #: Where `FAR_WORKER` runs; None where this machine has no namespaces.
        self.other_host = host
        self.parts: dict[str, Part] = {}
        #: Gateways that a load balancer has been told to leave alone.
        self.leaving: set[str] = set()
        # A child process ends with the thread that started it: these live as long as the fleet.
        self._hands = ThreadPoolExecutor(_NUM_HANDS, thread_name_prefix="fleet")

    def names_of(self, kind: PartKind) -> list[str]:
        """The parts of one kind."""
        return [part.name for part in self.parts.values() if part.kind == kind]

    def gateway_urls(self) -> dict[str, str]:
        """Where to send requests, by the gateway's name."""
        return {name: self.deployment.gateway_url(name) for name in self.names_of("gateway")}

    async def do(self, action: Callable[[], None]) -> None:
        """Start or end a process, beside what the event loop does."""
        await asyncio.get_running_loop().run_in_executor(self._hands, action)

    async def replace(self, part: Part) -> None:
        """End a part in order, and start it anew. Clients are told to leave it alone meanwhile."""
        self.leaving.add(part.name)
        try:
            await self.do(part.terminate)
            await self.do(part.start)
            if part.kind == "gateway":
                await self.do(partial(self.deployment.wait_until_ready, part.name))
        finally:
            self.leaving.discard(part.name)

    def add_servers(self, nats: NatsServer | NatsCluster, s3: S3Server) -> None:
        nodes = nats.nodes if isinstance(nats, NatsCluster) else {"nats": nats}
        for name, node in nodes.items():
            self.parts[name] = ServerPart(name, "nats-server", node)
        self.parts["s3"] = ServerPart("s3", "S3 server", s3)

    def start_services(self, num_workers: int) -> None:
        """Two auths, two gateways and the workers. Returns when all of them work."""
        deployment = self.deployment
        services = []
        for name in ("worker-one", FAR_WORKER)[:num_workers]:
            is_far = name == FAR_WORKER and self.other_host is not None
            runner = self.other_host.runner if is_far and self.other_host is not None else ()
            start = partial(deployment.start_worker, name, _WORKER_ENV, runner)
            services.append(ServicePart(name, "worker", start, "worker_started"))
        for name in ("gateway-one", "gateway-two"):
            start = partial(deployment.start_gateway, {"SHUTDOWN_TIMEOUT_S": "10"}, name)
            services.append(ServicePart(name, "gateway", start, "gateway_listening"))
        for name in ("auth-one", "auth-two"):
            services.append(ServicePart(name, "auth", partial(deployment.start_auth, name=name), "auth_started"))
        deployment.provision()
        for service in services:
            service.wait_until_ready()
            self.parts[service.name] = service
        for gateway in self.names_of("gateway"):
            deployment.wait_until_ready(gateway)

    def stop(self) -> None:
        """Kill the services."""
        self.deployment.stop()
        self._hands.shutdown()


@contextlib.contextmanager
def running_fleet(directory: Path, model_dir: Path, *, on_two_hosts: bool = True) -> Iterator[Fleet]:
    """Over one nats-server. Two workers, the second on a host of its own where the machine allows that."""
    with contextlib.ExitStack() as stack:
        host = stack.enter_context(other_host()) if on_two_hosts and why_no_namespaces() is None else None
        nats = NatsServerWithUsers(_made(directory / "nats"), host=host.near_address if host else _LOOPBACK)
        stack.callback(nats.kill)
        nats.start()
        yield stack.enter_context(_fleet_over(nats, directory, model_dir, host, num_workers=2))


@contextlib.contextmanager
def running_fleet_over_cluster(directory: Path, model_dir: Path, cluster: NatsCluster) -> Iterator[Fleet]:
    """Over three nats-servers, with three copies of every stream. One worker."""
    env = {"NATS_REPLICAS": str(NUM_NODES)}
    with _fleet_over(cluster, directory, model_dir, None, num_workers=1, env=env) as fleet:
        yield fleet


@contextlib.contextmanager
def _fleet_over(
    nats: NatsServer | NatsCluster,
    directory: Path,
    model_dir: Path,
    host: OtherHost | None,
    *,
    num_workers: int,
    env: dict[str, str] | None = None,
) -> Iterator[Fleet]:
    s3 = S3Server(_made(directory / "s3"), "test", secrets.token_hex(20), host=host.near_address if host else _LOOPBACK)
    s3.start()
    try:
        minio = s3.minio_settings("pictures")
        fleet = Fleet(Deployment(directory, nats, minio, model_dir, env), minio, host)
        fleet.add_servers(nats, s3)
        try:
            fleet.start_services(num_workers)
            yield fleet
        finally:
            fleet.stop()
    finally:
        s3.kill()


def _made(directory: Path) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    return directory
