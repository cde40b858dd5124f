"""How long a text a decoder takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode


def longest_text(config: Any) -> int | None:
    """Tokens of the longest text that the model of this config is made for, or None where it does not say.

    A model that computes its positions takes longer ones too, of which it has never seen one.
    """
    most = getattr(config.get_text_config(), "max_position_embeddings", None)
    return most if isinstance(most, int) and most > 0 else None


def room_behind(config: Any, length: int, wanted: int) -> int:
    """How many of the `wanted` tokens the model is made to take behind a text of `length` tokens."""
    most = longest_text(config)
    return wanted if most is None else min(wanted, most - length)


def stored_positions(model: Any) -> int | None:
    """Tokens of the longest text that the model can take at all, where it looks its positions up in a table.

    That is an embedding which is asked for one row after the other when a text is the same token twice, or numbers
    computed for longest_text() places. None where positions are computed as they come.
    """
    device = model.get_input_embeddings().weight.device
    with torch.no_grad(), _Lookups() as lookups:
        model(input_ids=torch.zeros(1, 2, dtype=torch.int64, device=device), use_cache=False)
    sizes = [size - rows[0] for size, rows in lookups.seen if len(rows) == 2 and rows[1] == rows[0] + 1]
    most = longest_text(model.config)
    sizes += [most for table in model.buffers() if most and table.dim() > 1 and most in table.shape]
    return min(sizes, default=None)


class _Lookups(TorchFunctionMode):
    """While active, notes the size of each embedding that is used, and which of its rows."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, list[int]]] = []

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if function is functional.embedding:
            self.seen.append((len(args[1]), args[0].flatten().tolist()))
        return function(*args, **(kwargs or {}))
