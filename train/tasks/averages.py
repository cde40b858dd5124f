"""The mean over the groups of a task's questions, and how sure it is."""

from __future__ import annotations

import math

import numpy as np


def macro_average(groups: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Mean over groups of their means, and its standard error, for each column of groups[i][questions, columns].

    A group's variance is its sample variance over its questions; that of a group of one question, which has
    none, is taken from all groups together. Where no group has two, it is that of the questions, in which the
    groups' own differences count as noise too. Not a number for a single question.
    """
    sizes = np.array([len(group) for group in groups])
    means = np.array([group.mean(0) for group in groups])
    squares = np.array([((group - group.mean(0)) ** 2).sum(0) for group in groups])
    freedom = sizes - 1
    if freedom.sum():
        pooled = squares.sum(0) / freedom.sum()
    else:
        pooled = means.var(0, ddof=1) if len(groups) > 1 else np.full(means.shape[1], math.nan)
    variances = [s / f if f else pooled for s, f in zip(squares, freedom, strict=True)]
    of_means = sum(variance / size for variance, size in zip(variances, sizes, strict=True))
    return means.mean(0), np.sqrt(of_means) / len(groups)
