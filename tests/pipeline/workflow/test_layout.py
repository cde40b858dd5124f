"""Where the files of a result folder lie: one place says it, to the rules and to the code."""

from pipeline.workflow.layout import Layout, shard_path


def test_a_path_with_wildcards_is_a_pattern_of_snakemake():
    out = Layout("results/demo")
    assert out.rows("{domain}", "{split}") == "results/demo/tokens/{domain}/{split}.arrow"
    assert out.shard("fr", "train", "{batch}") == str(shard_path("results/demo/corpus", "fr", "train", "{batch}"))
    assert out.ledger(out.pages("{batch}")) == "results/demo/pages/{batch}.ledger.json"


def test_files_are_those_that_a_path_with_stars_matches(tmp_path):
    out = Layout(tmp_path / "results[1]")
    for run in ("neutral", "lora"):
        folder = tmp_path / "results[1]" / "runs" / run
        folder.mkdir(parents=True)
        (folder / "run.json").touch()
    assert [path.parent.name for path in out.files(out.run_record("*"))] == ["lora", "neutral"]
    assert out.files(out.documents("*")) == []
