"""A client of the REST API: submits a task, listens to its events, and saves the picture.

    ENABLE_PUBLIC_ACCESS=1 make run              # in another terminal
    .venv/bin/python examples/rest.py "a big red star on a white background" star.png

API is where the gateway is, http://localhost:8000 unless set. With TOKEN set, such as to the one in the link that
`make run` prints, it needs no public access.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import aiohttp

API = os.environ.get("API", "http://localhost:8000")


async def answer_of(response: aiohttp.ClientResponse) -> Any:
    """The JSON of an answer. An error ends the program with the sentence that it tells."""
    answer = await response.json(content_type=None)
    if response.status >= 400:
        sys.exit(f"{response.status} {answer['detail']}")
    return answer


async def take_token(http: aiohttp.ClientSession) -> str:
    """A public token. Users of their own have `POST /user`, then `POST /token`."""
    async with http.post(f"{API}/token/all") as response:
        return str((await answer_of(response))["access_token"])


async def make_picture(prompt: str) -> bytes:
    """The PNG file of a picture."""
    async with aiohttp.ClientSession() as http:
        token = os.environ.get("TOKEN") or await take_token(http)
        headers = {"Authorization": f"Bearer {token}"}
        # Before the task is submitted: so no event is missed.
        async with http.ws_connect(f"{API}/events?progress=1", headers=headers) as events:
            task = {"params_type": "txt2img", "prompt": prompt, "model": "shapes"}
            async with http.post(f"{API}/task", json=task, headers=headers) as response:
                task_id = await answer_of(response)
            print("task", task_id)
            async for message in events:
                event = message.json()
                if event["task_id"] != task_id:
                    continue  # of another task of the same token
                match event["event_type"]:
                    case "progress":
                        print(event["stage"], event["step"], "of", event["steps"])
                    case "aborted":
                        sys.exit(f"aborted ({event['code']}): {event['reason']}")
                    case "finished":
                        url = event["result"]["blob_url"]
                        break
                    case event_type:
                        print(event_type)
            else:
                sys.exit(f"The websocket was closed: ask for GET {API}/task/{task_id}")
        async with http.get(url) as response:
            response.raise_for_status()
            print("picture", url)
            return await response.read()


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    try:
        picture = asyncio.run(make_picture(sys.argv[1]))
    except aiohttp.ClientConnectionError as error:
        sys.exit(f"No gateway answers at {API}: is `make run` running? ({error})")
    Path(sys.argv[2]).write_bytes(picture)
    print("saved as", sys.argv[2])
