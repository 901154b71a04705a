"""Files of multipart forms, read and checked."""

from __future__ import annotations

import pytest
from aiohttp import FormData, MultipartWriter, web

from sd_gateway.byte_budget import ByteBudget
from sd_gateway.errors import BodyTooLarge, InvalidInput, MalformedBody, UnsupportedBody
from sd_gateway.http.uploads import read_upload
from support.gateway_requests import create_request

_BUDGET = ByteBudget(2**20, "bodies")


async def _read_upload(request: web.Request, max_bytes: int) -> bytes:
    with _BUDGET.share("somebody") as share:
        return await read_upload(request, max_bytes, share)


async def _multipart(**fields: bytes) -> web.Request:
    form = FormData()
    for name, data in fields.items():
        form.add_field(name, data, filename=f"{name}.png", content_type="image/png")
    writer = form()
    assert isinstance(writer, MultipartWriter)
    return create_request(body=await writer.as_bytes(), headers={"Content-Type": writer.content_type})


async def test_an_upload_is_read_to_its_limit() -> None:
    data = bytes(range(256)) * 4
    assert await _read_upload(await _multipart(other=b"x", blob_data=data), max_bytes=1024) == data
    with pytest.raises(BodyTooLarge, match=r"^The picture is larger than 1,023 bytes$"):
        await _read_upload(await _multipart(blob_data=data), max_bytes=1023)


async def _nested(data: bytes) -> web.Request:
    inner, outer = MultipartWriter("form-data"), MultipartWriter("form-data")
    for _ in range(4):
        inner.append(data)
    outer.append(inner)
    return create_request(body=await outer.as_bytes(), headers={"Content-Type": outer.content_type})


async def test_all_bytes_of_an_upload_count_whatever_they_belong_to() -> None:
    line = b"x" * 1023 + b"\n"
    form = {"Content-Type": "multipart/form-data; boundary=x"}
    for num_lines, expected in ((512, InvalidInput), (1028, BodyTooLarge)):
        for request in (
            await _multipart(**{f"other{number}": line * (num_lines // 4) for number in range(4)}),
            await _nested(line * (num_lines // 4)),
            create_request(body=line * num_lines + b"--x--\r\n", headers=form),
        ):
            with pytest.raises(expected):
                await _read_upload(request, max_bytes=1024)


async def test_an_upload_without_its_file_is_told() -> None:
    with pytest.raises(InvalidInput) as raised:
        await _read_upload(await _multipart(other=b"x"), max_bytes=1024)
    assert [error.field for error in raised.value.errors] == ["blob_data"]


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/form-data", b""),
        ("multipart/form-data; boundary=x", b"no boundary in here"),
        ("multipart/form-data; boundary=" + "x" * 100, b""),
    ],
)
async def test_an_upload_that_cannot_be_read_is_malformed(content_type: str, body: bytes) -> None:
    with pytest.raises((MalformedBody, InvalidInput)):
        await _read_upload(create_request(body=body, headers={"Content-Type": content_type}), max_bytes=1024)


async def test_an_upload_of_another_type_is_refused() -> None:
    with pytest.raises(UnsupportedBody):
        await _read_upload(create_request(body=b"x", headers={"Content-Type": "image/png"}), max_bytes=1024)
