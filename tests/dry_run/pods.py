"""Pods as processes: what kubelet does with a container, as far as its manifest tells."""

from __future__ import annotations

import http.client
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from contract.manifests import Document
from contract.rendered import container_of, pod_of

from sd_embedded.child_process import ChildProcess


class Pod:
    """One container of a workload, running as `command` in exactly `environment`."""

    def __init__(
        self,
        name: str,
        workload: Document,
        command: Sequence[str],
        environment: Mapping[str, str],
        ports: Mapping[str, int],
        directory: Path,
    ) -> None:
        """`ports`: on loopback, by the names that the container's have."""
        self.name = name
        self._workload = workload
        self._ports = ports
        directory.mkdir(parents=True, exist_ok=True)
        # Nothing of this process's own environment comes along.
        self._runner = ["/usr/bin/env", "-i", *(f"{name}={value}" for name, value in environment.items())]
        self.process = ChildProcess([*self._runner, *command], directory / "log", cwd=directory)

    @property
    def probes(self) -> list[str]:
        """The probes that its manifest has."""
        return [name for name in container_of(self._workload) if name.endswith("Probe")]

    def port(self, name: str) -> int:
        """Where the port of this name is on loopback."""
        return self._ports[name]

    def probe(self, name: str) -> int | None:
        """Ask once, as the probe says; the status of the answer, or None where there was none in time."""
        probe = container_of(self._workload)[name]
        timeout_s = probe.get("timeoutSeconds", 1)
        connection = http.client.HTTPConnection("127.0.0.1", self._ports[probe["httpGet"]["port"]], timeout=timeout_s)
        try:
            connection.request("GET", probe["httpGet"]["path"])
            return connection.getresponse().status
        except OSError:
            return None
        finally:
            connection.close()

    def is_answered(self, name: str) -> bool:
        """Whether the probe succeeds before kubelet would act on its failures."""
        probe = container_of(self._workload)[name]
        for _ in range(probe.get("failureThreshold", 3)):
            if self.probe(name) == 200:
                return True
            time.sleep(probe.get("periodSeconds", 10))
        return False

    def wait_until_ready(self, timeout_s: float) -> None:
        """Return when it has started and is ready by its probes. Raises `ProcessNotReady`."""
        for name in ("startupProbe", "readinessProbe"):
            self.process.wait_until(lambda name=name: self.probe(name) == 200, timeout_s)  # type: ignore[misc]

    def kill(self) -> None:
        """Lose it, as with its node."""
        self.process.kill()

    def stop(self, pre_stop: Sequence[str] = ()) -> int:
        """End it as kubelet does: `pre_stop`, then `terminate`."""
        self.pre_stop(pre_stop)
        return self.terminate()

    def pre_stop(self, command: Sequence[str] = ()) -> None:
        """Do what its `preStop` says, where it has one; `command` is that of its `exec`, as it is on this machine."""
        started_at = time.monotonic()
        hook = container_of(self._workload).get("lifecycle", {}).get("preStop", {})
        if "sleep" in hook:
            time.sleep(hook["sleep"]["seconds"])
        if "exec" in hook:
            subprocess.run([*self._runner, *command], check=True, capture_output=True, timeout=60)
        self._pre_stop_s = time.monotonic() - started_at

    def terminate(self) -> int:
        """SIGTERM; its exit code. Raises `TimeoutError` where kubelet would kill it, at the end of its grace period.

        What the caller does after `pre_stop` is not counted: kubelet goes on at once.
        """
        grace_s: float = pod_of(self._workload).get("terminationGracePeriodSeconds", 30)
        self.process.send(signal.SIGTERM)
        try:
            return self.process.wait(grace_s - self._pre_stop_s)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"{self.name} did not end within its grace period:\n{self.process.log}") from None
