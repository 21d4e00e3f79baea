"""What excludes each other, what does not, and the commands that mend it."""

import pytest

from alignseg_infer.doctor.asking import Answer
from alignseg_infer.doctor.clashes import Clash, find_clashes

CORE = {"numpy": "2.4.6", "opencv-python-headless": "5.0.0.93", "onnxruntime": "1.32.0"}
TENSORRT_13 = {
    "tensorrt-cu13": "11.4",
    "tensorrt-cu13-bindings": "11.4",
    "tensorrt-cu13-libs": "11",
}
TENSORRT_12 = {name.replace("13", "12"): version for name, version in TENSORRT_13.items()}
NVRTC = {"nvidia-cuda-nvrtc": "13.5"}


def clashes(
    *more: dict[str, str], driver: tuple[int, int] | None = None, **cuda: tuple[int, int]
) -> list[Clash]:
    installed = dict(CORE)
    for one in more:
        installed |= one
    answers = {module: Answer(loads=True, cuda=version) for module, version in cuda.items()}
    return find_clashes(installed, answers, driver)


@pytest.mark.parametrize(
    "more",
    [
        {},
        TENSORRT_13,
        {"tensorrt": "11.4", **TENSORRT_13, "tensorrt-lean-cu13": "11.4"},
        {**TENSORRT_12, "tensorrt-rtx-cu13": "1.7.1", "tensorrt-rtx-cu13-libs": "1.7.1"},
        {"onnxruntime-extensions": "0.14", "onnxruntime-tools": "1.7", "opencv-stubs": "0.1"},
        {"onnxruntime-ep-nv-tensorrt-rtx": "1.0"},
        {"nvidia-cuda-nvrtc": "13.5", "nvidia-cuda-nvrtc-cu12": "12.9"},
    ],
)
def test_what_goes_together(more: dict[str, str]) -> None:
    assert clashes(more) == []


FOUND = [
    (
        {"opencv-python": "5.0"},
        "cv2",
        "pip uninstall -y opencv-python opencv-python-headless && pip install opencv-python",
    ),
    (
        {"opencv-contrib-python-headless": "5.0"},
        "cv2",
        "pip uninstall -y opencv-contrib-python-headless opencv-python-headless && "
        "pip install opencv-contrib-python-headless",
    ),
    (
        {"onnxruntime-gpu": "1.32.0"},
        "onnxruntime",
        "pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime-gpu",
    ),
    (
        {"tensorrt": "11.4", **TENSORRT_12, **TENSORRT_13},
        "tensorrt",
        f"pip uninstall -y tensorrt {' '.join([*TENSORRT_12, *TENSORRT_13])} && "
        "pip install tensorrt-cu13",
    ),
    (
        {"tensorrt-rtx-cu12": "1.7", "tensorrt-rtx-cu13-libs": "1.7"},
        "tensorrt_rtx",
        "pip uninstall -y tensorrt-rtx-cu12 tensorrt-rtx-cu13-libs && "
        "pip install tensorrt-rtx-cu13",
    ),
    (
        {"opencv-python-headless": "4.9.0.80"},
        "numpy",
        "pip install --upgrade opencv-python-headless",
    ),
]


@pytest.mark.parametrize(("more", "part", "fix"), FOUND, ids=[next(iter(one[0])) for one in FOUND])
def test_what_does_not(more: dict[str, str], part: str, fix: str) -> None:
    (clash,) = clashes(more)
    assert part in clash.parts
    assert clash.fix == fix
    assert all(name in clash.problem + clash.fix for name in more if "tensorrt" not in name)


def test_an_old_opencv_is_right_with_an_old_numpy() -> None:
    assert clashes({"opencv-python-headless": "4.9.0.80", "numpy": "1.26.4"}) == []


def test_of_two_tensorrts_the_one_for_the_driver_stays() -> None:
    (clash,) = clashes(TENSORRT_12, TENSORRT_13, driver=(12, 4))
    assert clash.fix.endswith("&& pip install tensorrt-cu12")


@pytest.mark.parametrize(
    ("driver", "cuda", "parts"),
    [
        ((12, 4), {"nvrtc": (13, 5)}, ["nvrtc"]),
        ((12, 4), {"nvrtc": (12, 9), "torch": (12, 8)}, []),  # a driver runs all of its major
        ((12, 4), {"nvrtc": (13, 0), "torch": (13, 0)}, ["nvrtc", "torch"]),
        ((13, 0), {"nvrtc": (12, 9), "torch": (13, 2)}, []),
        (None, {"nvrtc": (13, 5), "torch": (13, 0)}, []),  # no GPU: nothing to be too new for
    ],
)
def test_an_old_driver(
    driver: tuple[int, int] | None, cuda: dict[str, tuple[int, int]], parts: list[str]
) -> None:
    found = clashes(NVRTC, driver=driver, **cuda)
    assert [clash.parts[0] for clash in found] == parts
    for clash in found:
        assert "runs only CUDA 12.4" in clash.problem
        assert clash.fix.startswith("update the driver, or")
    if "nvrtc" in parts:
        wanted = "pip uninstall -y nvidia-cuda-nvrtc && pip install nvidia-cuda-nvrtc-cu12"
        assert wanted in found[0].fix


def test_a_plugin_library_of_another_major() -> None:
    """TensorRT's own child process finds it."""
    answer = Answer(loads=True, clashes=[("built for 10.14", "cmake ...")])
    found = find_clashes(CORE, {"tensorrt": answer}, None)
    assert found == [Clash(("tensorrt",), "built for 10.14", "cmake ...")]
