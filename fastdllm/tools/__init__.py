"""Tools beside the workflow, each in its own package."""
