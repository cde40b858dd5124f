"""Backbones, tokenizers and question sets of the hub, from a hub that moves on, breaks off or is away.

One process has transformers loaded; every command runs in a fork of it (hub.py).
"""

from __future__ import annotations

import io
import json
from importlib.util import find_spec
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub import Files, Hub, Shell, hub
from safetensors import deserialize

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("datasets") is None, reason="could not import 'datasets'"),
]

MODULES = (
    *("transformers.models.llama.modeling_llama", "transformers.models.auto.tokenization_auto"),
    *("transformers.convert_slow_tokenizer", "datasets"),
    *(
        "train.tasks.accuracy",
        "train.runs.backbone",
        "train.runs.export",
        "train.runs.generate",
        "train.trainer.stages",
    ),
)
MAKE = """
from models.backbone import create_llama, load_tokenizer, save_backbone
from pipeline.common.files import write_arrow
from train.data.texts import SCHEMA
from train.data.options import Domain, Tokens
from train.data.tokens import tokenize, train_tokenizer
folder = {folder!r}
texts = [f"le chat numero {{i}} dort sur la chaise" for i in range(60)]
write_arrow(folder + "/shard.arrow", SCHEMA, [{{"text": text, "url": None}} for text in texts])
train_tokenizer(Tokens(domain="fr", vocabulary=280), [folder + "/shard.arrow"], None, folder + "/tokenizer")
rows = ([folder + "/shard.arrow"], folder + "/tokenizer", "train", 16, folder + "/rows.arrow", folder + "/l.json")
tokenize(Domain(language="fr"), *rows)
tokenizer = load_tokenizer(folder + "/tokenizer")
sizes = dict(hidden_size=16, layers=2, heads=2, ffn_size=24, vocabulary=280, row_tokens=32)
for seed in (1, 2):
    save_backbone(create_llama(**sizes, seed=seed), tokenizer, f"{{folder}}/{{seed}}")
"""
CARD = b"""---
configs:
- {config_name: fr, data_files: [{split: test, path: fr/test-*.parquet}]}
- {config_name: de, data_files: [{split: test, path: de/test-*.parquet}]}
---
"""
QUIZ = {
    "prompt": "{{ labels.question }} {{ question }}",
    "metric": "raw",
    "fields": {"question": "q", "choices": "c", "answer": "a"},
}
WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    with hub() as server:
        shell = Shell(server.url, folder / "home", *MODULES)
        done = shell("-c", MAKE.format(folder=str(folder)))
        assert done.code == 0, done.err
        yield server, shell, folder
        shell.close()


@pytest.fixture
def place(world) -> tuple[Hub, Shell, Path, str, list[Files]]:
    """The hub, the shell, a folder with rows, the name of a repository of this test, and two models' files."""
    server, shell, folder = world
    server.faults.clear()
    server.requests.clear()
    models = [{path.name: path.read_bytes() for path in (folder / seed).iterdir()} for seed in "12"]
    return server, shell, folder, f"owner/number-{len(server.refs)}", models


def backbone(shell: Shell, output: Path, source: str, *more: str):
    return shell("train", "backbone", "--source", source, "--output", str(output), *more)


def weights(body: bytes) -> dict[str, bytes]:
    """Without the head, which is tied: one of the two names is left out of a copy."""
    return {name: bytes(tensor["data"]) for name, tensor in deserialize(body) if name != "lm_head.weight"}


def test_the_weights_are_those_of_the_revision_and_its_commit_is_known(place, tmp_path):
    server, shell, _, name, (old, new) = place
    commits = {ref: server.push(name, files, ref) for ref, files in (("v1", old), ("main", new))}
    for number, (asked, ref) in enumerate([((), "main"), (("v1",), "v1"), ((commits["v1"],), "v1")]):
        output = tmp_path / str(number)
        done = backbone(shell, output, name, *(x for revision in asked for x in ("--revision", revision)))
        assert done.code == 0, done.err
        assert weights((output / WEIGHTS).read_bytes()) == weights((old if ref == "v1" else new)[WEIGHTS])
        assert json.loads((output / "origin.json").read_text()) == {"source": name, "revision": commits[ref]}


