"""Speeds measured in turn."""
