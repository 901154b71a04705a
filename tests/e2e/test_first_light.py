"""What a newcomer sees: the printed link makes a picture."""

from __future__ import annotations

import re
from collections import Counter

from PIL import Image

from support.client import Client
from support.stack import EmbeddedStack

_RED = (220, 40, 40)
_WHITE = (245, 245, 245)


def _is_near(pixel: tuple[int, int, int], colour: tuple[int, int, int]) -> bool:
    return all(abs(have - want) < 60 for have, want in zip(pixel, colour, strict=True))


async def test_the_printed_link_gives_a_picture_of_what_its_prompt_says(stack: EmbeddedStack, client: Client) -> None:
    answer = await client.get(stack.link)
    assert answer.status == 200, answer.body
    assert answer.headers["Content-Type"].startswith("application/json")
    used = answer.json["parameters_used"]
    assert used["prompt"] == "a big red star on a white background"
    defaults = {"width": 192, "height": 192, "steps": 20, "scheduler": "ddim", "guidance": 5.0}
    assert used.items() >= {"model": "shapes", **defaults}.items()
    assert isinstance(used["seed"], int)
    picture = await client.picture(answer.json["blob_url"])
    assert picture.format == "PNG"
    assert picture.size == (192, 192)
    assert _is_near(_at(picture, 96, 96), _RED)
    corners = [_at(picture, x, y) for x in (4, 187) for y in (4, 187)]
    assert Counter(_is_near(corner, _WHITE) for corner in corners)[True] == 4, corners


async def test_a_browser_gets_a_page_with_the_picture_and_the_parameters_used(
    stack: EmbeddedStack, client: Client
) -> None:
    accept = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
    answer = await client.get(stack.link + "&seed=7", headers={"Accept": accept})
    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith("text/html")
    page = answer.body.decode()
    assert "a big red star on a white background" in page
    assert "<th>seed</th><td>7</td>" in page
    source = re.search(r'<img src="(/blob/[^"]+)"', page)
    assert source is not None
    assert (await client.picture(source[1])).size == (192, 192)
    assert stack.link.rpartition("token=")[2] not in page


async def test_a_browser_is_told_of_wrong_input_in_a_page(stack: EmbeddedStack, client: Client) -> None:
    answer = await client.get(stack.link + "&negative_prompt=<script>&steps=0", headers={"Accept": "text/html"})
    assert answer.status == 422
    assert answer.headers["Content-Type"].startswith("text/html")
    assert "<strong>steps</strong>" in answer.body.decode()


async def test_the_same_seed_gives_the_same_bytes_twice(stack: EmbeddedStack, client: Client) -> None:
    blobs = []
    for _ in range(2):
        answer = await client.get(stack.link + "&seed=42")
        blobs.append((await client.get(answer.json["blob_url"])).body)
    assert blobs[0] == blobs[1]
    other = await client.get(stack.link + "&seed=43")
    assert (await client.get(other.json["blob_url"])).body != blobs[0]


async def test_a_png_carries_its_parameters(stack: EmbeddedStack, client: Client) -> None:
    answer = await client.get(stack.link + "&seed=5")
    picture = await client.picture(answer.json["blob_url"])
    assert '"seed":5' in picture.info["parameters"].replace(" ", "")


async def test_the_docs_page_and_what_it_loads_come_from_the_gateway(client: Client) -> None:
    page = await client.get("/docs")
    assert page.status == 200
    assert "default-src 'self'" in page.headers["Content-Security-Policy"]
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page.body.decode())
    assert loaded
    for path in [*loaded, "/openapi.json"]:
        assert path.startswith("/")
        assert (await client.get(path)).status == 200


async def test_health_and_readiness(client: Client) -> None:
    assert (await client.get("/healthz")).json == {"status": "ok"}
    ready = await client.get_once_there("/readyz")
    assert ready.status == 200
    assert ready.json == {"status": "ok"}


def _at(picture: Image.Image, x: int, y: int) -> tuple[int, int, int]:
    red, green, blue = picture.convert("RGB").getpixel((x, y))  # type: ignore[misc]
    return red, green, blue
