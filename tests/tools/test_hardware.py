"""Which device is of which kind."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastdllm.machine.process import cpu_name
from fastdllm.tools.estimate.hardware import (
    MeasuredHardware,
    WantedHardware,
    is_of_kind,
    this_machine,
)


@pytest.mark.parametrize(
    ("kind", "device"),
    [
        ("RTX_6000", "Quadro RTX 6000"),
        ("V100", "Tesla V100-PCIE-16GB"),
        ("A100", "NVIDIA A100-SXM4-80GB"),
        ("H100", "NVIDIA H100 80GB HBM3"),
        ("H200", "NVIDIA H200"),
        ("L40S", "NVIDIA L40S"),
        ("rtx_6000_ada", "NVIDIA RTX 6000 Ada Generation"),
    ],
)
def test_a_device_is_of_the_kind_whose_words_are_in_its_name(kind: str, device: str) -> None:
    assert is_of_kind(device, kind)


@pytest.mark.parametrize(
    ("kind", "device"),
    [
        ("H100", "NVIDIA H200"),
        ("L40", "NVIDIA L40S"),
        ("RTX_6000", "NVIDIA RTX 6000 Ada Generation"),
        ("RTX_6000", "NVIDIA RTX PRO 6000 Blackwell"),
        ("V100", "AMD EPYC"),
    ],
)
def test_another_card_is_not_of_the_kind(kind: str, device: str) -> None:
    assert not is_of_kind(device, kind)


def test_a_processor_is_the_same_with_the_same_threads_only() -> None:
    wanted = WantedHardware("AMD EPYC", 1)
    assert wanted.matches(MeasuredHardware("AMD EPYC", 1))
    assert not wanted.matches(MeasuredHardware("AMD EPYC", 2))
    assert not wanted.matches(MeasuredHardware("AMD EPYC 9004", 1))


def test_this_machine_is_its_gpu_where_the_driver_knows_one(tmp_path: Path) -> None:
    card = tmp_path / "0000:01:00.0"
    assert this_machine(driver=tmp_path) == WantedHardware(cpu_name(), 1)
    card.mkdir()
    (card / "information").write_text("Model: \t\t NVIDIA H200\nIRQ:  1\n")
    assert this_machine(driver=tmp_path) == WantedHardware("NVIDIA H200")
    assert this_machine("cpu", threads=2, driver=tmp_path) == WantedHardware(cpu_name(), 2)
