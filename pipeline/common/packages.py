"""Packages of apt, npm and pip, fetched by their own clients and kept in a folder of downloads."""

from __future__ import annotations

import hashlib
import io
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.common.errors import StageError
from pipeline.common.locks import locked


@dataclass(frozen=True)
class Package:
    """A package of `client`: apt, npm, pip or wheel.

    Of apt, `names` are tried in order; of the others it is one name with its version, whose archive has this
    sha256.
    """

    client: str
    names: tuple[str, ...]
    sha256: str = ""


def members(archive: Path) -> Iterator[tuple[str, bytes]]:
    """(path inside, bytes) of each regular file in a .deb, .tgz, .tar.gz or .whl."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            for name in wheel.namelist():
                yield name, wheel.read(name)
        return
    data = archive.read_bytes()
    if archive.suffix == ".deb":
        data = _run(["dpkg-deb", "--fsys-tarfile", str(archive)], "unpack Debian packages", archive.parent)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        for member in tar:
            if member.isfile() and (file := tar.extractfile(member)) is not None:
                yield member.name, file.read()


def fetch(package: Package, downloads: Path) -> Path:
    """The package's archive, from the folder of downloads or through its client.

    Raises StageError that names client and package. It ends with the cure, so that callers may add another.
    """
    downloads = downloads.resolve()
    downloads.mkdir(parents=True, exist_ok=True)
    # Jobs that run at the same time share the folder; the system frees the lock when the process ends.
    with locked(downloads / ".lock"):
        archive = _fetch_first(package, downloads)
    if package.sha256:
        got = hashlib.sha256(archive.read_bytes()).hexdigest()
        if got != package.sha256:
            raise StageError(f"{archive} has sha256 {got}, expected {package.sha256}; delete it and run again")
    return archive


def _fetch_first(package: Package, downloads: Path) -> Path:
    """The archive of the first of the package's names that is in the folder or can be fetched."""
    problem = ""
    for name in package.names:
        folder = downloads / package.client / re.sub(r"[^\w.@-]+", "_", name)
        if archive := _archive(folder):
            return archive
        try:
            return _download(package.client, name, folder, downloads)
        except StageError as error:
            problem = problem or str(error)
    raise StageError(problem)


def _archive(folder: Path) -> Path | None:
    archives = sorted(p for p in folder.glob("*") if p.suffix in (".deb", ".tgz", ".gz", ".whl"))
    return archives[0] if archives else None


def _download(client: str, name: str, folder: Path, downloads: Path) -> Path:
    """Run the client in an empty folder beside `folder`, then move it there whole."""
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    what = f"fetch {name}"
    if client == "apt":
        lists = _apt_lists((downloads / "apt").resolve())
        _run(["apt-get", *lists, "download", name], what, part)
    elif client == "npm":
        _run(["npm", "pack", "--silent", name], what, part)
    else:
        kind = "--only-binary" if client == "wheel" else "--no-binary"
        _run([sys.executable, "-m", "pip", "-q", "download", "--no-deps", kind, ":all:", name], what, part)
    if not (archive := _archive(part)):
        raise StageError(f"cannot {what}: the client wrote no archive into {part}; run again")
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)
    return folder / archive.name


def _apt_lists(folder: Path) -> list[str]:
    """Options that keep apt's package lists in `folder`: fresh ones, and without the need to be root."""
    options = [
        f"-oDir::State::lists={folder}/lists",
        f"-oDir::Cache={folder}/cache",
        "-oAPT::Sandbox::User=root",
    ]
    if not (folder / "lists" / "fresh").exists():
        (folder / "lists" / "partial").mkdir(parents=True, exist_ok=True)
        (folder / "cache" / "archives" / "partial").mkdir(parents=True, exist_ok=True)
        _run(["apt-get", *options, "-qq", "update"], "read the package lists", folder)
        (folder / "lists" / "fresh").touch()
    return options


def _run(command: list[str], what: str, folder: Path) -> bytes:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, check=False, timeout=1800)
    except FileNotFoundError:
        raise StageError(f"cannot {what}: {command[0]} is not installed; install it") from None
    if done.returncode:
        last = (done.stderr.decode(errors="replace").strip() or "it said nothing").splitlines()[-1]
        raise StageError(f"cannot {what}: {command[0]} failed: {last}; check the network")
    return done.stdout
