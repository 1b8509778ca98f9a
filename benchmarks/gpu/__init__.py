"""Everything that a GPU has to show, in one command of a few minutes: `python -m benchmarks.gpu`.

Correctness first, then speed. Each part is a process of its own with a time limit, so that one that
fails or hangs costs no other. Measures with `fastdllm.tools.bench`, and has no decoding of its own.
"""
