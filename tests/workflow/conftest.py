"""Tests here have a small project that Snakemake runs."""

from tests.support.small_project import project  # noqa: F401
