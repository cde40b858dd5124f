"""From the command line: save, export and try a run."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from device import DEVICE
from helpers import evaluation, language, write_rows, write_tokenizer
from safetensors.torch import load_file, save_file

from models.backbone import create_llama, load_tokenizer, save_backbone
from pipeline.common.cli import main
from train.__main__ import STAGES
from train.data.tokens import tokenizer_digest
from train.evaluation.speed import WRITTEN, tokens_to_write
from train.runs.generate import _printer, write
from train.runs.options import Generate
from train.runs.results import write_result

ON = f"--device {DEVICE}"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backbone, and runs of three methods on it; all that was trained is a step or two."""
    folder = tmp_path_factory.mktemp("shell")
    sizes = {"hidden_size": 16, "layers": 2, "heads": 2, "ffn_size": 24, "vocabulary": 64, "row_tokens": 32}
    tokenizer = load_tokenizer(write_tokenizer(folder / "tokenizer"))
    save_backbone(create_llama(**sizes), tokenizer, folder / "backbone")
    same = {"tokenizer_sha256": tokenizer_digest(folder / "backbone")}
    languages = (("en", 1), ("fr", 5))
    rows = [write_rows(folder / f"{name}.arrow", language(step, 30), name, **same) for name, step in languages]
    for method in ("adapter", "lora", "neutral"):
        words = (
            f"extend --method {method} --learning-rate 1e-1 --steps 3 --batch-rows 4 --fraction 0.5 --threads 1"
        )
        inputs = (
            f"--backbone {folder}/backbone --old-rows {rows[0]} --new-rows {rows[1]} --validation fr={rows[1]}"
        )
        assert shell(f"{words} {inputs} {ON} --output {folder}/{method}") == 0
    return folder


def shell(words: str, *more: str) -> int:
    return main("train", "", STAGES, [*words.split(), *more])


