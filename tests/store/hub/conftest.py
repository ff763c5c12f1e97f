"""A loopback server that speaks the part of the Hub's API that its client uses here, and folders to damage."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ngbench.store import Zoo, open_zoo
from ngbench.store.hub import export_dataset
from ngbench.store.hub.manifest import MANIFEST


@dataclass
class Hub:
    """One dataset and some models as the server keeps them.

    Args:
        commits: Files of the dataset by path, commit by commit.
        models: Files of each model by path.
        lies: The sha256 that the server names of files of models, by path, in place of their own.
        requests: ``"GET /path"`` of each request.
        cut_after: Bytes after which the next answers with a file end early; None for whole files.
        refuses: Status of every answer; None to serve.
        full: Whether uploads are refused.
    """

    commits: list[dict[str, bytes]] = field(default_factory=list)
    models: dict[str, dict[str, bytes]] = field(default_factory=dict)
    lies: dict[str, str] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    ranges: list[str] = field(default_factory=list)
    cut_after: int | None = None
    refuses: int | None = None
    full: bool = False
    url: str = ""

    @property
    def files(self) -> dict[str, bytes]:
        """Files of the last commit."""
        return self.commits[-1] if self.commits else {}

    def sha(self, number: int | None = None) -> str:
        """Name of a commit."""
        return f"{len(self.commits) if number is None else number:040x}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_):
        pass

    def answer(self, value, status=200, **headers):
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def handle_one(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        path = self.path.partition("?")[0]
        self.hub.requests.append(f"{self.command} {path}")
        if self.hub.refuses:
            return self.answer({"error": "no entry"}, self.hub.refuses)
        for pattern, serve in _ROUTES.items():
            match = re.fullmatch(pattern, f"{self.command} {path}")
            if match:
                return serve(self, self.hub, body, **match.groupdict())
        return self.answer({"error": f"unknown {self.command} {path}"}, 404)

    do_GET = do_HEAD = do_POST = do_PUT = handle_one


def _create(handler, hub, body):
    asked = json.loads(body)
    handler.answer({"url": f"{hub.url}/datasets/{asked['organization']}/{asked['name']}"})


def _info(handler, hub, body, revision="main"):
    if not hub.commits:
        return handler.answer({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")
    sha = hub.sha() if revision == "main" else revision
    files = hub.commits[int(sha, 16) - 1]
    return handler.answer({"id": "owner/tiny", "sha": sha, "siblings": _siblings(files, {}), "tags": [], "private": False})


def _siblings(files, lies):
    lfs = {path: {"sha256": lies.get(path, hashlib.sha256(data).hexdigest()), "size": len(data)} for path, data in files.items()}
    return [
        {"rfilename": path, "size": len(data), "blobId": "0"}
        | ({"lfs": lfs[path] | {"pointerSize": 100}} if path.endswith((".parquet", ".safetensors")) else {})
        for path, data in files.items()
    ]


def _model_info(handler, hub, body, model):
    if model not in hub.models:
        return handler.answer({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")
    siblings = _siblings(hub.models[model], hub.lies)
    return handler.answer({"id": model, "sha": hub.sha(7), "siblings": siblings, "tags": [], "private": False})


def _resolve_model(handler, hub, body, model, revision, path):
    _serve(handler, hub, hub.models[model].get(path), revision=revision, path=path)


def _tree(handler, hub, body):
    handler.answer([{"type": "file", "path": path, "size": len(data), "oid": "0"} for path, data in hub.files.items()])


def _preupload(handler, hub, body):
    modes = [
        {"path": f["path"], "uploadMode": "lfs" if f["path"].endswith(".parquet") else "regular", "shouldIgnore": False}
        for f in json.loads(body)["files"]
    ]
    handler.answer({"files": modes})


def _batch(handler, hub, body):
    objects = [
        {"oid": o["oid"], "size": o["size"], "actions": {"upload": {"href": f"{hub.url}/lfs/{o['oid']}", "header": {}}}}
        for o in json.loads(body)["objects"]
    ]
    handler.answer({"transfer": "basic", "objects": objects}, Content_Type="application/vnd.git-lfs+json")


def _put(handler, hub, body, oid):
    assert hashlib.sha256(body).hexdigest() == oid
    if hub.full:
        return handler.answer({"error": "no room"}, 507)
    hub.blobs[oid] = body
    return handler.answer({})


def _commit(handler, hub, body):
    files = dict(hub.files)
    for line in map(json.loads, body.splitlines()):
        value = line["value"]
        if line["key"] == "file":
            files[value["path"]] = base64.b64decode(value["content"])
        elif line["key"] == "lfsFile":
            files[value["path"]] = hub.blobs[value["oid"]]
        elif line["key"] == "deletedFile":
            del files[value["path"]]
    hub.commits.append(files)
    url = f"{hub.url}/datasets/owner/tiny/commit/{hub.sha()}"
    handler.answer({"success": True, "commitOid": hub.sha(), "commitUrl": url})


def _resolve(handler, hub, body, revision, path):
    return _serve(handler, hub, hub.commits[int(revision, 16) - 1].get(path), revision=revision, path=path)


def _serve(handler, hub, data, *, revision, path):
    if data is None:
        return handler.answer({"error": "no file"}, 404, X_Error_Code="EntryNotFound")
    headers = {"X_Repo_Commit": revision, "ETag": f'"{hashlib.sha256(data).hexdigest()}"', "Accept_Ranges": "bytes"}
    asked = re.fullmatch(r"bytes=(\d+)-(\d*)", handler.headers.get("Range", ""))
    if asked and handler.command == "GET":
        hub.ranges.append(asked[0])
        start = int(asked[1])
        headers["Content_Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        return handler.answer(data[start:], 206, **headers)
    if hub.cut_after is not None and handler.command == "GET" and path.endswith((".parquet", ".safetensors")):
        handler.send_response(200)
        for name, text in {**headers, "Content_Length": str(len(data))}.items():
            handler.send_header(name.replace("_", "-"), text)
        handler.end_headers()
        handler.wfile.write(data[: hub.cut_after])
        handler.close_connection = True
        return None
    return handler.answer(data, **headers)


_ROUTES = {
    "POST /api/repos/create": _create,
    "GET /api/datasets/owner/tiny": _info,
    "GET /api/datasets/owner/tiny/revision/(?P<revision>[^/]+)": _info,
    "GET /api/datasets/owner/tiny/tree/[^/]+": _tree,
    "POST /api/validate-yaml": lambda handler, hub, body: handler.answer({"errors": [], "warnings": []}),
    "POST /api/datasets/owner/tiny/preupload/main": _preupload,
    "POST /datasets/owner/tiny.git/info/lfs/objects/batch": _batch,
    "PUT /lfs/(?P<oid>[0-9a-f]{64})": _put,
    "POST /api/datasets/owner/tiny/commit/main": _commit,
    "(?:GET|HEAD) /datasets/owner/tiny/resolve/(?P<revision>[^/]+)/(?P<path>.+)": _resolve,
    "GET /api/models/(?P<model>[^/]+/[^/]+)": _model_info,
    "(?:GET|HEAD) /(?P<model>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)": _resolve_model,
}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A running server, to which HF_ENDPOINT points."""
    made = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": made}))
    made.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", made.url)
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    # The client reads this one when it is loaded; Xet stores speak another protocol, of a library in Rust.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    yield made
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def split_zoo(split_zoo_path: Path) -> Zoo:
    """A zoo with a split beside the default."""
    return open_zoo(split_zoo_path)


