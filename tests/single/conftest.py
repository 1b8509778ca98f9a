"""Tests here have a whole small project of runs."""

from tests.support.run_project import *  # noqa: F403