def test_an_adapter_of_a_hubs_model_stays_with_its_commit(place, tmp_path):
    server, shell, folder, name, (old, new) = place
    commit = server.push(name, old)
    rows = f"--old-rows {folder}/rows.arrow --new-rows {folder}/rows.arrow --validation fr={folder}/rows.arrow"
    how = "--method lora --steps 1 --batch-rows 2 --fraction 0.5 --device cpu --learning-rate 1e-1"
    done = shell(*f"train extend --backbone {name} {rows} {how} --output {tmp_path}/run".split())
    assert done.code == 0, done.err
    assert shell(*f"train save --run {tmp_path}/run --output {tmp_path}/small".split()).code == 0
    about = json.loads((tmp_path / "small/adapter.json").read_text())["backbone"]
    assert (about["source"], about["revision"]) == (name, commit)
    config = json.loads((tmp_path / "small/adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == (name, commit)

    server.push(name, new)
    models = f"--model {name} {tmp_path}/small --tokens 3 --device cpu"
    done = shell(*f"train generate {models} --prompt".split(), "le chat")
    assert done.code == 0, done.err
    assert [line for line in done.out.splitlines() if line.startswith("[")] == [f"[{name}]", f"[{tmp_path}/small]"]


@pytest.mark.parametrize(
    ("source", "more", "message"),
    [
        ("owner/none", (), "owner/none is not a local folder and is not a valid model identifier"),
        ("results/x/none", (), "no such folder, and no id of the hub (owner/name)"),
        ("{name}", ("--revision", "v9"), "v9 is not a valid git identifier"),
        ("{name}-bin", (), "pytorch_model.bin is there: weights as pickles"),
        ("{name}-gguf", (), "x.gguf is there: a GGUF file in a folder"),
        (
            "{name}-peft",
            (),
            "adapter_config.json: an adapter of peft ('LORA') for 'owner/base', no model; merge it",
        ),
        ("{name}-gptq", (), "quantize_config.json is there: quantised weights"),
        ("{name}-gguf/x.gguf", (), "no such file; one of the hub has to be fetched first"),
        ("{name}-gated", (), "You are trying to access a gated repo. Make sure to have access to it"),
    ],
)
def test_what_is_not_there_is_said_in_a_line(place, tmp_path, source, more, message):
    server, shell, _, name, (files, _) = place
    rest = {path: body for path, body in files.items() if path != WEIGHTS}
    server.push(name, files)
    server.push(f"{name}-bin", rest | {"pytorch_model.bin": b"x"})
    server.push(f"{name}-gguf", {"x.gguf": b"GGUF"})
    lora = {"adapter_config.json": b'{"peft_type": "LORA", "base_model_name_or_path": "owner/base"}'}
    server.push(f"{name}-peft", lora | {"adapter_model.safetensors": b"x"})
    server.push(f"{name}-gptq", files | {"quantize_config.json": b"{}"})
    server.push(f"{name}-gated", files)
    server.gated.add(f"{name}-gated")
    done = backbone(shell, tmp_path / "out", source.format(name=name), *more)
    assert (done.code, done.waited) == (1, 0)
    last = done.err.splitlines()[-1]
    assert last.startswith(f"train backbone: backbone.source {source.format(name=name)}: ")
    assert message in last
    assert "Traceback" not in done.err
    assert not (tmp_path / "out").exists()
    assert not server.asked("commits") + server.asked("discussions")  # no bot is asked to convert weights


@pytest.mark.parametrize(
    ("path", "fault", "times", "ends"),
    [
        ("resolve/main/config.json", "refuse", 1, True),
        ("resolve/main/config.json", "status 503", 1, False),
        (f"resolve/COMMIT/{WEIGHTS}", "refuse", 1, True),
        ("LARGE", "drop 1000", 1, False),
        ("LARGE", "refuse", 9, True),
        ("resolve/COMMIT/tokenizer.json", "refuse", 1, True),
    ],
)
def test_a_broken_transfer_of_a_model_is_gone_on_with_or_said_in_a_line(place, tmp_path, path, fault, times, ends):
    server, shell, _, name, (files, _) = place
    commit = server.push(name, files)
    large = next(path for path, body in server.files.items() if body == files[WEIGHTS])
    server.faults = {large if path == "LARGE" else f"/{name}/{path.replace('COMMIT', commit)}": [fault] * times}
    done = backbone(shell, tmp_path / "out", name)
    assert done.code == ends, done.err
    assert "Traceback" not in done.err
    if ends:
        lost = "Server disconnected without sending a response.; check the network, and run again"
        assert done.err.splitlines()[-1].endswith(lost)
    else:
        assert weights((tmp_path / "out" / WEIGHTS).read_bytes()) == weights(files[WEIGHTS])


def test_no_code_of_the_hub_is_run(place, tmp_path):
    server, shell, _, name, (files, _) = place
    config = json.loads(files["config.json"]) | {"auto_map": {"AutoModelForCausalLM": "modeling_neutral.Model"}}
    code = f"from pathlib import Path\nPath({str(tmp_path / 'run')!r}).touch()\n"
    server.push(name, files | {"config.json": json.dumps(config).encode(), "modeling_neutral.py": code.encode()})
    backbone(shell, tmp_path / "out", name)
    assert server.asked(WEIGHTS) or server.asked("config.json")
    assert not (tmp_path / "run").exists()


def test_damaged_weights_are_named(place, tmp_path):
    server, shell, _, name, (files, _) = place
    server.push(name, files | {WEIGHTS: files[WEIGHTS][:5000]})
    done = backbone(shell, tmp_path / "out", name)
    assert done.code == 1
    assert "damaged weights; delete them, also from the hub's cache (" in done.err.splitlines()[-1]


# Question sets -------------------------------------------------------------------------------------


def parquet(words: list[str]) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([{"q": word, "c": ["oui", "non"], "a": 1} for word in words]), file)
    return file.getvalue()


def ask(shell: Shell, folder: Path, **source: str):
    """The measures, and the reason why the set is skipped, of the task with this source."""
    french = {"labels": {"question": "Q:", "answer": "A:"}, "sources": [source]}
    (folder / "quiz.yaml").write_text(json.dumps(QUIZ | {"languages": {"fr": french}}))
    # As it is read in a guarded process, which would not have the sleeps that take no time.
    code = """
import json
from train.tasks.task import set_data
found = set_data({path!r}, "fr", "downloads")
print(json.dumps([[question["prompt"] for question in found.get("questions", [])], found.get("missing", "")]))
"""
    done = shell("-c", code.format(path=str(folder / "quiz.yaml")))
    assert done.code == 0, done.err
    return json.loads(done.out)


def test_question_sets_come_by_config_and_split(place, tmp_path):
    server, shell, _, name, _ = place
    sets = {
        "README.md": CARD,
        "fr/test-0.parquet": parquet(["un", "deux"]),
        "de/test-0.parquet": parquet(["eins"]),
    }
    server.push(f"datasets/{name}", sets)
    server.push(f"datasets/{name}-gated", sets)
    server.gated.add(f"datasets/{name}-gated")
    assert ask(shell, tmp_path, hub=name, config="fr", split="test") == [["Q: un", "Q: deux"], ""]
    assert ask(shell, tmp_path, hub=name, config="de", split="test") == [["Q: eins"], ""]
    for wrong, message in (
        ({"hub": "owner/none"}, "doesn't exist on the Hub or cannot be accessed"),
        ({"hub": f"{name}-gated"}, "gated dataset on the Hub. You must be authenticated to access it"),
        ({"config": "nl"}, "BuilderConfig 'nl' not found. Available: ['fr', 'de']"),
        ({"split": "dev"}, "Unknown split \"dev\". Should be one of ['test']"),
    ):
        questions, skipped = ask(shell, tmp_path, **{"hub": name, "config": "fr", "split": "test"} | wrong)
        assert not questions
        assert message in skipped
        assert skipped.endswith("; check hub, config and split in the task, and the network")


@pytest.mark.parametrize("part", ["README.md", "api", "large"])
def test_a_set_that_breaks_off_is_skipped_with_the_reason(place, tmp_path, part):
    server, shell, _, name, _ = place
    body = parquet(["un", part])
    commit = server.push(f"datasets/{name}", {"README.md": CARD, "fr/test-0.parquet": body})
    large = next(path for path, known in server.files.items() if known == body)
    path = {"api": f"/api/datasets/{name}/revision/{commit}", "large": large}.get(part)
    server.faults = {path or f"/datasets/{name}/resolve/main/README.md": ["refuse"] * 20}
    questions, skipped = ask(shell, tmp_path, hub=name, config="fr", split="test")
    assert not questions
    assert "Server disconnected without sending a response" in skipped


def test_a_hub_that_is_away_is_named_and_what_it_gave_is_still_known(place, tmp_path):
    server, shell, _, name, (files, _) = place
    commit = server.push(name, files)
    server.push(f"datasets/{name}", {"README.md": CARD, "fr/test-0.parquet": parquet(["un", "trois"])})
    known = {"hub": name, "config": "fr", "split": "test"}
    with server.away():
        for command in (
            ("backbone", "--source", name, "--output", f"{tmp_path}/x"),
            ("generate", "--model", name),
        ):
            done = shell("train", *command, *(["--prompt", "le"] if command[0] == "generate" else []))
            last = done.err.splitlines()[-1]
            assert done.code == 1
            assert "We couldn't connect to" in last
            assert "Check your internet connection" in last
            assert "Traceback" not in done.err
        assert "Couldn't reach" in ask(shell, tmp_path, **known)[1]
    assert backbone(shell, tmp_path / "one", name).code == 0
    assert ask(shell, tmp_path, **known)[0] == ["Q: un", "Q: trois"]
    with server.away():
        done = backbone(shell, tmp_path / "two", name)
        assert done.code == 0, done.err
        assert json.loads((tmp_path / "two/origin.json").read_text())["revision"] == commit
        assert ask(shell, tmp_path, **known)[0] == ["Q: un", "Q: trois"]