@pytest.fixture
def exported(tiny_zoo: Zoo, tmp_path: Path) -> Path:
    """The tiny zoo as a dataset folder."""
    return export_dataset(tiny_zoo, tmp_path / "exported")


@pytest.fixture
def edit_manifest(exported: Path) -> Callable[[Callable[[dict], None]], None]:
    """Changes the manifest of the exported folder."""

    def change(edit: Callable[[dict], None]) -> None:
        manifest = json.loads((exported / MANIFEST).read_text())
        edit(manifest)
        (exported / MANIFEST).write_text(json.dumps(manifest))

    return change


@pytest.fixture
def edit_table(exported: Path, edit_manifest) -> Callable[..., Path]:
    """Changes a Parquet file of the exported folder, and what the manifest says of its bytes: what a forger would do."""

    def change(edit: Callable[[pa.Table], pa.Table], *, folder: str = "data", **options) -> Path:
        path = sorted((exported / folder).glob("*.parquet"))[0]
        pq.write_table(edit(pq.read_table(path)), path, **options)

        def reseal(manifest: dict) -> None:
            for entry in manifest["files"]:
                if entry["path"] == str(path.relative_to(exported)):
                    entry["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
                    entry["size_bytes"] = path.stat().st_size

        edit_manifest(reseal)
        return path

    return change
