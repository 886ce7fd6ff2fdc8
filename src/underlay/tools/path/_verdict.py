"""What the numbers of a hop say: are packets lost, or only its answers?

A router that forwards a packet does so in hardware, or at least first; to answer one whose time to live is over is
work for its processor, which is why routers limit such answers (RFC 1812 §4.3.2.8, RFC 4443 §2.4 (f)). So a hop
that answers 18 of 100 probes may have passed on every one. The hops behind it know: their probes came through it.

**Later hops tell.** Each probe that a later hop answers has passed this hop on its way. So the loss on the way to a hop
is at most that of the hops behind it. Where its own loss is greater than one of theirs, by more than chance explains
(Fisher's exact test, below `CHANCE` over all hops it is compared with), only its answers were missing.

**An even beat tells.** Nothing is behind the last hop. But a limit lets one answer through every so often, and loss
drops probes by chance. The distances between answers, counted in probes, of loss with a share p of answers
have the mean 1/p and the variance (1-p)/p²; those of a limit have next to none. `even_beat` compares the two.

This file knows counts and booleans, and nothing else.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Final

__all__ = ["CHANCE", "chance_of_fewer", "even_beat", "path_loss"]

# A verdict that is wrong once in a thousand paths is one that people believe.
CHANCE: Final = 1e-3

# For so many distances at least: up to which share of the variance that chance would make they count as even, and the
# least mean distance, in probes. Of random sequences with shares of answers from 0.005 to 0.5, less than one in 2,000
# lies below (tests/tools/path/test_verdict.py draws some); a token bucket's are near 0. Of few, only long ones tell:
# short ones are often equal by chance. And 2 is the distance of every second packet, which a dead one of two links
# makes. 9 and not 10: ten probes a second are usual, and so is a limit of one answer.
_EVEN: Final = (
    (3, 0.0003, 10.0),
    (4, 0.004, 9.0),
    (5, 0.014, 9.0),
    (6, 0.025, 2.5),
    (8, 0.06, 2.5),
    (12, 0.12, 2.5),
    (20, 0.21, 2.5),
    (40, 0.35, 2.5),
)

# What changes no digit that matters.
_NOTHING: Final = 1e-15


def chance_of_fewer(answered: int, of: int, answered_there: int, of_there: int) -> float:
    """Give the probability that so few of the answers fall on the first of two places, if both answer alike.

    Fisher's exact test, one-sided: the hypergeometric distribution's lower tail.

    >>> chance_of_fewer(18, 100, 100, 100) < 1e-6
    True
    >>> chance_of_fewer(79, 100, 80, 100) > 0.4
    True
    """
    total, successes = of + of_there, answered + answered_there
    if not of or not of_there:
        return 1.0
    whole = _log_choose(total, successes)
    chance = 0.0
    # From the greatest down: below the mean, where this is asked, terms soon count for nothing.
    for here in range(answered, max(0, successes - of_there) - 1, -1):
        term = math.exp(_log_choose(of, here) + _log_choose(of_there, successes - here) - whole)
        chance += term
        if here * total < successes * of and term < chance * _NOTHING:
            break
    return min(1.0, chance)


def path_loss(own: tuple[int, int, int] | None, behind: Sequence[tuple[int, int, int]]) -> float | None:
    """Estimate the loss on the way to a hop from (distance, probes, answers) of it and of hops behind it.

    ``own`` is None where its own answers say nothing. Loss grows along the way, so the estimate is the smallest average
    of the hops from here to any behind: averages, since the smallest of many noisy figures would be too small
    (isotonic regression does the same, from both sides). Where a hop behind answered every probe, nothing was lost.

    >>> path_loss((4, 100, 81), [(5, 100, 79), (6, 100, 50)]), path_loss((1, 10, 9), [(2, 10, 10)]), path_loss(None, [])
    (0.19, 0.0, None)
    """
    if any(sent == answered for _, sent, answered in behind):
        return 0.0
    least, all_sent, all_answered = None, 0, 0
    for _, sent, answered in ([] if own is None else [own]) + list(behind):
        all_sent, all_answered = all_sent + sent, all_answered + answered
        loss = (all_sent - all_answered) / all_sent
        least = loss if least is None else min(least, loss)
    return least


def even_beat(probes: Sequence[tuple[float, bool]]) -> float | None:
    """Give the mean time between answers where they come evenly, as a limit lets them through; else None.

    A probe is when it was sent, and whether it was answered. What was answered before the first loss is left out: a
    limit lets a burst through at first. Where probes were lost within that burst, it goes on behind the first loss, and
    is over in the last three quarters. Times and not numbers of probes are compared, since a limit knows no other,
    and since a busy machine doesn't send evenly.

    >>> even_beat(list(enumerate([True] * 6 + ([False] * 9 + [True]) * 12)))
    10.0
    >>> even_beat(list(enumerate([True, False, True, True, False, True, True, False, False, True, True, False] * 4)))
    """
    first_loss = next((place for place, (_, answered) in enumerate(probes) if not answered), len(probes))
    for begin in (first_loss, max(first_loss, len(probes) // 4)):
        if (mean := _beat(probes[begin:])) is not None:
            return mean
    return None


def _beat(probes: Sequence[tuple[float, bool]]) -> float | None:
    times = [sent for sent, answered in probes if answered]
    distances = [after - before for before, after in itertools.pairwise(times)]
    count = len(distances)
    if count < _EVEN[0][0]:
        return None
    _, share, least_mean = max(row for row in _EVEN if row[0] <= count)
    step = (probes[-1][0] - probes[0][0]) / (len(probes) - 1)
    mean = sum(distances) / count
    by_chance = mean * (mean - step)
    variance = sum((distance - mean) ** 2 for distance in distances) / (count - 1)
    return mean if mean >= least_mean * step and variance <= share * by_chance else None


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
