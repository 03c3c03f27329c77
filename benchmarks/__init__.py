"""Measurements of this machine and model: raw rows first; tables, pictures and bounds are derived from them.

``python -m benchmarks`` runs the default set, ``python -m benchmarks --list`` names all. To add one, write a
module with a `benchmark.Benchmark` called ``BENCHMARK`` and put its name into `registry.NAMES`.
"""
