"""Model names, and the keys that stand for them in subjects."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from sd_common.model_names import canonical_model_name, model_key, split_revision
from sd_common.parameters import ModelName
from sd_common.subjects import check_token, jobs_of, parse_jobs_subject

_name: TypeAdapter[str] = TypeAdapter(ModelName)

_part = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,60}[A-Za-z0-9_])?", fullmatch=True).filter(
    lambda part: ".." not in part and "--" not in part
)
_repository = st.tuples(_part, _part).map("/".join)
_revision = st.lists(_part, min_size=1, max_size=2).map("/".join)
model_names = st.one_of(_part, _repository, st.tuples(_repository, _revision).map("@".join)).filter(
    lambda name: len(name) <= 200
)


@given(model_names)
def test_a_key_is_one_subject_token(name: str) -> None:
    assert _name.validate_python(name) == canonical_model_name(name)
    assert check_token(model_key(name)) == model_key(name)
    assert parse_jobs_subject(jobs_of(name)).model_key == model_key(name)


@given(st.text(max_size=300))
def test_any_text_at_all_gives_a_token(name: str) -> None:
    assert check_token(model_key(name))


@given(model_names, model_names)
def test_different_names_have_different_keys(one: str, other: str) -> None:
    assume(one != other)
    assert model_key(one) != model_key(other)


def test_an_alias_keeps_the_revision() -> None:
    assert _name.validate_python("runwayml/stable-diffusion-inpainting@fp16") == (
        "stable-diffusion-v1-5/stable-diffusion-inpainting@fp16"
    )


def test_a_name_is_taken_apart() -> None:
    assert split_revision("owner/name@refs/pr/3") == ("owner/name", "refs/pr/3")
    assert split_revision("owner/name") == ("owner/name", None)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a/b@c", "a/b"),
        ("a/b@c", "a/b-c"),
        ("a/b", "a.b"),
        ("a/b", "a-b"),
        ("a" * 41, "a" * 42),
        ("Owner/name", "owner/name"),
        ("a_b", "a.b"),
    ],
)
def test_names_of_equal_slugs_differ_in_their_digits(one: str, other: str) -> None:
    assert model_key(one) != model_key(other)


def test_keys_are_pinned() -> None:
    """Jobs that wait in the stream, and consumers, carry them: a change would strand both."""
    assert model_key("CompVis/stable-diffusion-v1-4") == "CompVis-stable-diffusion-v1-4-551fc4c1"
    assert model_key("shapes") == "shapes-e729e861"


@pytest.mark.parametrize(
    "name",
    [
        "CompVis/stable-diffusion-v1-4",
        "shapes",
        "a",
        "a/b",
        "stabilityai/sdxl-turbo",
        "SG161222/Realistic_Vision_V1.4",
        "dreamlike-art/dreamlike-photoreal-2.0",
        "my_model_",
        "owner/name@main",
        "owner/name@v1.0",
        "owner/name@refs/pr/3",
        "owner/name@fix--it",
        "owner/name@39593d5650112b4cc580433f6b0435385882d819",
    ],
)
def test_names_of_the_hub_and_of_directories_are_taken(name: str) -> None:
    assert _name.validate_python(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "..",
        ".",
        "../a",
        "a/..",
        "a/../b",
        "a..b",
        "/etc/passwd",
        "a/b/c",
        "a//b",
        "a/",
        "/a",
        "\\windows",
        "C:\\models",
        "~root",
        ".hidden",
        "a/.hidden",
        "a b",
        "a\n",
        "a\x00",
        "a--b",
        "a.",
        "a-",
        "jobs.>",
        "*",
        "modèle",
        "https://host/model",
        "%2e%2e",
        "shapes@main",
        "owner/name@",
        "owner/name@@main",
        "owner/name@a@b",
        "owner/name@..",
        "owner/name@a/../b",
        "owner/name@/etc",
        "owner/name@a//b",
        "owner/name@a/",
        "owner/name@.hidden",
        "owner/name@a/.hidden",
        "owner/name@-option",
        "owner/name@a b",
        "owner/name@main~1",
        "owner/name@HEAD^",
        "owner@main/name",
    ],
)
def test_names_that_could_leave_a_directory_or_are_of_no_repository_are_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="must be a repository id on the hub such as"):
        _name.validate_python(name)
