"""What Tokentill is measured against: the same work done the plain way, as somebody would write it without us.

Each runs on the same servers, under the same Granian, and is tuned as its users would tune it; each file's head says
why it is fair. `tests/integration/test_benchmark_references.py` holds them to the same answers and the same rows.
"""
