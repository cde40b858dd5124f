"""A folder comes to the hub as it is, by both of its protocols, and what breaks off goes on.

Commands run in forks of a process that takes the stand-in for the hub (hub.py).
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hub import TOKEN, Done, Files, Hub, Shell, hub

from pipeline.publish.publish import write_sums

UPLOAD = """
import os, signal
from huggingface_hub import _commit_api, _upload_pipeline, constants
from pipeline.common.cli import Stage, File, main
constants.HF_HUB_DISABLE_XET = {protocol!r} == "lfs"
os.environ["HF_TOKEN"] = {token!r}
if {killed}:  # when all large files have arrived
    _upload_pipeline._send_commit = _commit_api._send_commit = lambda **_: os.kill(os.getpid(), signal.SIGKILL)
files = tuple(File(name, "") for name in ("folder", "repo", "private", "command"))
stages = [Stage("token", "", "train.sharing.upload:check_token", ())]
stages.append(Stage("go", "", "train.sharing.upload:upload", files))
words = ["go", "--folder", {folder!r}, "--repo", {repo!r}, "--private", "", "--command", "hf upload"]
raise SystemExit(({check} and main("x", "", stages, ["token"])) or main("x", "", stages, words))
"""
MODULES = ("huggingface_hub.hf_api", "huggingface_hub._upload_pipeline", "hf_xet", "train.sharing.upload")
PROTOCOLS = ("xet", "lfs")
LARGE = {"xet": 1, "lfs": 2}  # requests that send the two large files


@dataclass(frozen=True)
class Place:
    """The hub, a shell and its HF_HOME; a publication with two large files, and a repository of this test."""

    server: Hub
    shell: Shell
    home: Path
    folder: Path
    repo: str

    def go(self, protocol: str = "xet", token: str = TOKEN, killed: bool = False, check: bool = True) -> Done:
        how = {"protocol": protocol, "token": token, "killed": killed, "check": check}
        return self.shell("-c", UPLOAD.format(folder=str(self.folder), repo=self.repo, **how))

    def uploaded(self) -> Files:
        files = self.server.commits[self.repo, self.server.refs[self.repo]["main"]]
        return {path: body for path, body in files.items() if path != ".gitattributes"}

    def sent(self) -> list[str]:
        """The large files, or parts of them, that were sent so far."""
        return [path for path, _ in self.server.requests if path.startswith(("/lfs/", "/xorb/"))]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Hub, Shell, Path]]:
    home = tmp_path_factory.mktemp("home")
    with hub() as server:
        shell = Shell(server.url, home, *MODULES)
        yield server, shell, home
        shell.close()


@pytest.fixture
def place(world: tuple[Hub, Shell, Path], tmp_path: Path) -> Place:
    server, shell, home = world
    server.faults.clear()
    server.requests.clear()
    drawn = random.Random(str(tmp_path))
    folder = tmp_path / "folder"
    (folder / "adapter").mkdir(parents=True)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# x\n")
    (folder / "model.safetensors").write_bytes(drawn.randbytes(300_000) + bytes(100_000))
    (folder / "adapter/adapter.safetensors").write_bytes(drawn.randbytes(50_000))
    write_sums(folder)
    return Place(server, shell, home, folder, f"me/number-{len(server.refs)}")


def files_of(folder: Path) -> Files:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_repository_has_exactly_the_files_of_the_folder_and_a_second_time_nothing_is_sent(place, protocol):
    files = files_of(place.folder)
    done = place.go(protocol)
    assert done.code == 0, done.err
    assert place.uploaded() == files == files_of(place.folder)
    assert len(place.sent()) == LARGE[protocol]
    commits = len(place.server.commits)
    assert place.go(protocol).code == 0
    assert (len(place.server.commits), len(place.sent())) == (commits, LARGE[protocol])


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_after_a_kill_it_goes_on_without_sending_again_what_has_arrived(place, protocol):
    assert place.go(protocol, killed=True).code == -9
    assert not place.uploaded()
    before = place.sent()
    assert len(before) == LARGE[protocol]
    done = place.go(protocol)
    assert done.code == 0, done.err
    assert place.sent() == before
    assert place.uploaded() == files_of(place.folder)


@pytest.mark.parametrize(
    ("path", "status", "times"),
    [
        ("/v1/shards", 400, 1),
        ("/api/models/{repo}/commit/main", 500, 9),
        ("/api/models/{repo}/preupload/main", 503, 9),
    ],
)
def test_what_breaks_off_is_said_in_a_line_and_goes_on(place, path, status, times):
    place.server.faults = {path.format(repo=place.repo): [f"status {status}"] * times}
    done = place.go()
    assert done.code == 1
    last = done.err.splitlines()[-1]
    assert last.startswith("x go: --push: the hub did not take it: ") and str(status) in last
    assert last.endswith("; run again, or `hf upload`: what has arrived is not sent again")
    assert "Traceback" not in done.err
    place.server.faults.clear()
    assert place.go().code == 0
    assert place.uploaded() == files_of(place.folder)
    # Of several small files hf_xet may make another xorb, where no shard has told it that they have arrived.
    assert path == "/v1/shards" or len(place.sent()) == 1


def test_what_an_earlier_publication_had_is_gone_and_other_files_stay(place):
    place.server.push(place.repo, {".gitattributes": b"", "notes.md": b"mine"})
    (place.folder / "[1]*.gguf").write_bytes(b"GGUF")
    write_sums(place.folder)
    assert place.go().code == 0
    assert "[1]*.gguf" in place.uploaded()
    (place.folder / "[1]*.gguf").unlink()
    write_sums(place.folder)
    assert place.go().code == 0
    assert place.uploaded() == files_of(place.folder) | {"notes.md": b"mine"}


def test_without_a_token_it_is_said_how_to_get_one_and_nobody_is_asked(place):
    done = place.go(token="")
    assert done.code == 1 and not place.server.asked("whoami") + place.server.asked("repos")
    (line,) = done.err.splitlines()
    assert "no token" in line and "in the settings of your account" in line and "HF_TOKEN" in line


@pytest.mark.parametrize("check", [True, False])
def test_a_wrong_token_is_said_in_a_line_with_the_cure_and_never_shown(place, check):
    wrong = "hf_" + "5" * 34
    done = place.go(token=wrong, check=check)
    assert done.code == 1 and place.repo not in place.server.refs
    line = done.err.splitlines()[-1]
    assert "`hf auth login --force`" in line and "in the settings of your account" in line
    assert check or "Invalid credentials: Bearer ***" in line  # the stand-in repeats it
    assert "Traceback" not in done.err and wrong not in done.out + done.err


def test_what_the_token_may_not_is_said_in_a_line(place, monkeypatch):
    place.server.faults = {"/api/repos/create": ["status 403"]}  # of somebody else
    done = place.go()
    assert done.code == 1 and "403" in done.err and "make a token that may write" in done.err.splitlines()[-1]
    monkeypatch.setattr(place.server, "role", "read")
    done = place.go()
    assert done.code == 1 and "may read alone; make a token that may write" in done.err.splitlines()[-1]
    assert place.repo not in place.server.refs


def test_a_hub_that_is_away_is_said_in_a_line(place):
    with place.server.away():
        done = place.go()
    assert done.code == 1 and "Traceback" not in done.err
    assert done.err.splitlines()[-1].endswith("; check the network, and run again")


def test_a_licence_that_the_hub_does_not_know_is_said_in_a_line(place):
    (place.folder / "README.md").write_text("---\nlicense: mine\n---\n# x\n")
    done = place.go()
    assert done.code == 1 and not place.sent()
    assert 'Invalid metadata in README.md. - "license" must be one of' in done.err.splitlines()[-1]


def test_no_log_has_the_token(place):
    assert place.go().code == 0
    kept = [path for path in place.home.rglob("*") if path.is_file()]
    assert kept and not [path for path in kept if TOKEN.encode() in path.read_bytes()]
