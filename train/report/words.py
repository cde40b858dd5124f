"""Numbers of the report in words: a change with its interval, and whether it is within the noise."""

from __future__ import annotations

import math

from train.evaluation.intervals import Estimate
from train.runs.record import Costs

NOISE = "within the noise"


def signed(value: float, places: int = 3) -> str:
    """A change with its sign; what rounds to nothing is +0.000.

    >>> signed(0.0125), signed(-0.0001)
    ('+0.013', '+0.000')
    """
    return f"{round(value, places) + 0.0:+.{places}f}"


def counted(number: int) -> str:
    """A count in three digits.

    >>> counted(327_680), counted(1_638_400), counted(20_000_000), counted(640)
    ('328,000', '1.64 million', '20 million', '640')
    """
    short = float(f"{number:.3g}")
    return f"{short / 1e6:g} million" if short >= 1e6 else f"{short:,.0f}"


def took(seconds: float) -> str:
    """A time in words.

    >>> took(3.21), took(74.351), took(141), took(599.7), took(725), took(9000)
    ('3.2 s', '74 s', '2 min 21 s', '10 min', '12 min', '2 h 30 min')
    """
    whole, minutes = round(seconds), round(seconds / 60)
    if seconds < 10:
        return f"{seconds:.1f} s"
    if whole < 120:
        return f"{whole} s"
    if whole < 600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def a_token(costs: Costs) -> str:
    """What the processors worked for a token: of a GPU its time, of a CPU that of all cores; empty if unknown.

    >>> from types import SimpleNamespace as Of
    >>> a_token(Of(device="cpu", tokens=1000, seconds=9.0, cpu_seconds=0.35, ranks=1))
    '0.35 ms CPU a token'
    >>> a_token(Of(device="NVIDIA H100", tokens=10**6, seconds=3.448, cpu_seconds=0.35, ranks=2))
    '6.9 µs GPU a token'
    >>> a_token(Of(device="cpu", tokens=1000, seconds=9.0, cpu_seconds=123.0, ranks=1))
    '120 ms CPU a token'
    """
    on_cpu = costs.device == "cpu"
    spent = costs.cpu_seconds if on_cpu else costs.seconds * costs.ranks
    if spent is None or not costs.tokens:
        return ""
    micro = spent / costs.tokens * 1e6
    each = f"{float(f'{micro:.2g}'):g} µs" if micro < 99.5 else f"{float(f'{micro / 1000:.2g}'):g} ms"
    return f"{each} {'CPU' if on_cpu else 'GPU'} a token"


def joined(names: list[str], word: str = "and") -> str:
    """Names as in a sentence.

    >>> joined(["a"]), joined(["a", "b", "c"], "or")
    ('a', 'a, b or c')
    """
    return f" {word} ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def amount(estimate: Estimate) -> str:
    """A change, with so many digits that half its interval is seen, and three at least.

    >>> amount(Estimate(-0.5, -0.6, -0.4)), amount(Estimate(0.0004, 0.0003, 0.0005))
    ('-0.500', '+0.0004')
    """
    return signed(estimate.value, _places(estimate))


def ends(estimate: Estimate) -> str:
    """Both ends of a change's interval; empty where it is not known.

    >>> ends(Estimate(-0.5, -0.6, -0.4)), ends(Estimate(-0.5, None, None))
    ('-0.600 to -0.400', '')
    >>> ends(Estimate(-0.0019, -0.0038, -0.0004))
    '-0.0038 to -0.0004'
    """
    if estimate.low is None or estimate.high is None:
        return ""
    return " to ".join(signed(end, _places(estimate)) for end in (estimate.low, estimate.high))


def with_ends(estimate: Estimate) -> str:
    """A change, and in brackets its interval, and whether that is within the noise.

    >>> with_ends(Estimate(0.5, 0.4, 0.6)), with_ends(Estimate(0.5, -0.4, 0.6))
    ('+0.500 (+0.400 to +0.600)', '+0.500 (-0.400 to +0.600, within the noise)')
    >>> with_ends(Estimate(0.5, None, None))
    '+0.500'
    """
    about = [ends(estimate), NOISE] if is_noise(estimate) else [ends(estimate)]
    return f"{amount(estimate)} ({', '.join(about)})" if about[0] else amount(estimate)


def plain(estimate: Estimate) -> str:
    """What is never below 0, such as a KL divergence, in as many digits as amount(), or in three.

    >>> plain(Estimate(0.012345, 0.0119, 0.0131)), plain(Estimate(0.00012345, None, None))
    ('0.0123', '0.000123')
    """
    return f"{estimate.value:.3g}" if estimate.low is None else f"{estimate.value:.{_places(estimate)}f}"


def plain_ends(estimate: Estimate) -> str:
    """Both ends of its interval; empty where it is not known.

    >>> plain_ends(Estimate(0.012345, 0.0119, 0.0131)), plain_ends(Estimate(0.5, None, None))
    ('0.0119 to 0.0131', '')
    """
    return " to ".join(f"{end:.{_places(estimate)}f}" for end in (estimate.low, estimate.high) if end is not None)


def plain_with_ends(estimate: Estimate) -> str:
    """It, and in brackets its interval.

    >>> plain_with_ends(Estimate(0.012345, 0.0119, 0.0131)), plain_with_ends(Estimate(0.5, None, None))
    ('0.0123 (0.0119 to 0.0131)', '0.5')
    """
    return f"{plain(estimate)} ({both})" if (both := plain_ends(estimate)) else plain(estimate)


def share(estimate: Estimate) -> str:
    """A share in percent, and in brackets its interval; what rounds to nothing is 0%.

    >>> share(Estimate(0.76, 0.748, 0.771))
    '76% (75% to 77%)'
    >>> share(Estimate(-0.001, -0.01, 0.01))
    '0% (-1% to 1%)'
    """
    value, *both = (
        f"{round(x, 2) + 0.0:.0%}" for x in (estimate.value, estimate.low, estimate.high) if x is not None
    )
    return f"{value} ({' to '.join(both)})" if both else value


def is_noise(estimate: Estimate) -> bool:
    """Whether the interval is known, and has 0 in it."""
    return estimate.low is not None and not estimate.beyond()


def _places(estimate: Estimate) -> int:
    """Digits behind the point: half the interval is seen, and that 0 is outside where it is; 3 to 6."""
    if estimate.low is None or estimate.high is None or estimate.low == estimate.high:
        return 3
    places = [3, _place((estimate.high - estimate.low) / 2)]
    nearest = min(abs(estimate.low), abs(estimate.high))
    if estimate.beyond() and not round(nearest, max(places)):
        places.append(_place(nearest))
    return min(6, max(places))


def _place(value: float) -> int:
    """Of the first digit of a value that is not 0."""
    return -math.floor(math.log10(value))
