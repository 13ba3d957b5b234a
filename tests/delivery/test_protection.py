"""How much repair a loss needs, against the same sum in whole numbers and against published measurements."""

from __future__ import annotations

from fractions import Fraction
from math import comb

import pytest

from mcastd.delivery.protection import _failure, repair_symbols


def exact_failure(symbols: int, repair: int, loss: Fraction) -> Fraction:
    """The probability that a block cannot be decoded, term by term without rounding."""
    sent = symbols + repair
    total = Fraction(0)
    for lost in range(1, sent + 1):  # a block of which nothing is lost needs no decoding
        fails = Fraction(1) if lost > repair else Fraction(1, 256 ** (repair - lost + 1))
        total += comb(sent, lost) * loss**lost * (1 - loss) ** (sent - lost) * fails
    return total


@pytest.mark.parametrize(
    ("symbols", "repair", "loss"),
    [
        (1, 3, Fraction(1, 20)),
        (1, 0, Fraction(1, 10)),
        (7, 4, Fraction(1, 100)),
        (64, 20, Fraction(1, 10)),
        (200, 30, Fraction(1, 20)),
        (150, 170, Fraction(2, 5)),
    ],
)
def test_the_probability_is_exact(symbols: int, repair: int, loss: Fraction) -> None:
    exact = float(exact_failure(symbols, repair, loss))
    assert _failure(symbols, repair, float(loss)) == pytest.approx(exact, rel=1e-6)


@pytest.mark.parametrize(
    ("symbols", "blocks", "loss", "receivers"),
    [(60, 9, Fraction(1, 20), 1000), (100, 1, Fraction(3, 10), 7), (5, 300, Fraction(1, 100), 1000)],
)
def test_it_is_the_least_that_suffices(symbols: int, blocks: int, loss: Fraction, receivers: int) -> None:
    enough = repair_symbols(symbols, float(loss), blocks, receivers)

    def all_finish(repair: int) -> float:
        return float(1 - exact_failure(symbols, repair, loss)) ** (blocks * receivers)

    assert all_finish(enough) >= 0.99 > all_finish(enough - 1)


@pytest.mark.parametrize(
    ("size", "symbols", "percent_by_loss"),
    [
        # Measured with two symbols more than needed; the exact sum is up to a point below
        (10_000_000, 256, {0.01: 6.2, 0.05: 14.8, 0.10: 24.6, 0.20: 45.7}),
        (10_000_000, 1024, {0.01: 3.4, 0.05: 9.6, 0.10: 16.9, 0.20: 34.3}),
        (268_435_456, 1024, {0.01: 3.4, 0.05: 10.1, 0.10: 17.9, 0.20: 35.3}),
        (268_435_456, 4096, {0.01: 2.0, 0.05: 7.7, 0.10: 14.5, 0.20: 29.9}),
    ],
)
def test_files_and_losses(size: int, symbols: int, percent_by_loss: dict[float, float]) -> None:
    blocks = -(-size // (1448 * symbols))
    for loss, percent in percent_by_loss.items():
        needed = 100 * repair_symbols(symbols, loss, blocks) / symbols
        assert percent - 1.3 < needed <= percent


def test_the_smallest_and_the_largest() -> None:
    assert repair_symbols(1024, 0.0, 181) == 0
    assert repair_symbols(1, 0.05) == 3  # 0.05 ** 4 < 1e-5: copies of one symbol
    assert 30 < repair_symbols(1, 0.5, 100_000) < 40
    assert 56_403 < repair_symbols(56_403, 0.5) < 59_000


def test_more_loss_blocks_or_receivers_need_more() -> None:
    some = repair_symbols(800, 0.03, 20, 50)
    assert some < repair_symbols(800, 0.04, 20, 50)
    assert some < repair_symbols(800, 0.03, 2000, 50)
    assert some < repair_symbols(800, 0.03, 20, 5000)


@pytest.mark.parametrize("loss", [-0.01, 0.51, float("nan")])
def test_a_loss_that_is_none(loss: float) -> None:
    with pytest.raises(ValueError, match="loss must be from 0 to"):
        repair_symbols(100, loss)
