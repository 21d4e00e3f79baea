"""What this process may use of the processor, on machines that are described by files."""

import os
from pathlib import Path

import psutil
import pytest

from alignseg_infer.backends import processor

X86 = """processor\t: 0
model name\t: Some CPU @ 2.00GHz
flags\t\t: fpu avx2 avx512f avx512_vnni avx512_bf16 sse

processor\t: 1
model name\t: Another CPU
flags\t\t: fpu
"""
ARM = "processor\t: 0\nFeatures\t: fp asimd asimddp i8mm\nModel\t\t: A board\n"


@pytest.mark.parametrize(
    ("text", "name", "flags"),
    [
        (X86, "Some CPU @ 2.00GHz", ("avx2", "avx512f", "avx512_vnni", "avx512_bf16")),
        (ARM, "A board", ("asimd", "asimddp", "i8mm")),
    ],
)
def test_what_linux_says(
    text: str,
    name: str,
    flags: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(processor, "_CPU_FACTS", tmp_path / "cpuinfo")
    processor._cpu_facts.cache_clear()
    assert (processor.cpu_model(), processor.cpu_features()) == (name, flags)
    processor._cpu_facts.cache_clear()


def test_systems_without_these_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor, "_CPU_FACTS", tmp_path / "none")
    monkeypatch.setattr(processor, "_GROUPS", tmp_path)
    monkeypatch.setattr("platform.processor", lambda: "")
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    processor._cpu_facts.cache_clear()
    assert (processor.cpu_model(), processor.cpu_features()) == ("riscv64", ())
    assert processor.core_limit() is None
    assert processor.usable_cores() == processor.physical_cores() == processor.thread_limit() == 6
    processor._cpu_facts.cache_clear()


@pytest.mark.parametrize(
    ("files", "limit", "threads"),
    [
        ({"cpu.max": "150000 100000\n"}, 1.5, 2),
        ({"cpu.max": "50000 100000\n"}, 0.5, 1),
        ({"cpu.max": "max 100000\n"}, None, 8),
        ({"cpu.max": "6400000 100000\n"}, 64.0, 8),
        ({"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, 3.0, 3),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None, 8),
        ({"cpu.max": "strange"}, None, 8),
        ({}, None, 8),
    ],
)
def test_limit_of_a_container(
    files: dict[str, str],
    limit: float | None,
    threads: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(processor, "_GROUPS", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    assert (processor.core_limit(), processor.thread_limit()) == (limit, threads)


def test_cores_of_this_machine() -> None:
    """psutil counts those of the whole machine, of which a process may use some."""
    assert 1 <= processor.physical_cores() <= processor.usable_cores()
    physical = psutil.cpu_count(logical=False)
    assert physical is None or processor.physical_cores() <= physical
