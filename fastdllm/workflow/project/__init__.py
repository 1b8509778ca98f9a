"""The project as it is configured: grid, runs, fingerprints, artifacts.

Looks at no result and no job.
"""
