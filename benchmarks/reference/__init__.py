"""The references that Tokentill is measured against: the same work done plainly, as one would write it without
Tokentill.

Each runs on the same servers, under the same Granian, and is tuned as its users would tune it; its module docstring
says why it is fair. `tests/integration/test_benchmark_references.py` checks that they give the same answers and rows.
"""
