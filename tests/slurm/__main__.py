"""`python -m tests.slurm`: a SLURM to try things by hand, until Ctrl-C."""

import signal
import sys

from tests.slurm.lab import Lab

lab = Lab.start()
sys.stdout.write(f"export SLURM_CONF={lab.environment['SLURM_CONF']}\n")
sys.stdout.flush()
try:
    signal.pause()
except KeyboardInterrupt:
    lab.stop()
