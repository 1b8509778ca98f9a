"""The command: checks the machine, runs the parts, prints one table and writes one JSON.

python -m benchmarks.gpu                            everything, on the first GPU
python -m benchmarks.gpu --part golden --part 7b    only these
python -m benchmarks.gpu --device cpu --small       a rehearsal without a GPU
"""

import sys

# Nothing here is unknown to Python 3.6, so that it gets as far as this message.
if sys.version_info < (3, 11):  # noqa: UP036
    sys.stderr.write(
        f"benchmarks.gpu: {sys.executable} is Python {sys.version.split()[0]}; 3.11 or newer is "
        "needed: make gpu PYTHON=python3.12\n"
    )
    sys.exit(2)

from benchmarks.gpu.command import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
