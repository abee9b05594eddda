"""What a device is called tells apart what computes otherwise, and nothing else; what is not known has no name."""

from __future__ import annotations

import pytest

from sandbox import device

X86 = """processor\t: 0
vendor_id\t: AuthenticAMD
cpu family\t: 25
model\t\t: 1
model name\t: AMD EPYC
microcode\t: 0x1000065
cpu MHz\t\t: {mhz}
flags\t\t: fpu sse2 avx fma smep {more} ibrs

processor\t: 1
model name\t: another
"""
ARM = (
    "processor\t: 0\nBogoMIPS\t: 50.00\nFeatures\t: fp asimd {more} crc32\nCPU implementer\t: 0x41\nCPU part\t: 0xd40\n"
)
LISTED = """GPU 0: NVIDIA H200 (UUID: GPU-aaaa)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-bbbb)
  MIG 3g.20gb     Device  0: (UUID: MIG-cccc)
  MIG 1g.5gb      Device  1: (UUID: MIG-dddd)
"""


def test_a_processor_is_its_model_and_the_instructions_for_arithmetic() -> None:
    told = device.processor(X86.format(mhz="2445.0", more="avx2"))
    assert told == "AMD EPYC, cpu family 25, model 1, avx avx2 fma"
    assert told == device.processor(X86.format(mhz="3000.1", more="arat avx2"))
    assert told != device.processor(X86.format(mhz="2445.0", more="avx2 avx512f"))


def test_an_arm_processor_has_no_model_name() -> None:
    told = device.processor(ARM.format(more="sve"))
    assert told == "CPU implementer 0x41, CPU part 0xd40, asimd sve"
    assert told != device.processor(ARM.format(more="fphp"))


def test_what_tells_nothing_is_not_known() -> None:
    assert device.processor("") == ""


@pytest.mark.parametrize(
    ("gpus", "told"),
    [
        (["0"], "NVIDIA H200, driver 550.54"),
        (["GPU-aaaa", "0"], "NVIDIA H200, driver 550.54"),
        (["GPU-aaaa", "1"], "NVIDIA A100-SXM4-40GB + NVIDIA H200, driver 550.54"),
        (["MIG-cccc"], "NVIDIA A100-SXM4-40GB MIG 3g.20gb, driver 550.54"),
        (["1:1"], "NVIDIA A100-SXM4-40GB MIG 1g.5gb, driver 550.54"),
        (["7"], ""),
        (["0", "vanished"], ""),
    ],
)
def test_gpus_are_told_by_model_and_driver(gpus: list[str], told: str) -> None:
    assert device.models(gpus, LISTED, ["550.54", "550.54"]) == told


def test_without_the_vendors_program_gpus_are_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    device._gpus.cache_clear()
    try:
        assert device.device(("0",)).gpu == ""
        assert device.device(()).gpu == ""
    finally:
        device._gpus.cache_clear()
