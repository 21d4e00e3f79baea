"""Where PyTorch is not installed, tests that need it are skipped, and no others."""

from pathlib import Path

import pytest

from tests.conftest import skip_without_pytorch

PATH = Path("tests/test_some.py")
FAILURES = [
    ("E   ModuleNotFoundError: No module named 'torch'", True),
    ("PackageNotFoundError: No package metadata was found for torch", True),
    ("error: this needs the package torch, which is not installed", True),
    ("E   ModuleNotFoundError: No module named 'torchvision'", False),
    ("E   ModuleNotFoundError: No module named 'onnx'", False),
    ("E   assert 1 == 2", False),
]


def report(text: str) -> pytest.TestReport:
    return pytest.TestReport("test", (str(PATH), 1, "test"), {}, "failed", text, "call")


@pytest.mark.parametrize(("text", "lacks"), FAILURES)
def test_what_is_skipped(text: str, lacks: bool) -> None:
    found = skip_without_pytorch(report(text), PATH, has_pytorch=False)
    assert found.skipped is lacks
    assert found.failed is not lacks


@pytest.mark.parametrize("text", [text for text, _ in FAILURES])
def test_nothing_is_skipped_where_pytorch_is_installed(text: str) -> None:
    assert skip_without_pytorch(report(text), PATH, has_pytorch=True).failed
