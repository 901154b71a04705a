"""Hostile URLs and servers, each with what the client is told. `{port}` is that of the target."""

from __future__ import annotations

import zipfile
from io import BytesIO

from integration.gateway.hostile_servers import (
    HOST,
    Internet,
    answer,
    drip,
    drip_headers,
    flood,
    gzip_bomb,
    hints_for_ever,
    png_bomb,
    say_nothing,
)

from support.pictures import png

_UNREACHABLE = "cannot be reached at a public address"
_NO_HOST = "names no host of the internet"
_AMBIGUOUS = "a space, a control character or a backslash"
_USER = "a user name or a password"
_NOT_TAKEN = "Must be a blob URL of this service, an http or https URL"
_NO_PICTURE = "not a whole PNG, JPEG, WEBP picture"

#: Of URLs that lead to the target by themselves.
HOSTILE_URLS = {
    # Addresses
    "http://127.0.0.1:{port}/": _UNREACHABLE,
    "http://127.1.2.3:{port}/": _UNREACHABLE,
    "http://0.0.0.0:{port}/": _UNREACHABLE,
    "http://10.0.0.1:{port}/": _UNREACHABLE,
    "http://172.16.0.1:{port}/": _UNREACHABLE,
    "http://192.168.0.1:{port}/": _UNREACHABLE,
    "http://100.64.0.1:{port}/": _UNREACHABLE,
    "http://100.100.100.200/latest/meta-data/": _UNREACHABLE,
    "http://169.254.169.254/latest/meta-data/": _UNREACHABLE,
    "http://168.63.129.16/machine": _UNREACHABLE,
    "http://192.0.0.192/opc/v1/": _UNREACHABLE,
    "http://198.18.0.1:{port}/": _UNREACHABLE,
    "http://224.0.0.1:{port}/": _UNREACHABLE,
    "http://240.0.0.1:{port}/": _UNREACHABLE,
    "http://255.255.255.255:{port}/": _UNREACHABLE,
    "http://[::1]:{port}/": _UNREACHABLE,
    "http://[::]:{port}/": _UNREACHABLE,
    "http://[0:0:0:0:0:0:0:1]:{port}/": _UNREACHABLE,
    "http://[::ffff:127.0.0.1]:{port}/": _UNREACHABLE,
    "http://[::ffff:7f00:1]:{port}/": _UNREACHABLE,
    "http://[::127.0.0.1]:{port}/": _UNREACHABLE,
    "http://[64:ff9b::7f00:1]:{port}/": _UNREACHABLE,
    "http://[64:ff9b::169.254.169.254]/": _UNREACHABLE,
    "http://[64:ff9b:1::7f00:1]:{port}/": _UNREACHABLE,
    "http://[2002:7f00:1::]:{port}/": _UNREACHABLE,
    "http://[2001:0:7f00:1::1]:{port}/": _UNREACHABLE,
    "http://[fe80::1]:{port}/": _UNREACHABLE,
    "http://[fd00:ec2::254]/latest/meta-data/": _UNREACHABLE,
    "http://[fc00::1]:{port}/": _UNREACHABLE,
    "http://[ff02::1]:{port}/": _UNREACHABLE,
    "http://[2001:db8::1]:{port}/": _UNREACHABLE,
    # Spellings of addresses
    "http://2130706433:{port}/": _NO_HOST,
    "http://0x7f000001:{port}/": _NO_HOST,
    "http://017700000001:{port}/": _NO_HOST,
    "http://0177.0.0.1:{port}/": _NO_HOST,
    "http://0x7f.0.0.1:{port}/": _NO_HOST,
    "http://127.1:{port}/": _NO_HOST,
    "http://127.0.1:{port}/": _NO_HOST,
    "http://127.0.0.1.:{port}/": _NO_HOST,
    "http://127.0.0.01:{port}/": _NO_HOST,
    "http://127。0。0。1:{port}/": _UNREACHABLE,
    "http://①②⑦.⓪.⓪.①:{port}/": _UNREACHABLE,
    "http://127%2e0%2e0%2e1:{port}/": _NO_HOST,
    "http://[::1%25lo]:{port}/": _NO_HOST,
    "http://[fe80::1%25eth0]:{port}/": _NO_HOST,
    "http://[fe80::1%eth0]:{port}/": _NO_HOST,
    "http://[::1:{port}/": "cannot be read",
    "http://[127.0.0.1]:{port}/": "cannot be read",
    # Names
    "http://localhost:{port}/": _NO_HOST,
    "http://LOCALHOST:{port}/": _NO_HOST,
    "http://localhost.:{port}/": _NO_HOST,
    "http://a.localhost:{port}/": _UNREACHABLE,
    "http://localhost.localdomain:{port}/": _UNREACHABLE,
    "http://minio:{port}/": _NO_HOST,
    "http://metadata.google.internal/": _UNREACHABLE,
    "http://nats.default.svc.cluster.local:{port}/": _UNREACHABLE,
    "http://127.0.0.1.nip.io:{port}/": _UNREACHABLE,
    "http://%6cocalhost:{port}/": _NO_HOST,
    "http://ⓛⓞⓒⓐⓛⓗⓞⓢⓣ:{port}/": _NO_HOST,
    "http://pictures.test.:{port}/": _NO_HOST,
    "http://*.test:{port}/": _NO_HOST,
    "http://-a.test:{port}/": _NO_HOST,
    "http://a..test:{port}/": _NO_HOST,
    f"http://{'a' * 64}.test:{{port}}/": _NO_HOST,
    # Who is meant
    f"http://{HOST}@127.0.0.1:{{port}}/": _USER,
    f"http://user:password@{HOST}:{{port}}/": _USER,
    f"http://@{HOST}:{{port}}/": _USER,
    f"http://127.0.0.1:{{port}}%2f@{HOST}:{{port}}/": _USER,
    f"http://127.0.0.1:{{port}}\\@{HOST}:{{port}}/": _AMBIGUOUS,
    f"http:\\\\127.0.0.1:{{port}}\\{HOST}": _AMBIGUOUS,
    f"http://127.0.0.1:{{port}}#@{HOST}/": _UNREACHABLE,
    f"http://127.0.0.1:{{port}}?@{HOST}/": _UNREACHABLE,
    f"http://{HOST} 127.0.0.1:{{port}}/": _AMBIGUOUS,
    f"http://{HOST}:{{port}}/\r\nHost: 127.0.0.1": _AMBIGUOUS,
    f"http://{HOST}:{{port}}/ HTTP/1.1\r\nX: y": _AMBIGUOUS,
    f"http://{HOST}\t:{{port}}/": _AMBIGUOUS,
    f"http://{HOST}\x00:{{port}}/": _AMBIGUOUS,
    # Ports
    f"http://{HOST}:22/": "Port 22 is not asked",
    f"http://{HOST}:6379/": "Port 6379 is not asked",
    "http://127.0.0.1:4222/": "Port 4222 is not asked",
    f"http://{HOST}:0/": "Port 0 is not asked",
    f"http://{HOST}:99999/": "cannot be read",
    f"http://{HOST}:port/": "cannot be read",
    # Schemes
    "HTTP://127.0.0.1:{port}/": _UNREACHABLE,
    "hTTps://127.0.0.1:{port}/": _UNREACHABLE,
    "ftp://127.0.0.1:{port}/": _NOT_TAKEN,
    "file:///etc/passwd": _NOT_TAKEN,
    "FILE://127.0.0.1/etc/passwd": _NOT_TAKEN,
    "gopher://127.0.0.1:{port}/_GET%20/": _NOT_TAKEN,
    "dict://127.0.0.1:{port}/stat": _NOT_TAKEN,
    "ws://127.0.0.1:{port}/": _NOT_TAKEN,
    "unix:///var/run/docker.sock": _NOT_TAKEN,
    "jar:http://127.0.0.1:{port}/!/x": _NOT_TAKEN,
    "javascript:alert(1)": _NOT_TAKEN,
    "data:text/html;base64,PGI+": _NOT_TAKEN,
    "data:image/svg+xml;base64,PHN2Zy8+": _NO_PICTURE,
    "//127.0.0.1:{port}/": _NOT_TAKEN,
    "127.0.0.1:{port}/": _NOT_TAKEN,
    " http://127.0.0.1:{port}/": _NOT_TAKEN,
    "http:/127.0.0.1:{port}/": _NO_HOST,
    "http:127.0.0.1:{port}": _NO_HOST,
    "http:///127.0.0.1:{port}/": _NO_HOST,
    "http://": _NO_HOST,
    f"http://{HOST}:{{port}}/{'a' * 3000}": "at most 2,048 characters",
}

