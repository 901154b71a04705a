"""Blob URLs, made and recognised."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sd_common.blob_ids import is_blob_id, new_blob_id
from sd_common.blob_urls import blob_id_of, blob_url

_BASE = "http://localhost:8000"
_ID = "abcdefghijklmnopqrstuvwx"

_base_urls = st.sampled_from([_BASE, "https://pictures.example", "https://example.org/api", "http://[::1]:80"])


@given(_base_urls, st.from_regex(r"[A-Za-z0-9_-]{16,64}", fullmatch=True))
def test_a_blob_is_found_again_in_its_url(base_url: str, blob_id: str) -> None:
    assert blob_id_of(base_url, blob_url(base_url, blob_id)) == blob_id
    assert blob_id_of(base_url, blob_url(base_url + "/", blob_id)) == blob_id
    assert blob_id_of(base_url, f"/blob/{blob_id}") == blob_id


def test_new_ids_are_ids_and_differ() -> None:
    ids = {new_blob_id() for _ in range(1000)}
    assert len(ids) == 1000
    assert all(is_blob_id(blob_id) for blob_id in ids)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "/blob/",
        "/blob/short",
        f"/blob/{'a' * 65}",
        f"blob/{_ID}",
        f"//blob/{_ID}",
        f"/blob/{_ID}\n",
        f"/blob/{_ID}/",
        f"/blob/{_ID}?x=1",
        f"/blob/{_ID}#x",
        f"/blob/../blob/{_ID}",
        f"/task/{_ID}",
        f"http://other:8000/blob/{_ID}",
        f"https://localhost:8000/blob/{_ID}",
        f"http://localhost:80000/blob/{_ID}",
        f"{_BASE}.evil.example/blob/{_ID}",
        f"{_BASE}@evil.example/blob/{_ID}",
        f"http://evil.example/{_BASE}/blob/{_ID}",
        f"file:///blob/{_ID}",
    ],
)
def test_other_urls_name_no_blob(url: str) -> None:
    assert blob_id_of(_BASE, url) is None


@pytest.mark.parametrize("text", ["", "a" * 15, "a" * 65, "a" * 20 + ".", "../" * 8, "a" * 20 + "\n", "é" * 20])
def test_other_texts_are_no_blob_ids(text: str) -> None:
    assert not is_blob_id(text)
