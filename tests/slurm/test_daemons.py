"""Ports and daemons of a lab; no SLURM."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm import ports as lab_ports
from tests.slurm.daemons import Daemons
from tests.slurm.ports import outgoing_ports, reserved_ports

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def not_those_of_real_labs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lab_ports, "FIRST", 9_000)
    monkeypatch.setattr(lab_ports, "LAST", 10_000)


@pytest.fixture
def daemons(tmp_path: Path) -> Iterator[Daemons]:
    folder = tmp_path / "lab"
    (folder / "log").mkdir(parents=True)
    with reserved_ports(tmp_path / "ports") as ports:
        daemons = Daemons(folder, os.environ, ports)
    yield daemons
    daemons.end()


def test_no_outgoing_connection_takes_a_port_of_a_lab(tmp_path: Path) -> None:
    with reserved_ports(tmp_path) as ports:
        assert not set(ports.numbers) & set(outgoing_ports())


def test_two_labs_share_no_port(tmp_path: Path) -> None:
    with reserved_ports(tmp_path) as first, reserved_ports(tmp_path) as second:
        assert not set(first.numbers) & set(second.numbers)
    with reserved_ports(tmp_path) as again:
        assert again.numbers == first.numbers


def test_a_port_that_somebody_listens_on_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The tests above may run at the same time.
    monkeypatch.setattr(lab_ports, "FIRST", 9_500)
    with reserved_ports(tmp_path) as free:
        pass
    with socket.socket() as other:
        other.bind(("127.0.0.1", free.numbers[-1]))
        other.listen()
        with reserved_ports(tmp_path) as ports:
            assert not set(free.numbers) & set(ports.numbers)


def test_ports_are_kept_as_long_as_the_daemons_live(tmp_path: Path) -> None:
    folder = tmp_path / "lab"
    (folder / "log").mkdir(parents=True)
    with reserved_ports(tmp_path) as ports:
        daemons = Daemons(folder, os.environ, ports)
    with reserved_ports(tmp_path) as meanwhile:
        assert meanwhile.numbers != ports.numbers
    daemons.end()
    with reserved_ports(tmp_path) as afterwards:
        assert afterwards.numbers == ports.numbers


def test_a_daemon_that_exits_is_noticed_while_something_is_waited_for(daemons: Daemons) -> None:
    (daemons.folder / "log/one.log").write_text("error: Address already in use\n")
    daemons.start("sleep", "900")
    daemons.start("sh", "-c", "echo giving up; exit 1", name="one")
    with pytest.raises(RuntimeError, match="one of the lab has exited") as caught:
        daemons.wait_until(lambda: False, "nodes")
    assert str(caught.value).splitlines()[1:] == [
        "one.log: error: Address already in use",
        "one.out: giving up",
    ]


def test_a_daemon_that_a_test_killed_has_not_exited_by_itself(daemons: Daemons) -> None:
    daemons.start("sleep", "900")
    daemons.kill("sleep")
    daemons.check()


def test_a_dead_supervisor_is_noticed(daemons: Daemons) -> None:
    supervisor = daemons._supervisor
    os.kill(supervisor.pid, signal.SIGKILL)
    supervisor.wait()
    with pytest.raises(RuntimeError, match="the supervisor of the lab has ended"):
        daemons.check()
