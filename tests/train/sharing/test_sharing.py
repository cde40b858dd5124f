"""A published folder is whole, names nothing of this machine, and does what its card says."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT
from helpers import evaluation, run_record, write_tokenizer
from hub import TOKEN, environment_of, hub
from safetensors.torch import save_file
from tiny import logits, make, shake, tokens

from models.adapter import load_adapter
from models.backbone import load_tokenizer, save_backbone, weights_digest
from models.extend import extend, trainable_state
from pipeline.common.cli import main
from pipeline.common.errors import StageError
from pipeline.common.files import write_json
from pipeline.publish.publish import read_sums, sha256
from pipeline.workflow.layout import WEIGHTS
from train.__main__ import STAGES
from train.runs.load import extend_options, load_for, load_run
from train.runs.record import Languages, write_record
from train.runs.results import write_result
from train.sharing.options import Publish
from train.sharing.publish import publish

CPU = torch.device("cpu")
COMMIT = "c" * 40
SIGMOID = {"gate": "sigmoid", "gate_bias": False}


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backbone that was fetched from the hub."""
    folder = tmp_path_factory.mktemp("world") / "backbone"
    tokenizer = load_tokenizer(write_tokenizer(folder.parent / "tokenizer"))
    save_backbone(make("Llama", vocab_size=64), tokenizer, folder)
    write_json(folder / "origin.json", {"source": "owner/tiny", "revision": COMMIT})
    return folder


def make_run(folder: Path, backbone: Path, method: str = "neutral", **options: Any) -> str:
    """A finished run with weights at random."""
    record = run_record(method, fraction=0.5, **options)
    model = load_for(str(backbone), CPU)
    changes = {"backbone": str(backbone), "backbone_digest": weights_digest(model)}
    changes["width"] = extend(model, **extend_options(record.options)).width
    shake(model)
    folder.mkdir()
    save_file({name: x.contiguous() for name, x in trainable_state(model).items()}, folder / WEIGHTS)
    write_record(folder, replace(record, languages=Languages(old=["en"], new="fra_Latn"), **changes))
    return str(folder)


def published(output: Path, run: str, evaluations: Any = (), corpus: Any = (), **options: Any) -> Path:
    options = {"repo": "me/tiny-fr", "license": "mit"} | options
    publish(Publish(**options), run, None, list(evaluations), list(corpus), str(output))
    return output


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({}, "neutral_residues"),
        (SIGMOID, "qwen2_moe"),
        ({"method": "adapter"}, "llama"),
        ({"method": "finetune"}, "llama"),
        ({**SIGMOID, "code": True}, "neutral_residues"),
    ],
)
def test_a_folder_is_whole_and_names_nothing_of_this_machine(backbone, tmp_path, capsys, options, kind):
    code = options.pop("code", False)
    run = make_run(tmp_path / "run", backbone, **options)
    output = published(tmp_path / "out", run, code=code)
    files = files_of(output)
    sums = {name: sha256(output / name) for name in files if name != "SHA256SUMS"}
    assert read_sums(output / "SHA256SUMS") == sums
    assert {"README.md", "config.json", "model.safetensors", "tokenizer.json"} <= files.keys()
    assert json.loads(files["config.json"])["model_type"] == kind
    assert ("modeling_neutral.py" in files) == (kind == "neutral_residues")
    assert not [name for name, body in files.items() if str(tmp_path.parent).encode() in body]
    assert not [name for name, body in files.items() if str(backbone.parent).encode() in body]
    assert f"hf upload me/tiny-fr {output}\n" == capsys.readouterr().out
    assert ("adapter/adapter.json" in files) == ("finetune" not in options.values())
    if "adapter/adapter.json" in files:
        expected = logits(load_run(str(backbone), run, CPU).float(), tokens())
        alone = load_adapter(output / "adapter", str(backbone), dtype=torch.float32)
        torch.testing.assert_close(logits(alone, tokens()), expected, rtol=0.05, atol=0.05)
    assert files_of(published(tmp_path / "again" / "out", run, code=code)) == files


