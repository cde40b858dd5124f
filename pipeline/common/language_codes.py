"""Labels of language models as ISO codes: `bre_Latn` of GlotLID, OpenLID and NLLB is `br`, as in `<html lang=br>`.

Source: BCP 47 (RFC 5646) and the ISO 639 macrolanguages, by langcodes: `arb` is `ar`, `cmn` is `zh`. langcodes has
no names without another package, so those of the default model's languages are here.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Collection

# Names of Wikipedias, from which fastText's models have their labels, that are other languages in ISO 639.
WIKIPEDIA = {"als": "gsw", "simple": "en"}
# English names of the languages of lid.176, and some that languages have for themselves, after their labels.
_NAMES = """
af afrikaans, als alemannic, am amharic, an aragonese, ar arabic, arz egyptian-arabic masri, as assamese,
ast asturian, av avaric, az azerbaijani, azb south-azerbaijani, ba bashkir, bar bavarian, bcl bikol,
be belarusian, bg bulgarian, bh bihari, bn bengali bangla, bo tibetan, bpy bishnupriya, br breton brezhoneg,
bs bosnian, bxr buryat, ca catalan català, cbk chavacano, ce chechen, ceb cebuano, ckb sorani, co corsican,
cs czech čeština, cv chuvash, cy welsh cymraeg, da danish dansk, de german deutsch, diq zazaki, dsb lower-sorbian,
dty doteli, dv divehi dhivehi, el greek, eml emilian emilian-romagnol, en english, eo esperanto,
es spanish castilian español, et estonian eesti, eu basque euskara, fa persian farsi, fi finnish suomi,
fr french français, frr north-frisian, fy frisian west-frisian, ga irish gaeilge, gd scottish-gaelic gàidhlig,
gl galician galego, gn guarani, gom konkani, gu gujarati, gv manx, he hebrew, hi hindi, hif fiji-hindi,
hr croatian hrvatski, hsb upper-sorbian, ht haitian haitian-creole, hu hungarian magyar, hy armenian,
ia interlingua, id indonesian, ie interlingue, ilo ilocano, io ido, is icelandic íslenska, it italian italiano,
ja japanese 日本語, jbo lojban, jv javanese, ka georgian, kk kazakh, km khmer cambodian, kn kannada,
ko korean 한국어, krc karachay-balkar, ku kurdish, kv komi, kw cornish, ky kyrgyz, la latin, lb luxembourgish,
lez lezgian, li limburgish, lmo lombard, lo lao, lrc luri northern-luri, lt lithuanian lietuvių, lv latvian,
mai maithili, mg malagasy, mhr mari meadow-mari, min minangkabau, mk macedonian, ml malayalam, mn mongolian,
mr marathi, mrj hill-mari, ms malay, mt maltese malti, mwl mirandese, my burmese myanmar, myv erzya,
mzn mazanderani, nah nahuatl, nap neapolitan, nds low-german low-saxon, ne nepali, new newari,
nl dutch flemish nederlands, nn nynorsk norwegian-nynorsk, no norwegian bokmål norwegian-bokmål norsk, oc occitan,
or odia oriya, os ossetian, pa punjabi, pam kapampangan, pfl palatine-german, pl polish polski, pms piedmontese,
pnb western-punjabi, ps pashto, pt portuguese português, qu quechua, rm romansh, ro romanian română,
ru russian русский, rue rusyn, sa sanskrit, sah yakut, sc sardinian, scn sicilian, sco scots, sd sindhi,
sh serbo-croatian, si sinhala, sk slovak slovenčina, sl slovenian slovene, so somali, sq albanian shqip,
sr serbian, su sundanese, sv swedish svenska, sw swahili, ta tamil, te telugu, tg tajik, th thai, tk turkmen,
tl tagalog filipino, tr turkish türkçe, tt tatar, tyv tuvan, ug uyghur, uk ukrainian українська, ur urdu,
uz uzbek, vec venetian, vep veps vepsian, vi vietnamese, vls west-flemish, vo volapük, wa walloon, war waray,
wuu wu, xal kalmyk, xmf mingrelian, yi yiddish, yo yoruba, yue cantonese, zh chinese mandarin 中文
"""
NEAR = 0.75  # of the letters of two names that may be one
NAMES = {name: label for label, *names in map(str.split, _NAMES.split(",")) for name in names}


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


def named(language: str) -> str | None:
    """The label of lid.176 for the language of this name, or None.

    >>> named("Breton"), named("Low German"), named("br")
    ('br', 'nds', None)
    """
    return NAMES.get(re.sub(r"[\s_-]+", "-", language.strip().casefold()))


def near_labels(language: str, labels: Collection[str]) -> list[str]:
    """The labels that somebody who wrote this may have meant, by its name or code, or else by its letters.

    >>> near_labels("Breton", ["br", "en"]), near_labels("frensh", ["fra_Latn"]), near_labels("xx", ["br", "fr"])
    (['br'], ['fra_Latn'], [])
    """
    code = iso_code(named(language) or language)
    if same := sorted(label for label in labels if iso_code(label) == code):
        return same
    if typed := difflib.get_close_matches(language.casefold(), NAMES, n=1, cutoff=NEAR):
        code = iso_code(NAMES[typed[0]])
        return sorted(label for label in labels if iso_code(label) == code)
    return sorted(difflib.get_close_matches(language, labels, n=3, cutoff=NEAR))


def unknown_label(language: str, labels: Collection[str]) -> str:
    """What is wrong with a language for which a model has no label: it, and the labels that are near."""
    near = near_labels(language, labels)
    cure = (
        f"did you mean {' or '.join(near[:4])}?"
        if near
        else f"it has {len(labels)}, such as {min(labels, default='none')}"
    )
    return f"the language model has no label {language!r}; {cure}"


def three_letters(language: str) -> str | None:
    """The code of ISO 639-3 of a language, from its name or any code; None: there is none.

    >>> [three_letters(text) for text in ("French", "fr", "fre", "fra", "hbs", "zzz", "Klingonese")]
    ['fra', 'fra', 'fra', 'fra', 'hbs', None, None]
    """
    code = named(language) or language.lower()
    try:
        import langcodes

        tag = langcodes.standardize_tag(WIKIPEDIA.get(code, code))
        found = langcodes.Language.get(tag)
        if len(code) == 3 and tag == code and not found.is_valid():
            return None
        # Twenty languages have another code for libraries, such as `fre`.
        is_library = code == found.to_alpha3(variant="B")
        return code if len(code) == 3 and not is_library else str(found.to_alpha3())
    except (ValueError, LookupError):
        return None
    except ImportError:  # on a machine for the model side alone
        return code if len(code) == 3 else None
