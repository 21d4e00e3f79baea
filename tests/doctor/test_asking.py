"""Parts are asked in child processes: what crashes, hangs or computes nonsense is only reported.

The broken runtimes here are packages in a folder at the head of ``sys.path``.
"""

import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from alignseg_infer.doctor.asking import MAX_STARTS, Answer, ask
from alignseg_infer.doctor.catalogue import CASES, read_graphs
from alignseg_infer.doctor.parts import DRIVER, PARTS, Part
from alignseg_infer.doctor.runtimes import (
    GOOD,
    Found,
    Target,
    Verdict,
    check_safely,
    open_target,
)
from alignseg_infer.doctor.sampler import choose_sampler
from alignseg_infer.spec.model import Precision
from tests.support.fake_tensorrt_build import FakeTensorRTBuild

Write = Callable[[str, str], None]

ONNXRUNTIME = next(part for part in PARTS if part.module == "onnxruntime")
OPENVINO = next(part for part in PARTS if part.module == "openvino")

# The real ONNX Runtime, of which something is changed.
WRAPPED = """
import pathlib, sys
here = str(pathlib.Path(__file__).parents[1])
sys.path.remove(here)
del sys.modules["onnxruntime"]
import onnxruntime
real = onnxruntime.InferenceSession
class InferenceSession(real):
    def __init__(self, model, *arguments, **options):
        {change}
        super().__init__(model, *arguments, **options)
onnxruntime.InferenceSession = InferenceSession
"""


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Return a function that makes a package with this source."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(name: str, source: str) -> None:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(textwrap.dedent(source), encoding="utf-8")

    return write


def wrong_in(answer: Answer, target: Target) -> dict[str, Found]:
    return {name: one for name, one in answer.results[target].items() if one.verdict not in GOOD}


def test_a_part_that_is_well() -> None:
    answer = ask(ONNXRUNTIME)
    assert answer.loads
    assert "CPUExecutionProvider" in answer.runs_on
    assert set(answer.results[Target.ONNXRUNTIME]) == {case.name for case in CASES}
    assert wrong_in(answer, Target.ONNXRUNTIME) == {}


def test_a_runtime_that_samples_nearest_neighbours(broken: Write) -> None:
    """Only what samples by GridSample is wrong, and all of that is."""
    change = """
        import onnx
        graph = onnx.load_from_string(model)
        for node in graph.graph.node:
            for attribute in node.attribute:
                if node.op_type == "GridSample" and attribute.name == "mode":
                    attribute.s = b"nearest"
        model = graph.SerializeToString()
    """
    broken("onnxruntime", WRAPPED.format(change=textwrap.indent(textwrap.dedent(change), " " * 8)))
    answer = ask(ONNXRUNTIME)
    wrong = wrong_in(answer, Target.ONNXRUNTIME)
    assert {one.verdict for one in wrong.values()} == {Verdict.WRONG}
    assert set(wrong) == {case.name for case in CASES if case.sampling}
    assert "of the largest value" in wrong["grid-sample-16"].detail


def test_a_runtime_that_ends_the_process_in_one_graph(broken: Write) -> None:
    """The others are asked again, in a new process."""
    change = 'if b"ArgMax" in model: import os; os.abort()'
    broken("onnxruntime", WRAPPED.format(change=change))
    answer = ask(ONNXRUNTIME)
    wrong = wrong_in(answer, Target.ONNXRUNTIME)
    assert set(wrong) == {"labels"}
    assert wrong["labels"].verdict is Verdict.ENDED
    assert "SIGABRT" in wrong["labels"].detail
    assert len(answer.results[Target.ONNXRUNTIME]) == len(CASES)


def test_a_runtime_that_ends_the_process_in_every_graph(broken: Write) -> None:
    """It is not asked for all of them, and no sampler is chosen by what it was not asked."""
    broken("onnxruntime", WRAPPED.format(change="import os; os.abort()"))
    found = ask(ONNXRUNTIME).results[Target.ONNXRUNTIME]
    assert [one.verdict for one in found.values()] == [Verdict.ENDED] * MAX_STARTS
    choice = choose_sampler(Target.ONNXRUNTIME, "1", Precision.FP32, found)
    assert choice.sampler is None
    assert "not gather: gather could not be run in onnxruntime 1" in choice.reason


@pytest.mark.slow
def test_a_runtime_that_hangs_in_one_graph(broken: Write) -> None:
    change = 'if b"ArgMax" in model: import time; time.sleep(600)'
    broken("onnxruntime", WRAPPED.format(change=change))
    answer = ask(ONNXRUNTIME, seconds=30)
    assert answer.results[Target.ONNXRUNTIME]["labels"].verdict is Verdict.HUNG
    assert answer.results[Target.ONNXRUNTIME]["grid-sample-16"].verdict is Verdict.RIGHT


