"""A second host on this machine: a network namespace, joined to this one by a cable that can be pulled."""

from __future__ import annotations

import contextlib
import os
import random
import secrets
import shutil
import subprocess
from collections.abc import Iterator

_INSIDE = "uplink"


def why_no_namespaces() -> str | None:
    """Why this machine has no network namespaces to give; None where it has."""
    if shutil.which("ip") is None:
        return "there is no `ip` (package iproute2)"
    name = f"sd-{secrets.token_hex(4)}"
    try:
        with _namespace(name):
            _ip("link", "add", name, "type", "veth", "peer", "name", _INSIDE, "netns", name)
    except subprocess.CalledProcessError as error:
        return f"they cannot be made by this user ({error.stderr.strip()})"
    return None


class OtherHost:
    """A host that reaches this one at `near_address`, while its cable is plugged in."""

    def __init__(self, name: str, near_address: str) -> None:
        self._name = name
        self.near_address = near_address

    @property
    def runner(self) -> list[str]:
        """Runs the command that follows it on that host."""
        ip = shutil.which("ip")
        assert ip is not None
        return [ip, "netns", "exec", self._name]

    def unplug(self) -> None:
        """Pull the cable: nothing comes through, and nobody is told."""
        _ip("-n", self._name, "link", "set", _INSIDE, "down")

    def plug_in(self) -> None:
        """Nothing that was sent meanwhile is lost that TCP sends again."""
        _ip("-n", self._name, "link", "set", _INSIDE, "up")


@contextlib.contextmanager
def other_host() -> Iterator[OtherHost]:
    """A fresh one. Needs `why_no_namespaces()` to be None."""
    name = f"sd-{secrets.token_hex(4)}"
    # Of 10.64.0.0/10, which few networks use.
    network = f"10.{random.randrange(64, 128)}.{random.randrange(256)}"
    with _namespace(name):
        _ip("link", "add", name, "type", "veth", "peer", "name", _INSIDE, "netns", name)
        _ip("addr", "add", f"{network}.1/24", "dev", name)
        _ip("link", "set", name, "up")
        _ip("-n", name, "addr", "add", f"{network}.2/24", "dev", _INSIDE)
        _ip("-n", name, "link", "set", _INSIDE, "up")
        _ip("-n", name, "link", "set", "lo", "up")
        yield OtherHost(name, f"{network}.1")


@contextlib.contextmanager
def _namespace(name: str) -> Iterator[None]:
    _ip("netns", "add", name)
    try:
        yield
    finally:
        _ip("netns", "del", name)  # and both ends of its cable with it


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True, env=os.environ)
