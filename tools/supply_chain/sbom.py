"""Write what each service's image installs, as CycloneDX documents: `python -m supply_chain.sbom DIRECTORY`.

Python packages alone: what the base image brings is told by its publisher, or by `docker buildx build --sbom=true`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.metadata import Distribution
from pathlib import Path

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import License, LicenseAcknowledgement
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from supply_chain.image_packages import SERVICES, image_packages

_OURS = "sd-"
_DECLARED = LicenseAcknowledgement.DECLARED


def create_sbom(service: str) -> str:
    """The document of one service's image, in JSON."""
    packages = image_packages(service)
    components = {name: _component(name, package.installed) for name, package in packages.items()}
    own = components.pop(f"{_OURS}{service}")
    own.type = ComponentType.APPLICATION
    bom = Bom(components=components.values())
    bom.metadata.component = own
    for name, package in packages.items():
        bom.register_dependency(components.get(name, own), [components[each] for each in package.needs])
    return JsonV1Dot6(bom).output_as_string(indent=2)


def _component(name: str, package: Distribution) -> Component:
    return Component(
        name=name,
        version=package.version,
        type=ComponentType.LIBRARY,
        bom_ref=f"{name}=={package.version}",
        # Ours are not on PyPI: whoever takes their names there is somebody else.
        purl=None if name.startswith(_OURS) else PackageURL("pypi", name=name, version=package.version),
        licenses=_licenses(package),
    )


def _licenses(package: Distribution) -> list[License]:
    """As the package tells: an SPDX expression, or what older packages have in its place."""
    metadata = package.metadata
    told = [metadata[name] for name in ("License-Expression", "License") if name in metadata][:1]
    if not told or "\n" in told[0]:  # the whole text of the license
        classifiers = metadata.get_all("Classifier") or []
        told = [each.rpartition(" :: ")[2] for each in classifiers if each.startswith("License :: ")]
    return [LicenseFactory().make_from_string(each, license_acknowledgement=_DECLARED) for each in told]


def main(arguments: Sequence[str]) -> None:
    directory = Path(arguments[0])
    directory.mkdir(parents=True, exist_ok=True)
    for service in SERVICES:
        path = directory / f"{service}.cdx.json"
        path.write_text(create_sbom(service) + "\n", encoding="utf-8")
        print(path)


if __name__ == "__main__":
    main(sys.argv[1:])
