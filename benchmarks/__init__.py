"""Benchmarks: run as modules from the repository's root, for instance ``python -m benchmarks.digits``."""
