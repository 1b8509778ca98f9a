"""A controller that is killed and loses its state: it gives ids anew."""

from __future__ import annotations

import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.lab import Lab
from tests.slurm.packages import why_absent
from tests.slurm.projects import make_one_job

pytestmark = pytest.mark.slow


@pytest.fixture
def own_lab() -> Iterator[Lab]:
    """A SLURM for one test, which the others could not use after it."""
    if reason := why_absent():
        pytest.skip(reason)
    lab = Lab.start()
    yield lab
    lab.stop()


def test_a_job_that_got_the_id_of_ours_is_neither_followed_nor_cancelled(
    own_lab: Lab, tmp_path: Path
) -> None:
    lab, project = own_lab, make_one_job(tmp_path, own_lab, "sleep 900")
    with project.started("--retries=1") as main:
        (ours,) = lab.wait_until(
            lambda: [key for key, job in project.jobs().items() if job["state"] == "RUNNING"],
            what="a job at work",
        )
        lose_state(lab)
        other = lab.submit("sleep 1", "--hold", "--comment=rule_eval_wildcards_of_another_project")
        assert other == ours
        lab.wait_until(lambda: set(project.jobs()) - {ours}, what="the job submitted again")
        assert f"SLURM job {ours}: no longer known to SLURM" in project.main_log()
        main.send_signal(signal.SIGINT)
        main.wait()
    states = {"CANCELLED"}
    lab.wait_until(
        lambda: {job["state"] for job in project.jobs().values()} == states, what="the end of ours"
    )
    assert lab.state(other) == "PENDING"


def lose_state(lab: Lab) -> None:
    """Kill the controller, and start it without what it had saved."""
    conf = (lab.folder / "etc/slurm.conf").read_text()
    found = re.search(r"^StateSaveLocation=(.*)$", conf, flags=re.M)
    assert found is not None
    lab.daemons.kill("slurmctld")
    shutil.rmtree(found[1])
    Path(found[1]).mkdir()
    lab.daemons.start("slurmctld", "-D")
    lab.wait_until(lambda: "UP" in lab.run("scontrol", "ping").stdout, what="the controller")
