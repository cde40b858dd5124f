"""What pins versions agrees: pyproject.toml allows those of constraints.txt, and the hooks use them."""

import re
import tomllib

import yaml
from conftest import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PINNED = {
    canonicalize_name(name): version
    for name, version in re.findall(r"^(\S+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
}


def test_the_project_allows_the_pinned_versions():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    for line in (*project["dependencies"], *extras["test"], *extras["dev"]):
        wanted = Requirement(line)
        assert PINNED[canonicalize_name(wanted.name)] in wanted.specifier, line


def test_hooks_use_the_pinned_versions():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    for line in {line for hook in hooks for line in hook["additional_dependencies"]}:
        name, version = line.split("==")
        assert PINNED[name] == version


def test_the_least_versions_of_python_and_snakemake_are_said_alike_everywhere():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    python = project["requires-python"].removeprefix(">=")
    (snakemake,) = re.findall(r"snakemake>=([\d.]+),", " ".join(project["dependencies"]))
    for path in ("README.md", "CONTRIBUTING.md", "docs/guide.md"):
        assert set(re.findall(r"Python ([\d.]+) or later", (ROOT / path).read_text())) == {python}, path
    for path in ("Snakefile", "configs/profiles/default/config.yaml"):
        assert re.findall(r'min_version\("([\d.]+)"\)', (ROOT / path).read_text()) == [snakemake], path
