"""Measures Tokentill on this machine: `python -m benchmarks` and `python -m benchmarks wsgi`.

It starts its own embedded servers and processes on loopback, in a temporary folder, and leaves nothing behind but its
report in `results/`. Absolute figures depend on what else the machine does. Things to be compared are therefore
measured alternately, round after round, and reported as the median of the rounds and of the ratios within each round.
The implementations that Tokentill is compared with are in `reference/`.
"""
