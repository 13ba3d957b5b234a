"""How much repair a loss needs: exact, for losses that do not depend on one another.

A source block of K symbols is sent as K + r datagrams. A receiver that loses more than r of them cannot
decode the block, and RaptorQ fails once in 256 times with exactly K symbols, once in 65,536 with K + 1. All
receivers are to have all blocks after one pass.
"""

from __future__ import annotations

import math
from functools import lru_cache

# All of RECEIVERS finish in one pass with CONFIDENCE.
RECEIVERS = 1000
CONFIDENCE = 0.99
# Of all datagrams: what loses more is not helped by repair.
LOSS_MAX = 0.5
# How often decoding fails with K symbols, and by which factor less with each one more.
_FAILURE_AT_K = 1 / 256
_FAILURE_FACTOR = 1 / 256
# Terms of a sum that are this much smaller than the sum are left out.
_NEGLIGIBLE = 1e-12


@lru_cache(maxsize=4096)
def repair_symbols(
    symbols: int, loss: float, blocks: int = 1, receivers: int = RECEIVERS, confidence: float = CONFIDENCE
) -> int:
    """The repair symbols for each of ``blocks`` blocks of ``symbols`` source symbols.

    They are the fewest with which all ``receivers`` have all blocks after one pass with a probability of
    ``confidence``, where each receiver loses each datagram with a probability of ``loss``. Raises ValueError
    if that is not from 0 to LOSS_MAX.
    """
    if not 0 <= loss <= LOSS_MAX:
        raise ValueError(f"loss must be from 0 to {LOSS_MAX}, not {loss}")
    if not loss:
        return 0
    # 1 - confidence ** (1 / (receivers * blocks)), for one block at one receiver
    allowed = -math.expm1(math.log(confidence) / (receivers * blocks))
    low, high = -1, 8
    while _failure(symbols, high, loss) > allowed:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        if _failure(symbols, middle, loss) > allowed:
            low = middle
        else:
            high = middle
    return high


def _failure(symbols: int, repair: int, loss: float) -> float:
    """The probability that a receiver cannot decode a block that was sent with ``repair`` repair symbols."""
    sent = symbols + repair
    if sent * loss > repair + 1:
        return 1.0  # more than half: the median of a binomial distribution is next to its mean
    odds = loss / (1 - loss)
    # The probability of losing exactly ``repair`` of all
    at_limit = math.exp(
        math.lgamma(sent + 1)
        - math.lgamma(repair + 1)
        - math.lgamma(symbols + 1)
        + repair * math.log(loss)
        + symbols * math.log1p(-loss)
    )
    total, term = 0.0, at_limit
    for lost in range(repair + 1, sent + 1):  # too many
        term *= (sent - lost + 1) / lost * odds
        total += term
        if term < _NEGLIGIBLE * total and lost > sent * loss:
            break
    term, failure = at_limit, _FAILURE_AT_K
    for lost in range(repair, 0, -1):  # few enough, and decoding fails; it is not needed if nothing is lost
        total += term * failure
        term *= lost / ((sent - lost + 1) * odds)
        failure *= _FAILURE_FACTOR
        if failure < _NEGLIGIBLE:
            break
    return total