_SVG = b"<svg xmlns='http://www.w3.org/2000/svg'><image href='http://127.0.0.1/'/></svg>"
_IMAGE_TYPE = "Content-Type: image/png"


def _zip_of_a_picture() -> bytes:
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("picture.png", png())
    return buffer.getvalue()


#: What is said of a server that does not give its picture in time.
TOO_SLOW = "did not come within"
#: Of what a server on the internet answers at a path.
HOSTILE_ANSWERS = {
    "/to-loopback": _UNREACHABLE,
    "/to-loopback-301": _UNREACHABLE,
    "/to-loopback-307": _UNREACHABLE,
    "/to-loopback-308": _UNREACHABLE,
    "/to-loopback-in-steps": _UNREACHABLE,
    "/to-metadata": _UNREACHABLE,
    "/to-a-name-of-the-loopback": _UNREACHABLE,
    "/to-a-host-without-scheme": _UNREACHABLE,
    "/to-mapped": _UNREACHABLE,
    "/to-octal": _NO_HOST,
    "/to-localhost": _NO_HOST,
    "/to-file": "Only http and https",
    "/to-ftp": "Only http and https",
    "/to-data": "Only http and https",
    "/to-user": _USER,
    "/to-backslash": "did not give a picture",
    "/to-another-port": "Port 6379 is not asked",
    "/to-nowhere": "did not give a picture",
    "/to-itself": "more than 3 times",
    "/without-location": "more than 3 times",
    "/four-times": "more than 3 times",
    "/drip": TOO_SLOW,
    "/drip-headers": TOO_SLOW,
    "/silent": TOO_SLOW,
    "/hints": TOO_SLOW,
    "/endless": "larger than",
    "/claims-much": "larger than",
    "/large": "larger than",
    "/gzip": "compresses what it was asked not to",
    "/gzip-of-a-picture": "compresses what it was asked not to",
    "/deflate": "compresses what it was asked not to",
    "/long-header": "did not give a picture",
    "/not-http": "did not give a picture",
    "/cut": "did not give a picture",
    "/png-bomb": "far more pixels than are taken",
    "/too-many-pixels": "pixels; at most",
    "/svg": _NO_PICTURE,
    "/html": _NO_PICTURE,
    "/empty": _NO_PICTURE,
    "/gif": _NO_PICTURE,
    "/polyglot-script": _NO_PICTURE,
    "/polyglot-page": _NO_PICTURE,
    "/polyglot-pdf": _NO_PICTURE,
    "/zip": _NO_PICTURE,
    "/half": _NO_PICTURE,
    "/missing": "answered 404",
    "/forbidden": "answered 403",
    "/failing": "answered 500",
    "/part": "answered 206",
    "/unchanged": "answered 304",
}


