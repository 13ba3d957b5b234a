"""Benchmarks of mcastd beside C references and Debian's tools: ``make bench``."""
