"""Continuations of the same prompts by one or several models, to compare them in the shell."""

from __future__ import annotations

from typing import Any

import torch

from models.backbone import compute
from models.block import close_gates
from models.foreign import as_data
from models.positions import room_behind
from pipeline.common.errors import StageError
from pipeline.common.shown import without_steering
from train.data.tokens import encode, separators
from train.runs.export import open_model
from train.runs.load import measuring_device
from train.runs.options import Generate


def generate(options: Generate, model: list[str], backbone: str | None, prompt: list[str]) -> None:
    """Print what each model makes of each prompt, as it is written. One model at a time is in memory.

    backbone: where that of the runs and saved adapters lies; None: where each of them says.
    Raises StageError where a model cannot be loaded or a prompt leaves no room.
    """
    torch.set_num_threads(options.threads)
    device = measuring_device(options.device)
    for path in model:
        loaded, tokenizer = open_model(path, device, backbone)
        close_gates(loaded, options.gate_threshold)
        for beginning in prompt:
            print(without_steering(f"\n[{path}]\n{beginning}"), end="", flush=True)
            write(loaded, tokenizer, beginning, options, shown=True)


def write(model: Any, tokenizer: Any, prompt: str, options: Generate, shown: bool = False) -> str:
    """A continuation of `prompt`, by default by the most probable tokens; `shown`: printed word by word, too.

    It ends where prompt and continuation reach the longest text that the model takes. Raises StageError where the
    prompt alone does.
    """
    before, _ = separators(tokenizer)
    tokens, _ = encode(tokenizer, [prompt])[0]
    ids = torch.tensor([[*before, *tokens]], device=model.device)
    room = room_behind(model.config, ids.shape[1], options.tokens)
    if room <= 0:
        raise StageError(f"the prompt {prompt!r} leaves no room to continue; shorten it")
    draws: dict[str, Any] = {"do_sample": False}
    if options.temperature > 0:
        draws = {"do_sample": True, "temperature": options.temperature, "top_p": options.top_p, "top_k": 0}
    torch.manual_seed(options.seed)
    model.generation_config.stop_strings = None  # for them `generate` would need the tokenizer
    try:
        # What the model's folder says of generating may make no sense, or ask for a million beams.
        with torch.no_grad(), compute(model.device, model), as_data("the model cannot continue a text"):
            out = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=room,
                num_beams=1,
                num_return_sequences=1,
                return_dict_in_generate=False,
                repetition_penalty=options.repetition_penalty,
                streamer=_printer(tokenizer) if shown else None,
                **draws,
            )
    except ValueError as error:
        raise StageError(str(error)) from None
    return str(tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True))


def _printer(tokenizer: Any) -> Any:
    """Prints tokens as they come; what would steer the terminal is shown and not done."""
    from transformers import TextStreamer

    class Printer(TextStreamer):
        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            super().on_finalized_text(without_steering(text), stream_end)

    return Printer(tokenizer, skip_prompt=True, skip_special_tokens=True)
