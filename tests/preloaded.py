"""A `python` for the tests of the workflow, that runs `-m` modules in forks of a process with libraries loaded.

A stage on the tests' small inputs is nine tenths imports; without them the kills hit the stages' work. It can kill
the first try of each job. A plan is nine tenths imports and reading of the rules' code. One process, the server,
loads the libraries; every call of `python` is a client that sends it its arguments, folder, environment, stdout
and stderr, learns the process id of the fork, and waits for its exit status. (The continuous integration also runs
the workflow with plain processes.)
"""

from __future__ import annotations

import ast
import contextlib
import gc
import hashlib
import importlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

STAGES = ("transformers.models.llama.modeling_llama", "transformers.models.auto", "transformers.generation.utils",
          "peft", "tensorboardX", "pyarrow.compute", "pandas", "regex", "xxhash", "altair", "jinja2")  # fmt: skip
SNAKEMAKE = ("snakemake.cli", "snakemake.report")
SERVE = "--serve"
KILLED = 128 + signal.SIGKILL


@contextlib.contextmanager
def preloaded(
    folder: Path, libraries: tuple[str, ...], project: Path | None = None, usual: dict[str, float] | None = None
) -> Iterator[str]:
    """A folder for the front of PATH, whose `python` works as the docstring above says, while this is open.

    project: a checkout whose modules are loaded too; a fork that works in another one loads its own.
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
    command = [sys.executable, __file__, SERVE, str(folder), str(project or ""), *libraries]
    server = subprocess.Popen(command, env=environment)
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
    stage = arguments[2]
    digest = hashlib.sha256(repr(arguments).encode()).hexdigest()
    seconds = None
    if usual is not None and first(folder / "marks" / digest):
        share = 0.1 + 0.35 * int(digest[:8], 16) / 2**32
        seconds = usual.get(stage, 1.0) * share
    status = in_fork(folder, arguments, seconds)
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


def in_fork(folder: Path, arguments: list[str], seconds: float | None) -> int | None:
    """The exit status of a fork of the server with all its children; None if it was killed after `seconds`.

    The fork has not the lists of names that the shell has opened for this process as /dev/fd/63.
    """
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
    end = time.monotonic() + 300
    while True:
        client = socket.socket(socket.AF_UNIX)
        try:
            client.connect(address(folder))
        except (FileNotFoundError, ConnectionRefusedError):
            client.close()
            if time.monotonic() > end:
                sys.exit("the server of tests/preloaded.py does not answer; did it fail?")
            time.sleep(0.05)
        else:
            return client


def address(folder: Path) -> str:
    """Its path may have a hundred characters only, so an abstract name stands for it."""
    return "\0" + hashlib.sha256(str(folder).encode()).hexdigest()


# The server ---------------------------------------------------------------------------------------


def serve(folder: Path, project: str, libraries: list[str]) -> None:
    """Load the libraries and the project, and then fork for every connection."""
    for name in libraries:
        importlib.import_module(name)
    if project:
        load(project)
    gc.freeze()  # else each fork's collections would go over, and so copy, all that is loaded
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the forks
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address(folder))
        listener.listen()
        while True:
            client, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                run(client, project)
            client.close()


def load(project: str) -> None:
    """What the Snakefile of a checkout imports, and the code that its rules run, which it reads in every plan."""
    sys.path[0] = project
    rules = [
        Path(project, "Snakefile"),
        *(x for w in ("pipeline", "train") for x in Path(project, w).rglob("*.smk")),
    ]
    text = "".join(path.read_text("utf-8") for path in rules)
    for name in re.findall(r"^from ((?:pipeline|train)[.\w]+) import", text, re.M):
        importlib.import_module(name)
    for stages in re.findall(r"fingerprint\(([^)]+)\)", text):
        sys.modules["pipeline.workflow.fingerprint"].fingerprint(*ast.literal_eval(f"[{stages}]"))


def is_other(folder: str, project: str) -> bool:
    """Whether a folder is a checkout with its own modules."""
    return Path(folder, "pipeline").resolve() != Path(project, "pipeline").resolve()


def run(client: socket.socket, project: str) -> None:
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
    if project and is_other(wanted["folder"], project):
        for name in [name for name in sys.modules if name.partition(".")[0] in ("pipeline", "train", "models")]:
            del sys.modules[name]
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
    if sys.argv[1] == SERVE:
        serve(Path(sys.argv[2]), sys.argv[3], sys.argv[4:])
    else:
        sys.exit(call(Path(sys.argv[1]), sys.argv[2:]))
