"""Benchmarks against the tools that users would otherwise take: ratios of one interleaved run, no absolute claims."""
