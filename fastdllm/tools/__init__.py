"""Tools beside the workflow, each in its own package. The workflow knows none of them."""
