"""`python -m fastdllm`: the same as the command `fastdllm`."""

from fastdllm.cli import main

raise SystemExit(main())
