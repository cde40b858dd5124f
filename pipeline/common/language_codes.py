"""Labels of language models as ISO codes: `bre_Latn` of GlotLID, OpenLID and NLLB is `br`, as in `<html lang=br>`.

Source: BCP 47 (RFC 5646) and the ISO 639 macrolanguages, by langcodes: `arb` is `ar`, `cmn` is `zh`.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Collection

# Names of Wikipedias, from which fastText's models have their labels, that are other languages in ISO 639.
WIKIPEDIA = {"als": "gsw", "simple": "en"}


@functools.lru_cache(4096)
def iso_code(label: str) -> str:
    """The shortest ISO 639 code of the language that a label or a tag such as `fr-CA` names, or the label itself.

    >>> [iso_code(label) for label in ("bre_Latn", "zho_Hans", "arb_Arab", "nob_Latn", "fr-CA", "iw", "als")]
    ['br', 'zh', 'ar', 'nb', 'fr', 'he', 'gsw']
    """
    name = label.removeprefix("__label__")
    try:
        import langcodes
    except ImportError:  # on a machine with what the model side needs alone: good for a label that is a code
        return re.split("[_-]", name)[0]
    try:
        tag = langcodes.standardize_tag(WIKIPEDIA.get(name, name).replace("_", "-"), macro=True)
    except ValueError:
        return label
    return str(tag).partition("-")[0]


def unknown_label(language: str, labels: Collection[str]) -> str:
    """What is wrong with a language for which a model has no label: it, and the labels that are near."""
    same = [label for label in labels if iso_code(label) == iso_code(language)]
    near = same or difflib.get_close_matches(language, labels, n=3, cutoff=0.5)
    cure = (
        f"did you mean {' or '.join(sorted(near)[:4])}?"
        if near
        else f"it has {len(labels)}, such as {min(labels)}"
    )
    return f"the language model has no label {language!r}; {cure}"
