"""A stand-in for the Hugging Face hub on loopback: repositories that are made, filled in one commit and read again.

Speaks as much of the hub's HTTP interface as its client uses for that, and checks tokens and owners as the hub does.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from huggingface_hub import constants

TOKEN, READER = "hf_writer", "hf_reader"
"""A token that may write for `OWNER`, and one that may only read."""
OWNER = "someone"
LARGE = 4096
"""Files from this size in bytes on go another way than through the commit, as on the hub from 10 MB on."""


class Hub:
    """What the stand-in holds.

    Args:
        url: its address.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.commits: list[str] = []
        self.validated: list[str] = []
        self.stored: dict[str, bytes] = {}

    def lead(self, monkeypatch: pytest.MonkeyPatch, cache: Path, token: str | None = TOKEN) -> None:
        """Lead the client of this process here, as HF_ENDPOINT, HF_HOME and HF_TOKEN do before its import."""
        monkeypatch.setattr(constants, "ENDPOINT", self.url)
        template = f"{self.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache / "hub"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(cache / "token"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        if token is not None:
            monkeypatch.setenv("HF_TOKEN", token)


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._read(body=True)

    def do_HEAD(self) -> None:
        self._read(body=False)

    def _read(self, *, body: bool) -> None:
        parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        if parts[:2] == ["api", "models"]:
            files = self.hub.repositories.get("/".join(parts[2:4]))
            if files is None:
                return self._refuse(404, "Repository not found", "RepoNotFound")
            if parts[4:5] == ["tree"]:
                return self._answer([{"type": "file", "path": p, "size": len(c), "oid": "0"} for p, c in files.items()])
            return self._refuse(404, "no such page")
        name, kind, file = "/".join(parts[:2]), parts[2:3], "/".join(parts[4:])
        if kind != ["resolve"] or name not in self.hub.repositories:
            return self._refuse(404, "Repository not found", "RepoNotFound")
        content = self.hub.repositories[name].get(file)
        if content is None:
            return self._refuse(404, "Entry not found", "EntryNotFound")
        etag = hashlib.sha256(content).hexdigest()
        return self._send(200, content, {"ETag": f'"{etag}"', "X-Repo-Commit": "0" * 40}, body=body)

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = urlsplit(self.path).path.strip("/").split("/")
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token not in (TOKEN, READER):
            return self._refuse(401, "Invalid credentials in Authorization header")
        if parts == ["api", "repos", "create"]:
            return self._create(json.loads(data), token)
        if parts[-1] == "batch":
            return self._batch(json.loads(data))
        if parts == ["api", "validate-yaml"]:
            self.hub.validated.append(json.loads(data)["content"])
            return self._answer({"errors": [], "warnings": []})
        name, what = "/".join(parts[2:4]), parts[4]
        if what == "preupload":
            files = json.loads(data)["files"]
            modes = {f["path"]: "lfs" if f["size"] >= LARGE else "regular" for f in files}
            return self._answer({
                "files": [{"path": p, "uploadMode": mode, "shouldIgnore": False} for p, mode in modes.items()]
            })  # fmt: skip
        return self._commit(name, [json.loads(line) for line in data.splitlines()])

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        self.hub.stored[hashlib.sha256(content).hexdigest()] = content
        self._answer({})

    def _create(self, asked: dict[str, Any], token: str) -> None:
        owner = asked.get("organization") or OWNER
        name = f"{owner}/{asked['name']}"
        if token != TOKEN or owner != OWNER:
            return self._refuse(403, f"You don't have the rights to create a model under the namespace {owner!r}")
        if name in self.hub.repositories:
            return self._refuse(409, "You already created this model repo", url=f"{self.hub.url}/{name}")
        self.hub.repositories[name] = {".gitattributes": b""}
        self.hub.private[name] = asked.get("visibility") == "private" or bool(asked.get("private"))
        return self._answer({"url": f"{self.hub.url}/{name}", "name": name})

    def _batch(self, asked: dict[str, Any]) -> None:
        objects = [
            {**one, "actions": {"upload": {"href": f"{self.hub.url}/stored/{one['oid']}"}}} for one in asked["objects"]
        ]
        self._answer({"transfer": "basic", "objects": objects})

    def _commit(self, name: str, lines: list[dict[str, Any]]) -> None:
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                self.hub.commits.append(value["summary"])
            elif line["key"] == "file":
                self.hub.repositories[name][value["path"]] = base64.b64decode(value["content"])
            else:
                self.hub.repositories[name][value["path"]] = self.hub.stored[value["oid"]]
        commit = f"{len(self.hub.commits):040d}"
        self._answer({"commitUrl": f"{self.hub.url}/{name}/commit/{commit}", "commitOid": commit, "success": True})

    def _answer(self, content: Any) -> None:
        self._send(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _refuse(self, status: int, message: str, code: str = "", **more: str) -> None:
        headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        self._send(status, json.dumps({"error": message, **more}).encode(), headers, body=self.command != "HEAD")

    def _send(self, status: int, content: bytes, headers: dict[str, str], *, body: bool = True) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self.wfile.write(content)


@contextmanager
def hub_stand_in() -> Iterator[Hub]:
    """The stand-in, running while the block does."""
    handler = type("Handler", (_Handler,), {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    handler.hub = Hub(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield handler.hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
