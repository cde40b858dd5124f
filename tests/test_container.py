"""The Dockerfile, and what else says how the image is made, agree; CI has no engine that would build it."""

import fnmatch
import re
import tomllib

from conftest import ROOT
from packaging.specifiers import SpecifierSet

DOCKERFILE = (ROOT / "Dockerfile").read_text()
# The instructions of each stage, by its name; lines that go on are joined.
STAGES = {
    stage.split()[2]: stage.splitlines()[1:]
    for stage in re.split(r"^FROM ", DOCKERFILE.replace("\\\n", " "), flags=re.M)[1:]
}
PYTHON = re.search(r"^FROM python:(\d+\.\d+)-slim AS base$", DOCKERFILE, re.M)


def test_python_is_that_of_the_constraints_and_one_that_the_project_takes():
    assert PYTHON
    assert f"Python {PYTHON[1]} " in (ROOT / "constraints.txt").read_text().splitlines()[0]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f"{PYTHON[1]}.99" in SpecifierSet(project["requires-python"])  # the newest of its line


def test_both_targets_install_by_the_constraints_and_run_not_as_root():
    assert STAGES.keys() == {"base", "cpu", "cuda"}
    for target in ("cpu", "cuda"):
        (install,) = (line for line in STAGES[target] if "pip install" in line)
        assert " -c constraints.txt " in install
        assert "USER 1000" in STAGES[target]
    assert "://" not in DOCKERFILE


def test_what_is_copied_is_there_and_results_stay_outside():
    for names in re.findall(r"^COPY (.+) \S+$", DOCKERFILE, re.M):
        assert all((ROOT / name).exists() for name in names.split())
    ignored = (ROOT / ".dockerignore").read_text().split()
    for line in (ROOT / ".gitignore").read_text().split():
        name = line.strip("/")
        assert any(fnmatch.fnmatch(name, pattern.removeprefix("**/")) for pattern in ignored), name


def test_the_guide_and_the_workflow_name_what_the_dockerfile_makes():
    guide = (ROOT / "docs/guide.md").read_text()
    assert set(re.findall(r"docker build --target (\w+)", guide)) == {"cpu", "cuda"}
    for argument in re.findall(r"--build-arg (\w+)=", guide):
        assert re.search(rf"^ARG {argument}\b", DOCKERFILE, re.M)
    (tag,) = set(re.findall(r"docker build .*-t (\S+) \.", guide))
    assert f"docker-daemon:{tag}:latest" in guide
    assert f"IMAGE:-{tag}:latest" in (ROOT / "configs/profiles/kubernetes/job.sh").read_text()
    (image,) = re.findall(r'^container: "(.+)"$', (ROOT / "Snakefile").read_text(), re.M)
    assert f"apptainer build {image} " in guide
