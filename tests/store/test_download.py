"""Downloads from a server on this machine that fails in every way in which servers fail."""

from __future__ import annotations

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from ngbench.errors import ChecksumError, DownloadError
from ngbench.store.download import CHECKSUMS, download, download_zoo
from ngbench.store.published import PUBLISHED, RemoteFile

CONTENT = np.random.default_rng(2).bytes(700_001)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """What a path does at its n-th request stands in the plan of the server; the last entry holds for all further ones."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        server = self.server
        place = len(server.asked)
        server.asked.append({name.lower(): value for name, value in self.headers.items()} | {"path": self.path})
        plan = server.plan[min(place, len(server.plan) - 1)]
        self.close_connection = True
        if "status" in plan:
            self.send_response(plan["status"], plan.get("reason"))
            for name, value in plan.get("headers", {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        content, tag = plan.get("content", CONTENT), plan.get("tag", '"v1"')
        start, given = 0, self.headers.get("Range")
        if given and plan.get("ranges", True) and self.headers.get("If-Range") == tag:
            start = int(given.removeprefix("bytes=").rstrip("-"))
            if start >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start + plan.get('shift', 0)}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        if plan.get("length", True):
            self.send_header("Content-Length", str(len(content) - start))
        if tag:
            self.send_header("ETag", tag)
        self.send_header("Content-Type", plan.get("type", "application/zip"))
        self.end_headers()
        self.wfile.write(content[start : plan.get("stop", len(content))])
        self.wfile.flush()
        if plan.get("hangs"):
            server.released.wait(10)


@pytest.fixture
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as made:
        made.plan, made.asked, made.released = [{}], [], threading.Event()
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        made.url = f"http://127.0.0.1:{made.server_address[1]}/a.zip"
        yield made
        made.released.set()
        made.shutdown()
        thread.join()


def fetch(server, folder, *, sha256=None, **options):
    options = {"timeout_s": 5, "num_attempts": 3, "pause_s": 0.0} | options
    return download(RemoteFile("a.zip", server.url, sha256), folder, **options)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_comes_whole_with_progress_and_its_checksum_is_recorded(server, tmp_path):
    told = []
    path = fetch(server, tmp_path, progress=lambda done, total, text="": told.append((done, total)))
    assert path.read_bytes() == CONTENT
    assert told[-1] == (len(CONTENT), len(CONTENT))
    assert json.loads((tmp_path / CHECKSUMS).read_text()) == {"a.zip": SHA256}
    assert names(tmp_path) == ["a.zip", CHECKSUMS]


def test_a_file_that_is_there_is_not_asked_for_again(server, tmp_path):
    fetch(server, tmp_path)
    fetch(server, tmp_path)
    assert len(server.asked) == 1


def test_an_interrupted_download_asks_for_the_rest_alone(server, tmp_path):
    server.plan = [{"stop": 300_000}, {"stop": 500_000}, {}]
    assert fetch(server, tmp_path, sha256=SHA256).read_bytes() == CONTENT
    assert [asked.get("range") for asked in server.asked] == [None, "bytes=300000-", "bytes=500000-"]
    assert server.asked[1]["if-range"] == '"v1"'


def test_a_download_that_was_stopped_goes_on_in_the_next_process(server, tmp_path):
    server.plan = [{"stop": 400_000}, {"status": 503}]
    with pytest.raises(DownloadError, match="answers 503 .*3 times; 400,000 bytes are kept"):
        fetch(server, tmp_path)
    server.plan, server.asked[:] = [{}], []
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.asked[0]["range"] == "bytes=400000-"


def test_bytes_of_an_older_version_are_not_joined_to_a_newer_one(server, tmp_path):
    server.plan = [{"stop": 300_000, "content": bytes(700_001), "tag": '"v0"'}, {}]
    assert fetch(server, tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize(
    "plan",
    [
        [{"stop": 300_000}, {"ranges": False}],
        [{"stop": 300_000, "tag": ""}, {"tag": ""}],
        [{"stop": 300_000}, {"shift": 7}, {}],
        [{"stop": 300_000}, {"status": 416}, {}],
        [{"stop": 300_000, "hangs": True}, {}],
    ],
    ids=["no ranges", "no mark", "another range", "range refused", "silence"],
)
def test_a_server_that_cannot_go_on_gives_the_file_all_the_same(server, tmp_path, plan):
    server.plan = plan
    timeout_s = 0.3 if plan[0].get("hangs") else 5
    assert fetch(server, tmp_path, timeout_s=timeout_s).read_bytes() == CONTENT


def test_a_file_that_was_whole_but_not_renamed_is_not_fetched_again(server, tmp_path):
    (tmp_path / "a.zip.partial").write_bytes(CONTENT)
    (tmp_path / "a.zip.partial-mark").write_text('"v1"')
    assert fetch(server, tmp_path, sha256=SHA256).read_bytes() == CONTENT
    assert [asked["range"] for asked in server.asked] == ["bytes=700001-"]
    assert names(tmp_path) == ["a.zip"]


def test_another_checksum_is_refused_and_the_bytes_removed(server, tmp_path):
    with pytest.raises(ChecksumError, match=f"has sha256 {SHA256}; expected {'0' * 64}; it was removed: run again"):
        fetch(server, tmp_path, sha256="0" * 64)
    assert names(tmp_path) == []


def test_a_file_that_changed_after_its_first_download_is_refused(server, tmp_path):
    fetch(server, tmp_path)
    (tmp_path / "a.zip").write_bytes(b"other")
    with pytest.raises(ChecksumError, match=f"expected {SHA256}; delete it and run again"):
        fetch(server, tmp_path)
    (tmp_path / "a.zip").unlink()
    server.plan = [{"content": b"a new version of it"}]
    with pytest.raises(ChecksumError, match=f"expected {SHA256}; it was removed"):
        fetch(server, tmp_path)


def test_a_truncated_file_without_length_is_found_by_its_checksum(server, tmp_path):
    server.plan = [{"stop": 300_000, "length": False}]
    with pytest.raises(ChecksumError, match=f"expected {SHA256}"):
        fetch(server, tmp_path, sha256=SHA256)


@pytest.mark.parametrize(("status", "reason"), [(404, "Not Found"), (403, "Forbidden"), (410, "Gone")])
def test_a_file_that_is_not_there_is_not_asked_for_twice(server, tmp_path, status, reason):
    server.plan = [{"status": status}]
    with pytest.raises(DownloadError, match=f"'a.zip' does not come from {server.url} .*answers {status} {reason}"):
        fetch(server, tmp_path)
    assert len(server.asked) == 1


def test_a_page_for_people_is_not_taken_for_the_file(server, tmp_path):
    server.plan = [{"type": "text/html; charset=utf-8"}]
    with pytest.raises(DownloadError, match="a page for people in its place"):
        fetch(server, tmp_path)
    assert names(tmp_path) == []


def test_a_server_that_always_cuts_is_given_up(server, tmp_path):
    server.plan = [{"stop": 0}]
    with pytest.raises(DownloadError, match="the connection ended early, 3 times; 0 bytes are kept"):
        fetch(server, tmp_path)


def test_no_redirect_leads_to_a_local_file(server, tmp_path):
    (tmp_path / "secret").write_text("secret")
    server.plan = [{"status": 302, "headers": {"Location": f"file://{tmp_path}/secret"}}]
    (tmp_path / "out").mkdir()
    with pytest.raises(DownloadError, match="302"):
        fetch(server, tmp_path / "out")
    with pytest.raises(DownloadError, match="secret.*its address is no HTTP or HTTPS"):
        download(RemoteFile("a", f"file://{tmp_path}/secret"), tmp_path / "out", num_attempts=1, pause_s=0)


def test_no_server_is_a_download_error(tmp_path):
    with pytest.raises(DownloadError, match="Connection refused>, 2 times"):
        download(RemoteFile("a.zip", "http://127.0.0.1:9/a.zip"), tmp_path, num_attempts=2, pause_s=0)


def test_damaged_records_are_named(server, tmp_path):
    for text, fault in (("{", "is no JSON"), ("[]", "holds a list")):
        (tmp_path / CHECKSUMS).write_text(text)
        with pytest.raises(ChecksumError, match=f"checksums.json' {fault}"):
            fetch(server, tmp_path)


def test_a_zoo_for_browsers_says_where_it_is(tmp_path):
    with pytest.raises(
        DownloadError, match="zoo 'nfn-siren-mnist' is offered to browsers alone: fetch its files from https://drive"
    ):
        download_zoo(PUBLISHED["nfn-siren-mnist"], tmp_path)
