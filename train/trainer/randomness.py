"""Training without chance in the forward pass: neither dropout nor anything like it.

The paper's models have none, and with it the loss would depend on how a step's rows are shared out over
micro-batches and ranks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

# What rates of chance are called: dropout of all kinds (attention_dropout, attn_pdrop, drop_path, layerdrop), and
# noise that routers add (router_jitter_noise).
RATES = re.compile("drop|jitter|noise", re.IGNORECASE)


@contextmanager
def without_randomness(model: nn.Module) -> Iterator[None]:
    """Inside it, all rates of chance of the model and its layers are 0; behind it, they are what they were.

    The model is in train mode all the same, which activation checkpointing needs. Some layers read their rates
    from the config, which is saved with the model.
    """
    rates = [(owner, name, value) for owner in _owners(model) for name, value in _rates(owner)]
    for owner, name, _ in rates:
        setattr(owner, name, 0.0)
    try:
        yield
    finally:
        for owner, name, value in rates:
            setattr(owner, name, value)


def _owners(model: nn.Module) -> list[Any]:
    """Each module and each config that one has, with those inside it, once."""
    owners: dict[int, Any] = {}
    found: list[Any] = list(model.modules())
    while found:
        owner = found.pop()
        if id(owner) in owners:
            continue
        owners[id(owner)] = owner
        config = getattr(owner, "config", None)
        inside = [getattr(owner, name, None) for name in getattr(owner, "sub_configs", ())]
        found += [one for one in (config, *inside) if hasattr(one, "__dict__")]
    return list(owners.values())


def _rates(owner: Any) -> list[tuple[str, float]]:
    """The rates among its attributes. A module of dropout calls its own `p`.

    >>> _rates(nn.Dropout(0.1))
    [('p', 0.1)]
    """
    is_one = isinstance(owner, nn.Module) and RATES.search(type(owner).__name__) is not None
    return [
        (name, value)
        for name, value in vars(owner).items()
        if isinstance(value, float) and value and (RATES.search(name) or (is_one and name == "p"))
    ]
