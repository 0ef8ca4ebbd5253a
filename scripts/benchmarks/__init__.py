"""The suites of ``scripts/benchmark.py``, their limits, and the tables of their numbers."""
