"""What pip installs with each extra, and what is said where ONNX Runtime or OpenCV is not whole.

The slow tests ask pip, and make environments in which they type what a user would.
"""

import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tests.support.fetching import require_index
from tests.support.project import PROJECT

ROOT = Path(__file__).parents[1]
CORE: list[str] = PROJECT["dependencies"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
BASES = {
    "cpu": {"onnxruntime", "opencv-python-headless"},
    "gpu": {"onnxruntime-gpu", "opencv-python-headless"},
    "desktop": {"onnxruntime", "opencv-python"},
    "desktop-gpu": {"onnxruntime-gpu", "opencv-python"},
}
TESTS = {"test", "fast-test"}
SHARED = re.compile(r"(onnxruntime|opencv)[\w-]*")


def names_in(requirements: list[str]) -> set[str]:
    return {re.split(r"[<>=~!;\[ ]", one)[0] for one in requirements}


def shared_in(names: set[str]) -> set[str]:
    return {name for name in names if SHARED.fullmatch(name)}


def test_a_base_has_one_runtime_and_one_opencv() -> None:
    assert {extra: names_in(EXTRAS[extra]) for extra in BASES} == BASES


def test_nothing_else_brings_back_what_somebody_replaced() -> None:
    assert not shared_in(names_in(CORE))
    for extra in EXTRAS.keys() - BASES.keys() - {"jetpack"}:
        assert not shared_in(names_in(EXTRAS[extra])), extra
    assert "alignseg-infer[batch,bench,completion,cpu," in EXTRAS["fast-test"][0]


def test_a_jetson_gets_nothing_that_jetpack_brings() -> None:
    assert names_in(EXTRAS["jetpack"]) == {"alignseg-infer", "cuda-python", "onnxruntime"}
    assert "cuda-python>=12,<13" in EXTRAS["jetpack"]


# Asking pip


def would_install(*words: str, folder: Path) -> tuple[set[str], str]:
    """Return the names of what pip would install into an empty environment, and what it printed."""
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed"]
    done = subprocess.run(
        [*command, "--disable-pip-version-check", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    listed = re.search(r"^Would install (.+)$", done.stdout, re.MULTILINE)
    found = listed[1].split() if listed else []
    names = {name.rpartition("-")[0].lower().replace("_", "-") for name in found}
    return names, done.stdout + done.stderr


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what pip needs of the checkout, since it builds where it finds it."""
    require_index()
    folder = tmp_path_factory.mktemp("source")
    for name in ("alignseg_infer", "plugins"):
        ignored = shutil.ignore_patterns("__pycache__", "build")
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copyfile(ROOT / name, folder / name)
    return folder


# What pip installs at once: a base or what brings its own CUDA alone, and all others together. That
# `test` resolves with all it requires is shown by whoever runs the tests.
ALONE = (*BASES, "jetpack", "pycuda", "tensorrt", "tensorrt-cu12")
TOGETHER = tuple(extra for extra in EXTRAS if extra not in (*ALONE, *TESTS))


def requirements_of(extras: Iterable[str]) -> list[str]:
    """Return what extras require of others, including what our own extras in them require."""
    listed = [one for extra in extras for one in EXTRAS[extra]]
    own = [one for one in listed if one.startswith("alignseg-infer[")]
    inner = [name for one in own for name in re.split(r"[\[\],]", one)[1:-1]]
    others = dict.fromkeys(one for one in listed if one not in own)
    return [*others, *(requirements_of(inner) if inner else [])]


def require_each_to_resolve(requirements: list[str], folder: Path) -> None:
    """Skip the test if one requirement does not even resolve alone, as NVIDIA's may not."""
    for requirement in requirements:
        found, printed = would_install(requirement, folder=folder)
        if not found:
            last = [line for line in printed.splitlines() if "rror" in line][-1]
            pytest.skip(f"not tried, since pip cannot resolve {requirement} here: {last}")


@pytest.mark.slow
@pytest.mark.parametrize("extras", [*((one,) for one in ALONE), TOGETHER], ids=",".join)
def test_extras_resolve(extras: tuple[str, ...], source: Path) -> None:
    own = requirements_of(extras)
    # A package that pip builds to ask it takes half a minute, so one case does.
    words = [f".[{','.join(extras)}]"] if extras == TOGETHER else [*CORE, *own]
    if "tensorrt" in extras[0]:  # whose package has to be built before pip sees that it cannot be
        require_each_to_resolve(own, source)
    found, printed = would_install(*words, folder=source)
    if not found:
        require_each_to_resolve(own, source)
    assert found >= names_in(own), printed[-2000:]
    allowed = BASES.get(extras[0], {"onnxruntime"} if extras == ("jetpack",) else set())
    assert shared_in(found) == allowed


SYSTEMS = {
    "linux-aarch64": [f"manylinux_2_{minor}_aarch64" for minor in (17, 24, 26, 27, 28, 34, 35)],
    "macos-arm64": ["macosx_14_0_arm64"],
    "windows": ["win_amd64"],
}
EVERYWHERE = ("cpu", "desktop", "gpu", "batch", "bench", "completion", "onnx", "openvino", "video")


@pytest.mark.slow
@pytest.mark.parametrize("system", SYSTEMS)
def test_other_systems_have_wheels(system: str, tmp_path: Path) -> None:
    """With Python 3.12. Markers of requirements are those of the Python that runs this."""
    require_index()
    # There is no CUDA on macOS, and no onnxruntime-gpu.
    extras = [extra for extra in EVERYWHERE if (system, extra) != ("macos-arm64", "gpu")]
    requirements = [*CORE, *(one for extra in extras for one in EXTRAS[extra])]
    python = ["--python-version", "3.12", "--implementation", "cp"]
    words = ["--target", str(tmp_path), "--only-binary=:all:", *python]
    words += [word for abi in ("cp312", "abi3", "none") for word in ("--abi", abi)]
    words += [word for name in SYSTEMS[system] for word in ("--platform", name)]
    found, printed = would_install(*words, *requirements, folder=tmp_path)
    wanted = {one for one in names_in(requirements) if one != "typing-extensions"}
    assert found >= wanted, printed[-2000:]


# Typing what is printed


class Environment:
    """A fresh environment with this package, but no base."""

    def __init__(self, folder: Path, source: Path) -> None:
        venv.create(folder, with_pip=True)
        self.bin = folder / ("Scripts" if sys.platform == "win32" else "bin")
        self.folder = folder
        self.pip("install", str(source))

    def pip(self, *words: str) -> None:
        """Run pip, which must succeed."""
        done = self.run("python", "-m", "pip", "-q", *words)
        assert done.returncode == 0, done.stderr

    def run(self, program: str, *words: str) -> "subprocess.CompletedProcess[str]":
        """Run a program of the environment."""
        return subprocess.run(
            [str(self.bin / program), *words],
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
        )

    def demo(self) -> "subprocess.CompletedProcess[str]":
        """Segment a drawn street."""
        done = self.run("alignseg", "demo", "--streets", "1", "-o", "out")
        assert "Traceback" not in done.stderr
        return done

    def type(self, commands: str) -> None:
        """Type commands of pip as they are printed, one after the other."""
        for command in commands.split(" && "):
            program, *words = command.split()
            assert program == "pip"
            self.pip(*words)

    def require_whole(self) -> None:
        """Check that the demo runs, without a warning."""
        done = self.demo()
        assert done.returncode == 0, done.stderr
        assert "pip" not in done.stderr


@pytest.fixture(scope="module")
def shared_environment(
    source: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Environment]:
    folder = tmp_path_factory.mktemp("environment")
    yield Environment(folder, source)
    shutil.rmtree(folder)  # with ONNX Runtime for GPUs, nearly a gigabyte


@pytest.fixture
def environment(shared_environment: Environment) -> Environment:
    """With neither ONNX Runtime nor OpenCV."""
    shared_environment.pip("uninstall", "-y", *set().union(*BASES.values()))
    for module in ("onnxruntime", "cv2"):  # uninstalling one of two leaves a part
        for folder in shared_environment.folder.rglob(f"site-packages/{module}"):
            shutil.rmtree(folder)
    return shared_environment


@pytest.mark.slow
def test_advice_installs_a_base(environment: Environment) -> None:
    done = environment.demo()
    assert done.returncode == 1
    assert done.stderr.startswith("error: OpenCV is not installed\n")
    environment.type(advice_in(done.stderr))
    environment.require_whole()


@pytest.mark.slow
@pytest.mark.parametrize("choice", [0, 1], ids=["CPU", "GPU"])
def test_advice_installs_a_runtime(choice: int, environment: Environment) -> None:
    environment.pip("install", "opencv-python-headless")
    done = environment.demo()
    assert done.returncode == 1
    assert done.stderr.startswith("error: ONNX Runtime is not installed\n")
    commands = re.findall(r"pip install [\w-]+", advice_in(done.stderr))
    environment.type(commands[choice])
    environment.require_whole()


def advice_in(errors: str) -> str:
    advice = re.search(r"^  try: (.+)$", errors, re.MULTILINE)
    assert advice is not None, errors
    return advice[1]


TWINS = [
    ("onnxruntime", "onnxruntime-gpu", "opencv-python-headless"),
    ("onnxruntime-gpu", "onnxruntime", "opencv-python-headless"),
    ("opencv-python", "opencv-python-headless", "onnxruntime"),
    ("opencv-python-headless", "opencv-python", "onnxruntime"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("first", "second", "other"), TWINS, ids=[one[1] for one in TWINS])
def test_of_two_installed_the_advice_leaves_one(
    first: str, second: str, other: str, environment: Environment
) -> None:
    for name in (other, first, second):
        environment.pip("install", name)
    done = environment.demo()
    assert done.returncode == 0, done.stderr
    (warning,) = [line for line in done.stderr.splitlines() if "pip" in line]  # once
    assert f"here, {second} won; to leave one: " in warning
    environment.type(warning.partition("to leave one: ")[2])
    environment.require_whole()


@pytest.mark.slow
@pytest.mark.parametrize(("first", "second", "other"), TWINS, ids=[one[1] for one in TWINS])
def test_what_is_left_of_two_is_mended(
    first: str, second: str, other: str, environment: Environment
) -> None:
    for name in (other, first, second):
        environment.pip("install", name)
    environment.pip("uninstall", "-y", second)
    done = environment.demo()
    assert done.returncode == 1
    assert "error: " in done.stderr
    assert advice_in(done.stderr) == f"pip install --force-reinstall --no-deps {first}"
    environment.type(advice_in(done.stderr))
    environment.require_whole()
