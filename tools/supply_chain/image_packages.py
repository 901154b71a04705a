"""Which packages a service's image installs: its own, and all that these need, read from what is installed here.

Here and in the images, constraints.txt decides the versions. Wheels of torch differ by their index: those with CUDA
need packages of NVIDIA besides, and are told with these where they are installed here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import Distribution, distribution

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

#: The services that have an image, each of the package `sd-<service>`. Provisioning runs in that of auth.
SERVICES = ("auth", "gateway", "worker")


@dataclass
class ImagePackage:
    """A package in an image, and the names of those that it needs there."""

    installed: Distribution
    needs: set[str] = field(default_factory=set)


def image_packages(service: str) -> dict[str, ImagePackage]:
    """The packages of the service's image by normalized name, its own first. Raises `PackageNotFoundError` where one is
    not installed here."""
    packages: dict[str, ImagePackage] = {}
    seen: set[tuple[str, str]] = set()
    todo = [(f"sd-{service}", "")]
    while todo:
        name, extra = todo.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        if name not in packages:
            packages[name] = ImagePackage(distribution(name))
        for requirement in _requirements(packages[name].installed, extra):
            needed = canonicalize_name(requirement.name)
            packages[name].needs.add(needed)
            todo += [(needed, each) for each in ("", *requirement.extras)]
    return packages


def _requirements(package: Distribution, extra: str) -> Iterator[Requirement]:
    """What holds on this platform, with the extra where it is not empty."""
    for requirement in map(Requirement, package.requires or ()):
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            yield requirement
