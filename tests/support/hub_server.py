"""A server with the part of the Hub's HTTP interface that `datasets` uses to read a data set."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

Files = Mapping[str, bytes]

_API = re.compile(r"/api/datasets/(\w+/[\w-]+)(?:/(revision|tree|paths-info)/([^/]+))?(?:/(.*))?")
_FILE = re.compile(r"/datasets/(\w+/[\w-]+)/resolve/([^/]+)/(.+)")


class HubRepository:
    """The commits of one data set, oldest first. Each has its files. `main` is the newest, and tags name others."""

    def __init__(self, name: str, *commits: Files, tags: Mapping[str, int] | None = None) -> None:
        self.name = name
        self.commits = {hashlib.sha1(repr(files).encode()).hexdigest(): files for files in commits}
        self.tags = {tag: [*self.commits][number] for tag, number in (tags or {}).items()}

    def commit(self, revision: str) -> str | None:
        found = {**self.tags, "main": [*self.commits][-1]}.get(revision, revision)
        return found if found in self.commits else None


@contextmanager
def serving(repository: HubRepository) -> Iterator[tuple[str, list[str]]]:
    """Serves a data set. Yields the address, and the list of paths that were asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            url = urlsplit(self.path)
            asked.append(f"{self.command} {url.path}")
            path = unquote(url.path)
            if found := _API.fullmatch(path):
                self._api(*found.groups(), recursive="recursive" in parse_qs(url.query))
            elif found := _FILE.fullmatch(path):
                self._file(*found.groups())
            else:
                self._missing("EntryNotFound")

        do_HEAD = do_POST = do_GET

        def _api(self, name: str, what: str | None, revision: str | None, rest: str | None, *, recursive: bool) -> None:
            commit = repository.commit(revision or "main") if name == repository.name else None
            if commit is None:
                return self._missing("RevisionNotFound" if name == repository.name else "RepoNotFound")
            files = repository.commits[commit]
            size = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(size).decode()
            if what == "paths-info":
                wanted = json.loads(body)["paths"] if body.startswith("{") else parse_qs(body)["paths"]
                self._json([_entry(path, files[path]) for path in wanted if path in files])
            elif what == "tree":
                inside = [path for path in files if not rest or path.startswith(f"{rest}/")]
                if rest and not inside:
                    return self._missing("EntryNotFound")
                direct = [path for path in inside if "/" not in path.removeprefix(f"{rest}/" if rest else "")]
                folders = sorted({path.rpartition("/")[0] for path in inside if "/" in path})
                entries = [{"type": "directory", "path": folder, "oid": "0", "size": 0} for folder in folders]
                self._json([*entries, *(_entry(path, files[path]) for path in (inside if recursive else direct))])
            else:
                siblings = [{"rfilename": path} for path in files]
                self._json(
                    {"id": name, "sha": commit, "private": False, "tags": [], "siblings": siblings, "downloads": 0}
                )

        def _file(self, name: str, revision: str, path: str) -> None:
            commit = repository.commit(revision) if name == repository.name else None
            if commit is None:
                return self._missing("RepoNotFound")
            if path not in repository.commits[commit]:
                return self._missing("EntryNotFound")
            content = repository.commits[commit][path]
            etag = hashlib.sha1(content).hexdigest()
            self._answer(200, content, {"ETag": f'"{etag}"', "X-Repo-Commit": commit, "Accept-Ranges": "none"})

        def _json(self, value: Any) -> None:
            self._answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

        def _missing(self, code: str) -> None:
            self._answer(404, b'{"error": "not found"}', {"X-Error-Code": code, "Content-Type": "application/json"})

        def _answer(self, status: int, content: bytes, headers: Mapping[str, str]) -> None:
            self.send_response(status)
            for header, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(header, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()


def _entry(path: str, content: bytes) -> dict[str, Any]:
    return {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
