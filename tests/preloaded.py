"""A `python` for the workflow's tests, that runs `-m train` in forks of a process with the large libraries loaded.

A model stage on the tests' small inputs is nine tenths imports of torch and transformers; without them the
kills hit the stages' work. It can kill the first try of each job, in either wing. One process, the server,
loads the libraries, but nothing of the project; every call of `python` is a client that sends it its arguments,
folder, environment, stdout and stderr, learns the process id of the fork, and waits for its exit status.
(The continuous integration also runs the workflow with plain processes.)
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

LIBRARIES = ("transformers.models.llama.modeling_llama", "transformers.models.auto", "peft", "tensorboardX")
KILLED = 128 + signal.SIGKILL


@contextlib.contextmanager
def preloaded(folder: Path, usual: dict[str, float] | None = None) -> Iterator[str]:
    """A folder for the front of PATH, whose `python` works as the docstring above says, while this is open.

    usual: seconds that a job of each stage takes, to kill the first try of each job at some point of the first
    half of them; None: no kills.
    """
    (folder / "bin").mkdir(parents=True)
    (folder / "marks").mkdir()
    (folder / "usual.json").write_text(json.dumps(usual))
    python = folder / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "{__file__}" "{folder}" "$@"\n')
    python.chmod(0o755)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    server = subprocess.Popen([sys.executable, __file__, str(folder)], env=environment)
    try:
        yield str(folder / "bin")
    finally:
        server.kill()
        server.wait()


def killed(folder: Path) -> set[str]:
    """The stages of which a job was killed."""
    return {path.name for path in (folder / "marks").glob("killed/*")}


# The client ---------------------------------------------------------------------------------------


def call(folder: Path, arguments: list[str]) -> int:
    """Do what `python ARGUMENTS` does; returns the exit status."""
    if arguments[0] != "-m":
        os.execv(sys.executable, [sys.executable, *arguments])  # noqa: S606
    usual = json.loads((folder / "usual.json").read_text())
    wing, stage = arguments[1:3]
    digest = hashlib.sha256(repr(arguments).encode()).hexdigest()
    seconds = None
    if usual is not None and first(folder / "marks" / digest):
        share = 0.1 + 0.35 * int(digest[:8], 16) / 2**32
        seconds = usual.get(stage, 1.0) * share
    status = in_fork(folder, arguments, seconds) if wing == "train" else in_process(arguments, seconds)
    if status is None:
        (folder / "marks" / "killed" / stage).mkdir(parents=True, exist_ok=True)
    return KILLED if status is None else status


def first(mark: Path) -> bool:
    """Whether this is the first call with `mark`."""
    try:
        mark.mkdir()
    except FileExistsError:
        return False
    return True


def in_process(arguments: list[str], seconds: float | None) -> int | None:
    """The exit status of a process with all its children; None if it was killed after `seconds`."""
    # With the files that the shell has opened for it: lists of names come as /dev/fd/63.
    child = subprocess.Popen([sys.executable, *arguments], start_new_session=True, close_fds=False)
    try:
        return child.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        return None


def in_fork(folder: Path, arguments: list[str], seconds: float | None) -> int | None:
    """The same in a fork of the server, which has not the lists that the shell has opened for this process."""
    arguments = [kept(folder, word) if word.startswith("@/dev/fd/") else word for word in arguments]
    with connected(folder) as server:
        message = json.dumps({"arguments": arguments, "folder": str(Path.cwd()), "environment": dict(os.environ)})
        socket.send_fds(server, [len(message.encode()).to_bytes(4, "big")], [1, 2])
        server.sendall(message.encode())
        answers = server.makefile()
        pid = int(answers.readline())
        server.settimeout(seconds)
        try:
            status = answers.read()  # until the process has ended
        except TimeoutError:
            os.killpg(pid, signal.SIGKILL)
            return None
        return int(status or KILLED)


def kept(folder: Path, argument: str) -> str:
    """The `@LIST` of a copy of a list."""
    content = Path(argument[1:]).read_bytes()
    copy = folder / "lists" / hashlib.sha256(content).hexdigest()
    copy.parent.mkdir(exist_ok=True)
    copy.write_bytes(content)
    return f"@{copy}"


def connected(folder: Path) -> socket.socket:
    """A connection to the server, once it has loaded the libraries."""
    while True:
        client = socket.socket(socket.AF_UNIX)
        try:
            client.connect(address(folder))
        except (FileNotFoundError, ConnectionRefusedError):
            client.close()
            time.sleep(0.05)
        else:
            return client


def address(folder: Path) -> str:
    """Its path may have a hundred characters only, so an abstract name stands for it."""
    return "\0" + hashlib.sha256(str(folder).encode()).hexdigest()


# The server ---------------------------------------------------------------------------------------


def serve(folder: Path) -> None:
    """Load the libraries, and then fork for every connection."""
    import importlib

    for name in LIBRARIES:
        importlib.import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the forks
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address(folder))
        listener.listen()
        while True:
            client, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                run(client)
            client.close()


def run(client: socket.socket) -> None:
    """Become `python -m MODULE …` as the client wants it. Never returns: raises SystemExit."""
    import runpy
    import traceback

    size, streams, _, _ = socket.recv_fds(client, 4, 2)
    wanted = json.loads(client.makefile("rb").read(int.from_bytes(size, "big")))
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    for stream, number in zip(streams, (1, 2), strict=True):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(wanted["folder"])
    os.environ.clear()
    os.environ.update(wanted["environment"])
    search = wanted["environment"].get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:] = [wanted["folder"], *filter(None, search), *sys.path[1:]]
    _, module, *sys.argv[1:] = wanted["arguments"]
    client.sendall(f"{os.getpid()}\n".encode())
    status = 0
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 1
    client.sendall(str(status).encode())  # the connection stays open until the process has ended
    raise SystemExit(status)


if __name__ == "__main__":
    if len(sys.argv) == 2:
        serve(Path(sys.argv[1]))
    else:
        sys.exit(call(Path(sys.argv[1]), sys.argv[2:]))
