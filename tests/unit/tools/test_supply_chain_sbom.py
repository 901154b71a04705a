"""What the images install, as CycloneDX documents."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packaging.utils import canonicalize_name

from supply_chain.image_packages import SERVICES, image_packages
from supply_chain.sbom import create_sbom, main

_ROOT = Path(__file__).parents[3]
by_service = pytest.mark.parametrize("service", SERVICES)


@cache
def _document(service: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(create_sbom(service))
    return document


def _versions(service: str) -> dict[str, str]:
    return {component["name"]: component["version"] for component in _document(service)["components"]}


@by_service
def test_the_documents_follow_the_schema(service: str) -> None:
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(create_sbom(service)) is None


@by_service
def test_all_that_an_image_installs_is_pinned(service: str) -> None:
    lines = (_ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = {
        canonicalize_name(name): version for name, is_pin, version in (line.partition("==") for line in lines) if is_pin
    }
    others = {name: version for name, version in _versions(service).items() if name != "sd-common"}
    # Wheels of torch from its own index have a local version: 2.13.0+cpu.
    assert {name: version.partition("+")[0] for name, version in others.items()}.items() <= pins.items()


@pytest.mark.parametrize(
    ("service", "there", "not_there"),
    [
        ("auth", {"nats-py", "argon2-cffi", "cryptography", "minio"}, {"aiohttp", "torch", "pytest"}),
        ("gateway", {"nats-py", "aiohttp", "pyjwt", "cryptography", "multidict"}, {"torch", "diffusers", "pytest"}),
        ("worker", {"nats-py", "torch", "diffusers", "safetensors", "tokenizers"}, {"aiohttp", "pyjwt", "pytest"}),
    ],
)
def test_an_image_has_what_its_service_needs_and_no_more(service: str, there: set[str], not_there: set[str]) -> None:
    names = set(_versions(service))
    assert there <= names
    assert not names & not_there


@by_service
def test_a_document_tells_whose_it_is_and_what_needs_what(service: str) -> None:
    document = _document(service)
    own = document["metadata"]["component"]
    assert (own["name"], own["type"]) == (f"sd-{service}", "application")
    needed_by = {each["ref"].partition("==")[0]: each.get("dependsOn", []) for each in document["dependencies"]}
    reached, todo = set(), [f"sd-{service}"]
    while todo:
        for name in (ref.partition("==")[0] for ref in needed_by[todo.pop()]):
            if name not in reached:
                reached.add(name)
                todo.append(name)
    assert reached == set(_versions(service))
    assert reached | {f"sd-{service}"} == set(image_packages(service))


@by_service
def test_packages_of_others_can_be_looked_up_and_ours_cannot_be_taken_for_others(service: str) -> None:
    document = _document(service)
    for component in (document["metadata"]["component"], *document["components"]):
        if component["name"].startswith("sd-"):
            assert "purl" not in component
        else:
            version = component["version"].replace("+", "%2B")
            assert component["purl"] == f"pkg:pypi/{component['name']}@{version}"


def test_licenses_are_told() -> None:
    components = {component["name"]: component for component in _document("gateway")["components"]}
    assert components["nats-py"]["licenses"]
    without = [name for name, component in components.items() if not component.get("licenses")]
    assert without == []


def test_a_document_is_written_for_each_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(tmp_path / "sbom")])
    assert {path.name for path in (tmp_path / "sbom").iterdir()} == {f"{service}.cdx.json" for service in SERVICES}
    assert set(SERVICES) == {path.parent.name for path in (_ROOT / "services").glob("*/Dockerfile")}
