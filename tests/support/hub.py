"""A stand-in of the Hugging Face hub: the endpoints that a download goes through, on a free port of the loopback.

Weights are in the large file storage, as on the hub: they are redirected to, and named by their SHA-256; other files by
git's SHA-1. As on the hub, weights could be had from Xet storage too; there is none here. A gated repository tells its
files to anybody, and gives them to those whom it knows.
"""

from __future__ import annotations

import hashlib
import json
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar
from urllib.parse import unquote, urlsplit

import pytest
from huggingface_hub import close_session, constants

#: Of an account that may read everything here, and of one that may read nothing gated or private.
TOKEN = "hf_of_an_account_with_access"
TOKEN_OF_A_STRANGER = "hf_of_a_stranger"


@dataclass
class Repository:
    """`commits` has the files of each, `refs` the branches and tags."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    is_gated: bool = False
    is_private: bool = False

    def files_at(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        commit = self.refs.get(revision, revision)
        return (commit, self.commits[commit]) if commit in self.commits else None


@dataclass(frozen=True)
class Request:
    """One that came in; `byte_range` is its header Range."""

    method: str
    path: str
    byte_range: str | None
    token: str | None


class Hub:
    """What is served, and what was asked for. Tests change it as they go."""

    def __init__(self) -> None:
        self.endpoint = ""
        #: Where large files are: on another host, which must not see tokens.
        self.storage = ""
        self.repositories: dict[str, Repository] = {}
        self.requests: list[Request] = []
        #: Status of every answer, for a hub that is not well.
        self.status: int | None = None
        #: By file name: the next answer ends after so many bytes, and those that follow are errors until it is mended.
        self.cut_after: dict[str, int] = {}
        #: By file name: answers stand still after so many bytes, until `goes_on` is set.
        self.held_after: dict[str, int] = {}
        self.goes_on = threading.Event()

    def add(self, name: str, directory: Path, *refs: str, gated: bool = False, private: bool = False) -> str:
        """A commit of the files below `directory`, as the branches and tags `refs`, or `main`; its hash."""
        files = {p.relative_to(directory).as_posix(): p.read_bytes() for p in directory.rglob("*") if p.is_file()}
        commit = hashlib.sha1(repr(sorted((path, git_hash(content)) for path, content in files.items())).encode())
        repository = self.repositories.setdefault(name, Repository(is_gated=gated, is_private=private))
        repository.commits[commit.hexdigest()] = files
        repository.refs.update(dict.fromkeys(refs or ("main",), commit.hexdigest()))
        return commit.hexdigest()

    def content(self, sha256: str) -> tuple[str, bytes]:
        """A large file and its path."""
        for repository in self.repositories.values():
            for files in repository.commits.values():
                for path, content in files.items():
                    if hashlib.sha256(content).hexdigest() == sha256:
                        return path, content
        raise KeyError(sha256)

    def contents_asked_for(self) -> list[Request]:
        """Requests for the content of large files."""
        return [request for request in self.requests if request.path.startswith("/large/") and request.method == "GET"]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: ClassVar[Hub]

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        authorization = self.headers.get("Authorization")
        token = None if authorization is None else authorization.removeprefix("Bearer ")
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(Request(self.command, path, self.headers.get("Range"), token))
        if self.hub.status is not None:
            self._answer(self.hub.status)
            return
        match path.strip("/").split("/"):
            case ["large", sha256]:
                self._send_large(*self.hub.content(sha256))
            case ["api", "models", owner, name, "revision", *revision]:
                self._describe(f"{owner}/{name}", "/".join(revision), token)
            case ["api", "models", owner, name, "tree", revision]:
                self._list(f"{owner}/{name}", revision, token)
            case ["api", "models", owner, name]:
                self._describe(f"{owner}/{name}", "main", token)
            case [owner, name, "resolve", revision, *file]:
                self._resolve(f"{owner}/{name}", revision, "/".join(file), token)
            case _:
                self._answer(404)

    def _describe(self, name: str, revision: str, token: str | None) -> None:
        if (found := self._find(name, revision, token)) is not None:
            commit, files = found
            siblings = [{"rfilename": path} for path in files]
            self._send_json({"id": name, "modelId": name, "sha": commit, "siblings": siblings})

    def _list(self, name: str, revision: str, token: str | None) -> None:
        if (found := self._find(name, revision, token)) is not None:
            self._send_json([_entry(path, content) for path, content in found[1].items()])

    def _resolve(self, name: str, revision: str, file: str, token: str | None) -> None:
        if (found := self._find(name, revision, token)) is None:
            return
        commit, files = found
        if self.hub.repositories[name].is_gated and token != TOKEN:
            self._answer(401 if token is None else 403, {"X-Error-Code": "GatedRepo"})
        elif file not in files:
            self._answer(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
        elif _is_large(file):
            sha256 = hashlib.sha256(files[file]).hexdigest()
            linked = {"X-Linked-Etag": f'"{sha256}"', "X-Linked-Size": str(len(files[file]))}
            xet = {"X-Xet-Hash": sha256, "X-Xet-Refresh-Route": f"{self.hub.endpoint}/api/no-xet"}
            self._answer(
                302, {"Location": f"{self.hub.storage}/large/{sha256}", "X-Repo-Commit": commit, **linked, **xet}
            )
        else:
            self._answer(200, {"ETag": f'"{git_hash(files[file])}"', "X-Repo-Commit": commit}, files[file])

    def _find(self, name: str, revision: str, token: str | None) -> tuple[str, dict[str, bytes]] | None:
        """The commit and its files; where there are none for whoever asks, says so."""
        repository = self.hub.repositories.get(name)
        if token not in (None, TOKEN, TOKEN_OF_A_STRANGER):
            self._answer(401, {"X-Error-Message": "Invalid credentials in Authorization header"})
        elif repository is None or (repository.is_private and token != TOKEN):
            self._answer(401 if token is None else 404, {"X-Error-Code": "RepoNotFound"})
        elif (found := repository.files_at(revision)) is None:
            self._answer(404, {"X-Error-Code": "RevisionNotFound"})
        else:
            return found
        return None

    def _send_large(self, path: str, content: bytes) -> None:
        if path in self.hub.cut_after:
            allowed, self.hub.cut_after[path] = self.hub.cut_after[path], 0
            if allowed == 0:
                self._answer(500)
                return
            self._answer(200, {"ETag": '"of the storage"'}, content, num_bytes=allowed)
            self.close_connection = True
        elif path in self.hub.held_after and "Range" not in self.headers:
            self._answer(200, {"ETag": '"of the storage"'}, content, hold_after=self.hub.held_after[path])
        elif byte_range := self.headers.get("Range"):
            if path in self.hub.held_after:  # the client has lost its patience
                self.hub.goes_on.wait()
            start = int(byte_range.removeprefix("bytes=").removesuffix("-"))
            end = f"bytes {start}-{len(content) - 1}/{len(content)}"
            self._answer(206, {"ETag": '"of the storage"', "Content-Range": end}, content[start:])
        else:
            self._answer(200, {"ETag": '"of the storage"'}, content)

    def _send_json(self, content: object) -> None:
        self._answer(200, {"Content-Type": "application/json"}, json.dumps(content).encode())

    def _answer(
        self,
        status: int,
        headers: Mapping[str, str] | None = None,
        content: bytes = b"",
        num_bytes: int | None = None,
        hold_after: int = 0,
    ) -> None:
        """`num_bytes`: what is sent of `content`, whose whole length is told. It stands still after `hold_after`."""
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            if hold_after:
                self.wfile.write(content[:hold_after])
                self.hub.goes_on.wait()
            self.wfile.write(content[hold_after:num_bytes])

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away in the middle is what some tests are about."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type] # typed with a private alias


@contextmanager
def serve_hub(monkeypatch: pytest.MonkeyPatch, cache: Path) -> Iterator[Hub]:
    """The stand-in, which this process takes for the hub (`HF_ENDPOINT`) until the end; downloads go into `cache`."""
    hub = Hub()
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    hub.storage = f"http://localhost:{server.server_address[1]}"
    # What huggingface_hub made of the environment when it was imported.
    monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
    template = hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(cache / "no-token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
    try:
        yield hub
    finally:
        hub.goes_on.set()
        close_session()
        server.shutdown()
        thread.join()
        server.server_close()


def git_hash(content: bytes) -> str:
    """The name that git gives a file's content."""
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()


def _is_large(path: str) -> bool:
    return path.endswith((".safetensors", ".bin", ".ckpt"))


def _entry(path: str, content: bytes) -> dict[str, object]:
    entry: dict[str, object] = {"type": "file", "oid": git_hash(content), "size": len(content), "path": path}
    if _is_large(path):
        entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
        entry["xetHash"] = hashlib.sha256(content).hexdigest()
    return entry
