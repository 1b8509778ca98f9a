"""`python -m fastdllm`: the same as the command `fastdllm`."""

import os
import sys

# Python puts the current folder first, where a file named like a library would be taken for it.
if sys.path[:1] == [os.getcwd()]:  # noqa: PTH109 (pathlib, too)
    sys.path.append(sys.path.pop(0))

from fastdllm.cli import main

raise SystemExit(main())
