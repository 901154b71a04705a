"""URLs of pictures on other hosts: which are asked for at all."""

from __future__ import annotations

import re
from collections.abc import Collection
from fnmatch import fnmatchcase
from ipaddress import ip_address
from typing import Literal

from yarl import URL

from sd_common.errors import PictureError

#: `off`, `public`, or patterns of the hosts that are asked.
RemoteImages = Literal["off", "public"] | tuple[str, ...]

_MAX_CHARS = 2048
#: What programs read in different ways: spaces and line ends, which some leave out, and backslashes, which some take
#: for slashes.
_AMBIGUOUS = re.compile(r"[\x00-\x20\x7f-\xa0\\]")
_AUTHORITY = re.compile(r"https?://([^/?#]*)", re.IGNORECASE)
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
#: A name with a dot, whose last label begins with a letter: other forms are looked up as names of this network, or
#: taken for addresses in octal, in hexadecimal or as one number.
_HOST_NAME = re.compile(rf"(?=.{{4,253}}$)(?:{_LABEL}\.)+[a-z](?:[a-z0-9-]{{0,61}}[a-z0-9])?")


def is_remote(url: str) -> bool:
    """Whether `url` is one of another host, as far as its scheme tells."""
    return url.lower().startswith(("http:", "https:"))


def check_remote_url(text: str, hosts: RemoteImages, ports: Collection[int]) -> URL:
    """The URL that `text` is, where `hosts` and `ports` have it asked for. Raises `PictureError`."""
    if len(text) > _MAX_CHARS:
        raise PictureError(f"A URL of another host has at most {_MAX_CHARS:,} characters")
    if _AMBIGUOUS.search(text):
        raise PictureError("The URL holds a space, a control character or a backslash: percent-encode it")
    authority = _AUTHORITY.match(text)
    if authority is not None and "@" in authority[1]:
        raise PictureError("A URL with a user name or a password in it is not fetched: leave them out")
    try:
        url = URL(text)
        host, port = url.raw_host, url.port
    except ValueError as error:
        raise PictureError("The URL cannot be read: check how it is written") from error
    if url.scheme not in ("http", "https"):
        raise PictureError("Only http and https URLs are fetched")
    if host is None or not (_HOST_NAME.fullmatch(host) or _is_address(host)):
        raise PictureError("The URL names no host of the internet: it must be one such as 'example.org'")
    if port not in ports:
        raise PictureError(f"Port {port} is not asked: only {' and '.join(map(str, sorted(ports)))} are")
    if isinstance(hosts, tuple) and not any(fnmatchcase(host, pattern) for pattern in hosts):
        raise PictureError(
            f"Pictures of '{host}' are not fetched, only those of {', '.join(hosts)}: upload yours with POST /blob"
        )
    return url


def _is_address(host: str) -> bool:
    """Whether `host` is an address in its one usual form, without a zone."""
    try:
        return "%" not in host and ip_address(host) is not None
    except ValueError:
        return False
