"""What is said where TensorRT does not start: no driver, no GPU, or a driver for an older CUDA."""

import ctypes
import re
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from alignseg_infer.cuda.opening import driver_cuda_version
from alignseg_infer.errors import DeviceError, MissingDependencyError
from alignseg_infer.trt import starting
from alignseg_infer.trt.flavours import Flavour, TensorRT, load_tensorrt
from tests.support.fetching import require_installable
from tests.support.project import PROJECT

FAILS = "pybind11::init(): factory function returned nullptr"
CLASSIC = TensorRT(Flavour.TENSORRT, SimpleNamespace(), (11, 4, 0, 106))
RTX = TensorRT(Flavour.TENSORRT_RTX, SimpleNamespace(), (1, 7, 1, 116))
INSTALLED = ["tensorrt", "tensorrt_cu13", "tensorrt-cu13-bindings", "tensorrt-cu13-libs"]


def fail() -> Any:
    raise TypeError(FAILS)


def error_of(tensorrt: TensorRT) -> DeviceError:
    with pytest.raises(DeviceError) as caught:
        starting.start(tensorrt, fail, lambda: "CUDA initialization failure with error: 35")
    return caught.value


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def prepare(driver: tuple[int, int] | None, *distributions: str) -> None:
        found = [SimpleNamespace(metadata={"Name": name}) for name in distributions]
        monkeypatch.setattr(starting, "driver_cuda_version", lambda: driver)
        monkeypatch.setattr("importlib.metadata.distributions", lambda: found)

    return prepare


def test_what_starts_is_returned() -> None:
    assert starting.start(CLASSIC, lambda: "a builder", lambda: "") == "a builder"


def test_another_type_error_stays() -> None:
    def make() -> Any:
        raise TypeError("incompatible constructor arguments")

    with pytest.raises(TypeError, match="incompatible"):
        starting.start(CLASSIC, make, lambda: "")


def test_no_driver(machine: Callable[..., None]) -> None:
    machine(None, *INSTALLED)
    error = error_of(CLASSIC)
    assert "tensorrt 11.4.0.106, built for CUDA 13, does not start" in error.problem
    assert "CUDA initialization failure with error: 35" in error.problem
    assert "found: no NVIDIA driver" in error.problem
    assert "flavour='tensorrt-rtx', which needs no GPU" in error.fix
    assert "tensorrt-rtx" not in error_of(RTX).fix


def test_an_old_driver(machine: Callable[..., None]) -> None:
    machine((12, 4), *INSTALLED, "tensorrt-rtx-cu12", "numpy")
    error = error_of(CLASSIC)
    assert "found: the NVIDIA driver runs CUDA 12.4" in error.problem
    assert "a driver that runs CUDA 13 or newer" in error.expected
    removed = "tensorrt tensorrt-cu13 tensorrt-cu13-bindings tensorrt-cu13-libs"
    assert f"pip uninstall -y {removed} && pip install tensorrt-cu12" in error.fix


def test_an_old_driver_for_rtx(machine: Callable[..., None]) -> None:
    machine((12, 4), "tensorrt-rtx-cu13", "tensorrt_rtx_cu13_libs", "tensorrt-cu12")
    assert (
        "pip uninstall -y tensorrt-rtx-cu13 tensorrt-rtx-cu13-libs && "
        "pip install tensorrt-rtx-cu12" in error_of(RTX).fix
    )


@pytest.mark.parametrize("tensorrt", [CLASSIC, RTX], ids=["classic", "RTX"])
def test_a_driver_for_which_there_are_no_packages(
    tensorrt: TensorRT, machine: Callable[..., None]
) -> None:
    machine((11, 8), *INSTALLED, "tensorrt-rtx-cu13")
    assert error_of(tensorrt).fix == "update the driver"


@pytest.mark.parametrize("flavour", Flavour)
def test_advice_names_what_the_extras_bring(
    flavour: Flavour, machine: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The package for CUDA 12 of TensorRT for RTX has no extra; pip is asked for it below."""
    extras = str(PROJECT["optional-dependencies"])
    brought = set(re.findall(r"(?<![\w-])tensorrt(?:-rtx)?(?:-cu\d+)?(?=[>=])", extras))
    known = brought | {"tensorrt-rtx-cu12"}
    monkeypatch.setitem(sys.modules, flavour.value.replace("-", "_"), None)
    with pytest.raises(MissingDependencyError) as caught:
        load_tensorrt(flavour)
    machine((12, 4), *INSTALLED, "tensorrt-rtx-cu13")
    tensorrt = CLASSIC if flavour is Flavour.TENSORRT else RTX
    replaced = error_of(tensorrt).fix.partition("&& ")[2]
    named = set(re.findall(r"(?<![\w'-])tensorrt[\w-]*(?!')", f"{caught.value.fix} {replaced}"))
    assert len(named) >= 2
    assert named <= known


@pytest.mark.slow
@pytest.mark.parametrize("tensorrt", [CLASSIC, RTX], ids=["classic", "RTX"])
def test_what_is_to_be_installed_exists(tensorrt: TensorRT, machine: Callable[..., None]) -> None:
    machine((12, 4), *INSTALLED, "tensorrt-rtx-cu13")
    require_installable(error_of(tensorrt).fix)


@pytest.mark.parametrize("distributions", [INSTALLED, []], ids=["wheels", "JetPack"])
def test_a_driver_that_is_new_enough(
    distributions: list[str], machine: Callable[..., None]
) -> None:
    machine((13, 2), *distributions)
    error = error_of(CLASSIC)
    assert ("CUDA 13," in error.problem) is bool(distributions)
    assert "nvidia-smi" in error.fix
    assert "pip" not in error.fix


DRIVERS = [
    (12080, 0, (12, 8)),
    (13000, 0, (13, 0)),
    (12080, 3, None),  # an error
]


@pytest.mark.parametrize(("version", "status", "expected"), DRIVERS)
def test_the_version_of_the_driver(
    version: int, status: int, expected: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tell(address: Any) -> int:
        ctypes.cast(address, ctypes.POINTER(ctypes.c_int))[0] = version
        return status

    driver = SimpleNamespace(cuDriverGetVersion=tell)
    monkeypatch.setattr("ctypes.CDLL", lambda name: driver)
    assert driver_cuda_version() == expected


def test_without_a_driver_there_is_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str) -> Any:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr("ctypes.CDLL", load)
    assert driver_cuda_version() is None