def test_a_lora_on_a_backbone_of_the_hub_is_an_adapter_of_peft(backbone, tmp_path):
    from peft import PeftModel

    run = make_run(tmp_path / "run", backbone, "lora")
    output = published(tmp_path / "out", run)
    assert not list(output.glob("model*")) and not (output / "adapter").exists()
    config = json.loads((output / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("owner/tiny", COMMIT)
    card = (output / "README.md").read_text()
    assert "library_name: peft\n" in card and "base_model_relation: adapter\n" in card
    loaded = PeftModel.from_pretrained(load_for(str(backbone), CPU, dtype=torch.float32), str(output))
    expected = logits(load_run(str(backbone), run, CPU).float(), tokens())
    torch.testing.assert_close(logits(loaded, tokens()), expected, rtol=0.05, atol=0.05)


def test_a_lora_on_a_backbone_that_nobody_else_has_is_a_whole_model(backbone, tmp_path):
    shutil.copytree(backbone, tmp_path / "mine")
    (tmp_path / "mine/origin.json").unlink()
    output = published(tmp_path / "out", make_run(tmp_path / "run", tmp_path / "mine", "lora"))
    assert {"model.safetensors", "adapter/adapter_model.safetensors"} <= files_of(output).keys()
    assert not (output / "adapter_config.json").exists()  # transformers would add it to weights that have it
    assert "base_model" not in (output / "README.md").read_text()


def interrupted(*_: Any) -> str:
    raise KeyboardInterrupt


def test_only_an_earlier_publication_is_replaced_and_nothing_is_left_of_a_failure(backbone, tmp_path, monkeypatch):
    run = make_run(tmp_path / "run", backbone, **SIGMOID)
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "notes").touch()
    with pytest.raises(StageError, match="mine: exists and is nothing that publish made"):
        published(mine, run)
    assert list(files_of(mine)) == ["notes"]
    before = files_of(published(tmp_path / "out", run))
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("train.sharing.publish.model_card", interrupted)
        published(tmp_path / "out", run)
    assert files_of(tmp_path / "out") == before
    after = files_of(published(tmp_path / "out", run, license="other"))
    assert {name for name in before if before[name] != after[name]} == {"README.md", "SHA256SUMS"}
    assert not list(tmp_path.glob("*.part"))


def test_the_corpus_and_the_measures_are_in_the_card(backbone, tmp_path):
    corpus, run = tmp_path / "corpus", make_run(tmp_path / "run", backbone, **SIGMOID)
    corpus.mkdir()
    counts = {"shards": 1, "documents": 4321, "paragraphs": 9, "bytes": 5_000_000}
    languages = {"fra_Latn": {"train": counts}, "deu_Latn": {"train": counts}}
    write_json(corpus / "stats.json", {"languages": languages, "ledgers": []})
    (corpus / "README.md").write_text("---\nlicense: odc-by\n---\n# Web corpus\n")
    evaluations = [str(tmp_path / name) for name in ("backbone.json", "run.json")]
    for path, one in zip(evaluations, (evaluation(None, fr=2.0), evaluation("run", fr=1.5)), strict=True):
        write_result(path, one)
    card = (published(tmp_path / "out", run, evaluations, [str(corpus)]) / "README.md").read_text()
    assert "| fr | train | 4,321 | 5.0 | odc-by |" in card and "| de |" not in card
    assert "| fr |  | 2.000 | 1.500 | -0.500 | 0.5 |" in card
    del languages["fra_Latn"]
    write_json(corpus / "stats.json", {"languages": languages, "ledgers": []})
    with pytest.raises(StageError, match="corpus: has deu_Latn, and the run was trained on en, fr; give its own"):
        published(tmp_path / "out", run, [], [str(corpus)])


@pytest.mark.parametrize(
    "repo", ["model", "me/my/x", "me/a--b", "me/-x", "../x", "me/a b", "me/x.git", "me/é", ""]
)
def test_a_bad_name_of_a_repository_is_refused_before_anything_is_read(tmp_path, capsys, repo):
    words = ["publish", "--run", "none", "--repo", repo, "--output", str(tmp_path / "out")]
    assert main("train", "", STAGES, words) == 1
    assert capsys.readouterr().err.startswith(f"train publish: command line: repo: {repo!r} is no repository")


def test_without_a_token_a_push_ends_before_anything_is_read(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    words = ["publish", "--run", "none", "--repo", "me/x", "--output", str(tmp_path / "out"), "--push"]
    assert main("train", "", STAGES, words) == 1
    assert "--push: there is no token of the hub; make a token" in capsys.readouterr().err


# On the hub ---------------------------------------------------------------------------------------

# Runs the programs of cards, and writes what the models say of some tokens.
READER = """
import json, sys, torch
tokens = torch.tensor(json.loads(sys.argv[1]))
for program in sys.argv[2:]:
    names = {}
    exec(program, names)
    with torch.no_grad():
        print(json.dumps(names["model"].float()(tokens).logits[0, -1].tolist()), len(names["tokenizer"]))
"""


@pytest.mark.slow
def test_a_model_that_was_pushed_is_loaded_as_its_card_says(backbone, tmp_path):
    copy = Path(shutil.copytree(backbone, tmp_path / "backbone"))
    runs = {"lora": {"method": "lora"}, "native": SIGMOID, "code": {}}
    with hub() as server:
        environment = os.environ | environment_of(server.url, tmp_path / "home") | {"HF_TOKEN": TOKEN}
        environment |= {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
        base = {path: body for path, body in files_of(copy).items() if path != "origin.json"}
        write_json(copy / "origin.json", {"source": "owner/tiny", "revision": server.push("owner/tiny", base)})
        commands = ["from pipeline.common.cli import main", "from train.__main__ import STAGES"]
        expected, programs = [], []
        for name, options in runs.items():
            run, output = make_run(tmp_path / name, copy, **options), str(tmp_path / f"{name}.out")
            expected.append(logits(load_run(str(copy), run, CPU).float(), tokens())[0, -1])
            words = ["publish", "--run", run, "--repo", f"me/{name}", "--push", "--output", output]
            commands.append(f"assert main('train', '', STAGES, {words!r}) == 0")
        run_python(["\n".join(commands)], environment, tmp_path)
        for name in runs:
            files = dict(server.commits[f"me/{name}", server.refs[f"me/{name}"]["main"]])
            del files[".gitattributes"]
            assert files == files_of(tmp_path / f"{name}.out")
            programs += re.findall("```python\n(.*?)```", files["README.md"].decode(), re.DOTALL)
        shutil.rmtree(copy)
        lines = run_python([READER, json.dumps(tokens().tolist()), *programs], environment, tmp_path)
    for line, wanted in zip(lines, expected, strict=True):
        said, _, size = line.rpartition(" ")
        torch.testing.assert_close(torch.tensor(json.loads(said)), wanted, rtol=0.05, atol=0.05)
        assert int(size) == 64


def run_python(words: list[str], environment: dict[str, str], folder: Path) -> list[str]:
    command = [sys.executable, "-P", "-c", *words]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert TOKEN not in done.stdout + done.stderr
    return done.stdout.splitlines()
