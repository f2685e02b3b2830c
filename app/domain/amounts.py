"""Amounts of tokens as integers.

Inside the server every amount is a whole number of micro-tokens (1 token = 1,000,000). Only the edges
speak JSON numbers; the two functions here are the only way across, and neither touches a float.
"""

from __future__ import annotations

from decimal import Decimal

MICROS_PER_TOKEN = 1_000_000

# Redis's Lua counts in doubles, exact to 2^53 (9.007e15). The sum of a balance and an overdraft limit is the largest
# number that a script compares, so each of the two stays below 2^52.
AMOUNT_MICROS_MAX = 10**15
BALANCE_MICROS_MAX = 4 * 10**15
# The largest sum of debts of one wallet. An end beyond it is recorded as a dead letter outside the sum.
DEBT_MICROS_MAX = 2**53


def micros_from_number(number: int | Decimal) -> int:
    """Micro-tokens of a JSON number of tokens. Raises ValueError when it isn't exact to six decimals or too large."""
    if isinstance(number, int):
        micros = number * MICROS_PER_TOKEN
    else:
        if not number.is_finite():
            raise ValueError("Not a finite number.")
        # Checked before it becomes an integer: 1e999999999 would fill the memory.
        if number and number.adjusted() > 10:
            raise ValueError("Too large.")
        sign, digits, exponent = number.as_tuple()
        if len(digits) > 64:
            raise ValueError("At most 6 decimals.")
        coefficient = int("".join(map(str, digits)))
        if coefficient == 0:
            return 0
        shift = int(exponent) + 6
        if shift >= 0:
            micros = coefficient * 10**shift
        else:
            # A divisor with more digits than the coefficient leaves a remainder anyway, so the exponent can be capped.
            micros, rest = divmod(coefficient, 10 ** min(-shift, len(digits) + 1))
            if rest:
                raise ValueError("At most 6 decimals.")
        micros = -micros if sign else micros
    if abs(micros) > AMOUNT_MICROS_MAX:
        raise ValueError("Too large.")
    return micros


def token_number(micros: int) -> int | Decimal:
    """The JSON number of tokens for an amount of micro-tokens: 989, not 989.0; 0.25; never in exponent form."""
    whole, rest = divmod(micros, MICROS_PER_TOKEN)
    if rest == 0:
        return whole
    return Decimal(f"{micros}E-6").normalize()
