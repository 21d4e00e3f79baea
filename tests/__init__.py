"""The tests; `tests.support` holds what they share, `tests.benchmarks` what measures."""
