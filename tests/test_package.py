"""What importing the package does, and what it shows."""

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import alignseg_infer

LIGHT = {"alignseg_infer", "numpy", "cv2"}
if sys.version_info < (3, 11):
    LIGHT.add("typing_extensions")
HEAVY = ["torch", "onnx", "onnxruntime", "onnxscript", "safetensors", "PIL", "scipy", "rich"]


def loaded_by(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(' '.join(m.split('.')[0] for m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("module", ["alignseg_infer", "alignseg_infer.cli"])
def test_importing_loads_numpy_and_opencv_only(module: str) -> None:
    loaded = loaded_by(f"import {module}")
    assert loaded >= LIGHT
    assert not loaded & set(HEAVY)
    third_party = {
        name for name in loaded - loaded_by("pass") if name not in sys.stdlib_module_names
    }
    assert third_party <= LIGHT


def test_onnx_backend_needs_no_pytorch() -> None:
    assert "torch" not in loaded_by("import alignseg_infer.backends.onnxruntime_backend")


def test_all_lists_every_public_name() -> None:
    public = {
        name
        for name, value in vars(alignseg_infer).items()
        if not name.startswith("_") and not isinstance(value, ModuleType)
    }
    assert alignseg_infer.__all__ == sorted(public)


def test_every_error_is_ours_and_documented() -> None:
    from alignseg_infer import errors

    assert errors.__doc__ is not None
    for name in errors.__all__:
        assert issubclass(getattr(errors, name), alignseg_infer.AlignSegError)
        assert name in errors.__doc__
        assert getattr(alignseg_infer, name) is getattr(errors, name)


def test_gpu_tests_need_few_packages() -> None:
    """A GPU machine may have PyTorch, ONNX and ONNX Runtime only, and a bare checkout."""
    absent = ["onnx_ir", "onnxscript", "rich", "PIL", "safetensors", "sklearn", "tensorrt_rtx"]
    program = f"import sys; sys.modules.update(dict.fromkeys({absent})); import pytest; "
    program += "sys.exit(pytest.main(['-m', 'gpu', '-q', '--co']))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "test_gpu_cuda.py" in done.stdout