def set_traps(internet: Internet, max_bytes: int) -> None:
    """Have the server answer as `HOSTILE_ANSWERS` expects."""
    port = internet.port
    for path, location in {
        "/to-loopback": f"http://127.0.0.1:{port}/",
        "/to-loopback-in-steps": "/step",
        "/step": "/to-loopback",
        "/to-metadata": "http://169.254.169.254/latest/meta-data/",
        "/to-a-name-of-the-loopback": f"http://rebound.test:{port}/",
        "/to-a-host-without-scheme": f"//127.0.0.1:{port}/",
        "/to-mapped": f"http://[::ffff:127.0.0.1]:{port}/",
        "/to-octal": f"http://0177.0.0.1:{port}/",
        "/to-localhost": f"http://localhost:{port}/",
        "/to-file": "file:///etc/passwd",
        "/to-ftp": f"ftp://127.0.0.1:{port}/",
        "/to-data": "data:image/png;base64,iVBORw0KGgo=",
        "/to-user": f"http://user:password@127.0.0.1:{port}/",
        "/to-backslash": f"http://127.0.0.1:{port}\\@{HOST}/",
        "/to-another-port": "http://127.0.0.1:6379/",
        "/to-nowhere": "http://[::1/",
        "/to-itself": "/to-itself",
        "/four-times": "/three-times",
        "/three-times": "/twice",
        "/twice": "/once",
        "/once": "/picture.png",
    }.items():
        internet.redirect(path, location)
    for status in ("301 Moved Permanently", "307 Temporary Redirect", "308 Permanent Redirect"):
        internet.redirect(f"/to-loopback-{status[:3]}", f"http://127.0.0.1:{port}/", status)
    picture = png()
    internet.answers |= {
        "/without-location": answer(b"", status="302 Found"),
        "/drip": drip,
        "/drip-headers": drip_headers,
        "/silent": say_nothing,
        "/hints": hints_for_ever,
        "/endless": flood,
        "/claims-much": answer(b"", _IMAGE_TYPE, length=10**12),
        "/large": answer(picture + bytes(max_bytes), _IMAGE_TYPE),
        "/gzip": answer(gzip_bomb(), "Content-Encoding: gzip", _IMAGE_TYPE),
        "/gzip-of-a-picture": answer(picture, "Content-Encoding: GZIP, gzip", _IMAGE_TYPE),
        "/deflate": answer(picture, "Content-Encoding: deflate", _IMAGE_TYPE),
        "/long-header": answer(picture, "X: " + "y" * 100_000),
        "/not-http": b"+OK redis says hello\r\n\r\n",
        "/cut": answer(picture[:50], _IMAGE_TYPE, length=len(picture)),
        "/png-bomb": answer(png_bomb(), _IMAGE_TYPE),
        "/too-many-pixels": answer(png(2049, 2048), _IMAGE_TYPE),
        "/svg": answer(_SVG, _IMAGE_TYPE),
        "/html": answer(b"<!doctype html><script>alert(1)</script>", _IMAGE_TYPE),
        "/empty": answer(b"", _IMAGE_TYPE),
        "/gif": answer(b"GIF89a\x01\x00\x01\x00\x80\x00\x00\xff\xff\xff\x00\x00\x00,\x00\x00\x00\x00\x01\x00\x01\x00;"),
        "/polyglot-script": answer(b"GIF89a/*" + picture + b"*/=1;alert(1)", _IMAGE_TYPE),
        "/polyglot-page": answer(b"<script>alert(1)</script>" + picture, _IMAGE_TYPE),
        "/polyglot-pdf": answer(b"%PDF-1.7\n" + picture, _IMAGE_TYPE),
        "/zip": answer(_zip_of_a_picture(), _IMAGE_TYPE),
        "/half": answer(png(128, 128)[:150], _IMAGE_TYPE),
        "/missing": answer(picture, status="404 Not Found"),
        "/forbidden": answer(picture, status="403 Forbidden"),
        "/failing": answer(picture, status="500 Internal Server Error"),
        "/part": answer(picture, status="206 Partial Content"),
        "/unchanged": b"HTTP/1.1 304 Not Modified\r\n\r\n",
    }