def test_a_runtime_that_refuses_a_graph(broken: Write) -> None:
    """OpenVINO up to 2026.2 does not know the mode of opset 20 (openvino#33531)."""
    change = 'if b"GridSample" in model and b"bilinear" not in model: '
    change += "raise RuntimeError('mode linear\\nis unknown')"
    broken("onnxruntime", WRAPPED.format(change=change))
    wrong = wrong_in(ask(ONNXRUNTIME), Target.ONNXRUNTIME)
    refused = Found(Verdict.REFUSED, "mode linear is unknown")
    assert wrong == {"grid-sample-20": refused, "grid-sample-22": refused}


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("import os; os.abort()", "SIGABRT"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "SIGSEGV"),
        ("import sys; sys.stderr.write('no licence\\n'); sys.exit(3)", "exit code 3: no licence"),
        ("raise ImportError('libx.so.1: cannot open\\n shared object')", "cannot open shared"),
        ("raise OSError('/home/joe/venv/lib/libx.so: bad ELF')", "libx.so: bad ELF"),
    ],
)
def test_a_part_that_does_not_load(broken: Write, source: str, problem: str) -> None:
    broken("av", source)
    answer = ask(Part("PyAV", "av"))
    assert not answer.loads
    assert problem in answer.problem
    assert "joe" not in answer.problem
    assert answer.results == {}


def test_a_part_that_hangs(broken: Write) -> None:
    broken("av", "import time; time.sleep(600)")
    answer = ask(Part("PyAV", "av"), seconds=3)
    assert (answer.loads, answer.problem) == (False, "it takes longer than 3 s")


def test_what_a_part_prints_does_not_mix_with_its_answer(broken: Write) -> None:
    broken("av", "import os; print('hello'); os.write(1, b'hello'); ffmpeg_version_info = '8.1'")
    assert ask(Part("PyAV", "av")).runs_on == "FFmpeg 8.1"


def test_driver() -> None:
    answer = ask(DRIVER)
    assert answer.loads == (answer.cuda is not None)
    assert answer.runs_on or answer.problem


def test_files_in_the_working_directory_are_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each would leave a file. The broken runtimes below are on the path, and are imported."""
    seen = tmp_path / "seen"
    for name in ("onnxruntime", "onnx", "av", "json", "sitecustomize"):
        source = f"open({str(seen)!r}, 'a').write(__name__)\nraise ImportError('not this one')\n"
        (tmp_path / f"{name}.py").write_text(source, encoding="utf-8")
    monkeypatch.setattr(sys, "path", [one for one in sys.path if one])
    monkeypatch.chdir(tmp_path)
    assert wrong_in(ask(ONNXRUNTIME), Target.ONNXRUNTIME) == {}
    for name in ("onnx", "av"):
        assert ask(Part(name, name)).loads
    assert not seen.exists()


def test_a_broken_onnxruntime_is_mended_by_what_its_package_says(broken: Write) -> None:
    """It is installed, so pip would not install it again."""
    broken("onnxruntime", "from onnxruntime.capi import no_such_file")
    answer = ask(ONNXRUNTIME)
    assert not answer.loads
    assert answer.fix == "pip install --force-reinstall --no-deps onnxruntime"


@pytest.fixture
def tensorrt(monkeypatch: pytest.MonkeyPatch) -> FakeTensorRTBuild:
    fake = FakeTensorRTBuild()
    monkeypatch.setitem(sys.modules, "tensorrt", fake)
    monkeypatch.setattr("alignseg_infer.cuda.opening.current_gpu", lambda: None)
    return fake


def read_by_tensorrt() -> dict[str, Found]:
    check = open_target(Target.TENSORRT)
    assert check is not None
    graphs = read_graphs()
    return {case.name: check_safely(check, case, graphs[case.name]) for case in CASES}


def test_a_tensorrt_that_reads_rightly(tensorrt: FakeTensorRTBuild) -> None:
    """Which is all that is known of it without a GPU."""
    assert {one.verdict for one in read_by_tensorrt().values()} == {Verdict.READ}


def test_a_tensorrt_that_reads_linear_as_nearest(tensorrt: FakeTensorRTBuild) -> None:
    tensorrt.nearest = {"linear"}
    wrong = {name: one for name, one in read_by_tensorrt().items() if one.verdict not in GOOD}
    assert set(wrong) == {"grid-sample-20", "grid-sample-22"}
    assert {one.verdict for one in wrong.values()} == {Verdict.MISREAD}
    assert wrong["grid-sample-20"].detail.startswith("read as NEAREST, FILL, False")


def test_a_tensorrt_that_drops_a_layer(tensorrt: FakeTensorRTBuild) -> None:
    tensorrt.spoil = lambda layers: layers.__setitem__(
        slice(None), [layer for layer in layers if layer.type.name != "RESIZE"]
    )
    wrong = {name: one for name, one in read_by_tensorrt().items() if one.verdict not in GOOD}
    assert set(wrong) == {"resize", "labels"}
    assert "no such layer, not LINEAR, ALIGN_CORNERS" in wrong["resize"].detail


def test_graphs_need_no_onnx_package(broken: Write) -> None:
    broken("onnx", "raise ImportError('not here')")
    assert wrong_in(ask(ONNXRUNTIME), Target.ONNXRUNTIME) == {}
    assert onnx.__version__  # it is here, for the tests
