"""A crawl that grows: what was made of the WARCs before it is not made again."""

from __future__ import annotations

import os
import re
import shutil
import subprocess

import pytest
import yaml
from conftest import ROOT

pytestmark = pytest.mark.slow

PYTHON = ".python"  # starts Snakemake at once
# Names that a shell, or the reader of a command line, would not leave as they are.
OTHER = 'renamed "$(touch PWNED)" \\ é'
FIRST, SECOND = "@first 'it's' $(touch PWNED).warc.gz", '-second "`touch PWNED`" ; touch PWNED & \\.warc.gz'


@pytest.fixture
def checkout(tmp_path, language_id, snakemake_python):
    """The workflow with its code, and a config of one WARC pattern after another."""
    for name in ("Snakefile", "pipeline", "train", "models", "profiles", "configs"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / PYTHON).symlink_to(snakemake_python)
    config = yaml.safe_load((ROOT / "configs/test.yaml").read_text())
    del config["filter"]  # it names a file of the checkout
    config |= {"output": "out", "crawl": {"warcs": ["@first*.warc.gz"], "warcs_per_job": 2}}
    config["extract"] |= {"language_model": language_id, "min_chars": 1}
    return tmp_path, config


def snakemake(folder, config, *arguments):
    """The messages of the jobs that ran, or would run."""
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    command = [folder / PYTHON, "-m", "snakemake", "--configfile", "config.yaml", "--cores", "1", *arguments]
    environment = os.environ | {"PYTHONPATH": str(folder)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]
    return re.findall(r"^(?:Job \d+:|[\d:]{8} start) +(.*)", done.stdout + done.stderr, re.M)


def test_an_entry_added_to_the_manifest_leaves_earlier_batches_alone(checkout, make_warc):
    folder, config = checkout
    make_warc(FIRST, count=3)
    snakemake(folder, config, "out/documents/00000.arrow")
    before = (folder / "out/documents/00000.arrow").stat()

    make_warc(SECOND, count=5)  # three of its pages are the first crawl's
    config["crawl"]["warcs"].append("-second*.warc.gz")
    targets = ("out/documents/00000.arrow", "out/documents/00001.arrow")
    extract = "Extract the text of batch 00001 and identify its languages"
    digest = "Hash the paragraphs of batch 00001"
    reduce = "Find the duplicate paragraphs of the whole crawl"
    apply = "Write the documents of batch 00001 without duplicate paragraphs"
    # Before the reduce has run, Snakemake cannot know that the first batch's duplicates stay the same.
    planned = snakemake(folder, config, "-n", *targets)
    assert planned[:3] == [extract, digest, reduce]
    assert sorted(planned[3:]) == [apply.replace("00001", "00000"), apply]
    assert snakemake(folder, config, *targets) == [extract, digest, reduce, apply]
    assert (folder / "out/documents/00000.arrow").stat() == before
    assert not list(folder.rglob("PWNED"))
    assert not snakemake(folder, config, *targets)


def test_own_archives_count_by_their_size_and_results_may_get_another_name(checkout, make_warc):
    folder, config = checkout
    archive = make_warc(FIRST, count=3)
    snakemake(folder, config, "out/documents/00000.arrow")
    os.utime(archive)  # copied, say
    assert not snakemake(folder, config, "-n", "out/documents/00000.arrow")

    (folder / "out").rename(folder / OTHER)
    shutil.rmtree(folder / ".snakemake")
    config["output"] = OTHER
    assert not snakemake(folder, config, "-n", f"{OTHER}/documents/00000.arrow")
    config["dedup"] = {"min_chars": 300}
    planned = snakemake(folder, config, "-n", f"{OTHER}/documents/00000.arrow")
    assert planned == ["Write the documents of batch 00000 without duplicate paragraphs"]

    make_warc(FIRST, count=4)
    planned = snakemake(folder, config, "-n", f"{OTHER}/documents/00000.arrow")
    assert planned[0] == "Extract the text of batch 00000 and identify its languages"
