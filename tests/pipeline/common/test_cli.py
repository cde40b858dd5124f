"""What a person sees first when something is wrong is the cure."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from snakemake.utils import format as snakemake_format

from pipeline.__main__ import STAGES, main
from pipeline.common.cli import list_argument


def run(capsys, *arguments):
    status = main("pipeline", "", STAGES, [str(a) for a in arguments])
    return status, capsys.readouterr().err.splitlines()[-1]


FILES = ("--output", "out.arrow", "--ledger", "out.json")


def test_a_missing_file_is_named(capsys, language_id):
    status, line = run(capsys, "extract", "--warcs", "no.warc.gz", "--language-id", language_id, *FILES)
    assert (status, line) == (
        1,
        f"pipeline extract: no.warc.gz: no such file; give one that exists, relative to {Path.cwd()}",
    )


def test_a_wrong_key_of_the_config_is_named(capsys, tmp_path, language_id):
    (tmp_path / "c.yaml").write_text("extract: {min_char: 3}")
    config = ("--configfile", tmp_path / "c.yaml")
    status, line = run(capsys, "extract", "--warcs", "a", "--language-id", language_id, *FILES, *config)
    assert status == 1
    assert line.endswith("c.yaml: extract.min_char: unknown key; did you mean min_chars?")


def test_options_come_from_the_config_and_flags_win(tmp_path, monkeypatch):
    import pipeline.extract.webpages as module

    seen = []
    monkeypatch.setattr(module, "extract", lambda **values: seen.append(values["options"]))
    (tmp_path / "c.yaml").write_text("extract: {min_chars: 3, language_chars: 500}\ntokens: {}")
    main("pipeline", "", STAGES, ["extract", "--warcs", "a", "--language-id", "b", *FILES,
                                  "--configfile", str(tmp_path / "c.yaml"), "--min-chars", "7"])  # fmt: skip
    assert (seen[0].min_chars, seen[0].language_chars) == (7, 500)


@pytest.mark.parametrize("stage", [stage.name for stage in STAGES])
def test_every_stage_explains_itself(stage, capsys):
    with pytest.raises(SystemExit) as caught:
        main("pipeline", "", STAGES, [stage, "--help"])
    assert caught.value.code == 0
    assert "--output" in capsys.readouterr().out or stage == "card"


def test_more_files_than_a_command_line_may_name_come_from_a_list(tmp_path, monkeypatch):
    """As the rules call it: bash hands on a list made by its builtin printf."""
    (tmp_path / "show.py").write_text(
        "import json, sys\nfrom pipeline.common.cli import File, Stage, main\n"
        "stage = Stage('show', '', 'show:show', (File('files', '', many=True),))\n"
        "def show(files): print(json.dumps(files))\n"
        "if __name__ == '__main__': sys.exit(main('x', '', (stage,)))\n"
    )
    names = [f"{'folder' * 20}/{number} of a 'crawl'.arrow" for number in range(20_000)]  # 2.9 MB
    names += ["two\nlines", " blanks ", "-x", "--files", "@x", '$(touch PWNED) `touch PWNED` "{names}" \\ é']
    script = snakemake_format(f"python show.py show --files first {list_argument('names')}", names=names)
    (tmp_path / "script.sh").write_text(script)
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    done = subprocess.run(["bash", "script.sh"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == ["first", *names]
    assert not (tmp_path / "PWNED").exists()


def test_a_list_written_by_hand_has_a_name_a_line_and_an_empty_value_is_none(tmp_path, monkeypatch):
    import pipeline.publish.card as module

    seen = []
    monkeypatch.setattr(module, "write_card", lambda **values: seen.append(values))
    (tmp_path / "shards.txt").write_text("a b\r\n\n c\n")
    files = [f"--shards=@{tmp_path}/shards.txt", "--ledgers", "d", "--decontamination=", "--card=e", "--stats=f"]
    main("pipeline", "", STAGES, ["card", *files])
    assert (seen[0]["shards"], seen[0]["ledgers"], seen[0]["decontamination"]) == (["a b", "c"], ["d"], None)


def test_a_missing_list_is_named_in_one_line(capsys, tmp_path):
    status, line = run(capsys, "dedup-reduce", "--hashes", f"@{tmp_path}/no\nne", "--output", "x", "--index", "y")
    assert (status, line) == (1, f"pipeline dedup-reduce: No such file or directory: {tmp_path}/no ne")
