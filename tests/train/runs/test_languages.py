"""Several languages: a run that goes on from another run."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from device import DEVICE
from helpers import language, write_rows, write_tokenizer
from safetensors.torch import load_file

from models.backbone import compute_dtype, create_llama, load_tokenizer, save_backbone
from pipeline.common.config import ConfigError, read
from pipeline.common.errors import StageError
from pipeline.common.files import read_json
from train.data.rows import join_rows, open_rows
from train.data.tokens import tokenizer_digest
from train.evaluation.bits_per_byte import score_rows
from train.runs.load import load_run
from train.runs.options import Extend, Run, new_domain, old_domains
from train.trainer.stages import extend

RUN = Run(
    learning_rate=3e-2,
    steps=20,
    batch_rows=8,
    micro_batch_rows=8,
    evaluate_rows=8,
    threads=1,
    device=DEVICE.type,
    alpha=0.1,
    old_rate=0.5,
    fraction=0.5,
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Rows of three languages, and a backbone with random weights."""
    folder = tmp_path_factory.mktemp("languages")
    sizes = {"hidden_size": 16, "layers": 2, "heads": 2, "ffn_size": 24, "vocabulary": 64, "row_tokens": 16}
    tokenizer = load_tokenizer(write_tokenizer(folder / "tokenizer"))
    save_backbone(create_llama(**sizes), tokenizer, folder / "backbone")
    digest = tokenizer_digest(folder / "backbone")
    rows = {
        name: write_rows(folder / f"{name}.arrow", language(step, count, seed=step), name, tokenizer_sha256=digest)
        for name, step, count in (("en", 1, 60), ("fr", 5, 20), ("de", 7, 50))
    }
    return rows | {"backbone": str(folder / "backbone")}


def train(world: dict[str, str], options: Run, old: list[str], new: str, output: Path) -> dict[str, Any]:
    held = [f"{new}={world[new]}"]
    extend(options, world["backbone"], [world[name] for name in old], world[new], held, str(output))
    return read_json(output / "run.json")


@pytest.mark.slow
@pytest.mark.parametrize("method", ["neutral", "lora", "finetune", "adapter"])
def test_german_after_french(world: dict[str, str], tmp_path: Path, method: str) -> None:
    french, german = tmp_path / "french", tmp_path / "german"
    first = replace(RUN, method=method)
    train(world, first, ["en"], "fr", french)
    weights = (french / "weights.safetensors").read_bytes()
    about = train(world, replace(RUN, base=str(french), gate="relu"), ["en", "fr"], "de", german)
    assert (french / "weights.safetensors").read_bytes() == weights
    assert about["languages"] == {"old": ["en", "fr"], "new": "de"}
    own = load_file(german / "weights.safetensors")
    assert all(".mlp.block." in name for name in own)

    both, alone = (load_run(world["backbone"], str(folder), DEVICE) for folder in (german, french))
    scores = [score_rows(model, open_rows(world["de"]), 8, DEVICE)["bpb"] for model in (alone, both)]
    assert scores[1] < 0.99 * scores[0]
    if method == "neutral":  # what French added is inside, as it was
        state = both.state_dict()
        trained = load_file(french / "weights.safetensors")
        for name, weight in trained.items():
            assert torch.equal(
                state[name.replace("mlp.block", "mlp.ffn.block")], weight.to(DEVICE, compute_dtype(DEVICE))
            )

    # The runs' folder may be moved: the base is then found beside.
    shutil.move(french, tmp_path / "elsewhere" / "french")
    shutil.move(german, tmp_path / "elsewhere" / "german")
    again = load_run(world["backbone"], str(tmp_path / "elsewhere" / "german"), DEVICE)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), both.parameters(), strict=True))
    shutil.rmtree(tmp_path / "elsewhere" / "french")
    with pytest.raises(StageError, match="french: not a finished run"):
        load_run(world["backbone"], str(tmp_path / "elsewhere" / "german"), DEVICE)


def test_joined_rows_are_of_each_domain_about_equally(world: dict[str, str]) -> None:
    files = [open_rows(world[name]) for name in ("en", "fr", "de")]
    joined = join_rows(files)
    assert len(joined) == 60 + 3 * 20 + 50
    tokens = joined.tokens(np.arange(len(joined)))
    french = files[1].tokens(np.arange(20))
    assert np.array_equal(tokens[:60], files[0].tokens(np.arange(60)))
    assert all(np.array_equal(tokens[60 + 20 * i : 80 + 20 * i], french) for i in range(3))
    assert join_rows(files[:1]).digest() == files[0].digest()
    assert joined.named_documents(np.array([3, 61, 82, 120, 5])) == (
        f"[0] of {world['de']} and [3, 5] of {world['en']} and [1, 2] of {world['fr']}"
    )


def test_bases_in_a_config() -> None:
    runs = {"fr": {"learning_rate": 1}, "de": {"learning_rate": 1, "base": "fr", "new": "de"}}
    runs["it"] = {"learning_rate": 1, "base": "de", "new": "it"}
    options = read(Extend, {"old": "en", "new": "fr", "runs": runs})
    assert [new_domain(options, name) for name in runs] == ["fr", "de", "it"]
    assert [old_domains(options, name) for name in runs] == [["en"], ["en", "fr"], ["en", "fr", "de"]]


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        ({"a": {"base": "b"}}, "runs.a.base: no run 'b'; runs has a"),
        ({"a": {"base": "a"}}, "runs.a.base: a run cannot go on from itself"),
        ({"a": {"base": "b"}, "b": {"base": "a"}}, "runs.b.base: a run cannot go on from itself"),
        ({"a": {}, "b": {"base": "a"}}, "runs.b.new: 'fr' is already old here"),
    ],
)
def test_bases_that_cannot_be(runs: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(Extend, {"runs": {name: {"learning_rate": 1} | run for name, run in runs.items()}})
    assert message in str(caught.value)
