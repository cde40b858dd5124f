"""Attacks by way of models: folders that claim to be a backbone, an export, an adapter or a run."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import struct
import time
from pathlib import Path
from typing import Any

from benchmarks.attacks.run import Outcome, stage

SEPARATOR = "<|endoftext|>"
RAN = "from pathlib import Path\nPath({path!r}).touch()\n"


def _tokenizer(folder: Path) -> Path:
    """A byte-level tokenizer as a folder."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    plain = Tokenizer(
        models.BPE({letter: number for number, letter in enumerate(letters, 1)} | {SEPARATOR: 0}, [])
    )
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    plain.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=plain, eos_token=SEPARATOR, bos_token=SEPARATOR).save_pretrained(
        folder
    )
    return folder


def _model(folder: Path, seed: int = 0) -> Path:
    """A small backbone as a folder."""
    from models.backbone import create_llama, load_tokenizer, save_backbone

    sizes = {"hidden_size": 16, "layers": 2, "heads": 2, "ffn_size": 24, "vocabulary": 257, "row_tokens": 64}
    save_backbone(create_llama(**sizes, seed=seed), load_tokenizer(str(_tokenizer(folder / "t"))), folder)
    shutil.rmtree(folder / "t")
    return folder


def _export(folder: Path) -> Path:
    """An export with blocks, made by the code that is attacked, of the backbone."""
    from models.adapter import SavedExtension, attach
    from models.backbone import load_backbone, load_tokenizer
    from models.export import export
    from models.extend import extend, trainable_state

    how = {"method": "neutral", "fraction": 0.5, "init": "he", "seed": 1}
    _model(folder / "backbone")
    model = load_backbone(str(folder / "backbone"))
    extend(model, **how)
    saved = SavedExtension(how | {"gate": "elu"}, trainable_state(model), {})
    model = load_backbone(str(folder / "backbone"))
    attach(model, [saved])
    (folder / "export").mkdir()
    tokenizer = load_tokenizer(str(folder / "backbone"))
    export(model, tokenizer, folder / "export")
    return folder / "export"


