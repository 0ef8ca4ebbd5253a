"""The suites of ``scripts/benchmark.py``, their limits, and what is made of their numbers."""
