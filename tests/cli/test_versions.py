"""``alignseg --version``, alone and with ``--verbose``."""

import importlib.metadata
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from alignseg_infer.benchmark import hardware
from alignseg_infer.benchmark.machine import GpuState
from alignseg_infer.cli import main
from alignseg_infer.doctor import parts
from alignseg_infer.doctor.parts import PARTS
from alignseg_infer.errors import INSTALL_BENCH
from alignseg_infer.version import __version__

GPU = GpuState("NVIDIA H100", "570.86.15", "9.0", "P0", 1980, 1980, 2619, 1543, 81559)


def facts_of(text: str) -> dict[str, str]:
    first, *lines = text.splitlines()
    assert first == f"alignseg-infer {__version__}"
    return dict(line.split(": ", 1) for line in lines)


def test_version_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"alignseg-infer {__version__}\n"


@pytest.mark.parametrize("order", [["--version", "--verbose"], ["--verbose", "--version"]])
def test_versions_of_everything(
    order: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "gpu_states", lambda: (GPU, GPU))
    assert main(order) == 0
    printed = capsys.readouterr().out
    assert printed.count(f"GPU: {GPU}\n") == 2
    facts = facts_of(printed)
    assert facts.keys() == {"Python", "System", "CPU", "Memory", "GPU"} | {
        part.title for part in PARTS
    }
    runtime = f"onnxruntime {importlib.metadata.version('onnxruntime')}, providers "
    assert facts["ONNX Runtime"].startswith(runtime)
    assert "CPUExecutionProvider" in facts["ONNX Runtime"]
    assert facts["PyTorch"] == f"torch {importlib.metadata.version('torch')}"
    assert "GiB available" in facts["Memory"]


def test_heavy_packages_are_not_imported() -> None:
    program = """
import sys
from alignseg_infer.cli import main
main(["--version", "--verbose"])
print(*sys.modules, file=sys.stderr)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    loaded = set(done.stderr.split())
    assert not loaded & {"torch", "openvino", "onnx", "tensorrt_rtx", "av", "matplotlib", "rich"}
    assert "onnxruntime" in loaded  # for its providers


def test_two_distributions_of_one_module(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Removing one of them breaks the other: what a report of a bug should show."""
    both = {"onnxruntime": ["onnxruntime", "onnxruntime-gpu", "onnxruntime"]}
    monkeypatch.setattr(parts, "packages_distributions", lambda: both)
    found = [
        SimpleNamespace(metadata={"Name": name}, version="1.30")
        for name in ("onnxruntime", "onnxruntime-gpu")
    ]
    monkeypatch.setattr(importlib.metadata, "distributions", lambda: found)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.delitem(sys.modules, "alignseg_infer.backends.onnxruntime_package", raising=False)
    assert main(["--version", "--verbose"]) == 0
    facts = facts_of(capsys.readouterr().out)
    assert facts["ONNX Runtime"].startswith(
        "onnxruntime 1.30, onnxruntime-gpu 1.30, providers unknown: "
    )
    assert facts["TensorRT"] == "not installed"


def test_without_the_packages_for_the_machine() -> None:
    """The rest is still worth reporting."""
    program = """
import sys
sys.modules["psutil"] = None
from alignseg_infer.cli import main
sys.exit(main(["--version", "--verbose"]))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    facts = facts_of(done.stdout)
    assert facts["NumPy"].startswith("numpy ")
    assert f"{len(os.sched_getaffinity(0))} usable cores" in facts["CPU"]
    assert facts["CPU flags, memory, GPU"] == f"unknown; {INSTALL_BENCH}"


def test_verbose_alone_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--verbose"])
    assert caught.value.code == 2
    assert "--verbose needs --version" in capsys.readouterr().err