@pytest.mark.slow
def test_models_write_side_by_side(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert shell(f"save --run {world}/neutral --output {tmp_path}/small") == 0
    names = {path.name for path in (tmp_path / "small").iterdir()}
    assert names == {"adapter.json", "adapter.safetensors"}
    about = json.loads((tmp_path / "small" / "adapter.json").read_text())
    assert about["additions"][0]["languages"] == {"old": ["en"], "new": "fr"}
    assert about["additions"][0]["training"]["options"]["learning_rate"] == 0.1

    write_result(tmp_path / "before.json", evaluation(run=None, fr=2.0))
    write_result(tmp_path / "after.json", evaluation(run="lora", fr=1.0))
    measured = f"--evaluations {tmp_path}/before.json {tmp_path}/after.json"
    assert shell(f"export --run {world}/lora {measured} --output {tmp_path}/whole") == 0
    assert re.search(r"\| fr \|.* 2\.000.* 1\.000.* -1\.000", (tmp_path / "whole" / "README.md").read_text())

    models = [f"{world}/backbone", f"{world}/neutral", f"{tmp_path}/small", f"{tmp_path}/whole"]
    capsys.readouterr()
    words = f"generate --tokens 6 {ON} --model {' '.join(models)} --backbone {world}/backbone --prompt"
    assert shell(words, "3 4", "9") == 0
    parts = [part.strip().split("]\n") for part in capsys.readouterr().out.split("\n[")[1:]]
    assert [path for path, _ in parts] == [path for path in models for _ in range(2)]
    for number, beginning in enumerate(["3 4", "9"]):
        texts = [text for _, text in parts[number::2]]
        assert all(text.startswith(beginning) and len(text) > len(beginning) + 5 for text in texts)
        assert texts[1] == texts[2] != texts[0]


def test_gates_are_closed_up_to_a_threshold(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All of them, and the model writes what its backbone does; an export remembers it."""
    written = []
    for threshold, model in ((100, "backbone"), (100, "neutral"), (0, "neutral")):
        words = f"generate --tokens 12 {ON} --gate-threshold {threshold} --model {world}/{model} --prompt"
        assert shell(words, "3 4") == 0
        written.append(capsys.readouterr().out.split("]\n")[1])
    assert written[0] == written[1] != written[2]
    assert shell(f"export --run {world}/neutral --gate-threshold 0.25 --output {tmp_path}/whole") == 0
    blocks = json.loads((tmp_path / "whole" / "config.json").read_text())["neutral_residues"]["blocks"]
    assert [block["threshold"] for block in blocks] == [0.25]


def test_what_is_saved_travels(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing names a place of the machine: not the backbone's, nor that of the run that another goes on from."""
    shutil.copytree(world / "adapter", tmp_path / "second")
    record = json.loads((tmp_path / "second/run.json").read_text())
    record["options"]["base"] = str(world / "neutral")
    (tmp_path / "second/run.json").write_text(json.dumps(record))
    for run in (world / "lora", tmp_path / "second"):
        assert shell(f"save --run {run} --output {tmp_path}/{run.name}-saved") == 0
        assert shell(f"export --run {run} --output {tmp_path}/{run.name}-exported") == 0
    files = [path for folder in tmp_path.glob("*-*ed") for path in folder.iterdir()]
    places = (str(world).encode(), str(tmp_path).encode())
    assert len(files) > 12 and not any(place in path.read_bytes() for path in files for place in places)
    about = json.loads((tmp_path / "second-saved/adapter.json").read_text())
    assert [one["training"]["options"]["base"] for one in about["additions"]] == [None, "neutral"]
    assert "base_model:" not in (tmp_path / "second-exported/README.md").read_text()
    assert (tmp_path / "lora-saved/adapter_model.safetensors").exists()

    shutil.copytree(world / "backbone", tmp_path / "elsewhere")
    capsys.readouterr()
    ask = f"generate --model {tmp_path}/second-saved --tokens 6 --device cpu"
    assert shell(f"{ask} --prompt 3") == 1
    known = f"with weights of the digest {about['backbone']['digest']}; give its folder on this one: --backbone"
    assert known in capsys.readouterr().err
    assert shell(f"{ask} --backbone {tmp_path}/elsewhere --prompt 3") == 0


def test_a_saved_adapter_is_measured_as_its_run(world: Path, tmp_path: Path) -> None:
    assert shell(f"save --run {world}/neutral --output {tmp_path}/small") == 0
    measured = []
    for run in (world / "neutral", tmp_path / "small"):
        words = f"evaluate --backbone {world}/backbone --run {run} --rows fr={world}/fr.arrow --device cpu"
        assert shell(f"{words} --threads 1 --output {tmp_path}/out.json") == 0
        measured.append(json.loads((tmp_path / "out.json").read_text())["domains"])
    assert measured[0]["fr"]["nats"] == pytest.approx(measured[1]["fr"]["nats"], rel=1e-2)
    other = tmp_path / "other"
    shutil.copytree(world / "backbone", other)
    weights = load_file(other / "model.safetensors")
    save_file({name: weight + 1 for name, weight in weights.items()}, other / "model.safetensors")
    words = f"evaluate --backbone {other} --run {tmp_path}/small --rows fr={world}/fr.arrow --device cpu"
    assert shell(f"{words} --output {tmp_path}/out.json") == 1


def test_nothing_printed_steers_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("train.runs.generate.open_model", lambda *_: (torch.nn.Module(), None))

    class Words:
        def decode(self, tokens: list[int], **_: object) -> str:
            return "".join("written\x1b[2J " for _ in tokens)

    def write(_model: object, _tokenizer: object, *_: object, shown: bool) -> None:
        printer = _printer(Words())
        for token in ([[1, 2]], [3], [4]):  # the prompt, and what is written behind it
            printer.put(torch.tensor(token))
        printer.end()

    monkeypatch.setattr("train.runs.generate.write", write)
    assert shell(f"generate {ON} --model", "mo\x1b[2Jdel", "--prompt", "a page's text\x1b[2J") == 0
    printed = capsys.readouterr().out
    assert printed.count(r"\x1b[2J") == 4 and "\x1b" not in printed and printed.count("written") == 2


def test_a_run_that_goes_on_from_itself_is_refused(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, base in (("one", "two"), ("two", "one")):
        shutil.copytree(world / "lora", tmp_path / name)
        record = json.loads((tmp_path / name / "run.json").read_text())
        record["options"]["base"] = base
        (tmp_path / name / "run.json").write_text(json.dumps(record))
    assert shell(f"save --run {tmp_path}/one --output {tmp_path}/small") == 1
    assert f"{tmp_path}/one: goes on from itself, by way of " in capsys.readouterr().err


def test_draws_follow_the_seed(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    printed = []
    for seed in (1, 1, 2):
        words = f"generate --model {world}/backbone --temperature 1.5 --tokens 12 {ON} --seed {seed} --prompt"
        assert shell(words, "5 6") == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1] != printed[2]


def test_a_model_that_says_no_length_writes_as_much_as_is_asked(world: Path) -> None:
    from transformers import BloomConfig, BloomForCausalLM

    model = BloomForCausalLM(BloomConfig(vocab_size=64, hidden_size=16, n_layer=1, n_head=2, eos_token_id=None))
    tokenizer = load_tokenizer(str(world / "tokenizer"))
    assert len(write(model, tokenizer, "3 4", Generate(tokens=5)).split()) <= 5
    assert tokens_to_write(model, torch.ones(1, 5)) == WRITTEN


def test_an_export_writes_what_its_run_writes(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert shell(f"export --run {world}/neutral --output {tmp_path}/whole") == 0
    capsys.readouterr()
    assert shell(f"generate --model {world}/neutral {tmp_path}/whole --tokens 6 {ON} --prompt", "3 4") == 0
    run, whole = (part.split("]\n")[1].strip() for part in capsys.readouterr().out.split("\n[")[1:])
    assert run == whole


@pytest.mark.parametrize("changed", ["modeling_neutral.py", "other.py", "custom_generate/generate.py"])
def test_no_code_of_an_export_is_run(
    changed: str, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not that of an earlier version either, whose model is loaded all the same."""
    assert shell(f"export --run {world}/neutral --output {tmp_path}/whole") == 0
    code, config = tmp_path / "whole" / changed, tmp_path / "whole" / "config.json"
    code.parent.mkdir(exist_ok=True)
    code.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\ndef generate(model, ids, **kwargs): return ids\n")
    if changed == "other.py":
        config.write_text(config.read_text().replace('"modeling_neutral.', '"other.'))
    capsys.readouterr()
    words = f"--model {world}/neutral {tmp_path}/whole --tokens 6 {ON} --prompt 3"
    assert shell(f"generate {words}") == 0
    assert not (tmp_path / "ran").exists()
    run, whole = (part.split("]\n")[1].strip() for part in capsys.readouterr().out.split("\n[")[1:])
    assert run == whole


def test_a_models_own_way_of_generating_is_bounded(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(world / "backbone", tmp_path / "model")
    path = tmp_path / "model" / "generation_config.json"
    sound = json.loads(path.read_text())
    words = f"generate --model {world}/backbone {tmp_path}/model --tokens 4 {ON} --prompt 3"
    asked = {"num_beams": 10**7, "num_return_sequences": 10**7}
    path.write_text(json.dumps(sound | asked | {"return_dict_in_generate": True, "stop_strings": ["<user>"]}))
    assert shell(words) == 0
    one, other = (part.split("]\n")[1].strip() for part in capsys.readouterr().out.split("\n[")[1:])
    assert one == other
    path.write_text(json.dumps(sound | {"no_repeat_ngram_size": "x"}))
    assert shell(words) == 1
    assert "train generate: the model cannot continue a text (" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("generate --model {world}/tokenizer --prompt 1", "tokenizer: "),
        ("generate --model {world}/backbone --prompt " + "1" * 40, "leaves no room to continue; shorten it"),
        (
            "export --run {world}/lora --evaluations x.json --output {world}/x",
            "x.json: No such file or directory; measure",
        ),
        ("save --run {world}/tokenizer --output {world}/x", "not a finished run"),
        ("cost --configfile {world}/none.yaml", "no such file"),
    ],
)
def test_what_cannot_be_is_said(world: Path, words: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    spaced = words.replace("1" * 40, "PROMPT").format(world=world).split()
    arguments = [" ".join(["1"] * 40) if word == "PROMPT" else word for word in spaced]
    assert main("train", "", STAGES, arguments) == 1
    assert message in capsys.readouterr().err
    assert not (world / "x").exists()


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    for stage in ("generate", "save", "export", "cost"):
        with pytest.raises(SystemExit):
            shell(f"{stage} --help")
        assert "example" in (text := capsys.readouterr().out) and f"python -m train {stage}" in text
