"""Paragraphs and blocks of texts: a paragraph is a line that is not empty, and empty lines part blocks.

A page has one empty line between two blocks. A document has one too, between what is left of two of them.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


@dataclass(frozen=True)
class Paragraphs:
    """The lines of some pages, one after the other, and which of them are paragraphs."""

    lines: pa.StringArray
    page_of_line: np.ndarray  # int[lines]
    first_line: np.ndarray  # int[pages]
    line: np.ndarray  # int[paragraphs]: place among all lines
    page: np.ndarray  # int[paragraphs]
    block: np.ndarray  # int[paragraphs]: counted through all pages, from 0
    size: np.ndarray  # int[paragraphs]: bytes, with the newline
    of_page: np.ndarray  # int[pages that have any]: the first paragraph
    of_block: np.ndarray  # int[blocks]: the first paragraph


def find_paragraphs(texts: pa.StringArray) -> Paragraphs:
    """The paragraphs of some pages."""
    lists = pc.split_pattern(texts, "\n")
    lines, page_of_line = lists.flatten(), pc.list_parent_indices(lists).to_numpy()
    length = pc.binary_length(lines).to_numpy()
    line = np.flatnonzero(length)
    page = page_of_line[line]
    new_page, new_block = np.ones((2, len(line)), bool)
    new_page[1:] = np.diff(page) > 0
    new_block[1:] = (np.diff(line) > 1) | new_page[1:]
    return Paragraphs(
        lines=lines,
        page_of_line=page_of_line,
        first_line=lists.offsets.to_numpy()[:-1],
        line=line,
        page=page,
        block=np.cumsum(new_block) - 1,
        size=length[line] + 1,
        of_page=np.flatnonzero(new_page),
        of_block=np.flatnonzero(new_block),
    )


def join_kept(found: Paragraphs, keep: np.ndarray) -> tuple[pa.StringArray, pa.ListArray]:
    """What is left of each page with the paragraphs `keep` (bool[paragraphs]): `kept_text`, and which they are."""
    kept, block, page = found.line[keep], found.block[keep], found.page[keep]
    parted = np.zeros(len(kept), bool)
    parted[1:] = (np.diff(block) > 0) & (np.diff(page) == 0)
    stays = np.zeros(len(found.lines), bool)
    stays[kept] = True
    stays[found.line[found.of_block[block[parted]]] - 1] = True  # the empty line before a block
    pages = len(found.first_line)
    texts = pc.binary_join(_lists(found.page_of_line[stays], pages, found.lines.filter(pa.array(stays))), "\n")
    return texts, _lists(page, pages, pa.array((kept - found.first_line[page]).astype(np.int32)))


def _lists(page: np.ndarray, pages: int, values: pa.Array) -> pa.ListArray:
    """The values of each page; `page` is int[values]."""
    ends = np.append(0, np.cumsum(np.bincount(page, minlength=pages)))
    return pa.ListArray.from_arrays(pa.array(ends.astype(np.int32)), values)


def kept_text(lines: list[str], paragraphs: list[int]) -> str:
    """The text of a document, from the lines of its page and the numbers of the lines that it keeps.

    >>> kept_text(["Title", "", "one", "two", "", "three"], [0, 3, 5])
    'Title\\n\\ntwo\\n\\nthree'
    """
    gaps = ("\n\n" if "" in lines[one:other] else "\n" for one, other in itertools.pairwise(paragraphs))
    return "".join(lines[i] + gap for i, gap in zip(paragraphs, [*gaps, ""], strict=False))
