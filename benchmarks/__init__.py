"""Measures Tokentill on this machine: `python -m benchmarks` and `python -m benchmarks wsgi`.

It starts embedded servers and processes of its own on loopback, in a temporary folder, and leaves nothing behind but
its report in `results/`. Absolute figures drift with whatever else the machine does. What is compared is therefore
measured in turns, round after round, and reported as the median of the rounds and of the ratios within each round.
What it is compared with stands in `reference/`.
"""
