"""Tools beside the workflow, each a package of its own."""
