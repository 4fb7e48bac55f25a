"""Benchmarks: ratios against named rivals in one run. `python -m benchmarks --help` says how."""
