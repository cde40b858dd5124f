"""A web server as the Hugging Face hub's, with what its client asks for, and a shell that takes it for the hub.

A repository is `owner/name` (a model) or `datasets/owner/name`; `push` makes a commit of it. Large files lie on
another host, as the hub's do. Faults are those of server.py, by the path without its query.

Whoever has the TOKEN may make repositories and upload to them, large files by git-lfs or by Xet.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import importlib
import json
import os
import re
import runpy
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import xet
from server import CrawlServer, Handler

ROOT = Path(__file__).resolve().parent.parent
LARGE = (".parquet", ".safetensors", ".arrow", ".bin", ".gguf", ".zst")
TOKEN = "hf_" + "7" * 34
PAGE = 3  # entries of a tree in one answer; the hub's have a thousand
API = re.compile(r"/api/(?:models/|(datasets/))([^/]+/[^/]+)(?:/(revision|tree|paths-info)/([^/]+)(?:/(.+))?)?")
WHOAMI, CREATE, CHECK = map(re.compile, ("/api/whoami-v2", "/api/repos/create", "/api/validate-yaml"))
LICENCES = ("apache-2.0", "cc-by-4.0", "mit", "other")  # of those that the hub knows
UPLOAD = re.compile(r"/api/models/([^/]+/[^/]+)/(preupload|commit|xet-write-token)/main")
LFS = re.compile(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch")
OWNERS = (WHOAMI, CREATE, UPLOAD, LFS)  # who asks for these has to be one
STORE = re.compile(r"/(lfs|xorb|v1/xorb-grants/default|v1/xorb-commits/default|v1/shards)(?:/(\w+).*)?")
RESOLVE = re.compile(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
Files = dict[str, bytes]


class Hub(CrawlServer):
    def __init__(self) -> None:
        super().__init__(HubHandler)
        self.refs: dict[str, dict[str, str]] = {}  # of each repository: the commit of each branch or tag
        self.commits: dict[tuple[str, str], Files] = {}
        self.gated: set[str] = set()
        self.role = "write"  # of the TOKEN
        self.xorbs: dict[str, list[bytes]] = {}

    def push(self, repository: str, files: Files, ref: str = "main") -> str:
        """Make `files` the content of the repository at `ref`; returns the commit."""
        digest = hashlib.sha1(repository.encode(), usedforsecurity=False)
        for path, body in sorted(files.items()):
            digest.update(path.encode() + body)
        commit = digest.hexdigest()
        self.refs.setdefault(repository, {})[ref] = commit
        self.commits[repository, commit] = files
        for body in files.values():
            self.files[f"/large/{hashlib.sha256(body).hexdigest()}"] = body
        return commit

    def start(self) -> None:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """Meanwhile nobody answers at its address, which stays its own."""
        self.shutdown()
        self.socket.close()
        self.socket = socket.socket()
        self.server_bind()
        yield
        self.server_activate()
        self.start()

    def asked(self, part: str) -> list[str]:
        """The paths of the requests so far that have `part` in them."""
        return [path for path, _ in self.requests if part in path]


class HubHandler(Handler):
    server: Hub

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        self.do_GET()

    def do_PUT(self) -> None:
        self.do_GET()

    def _serve(self, fault: str) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = urlsplit(self.path)
        if fault or parts.path.startswith("/large/"):
            super()._serve(fault)
            return
        given = self.headers["Authorization"]
        if any(one.fullmatch(parts.path) for one in OWNERS) and given != f"Bearer {TOKEN}":
            self._json({"error": f"Invalid credentials: {given}"}, status=401)
            return
        for pattern, answer in (
            *((API, self._api), (UPLOAD, self._upload), (LFS, self._lfs), (STORE, self._store)),
            *((WHOAMI, self._whoami), (CREATE, self._create), (CHECK, self._check), (RESOLVE, self._resolve)),
        ):
            if match := pattern.fullmatch(parts.path):
                answer(*(unquote(group or "") for group in match.groups()))
                return
        self._answer(404, b"no such page")

    def _api(self, kind: str, name: str, what: str, revision: str, path: str) -> None:
        if (found := self._commit(kind + name, revision or "main")) is None:
            return
        commit, files = found
        if what == "tree":
            self._tree(files, path)
        elif what == "paths-info":
            entries = (_entry(files, path) for path in parse_qs(self.body.decode())["paths"])
            self._json([entry for entry in entries if entry])
        else:
            siblings = [{"rfilename": path} for path in files]
            self._json({"id": name, "sha": commit, "private": False, "tags": [], "siblings": siblings})

    def _tree(self, files: Files, folder: str) -> None:
        query = parse_qs(urlsplit(self.path).query)
        prefix = f"{folder}/" if folder else ""
        inside = [path for path in files if path.startswith(prefix)]
        if not inside:
            self._missing("EntryNotFound", f"{folder} does not exist")
            return
        names = {
            "/".join(parts[:depth])
            for path in inside
            for parts in [path.split("/")]
            for depth in range(prefix.count("/") + 1, len(parts) + 1)
        }
        if query["recursive"] != ["true"]:
            names = {name for name in names if "/" not in name.removeprefix(prefix)}
        first = int(query.get("cursor", ["0"])[0])
        more = {}
        if first + PAGE < len(names):
            here = self.path.partition("&cursor")[0]
            more = {"Link": f'<{self.server.url}{here}&cursor={first + PAGE}>; rel="next"'}
        self._json([_entry(files, name) for name in sorted(names)[first : first + PAGE]], more)

    def _resolve(self, kind: str, name: str, revision: str, path: str) -> None:
        if (found := self._commit(kind + name, revision)) is None:
            return
        commit, files = found
        about = {"X-Repo-Commit": commit}
        if kind + name in self.server.gated:
            self._missing("GatedRepo", f"Access to {name} is restricted. You must be authenticated.", 401)
        elif path not in files:
            self._missing("EntryNotFound", "Entry not found", 404, about)
        elif path.endswith(LARGE):
            sha256 = hashlib.sha256(files[path]).hexdigest()
            about |= {"X-Linked-Size": str(len(files[path])), "X-Linked-ETag": f'"{sha256}"'}
            other = f"http://localhost:{self.server.server_address[1]}/large/{sha256}"
            self._answer(302, b"", about | {"Location": other})
        else:
            self._answer(200, files[path], about | {"ETag": f'"{_blob(files[path])}"'})

    def _whoami(self) -> None:
        self._json({"type": "user", "name": "me", "auth": {"accessToken": {"role": self.server.role}}})

    def _create(self) -> None:
        asked = json.loads(self.body)
        name = f"{asked['organization']}/{asked['name']}"
        known = name in self.server.refs
        if not known:
            self.server.push(name, {".gitattributes": b"*.safetensors filter=lfs\n"})
        self._json({"url": f"{self.server.url}/{name}"}, status=409 if known else 200)

    def _check(self) -> None:
        found = re.search("^license: (.*)$", json.loads(self.body)["content"], re.MULTILINE)
        wrong = found and found[1] not in LICENCES
        errors = [{"message": f'"license" must be one of [{", ".join(LICENCES)}]'}] if wrong else []
        self._json({"errors": errors, "warnings": []}, status=400 if errors else 200)

    def _upload(self, name: str, what: str) -> None:
        files = self.server.commits[name, self.server.refs[name]["main"]]
        if what == "xet-write-token":
            self._json({"accessToken": "of_xet", "exp": int(time.time()) + 3600, "casUrl": self.server.url})
        elif what == "preupload":
            answers = []
            for path in (file["path"] for file in json.loads(self.body)["files"]):
                entry, mode = _entry(files, path) or {}, "lfs" if path.endswith(LARGE) else "regular"
                oid = entry.get("lfs", entry).get("oid")
                answers.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
            self._json({"files": answers})
        else:
            commit = self.server.push(name, self._committed(files))
            self._json({"commitUrl": f"{self.server.url}/{name}/commit/{commit}", "commitOid": commit})

    def _committed(self, files: Files) -> Files:
        """The files after a commit to them."""
        files = dict(files)
        for line in map(json.loads, self.body.splitlines()):
            kind, value = line["key"], line["value"]
            if kind == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif kind == "lfsFile":
                files[value["path"]] = self.server.files[f"/large/{value['oid']}"]
            elif kind == "deletedFile":
                del files[value["path"]]
        return files

    def _lfs(self, name: str) -> None:
        objects = [
            asked
            if f"/large/{asked['oid']}" in self.server.files
            else asked | {"actions": {"upload": {"href": f"{self.server.url}/lfs/{asked['oid']}"}}}
            for asked in json.loads(self.body)["objects"]
        ]
        self._json({"transfer": "basic", "objects": objects})

    def _store(self, what: str, name: str) -> None:
        """Where large files are kept: whole, or as chunks until a shard says which files they are."""
        answer, status = {}, 200
        if what == "lfs":
            self._keep(name, self.body)
        elif what == "xorb":
            self.server.xorbs[name] = xet.chunks(self.body)
        elif what == "v1/xorb-grants/default" and name not in self.server.xorbs:
            answer = {"id": name, "method": "PUT", "url": f"{self.server.url}/xorb/{name}", "headers": {}}
            status = 201
        elif what == "v1/shards":
            for sha256, parts in xet.files(self.body).items():
                self._keep(sha256, b"".join(b"".join(self.server.xorbs[xorb][a:b]) for xorb, a, b in parts))
            answer = {"result": 1}
        self._json(answer, status=status)

    def _keep(self, sha256: str, body: bytes) -> None:
        assert hashlib.sha256(body).hexdigest() == sha256
        self.server.files[f"/large/{sha256}"] = body

    def _commit(self, repository: str, revision: str) -> tuple[str, Files] | None:
        """The commit of the revision and its files; or None, and the answer is given."""
        if repository not in self.server.refs:
            self._missing("RepoNotFound", "Repository not found")
            return None
        commit = self.server.refs[repository].get(revision, revision)
        if (repository, commit) not in self.server.commits:
            self._missing("RevisionNotFound", f"Invalid rev id: {revision}")
            return None
        return commit, self.server.commits[repository, commit]

    def _missing(self, code: str, why: str, status: int = 404, headers: dict[str, str] | None = None) -> None:
        self._json({"error": why}, {"X-Error-Code": code, "X-Error-Message": why, **(headers or {})}, status)

    def _json(self, value: Any, headers: dict[str, str] | None = None, status: int = 200) -> None:
        kind = {"Content-Type": "application/json; charset=utf-8"}
        self._answer(status, json.dumps(value).encode(), kind | (headers or {}))


def _blob(body: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(body) + body, usedforsecurity=False).hexdigest()


def _entry(files: Files, path: str) -> dict[str, Any] | None:
    """What a tree says of a file or a folder."""
    if path not in files:
        folder = any(name.startswith(f"{path}/") for name in files)
        return {"type": "directory", "oid": _blob(path.encode()), "path": path, "size": 0} if folder else None
    body = files[path]
    entry = {"type": "file", "oid": _blob(body), "path": path, "size": len(body)}
    if path.endswith(LARGE):
        entry["lfs"] = {"oid": hashlib.sha256(body).hexdigest(), "size": len(body), "pointerSize": 134}
    return entry


@contextlib.contextmanager
def hub() -> Iterator[Hub]:
    with Hub() as server:
        server.start()
        yield server
        server.shutdown()


# The shell ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Done:
    """What a command left; `waited`: seconds that it would have slept."""

    code: int
    out: str
    err: str
    waited: float


def environment_of(endpoint: str, home: Path) -> dict[str, str]:
    """With which a process takes `endpoint` for the hub."""
    hub = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_XET_XORB_COMPRESSION_POLICY": "none"}
    return hub | {"OMP_NUM_THREADS": "1"}


class Shell:
    """Runs `python -m …` in forks of a process that has `modules` loaded and takes `endpoint` for the hub.

    Their sleeps take no time.
    """

    def __init__(self, endpoint: str, home: Path, *modules: str) -> None:
        environment = os.environ | environment_of(endpoint, home)
        command = [sys.executable, __file__, *modules]
        self.process = subprocess.Popen(
            command, env=environment, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def __call__(self, *arguments: str) -> Done:
        """Do what `python -m ARGUMENTS` does, or `python -c` with an argument that is code."""
        assert self.process.stdin and self.process.stdout
        print(json.dumps(arguments), file=self.process.stdin, flush=True)
        return Done(*json.loads(self.process.stdout.readline()))

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


def serve(modules: list[str]) -> None:
    sys.path[0] = str(ROOT)
    naps = tempfile.TemporaryFile()  # noqa: SIM115 - of each fork in turn
    time.sleep = lambda seconds: os.write(naps.fileno(), b"%f\n" % seconds)
    for name in modules:
        importlib.import_module(name)
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        os.ftruncate(naps.fileno(), 0)
        os.lseek(naps.fileno(), 0, os.SEEK_SET)
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            if (pid := os.fork()) == 0:
                os.dup2(out.fileno(), 1)
                os.dup2(err.fileno(), 2)
                # Taking torch down as a process does at its end takes longer than most commands.
                os._exit(run(*json.loads(line)))
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            done = [code, *(os.pread(file.fileno(), 2**24, 0).decode() for file in (out, err))]
            waited = sum(map(float, os.pread(naps.fileno(), 2**20, 0).split()))
            print(json.dumps([*done, waited]), file=answers, flush=True)


def run(*arguments: str) -> int:
    """Do the command; returns its exit status."""
    code: Any = 0
    try:
        if arguments[0] == "-c":
            exec(arguments[1], {})  # noqa: S102
        else:
            sys.argv[1:] = arguments[1:]
            runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return int(code or 0)


if __name__ == "__main__":
    serve(sys.argv[1:])