def _change(path: Path, **entries: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def _fetch(folder: Path, output: str = "copy") -> str:
    """What comes of making the folder the workflow's own backbone: read, or refused in a line, or another end."""
    from pipeline.common.errors import StageError
    from train.runs.backbone import fetch_backbone

    try:
        fetch_backbone(str(folder), None, "downloads", output)
    except StageError as error:
        return f"refused: {error}"
    return "read"


def _quick(folder: Path, wrong: str) -> Outcome:
    """Whether the folder, which is `wrong`, is refused within seconds."""
    import transformers  # noqa: F401 - its import takes as long

    begin = time.perf_counter()
    said = _fetch(folder)
    seconds = time.perf_counter() - begin
    return said.startswith("refused") and seconds < 10, f"{said.split(':')[0]} after {seconds:.1f} s, {wrong}"


# Code -----------------------------------------------------------------------------------------------


def custom_generate(folder: Path) -> Outcome:
    """An export whose code is ours to the letter, with a `custom_generate/generate.py` beside it."""
    from models.backbone import load_backbone

    export, ran = _export(folder), folder / "ran"
    (export / "custom_generate").mkdir()
    code = RAN.format(path=str(ran)) + "def generate(model, *args, **kwargs):\n    return args[0]\n"
    (export / "custom_generate" / "generate.py").write_text(code)
    with contextlib.suppress(ValueError, OSError):
        load_backbone(str(export))
    return not ran.exists(), "its code was run" if ran.exists() else "loaded, and none of its code was run"


def code_in_the_tokenizer(folder: Path) -> Outcome:
    """A backbone whose config and tokenizer name classes in files beside them."""
    ran = folder / "ran"
    _model(folder / "model")
    (folder / "model" / "code.py").write_text(RAN.format(path=str(ran)))
    names = {"AutoConfig": "code.C", "AutoModelForCausalLM": "code.M", "AutoTokenizer": ["code.T", "code.T"]}
    for name in ("config.json", "tokenizer_config.json"):
        _change(folder / "model" / name, auto_map=names)
    said = _fetch(folder / "model").split(":")[0]
    return not ran.exists(), "its code was run" if ran.exists() else f"{said}, and none of its code was run"


def code_of_others_in_a_copy(folder: Path) -> Outcome:
    """A backbone that names code of another repository, for those who trust a copy or an export of it."""
    _model(folder / "model")
    elsewhere = {"AutoTokenizer": ["them/evil--code.T", None], "AutoConfig": "them/evil--code.C"}
    pipelines = {"text-generation": {"impl": "them/evil--code.P", "pt": ["AutoModelForCausalLM"]}}
    _change(folder / "model" / "config.json", auto_map=elsewhere, custom_pipelines=pipelines)
    _change(folder / "model" / "tokenizer_config.json", auto_map=elsewhere)
    said = _fetch(folder / "model")
    copied = [path.name for path in Path("copy").glob("*.json") if "them/evil" in path.read_text()]
    return not copied, f"in the copy's {' and '.join(sorted(copied))}" if copied else f"{said}, without the names"


def class_that_asks(folder: Path) -> Outcome:
    """A tokenizer whose class is one of models, for which the terminal would be asked whether to run code."""
    import builtins

    asked = []
    builtins.input = lambda question="": asked.append(question) or "n"
    _model(folder / "model")
    (folder / "model" / "code.py").write_text("")
    _change(folder / "model" / "config.json", auto_map={"AutoModelForMaskedLM": "code.M"})
    _change(folder / "model" / "tokenizer_config.json", tokenizer_class="AutoModelForMaskedLM")
    said = _fetch(folder / "model").split(":")[0]
    return (
        not asked,
        "the terminal was asked whether to run its code" if asked else f"{said}, and nobody was asked",
    )


def pickled_weights(folder: Path) -> Outcome:
    """A backbone whose weights are a pickle that runs a command."""
    ran = folder / "ran"
    _model(folder / "model")
    (folder / "model" / "model.safetensors").unlink()
    command = f"touch {ran}".encode()
    body = b"cos\nsystem\n(V" + command + b"\ntR."
    for name in ("pytorch_model.bin", "adapter_model.bin", "model.pt"):
        (folder / "model" / name).write_bytes(body)
    said = _fetch(folder / "model").split(":")[0]
    return not ran.exists(), "its command was run" if ran.exists() else f"{said}, and no command was run"


# Other files ----------------------------------------------------------------------------------------


def adapter_beside_a_model(folder: Path) -> Outcome:
    """A PEFT adapter beside a backbone, that changes what is loaded."""
    import peft
    import torch
    from safetensors.torch import save_file

    from models.backbone import load_backbone

    _model(folder / "model")
    model = load_backbone(str(folder / "model"))
    peft.inject_adapter_in_model(peft.LoraConfig(r=2, target_modules=["q_proj"]), model)
    state = {name.replace(".default", ""): t for name, t in model.state_dict().items() if "lora" in name}
    save_file(
        {f"base_model.model.{n}": t for n, t in state.items()}, folder / "model" / "adapter_model.safetensors"
    )
    peft.LoraConfig(r=2, target_modules=["q_proj"]).save_pretrained(folder / "model")
    try:
        loaded = load_backbone(str(folder / "model"))
    except (ValueError, OSError) as error:
        return True, f"refused: {error}"[:60]
    added = [name for name, _ in loaded.named_parameters() if "lora" in name]
    torch.set_num_threads(1)
    return not added, f"loaded with {len(added)} weights of the adapter"


def shards_outside_the_folder(folder: Path) -> Outcome:
    """An index of weights that names a file outside the folder."""
    _model(folder / "private")
    shutil.copytree(folder / "private", folder / "model")
    (folder / "model" / "model.safetensors").unlink()
    names = {"model.embed_tokens.weight": "../private/model.safetensors"}
    index = {"metadata": {"total_size": 1}, "weight_map": names}
    (folder / "model" / "model.safetensors.index.json").write_text(json.dumps(index))
    said = _fetch(folder / "model")
    return said != "read", "weights of another folder were copied" if said == "read" else said.split(":")[0]


def link_out_of_the_folder(folder: Path) -> Outcome:
    """A chat template that is a link to a private file, which a copy or an export would publish."""
    (folder / "secret").write_text("the private key")
    _model(folder / "model")
    (folder / "model" / "chat_template.jinja").symlink_to(folder / "secret")
    said = _fetch(folder / "model")
    copied = [path.name for path in Path("copy").glob("*") if b"private key" in path.read_bytes()]
    return not copied, f"the secret is in the copy's {copied[0]}" if copied else said.split(":")[0]


def private_file_as_a_vocabulary(folder: Path) -> Outcome:
    """A tokenizer whose vocabulary is a private file, which a copy or an export would publish."""
    (folder / "secret").write_text("the private key\n[UNK]\n")
    _model(folder / "model")
    (folder / "model" / "tokenizer.json").unlink()
    private = {"tokenizer_class": "BertTokenizer", "vocab": str(folder / "secret")}
    _change(folder / "model" / "tokenizer_config.json", **private)
    said = _fetch(folder / "model")
    copied = [path.name for path in Path("copy").glob("*") if b"private key" in path.read_bytes()]
    return not copied, f"the secret is in the copy's {copied[0]}" if copied else said.split(":")[0]


# Sizes ----------------------------------------------------------------------------------------------


def letters_that_multiply(folder: Path) -> Outcome:
    """A tokenizer of whose five rules each makes 30 letters of the last one's letter."""
    from models.backbone import load_tokenizer

    _model(folder / "model")
    chain = [(one, other * 30) for one, other in zip("abcde", "bcdef", strict=True)]
    rules = [{"type": "Replace", "pattern": {"String": one}, "content": many} for one, many in chain]
    _change(folder / "model" / "tokenizer.json", normalizer={"type": "Sequence", "normalizers": rules})
    try:
        return False, f"{len(load_tokenizer(str(folder / 'model'))('a')['input_ids']):,} tokens of a letter"
    except (OSError, ValueError):
        return True, "refused"


def a_billion_wide(folder: Path) -> Outcome:
    """A config of a width of 10^9 beside weights of 16."""
    _model(folder / "model")
    _change(folder / "model" / "config.json", hidden_size=10**9, num_attention_heads=1, num_key_value_heads=1)
    return _quick(folder / "model", "a width of 10^9")


def many_layers(folder: Path) -> Outcome:
    """A config of 100,000 layers beside weights of two."""
    _model(folder / "model")
    _change(folder / "model" / "config.json", num_hidden_layers=10**5)
    return _quick(folder / "model", "100,000 layers")


def labels_without_end(folder: Path) -> Outcome:
    """A config of 10^7 labels of a classifier."""
    import transformers  # noqa: F401

    from models.backbone import load_backbone

    _model(folder / "model")
    _change(folder / "model" / "config.json", num_labels=10**7)
    begin = time.perf_counter()
    load_backbone(str(folder / "model"))
    seconds = time.perf_counter() - begin
    return seconds < 10, f"loaded after {seconds:.1f} s"


def adapter_of_many_times(folder: Path) -> Outcome:
    """A saved adapter of a few weights, whose recipe adds 10^5 times the backbone."""
    from models.adapter import AdapterError, SavedExtension, load_adapter, save_adapter
    from models.backbone import load_backbone
    from models.extend import extend, trainable_state

    source = str(_model(folder / "backbone"))
    how = {"method": "neutral", "fraction": 0.5, "gate": "elu", "init": "he", "seed": 1}
    model = load_backbone(source)
    extend(model, **how)
    saved = SavedExtension(how, trainable_state(model), {})
    (folder / "adapter").mkdir()
    named = {"name": "backbone", "source": None, "revision": None}
    save_adapter(folder / "adapter", named, load_backbone(source), [saved])
    path = folder / "adapter" / "adapter.json"
    content = json.loads(path.read_text())
    content["additions"][0]["width"] *= 2 * 10**5
    content["additions"][0]["how"]["fraction"] = 1e5
    path.write_text(json.dumps(content))
    begin = time.perf_counter()
    try:
        load_adapter(folder / "adapter", source)
    except AdapterError:
        seconds = time.perf_counter() - begin
        return seconds < 2, f"refused after {seconds:.1f} s"
    except Exception as error:
        return False, f"{type(error).__name__}: {error}"[:60]
    return False, "loaded"


def a_run_that_goes_on_from_itself(folder: Path) -> Outcome:
    """The record of a run whose base is the run itself."""
    import torch
    from safetensors.torch import save_file

    from pipeline.common.errors import StageError
    from pipeline.workflow.layout import WEIGHTS
    from train.runs.load import saved_extensions
    from train.runs.options import Run
    from train.runs.record import Languages, RunRecord, write_record

    run = folder / "run"
    run.mkdir()
    costs = {"tokens": 1, "seconds": 1.0, "peak_memory_mib": 1, "ranks": 1, "compute": "float32", "device": "cpu"}
    record = RunRecord(
        options=Run(learning_rate=0.1, base=str(run)), method="neutral", backbone="b",
        languages=Languages(old=["en"], new="fr"), backbone_parameters=1, extra_parameters=1, true_fraction=0.5,
        width=1, alpha=1.0, torch="2", versions={}, **costs,
    )  # fmt: skip
    write_record(run, record)
    save_file({"weight": torch.zeros(1)}, run / WEIGHTS)
    try:
        saved_extensions(run)
    except StageError:
        return True, "refused"
    except RecursionError:
        return False, "RecursionError"
    return False, "read"


# Readers --------------------------------------------------------------------------------------------


def fasttext_model_cut(folder: Path) -> Outcome:
    """A model for language identification that ends in its dictionary."""
    body = struct.pack("<ii12id", 793712314, 12, 16, 5, 5, 1000, 5, 1, 1, 3, 2000000, 2, 4, 100, 1e-4)
    (folder / "cut.ftz").write_bytes(body + struct.pack("<iiiqq", 7411, 7235, 176, 563512702, 42765))
    (folder / "in.jsonl").write_text(json.dumps({"text": "Une phrase. " * 30}) + "\n")
    begin = time.perf_counter()
    done = stage(
        *("pipeline", "text", "--files", "in.jsonl", "--language-id", "cut.ftz", "--text", "text"),
        *("--languages", "fr", "--output", "pages/0.json", "--ledger", "pages/0.ledger.json"),
    )
    seconds = time.perf_counter() - begin
    lines = done.stderr.strip().splitlines()
    held = done.returncode == 1 and seconds < 60 and "StageError" not in done.stderr and "cut.ftz" in lines[-1]
    return held, f"status {done.returncode} after {seconds:.0f} s: {lines[-1][:30] if lines else ''}"


def fasttext_model_too_wide(folder: Path) -> Outcome:
    """A fastText model that says it is 2^30 wide."""
    import fasttext

    from pipeline.common.errors import StageError
    from pipeline.extract.language import identify, load_model

    (folder / "text").write_text("__label__good le chat dort\n__label__random xx yy zz\n" * 20)
    fasttext.train_supervised(str(folder / "text"), dim=4, bucket=10, thread=1, verbose=0).save_model("m.bin")
    body = Path("m.bin").read_bytes()
    Path("m.bin").write_bytes(body[:8] + struct.pack("<i", 2**30) + body[12:])
    try:
        return False, f"read: {identify(load_model('m.bin'), 'le chat', 9)}"
    except StageError:
        return True, "refused"


def fasttext_model_of_too_few_rows(folder: Path) -> Outcome:
    """A fastText model whose table is shorter by a row in 200 than the words lead: a crash, hours later."""
    import fasttext

    from pipeline.common.errors import StageError
    from pipeline.extract.language import identify, load_model

    (folder / "text").write_text("__label__good le chat dort\n__label__random xx yy zz\n" * 20)
    sizes: dict[str, Any] = {"dim": 16, "bucket": 2_000_000, "minn": 2, "maxn": 4}
    fasttext.train_supervised(str(folder / "text"), thread=1, verbose=0, **sizes).save_model("m.bin")
    with Path("m.bin").open("rb+") as file:
        file.seek(40)
        file.write(struct.pack("<i", 2_010_000))
    try:
        model = load_model("m.bin")
    except StageError:
        return True, "refused"
    for number in range(10**5):
        identify(model, f"{number * 7919}", 99)
    return False, "read behind its table"


def gguf_of_many_layers(folder: Path) -> Outcome:
    """A GGUF file of one tensor that says it has 100,000 layers."""
    import gguf
    import numpy as np

    path = str(folder / "m.gguf")
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(16)
    writer.add_block_count(10**5)
    writer.add_feed_forward_length(24)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(2)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["a", "b"])
    writer.add_token_merges(["a b"])
    writer.add_tensor("token_embd.weight", np.zeros((2, 16), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    begin = time.perf_counter()
    said = _fetch(Path(path))
    return said.startswith("refused"), f"{said.split(':')[0]} after {time.perf_counter() - begin:.0f} s"


def gguf_cut_in_its_tokens(folder: Path) -> Outcome:
    """A GGUF file whose list of tokens has 2^40 entries and ends."""
    header = b"GGUF" + struct.pack("<IQQ", 3, 0, 2)
    for name, kind, value in (
        (b"general.architecture", 8, struct.pack("<Q", 5) + b"llama"),
        (b"tokenizer.ggml.tokens", 9, struct.pack("<IQ", 8, 2**40)),
    ):
        header += struct.pack("<Q", len(name)) + name + struct.pack("<I", kind) + value
    (folder / "m.gguf").write_bytes(header + bytes(2**24))
    begin = time.perf_counter()
    said = _fetch(folder / "m.gguf")
    seconds = time.perf_counter() - begin
    return said.startswith("refused") and seconds < 60, f"{said.split(':')[0]} after {seconds:.0f} s"


def panic_in_the_tokenizer(folder: Path) -> Outcome:
    """A tokenizer.json on which its native reader panics."""
    _model(folder / "model")
    path = folder / "model" / "tokenizer.json"
    content = json.loads(path.read_text())
    content["normalizer"] = {"type": "Precompiled", "precompiled_charsmap": "/////w=="}
    path.write_text(json.dumps(content))
    try:
        said = _fetch(folder / "model")
    except BaseException as error:
        return False, f"{type(error).__name__}: {error}"[:60]
    return said.startswith("refused"), said.split(":")[0]


def codes_in_the_config(folder: Path) -> Outcome:
    """A config.json with terminal codes in a value that transformers warns of."""
    _model(folder / "model")
    _change(folder / "model" / "config.json", rope_scaling={"type": "\x1b]0;owned\x07", "factor": 2})
    done = stage("train", "backbone", f"--source={folder}/model", "--output=copy")
    raw = "\x1b" in done.stderr
    return not raw and "owned" in done.stderr, "printed as they are" if raw else "printed without effect"


# Text -----------------------------------------------------------------------------------------------


def white_space_before_a_name(folder: Path) -> Outcome:
    """A page of 3,000 blanks and the name of a separator that takes the white space before it."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    import train.data.tokens

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    plain = Tokenizer(models.BPE({letter: number for number, letter in enumerate(letters)}, []))
    plain.pre_tokenizer, plain.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    plain.add_tokens([AddedToken(SEPARATOR, special=False, lstrip=True)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, eos_token=SEPARATOR)
    # An earlier version gives texts to the tokenizer as they are.
    encode = getattr(train.data.tokens, "encode", lambda tokenizer, texts: [(tokenizer(*texts)["input_ids"], [])])
    ids, _ = encode(tokenizer, [" " * 3000 + SEPARATOR])[0]
    held = tokenizer.eos_token_id not in ids
    return held, f"{len(ids):,} tokens" if held else "the separator is among its tokens"


def separators_in_a_page(folder: Path) -> Outcome:
    """A page that writes the name of the separator a hundred times."""
    import numpy as np

    from pipeline.common.files import write_arrow
    from train.data.options import Domain
    from train.data.rows import open_rows
    from train.data.texts import SCHEMA
    from train.data.tokens import tokenize

    _tokenizer(folder / "t")
    write_arrow("shard.arrow", SCHEMA, [{"text": SEPARATOR * 100, "url": None}])
    tokenize(Domain(language="en"), ["shard.arrow"], str(folder / "t"), "train", 16, "rows.arrow", "ledger.json")
    rows = open_rows("rows.arrow")
    count = int((rows.tokens(np.arange(len(rows)))[:, :-1] == 0).sum())
    return count == 1, f"{count} documents of 1 page"


def a_name_in_a_model_card(folder: Path) -> Outcome:
    """A backbone and a language whose names write HTML, table cells and lines of their own into the model card."""
    from models.adapter import SavedExtension
    from train.evaluation.intervals import Estimate
    from train.runs.export import Extended
    from train.sharing.card import Card, Measured, model_card

    about = {"languages": {"old": ["no"], "new": "fr | <img src=x>\n| injected"}}
    saved = SavedExtension({"method": "neutral", "gate": "elu"}, {}, about)
    name = "x`\n<script>alert(1)</script>\n[link](javascript:alert(1))"
    extended = Extended(name, name, {"name": name, "source": None, "revision": None}, [saved])
    value = Estimate(1.0, None, None)
    measures = [Measured("fr | 0", None, value, value, value, None)]
    text = model_card(Card(extended, name, has_code=False, measures=measures), folder)
    header, _, body = text.removeprefix("---\n").partition("\n---\n")
    import yaml

    language = yaml.safe_load(header)["language"]
    wrong = [word for word in ("\n<script>", "\n| injected", " <img", "\n[link](") if word in body]
    wrong += [] if language[0] == "no" else ["language no"]
    return not wrong, f"{wrong[0]!r} stands in the card" if wrong else "all of it is text"


# For mutants ----------------------------------------------------------------------------------------


def _make_safetensors(folder: Path) -> None:
    os.environ["TQDM_DISABLE"] = "1"
    _model(folder / "model")


def _read_safetensors(folder: Path) -> str:
    """'read' or 'refused: …': what comes of a model with damaged weights."""
    return _fetch(folder / "model")


def _make_tokenizer(folder: Path) -> None:
    _make_safetensors(folder)


def _read_tokenizer(folder: Path) -> str:
    """The same of a model with a damaged tokenizer, which then reads a line."""
    from pipeline.common.errors import StageError
    from pipeline.common.files import write_arrow
    from train.data.options import Domain
    from train.data.texts import SCHEMA
    from train.data.tokens import tokenize

    said = _fetch(folder / "model")
    if said != "read":
        return said
    write_arrow("shard.arrow", SCHEMA, [{"text": f"Une ligne, {SEPARATOR} et 1 <b>autre</b>.", "url": None}])
    try:
        tokenize(Domain(language="fr"), ["shard.arrow"], "copy", "validation", 16, "rows.arrow", "ledger.json")
    except StageError as error:
        return f"refused: {error}"
    return "read"
