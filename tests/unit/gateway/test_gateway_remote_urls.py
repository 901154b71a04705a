"""URLs of other hosts: which are asked for at all."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sd_common.errors import PictureError
from sd_gateway.remote_urls import check_remote_url

_PORTS = (80, 443)


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://example.org/cat.png", "http://example.org/cat.png"),
        ("HTTPS://Example.ORG:443/a%20b?c=d#e", "https://example.org/a%20b?c=d#e"),
        ("https://bücher.example/", "https://xn--bcher-kva.example/"),
        ("https://a_b.example.org/", "https://a_b.example.org/"),
        ("http://93.184.216.34/cat.png", "http://93.184.216.34/cat.png"),
        ("http://[2606:4700::1111]/", "http://[2606:4700::1111]/"),
    ],
)
def test_urls_of_the_internet_are_taken(text: str, url: str) -> None:
    assert str(check_remote_url(text, "public", _PORTS)) == url


@pytest.mark.parametrize(
    ("host", "is_asked"),
    [
        ("images.example.org", True),
        ("a.images.example.org", True),
        ("IMAGES.example.org", True),
        ("example.org", False),
        ("images.example.org.evil.test", False),
        ("evilimages.example.org", False),
        ("cdn.example.com", True),
    ],
)
def test_with_a_list_its_hosts_alone_are_asked(host: str, is_asked: bool) -> None:
    hosts = ("images.example.org", "*.images.example.org", "cdn.example.com")
    if is_asked:
        check_remote_url(f"https://{host}/x", hosts, _PORTS)
    else:
        with pytest.raises(PictureError, match=r"only those of images\.example\.org"):
            check_remote_url(f"https://{host}/x", hosts, _PORTS)


@given(st.text(max_size=60).map(lambda text: f"http://{text}"))
@example("http://[")
@example("http://[v1.x]/")
@example("http://xn--/")
@example("http://\ud800.org/")
@example(f"http://{'ä' * 70}.org/")
def test_any_text_is_a_url_or_refused(text: str) -> None:
    try:
        url = check_remote_url(text, "public", _PORTS)
    except PictureError:
        pass
    else:
        assert url.host
        assert url.user is None
        assert url.port in _PORTS
