"""Real loss curves at laptop scale: byte-level language models trained on Python's standard library.

``python -m benchmarks.proxy_runs --help`` trains a grid of runs that differ in their learning-rate schedules and
writes what the curve readers of fmjax take: one CSV file of validation losses per run, and a ``runs.toml``.
"""
