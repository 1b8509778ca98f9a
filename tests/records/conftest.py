"""Tests here have a made-up summary."""

from tests.support.run_project import a_summary  # noqa: F401
