"""The page, the JSON, the goals and the exit code."""

import ast
import dataclasses
import getpass
import importlib.metadata
import json
import re
import shlex
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from alignseg_infer import OptionError
from alignseg_infer.cli import COMMANDS, main, make_parser
from alignseg_infer.doctor import Goal, Report, examination, examine
from alignseg_infer.doctor.asking import Answer
from alignseg_infer.doctor.catalogue import CASES
from alignseg_infer.doctor.clashes import Clash
from alignseg_infer.doctor.goals import NEEDS, advise
from alignseg_infer.doctor.page import WIDTH, page_of
from alignseg_infer.doctor.parts import DRIVER, PARTS, Part
from alignseg_infer.doctor.runtimes import Found, Target, Verdict, cases_of
from alignseg_infer.packages import ONNX_PACKAGES

ROOT = Path(__file__).parents[2]
Prepare = Callable[..., None]

NO_DEVICE = Answer(
    problem="tensorrt 11.4 does not start; found: no NVIDIA driver", fix="nvidia-smi"
)
NO_DEVICE.needs_device = True


def well(part: Part, **others: Verdict) -> Answer:
    """The answer of a part that is well, but for the cases in `others`."""
    answer = Answer(loads=True, runs_on="CPU")
    for target in part.targets:
        answer.results[target] = {
            case.name: Found(others.get(case.name.replace("-", "_"), Verdict.RIGHT), "said why")
            for case in cases_of(target, CASES)
        }
    return answer


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Prepare:
    """Return a function that installs modules on an invented machine, given their answers."""

    def prepare(*modules: str, installed: tuple[str, ...] = (), **answers: Answer) -> None:
        present = {*modules, *answers}
        versions = {
            part.module: (f"{part.module} 1.2.3",) if part.module in present else ()
            for part in PARTS
        }
        monkeypatch.setattr(examination, "list_versions", lambda _: versions)
        distributions = dict.fromkeys(installed, "5.0")
        monkeypatch.setattr(examination, "installed_distributions", lambda: distributions)

        def ask(part: Part, stop: threading.Event) -> Answer:
            if part is DRIVER:
                return answers.get("driver", Answer(problem="there is none"))
            return answers.get(part.module) or well(part)

        monkeypatch.setattr(examination, "ask", ask)

    return prepare


CORE = ("numpy", "cv2", "onnxruntime")
OPENVINO = next(part for part in PARTS if part.module == "openvino")
ORT = next(part for part in PARTS if part.module == "onnxruntime")
BROKEN: list[tuple[dict[str, Any], str | None, list[str]]] = [
    ({}, None, []),
    ({}, "images", []),
    ({}, "video", ["video needs av"]),
    ({"av": Answer(problem="libx.so is missing")}, None, ["PyAV does not load: libx.so"]),
    ({"av": Answer(problem="libx.so is missing")}, "images", []),
    ({"tensorrt": NO_DEVICE}, None, []),  # on a laptop, nothing is broken
    ({"onnxruntime": well(ORT, gather=Verdict.WRONG)}, None, ["sampling by Gather is wrong in on"]),
    ({"onnxruntime": well(ORT, grid_sample_20=Verdict.REFUSED)}, None, []),  # never exported
    ({"openvino": well(OPENVINO, gather=Verdict.ENDED)}, None, ["Gather is ended in openvino"]),
    ({"openvino": well(OPENVINO, gather=Verdict.ENDED)}, "images", []),
    ({"installed": ("opencv-python", "opencv-python-headless")}, None, ["both are the module cv2"]),
    ({"installed": ("opencv-python", "opencv-python-headless")}, "video", ["cv2", "needs av"]),
    ({"installed": ("tensorrt-cu12", "tensorrt-cu13")}, "images", []),
]


@pytest.mark.parametrize(("has", "goal", "broken"), BROKEN)
def test_what_is_broken(
    has: dict[str, Any], goal: str | None, broken: list[str], machine: Prepare
) -> None:
    machine(*CORE, **has)
    found = examine(goal).broken
    assert len(found) == len(broken), found
    assert all(words in line for words, line in zip(broken, found, strict=True))


def test_bfloat16_is_only_reported(machine: Prepare) -> None:
    answer = well(OPENVINO)
    answer.results[Target.OPENVINO_BF16]["matmul"] = Found(Verdict.WRONG, "off by 5")
    machine(*CORE, openvino=answer)
    report = examine()
    assert report.broken == ()
    assert "a product of matrices: off by 5" in page_of(report)


def test_tensorrt_without_a_gpu_is_broken_for_who_wants_it(machine: Prepare) -> None:
    machine(*CORE, "onnx", "cuda", "nvrtc", tensorrt=NO_DEVICE)
    report = examine("tensorrt")
    assert report.advice is not None
    assert report.advice.command == "nvidia-smi"
    assert any("TensorRT does not load" in line for line in report.broken)


REINSTALL = "pip install --force-reinstall --no-deps onnxruntime-gpu"
LEFTOVER = Answer(problem="only what is left of ONNX Runtime", fix=REINSTALL)
BUILDS = {
    name: Answer(loads=True) for name in ("onnx", "tensorrt", "tensorrt_rtx", "cuda", "nvrtc")
}
ADVICE = [
    ("images", {}, "alignseg predict"),
    ("gpu", {}, "pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime-gpu"),
    (
        "gpu",
        {"onnxruntime": Answer(loads=True, runs_on="CUDAExecutionProvider, CPUExecutionProvider")},
        "alignseg predict MODEL.onnx IMAGE -o out/ --device cuda",
    ),
    ("openvino", {}, "pip install openvino"),
    ("video", {"av": Answer(loads=True)}, "alignseg video"),
    ("images", {"onnxruntime": Answer(problem="broken", fix="pip install it")}, "pip install it"),
    ("images", {"onnxruntime": Answer(problem="broken")}, "pip install onnxruntime"),
    ("images", {"onnxruntime": LEFTOVER}, REINSTALL),
    ("video", {"onnxruntime": LEFTOVER}, f"{REINSTALL} && pip install av"),
    ("gpu", {"onnxruntime": LEFTOVER}, "pip uninstall -y onnxruntime onnxruntime-gpu && pip"),
    ("tensorrt", {}, "pip install onnx onnxscript onnx-ir tensorrt cuda-python nvidia-cuda-nvrtc"),
    ("tensorrt", BUILDS, "pip install onnx onnxscript onnx-ir tensorrt cuda-python"),
    ("tensorrt-rtx", BUILDS, "pip install onnx onnxscript onnx-ir tensorrt-rtx-cu13 cuda-python"),
    ("jetson", {}, "pip install onnx onnxscript onnx-ir 'cuda-python<13'"),
    ("jetson", BUILDS, "pip install onnx onnxscript onnx-ir 'cuda-python<13'"),
    ("batch", {}, "pip install fsspec pyarrow"),
    ("page", {}, "pip install gradio"),
]


@pytest.mark.parametrize(("goal", "others", "command"), ADVICE)
def test_advice(goal: str, others: dict[str, Answer], command: str) -> None:
    answers = {name: Answer(loads=True, runs_on="CPUExecutionProvider") for name in CORE} | others
    assert advise(Goal(goal), answers, set()).command.startswith(command)


@pytest.mark.parametrize(
    ("goal", "modules", "missing"),
    [
        ("batch", {"fsspec"}, ("pyarrow",)),
        ("batch", {"fsspec", "pyarrow"}, ()),
        ("page", {"gradio"}, ()),
    ],
)
def test_goals_of_other_modules(goal: str, modules: set[str], missing: tuple[str, ...]) -> None:
    advice = advise(Goal(goal), {name: Answer(loads=True) for name in CORE}, modules)
    assert advice.missing == missing
    assert advice.command.startswith("pip install" if missing else f"alignseg {goal} ")


WITHOUT_ONNXRUNTIME = [
    ("images", (), "pip install onnxruntime"),
    ("gpu", (), "pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime-gpu"),
    ("video", ("av",), "pip install onnxruntime"),
    ("video", (), "pip install onnxruntime av"),
    ("jetson", (), "pip install onnxruntime onnx onnxscript onnx-ir 'cuda-python<13'"),
]


@pytest.mark.parametrize(("goal", "others", "command"), WITHOUT_ONNXRUNTIME)
def test_advice_without_onnxruntime(goal: str, others: tuple[str, ...], command: str) -> None:
    """Which no extra for a goal brings, since somebody may have chosen another one."""
    answers = {name: Answer(loads=True) for name in ("numpy", "cv2", *others)}
    advice = advise(Goal(goal), answers, set())
    assert advice.command == command
    assert "onnxruntime" in advice.missing


@pytest.mark.parametrize("goal", ["tensorrt", "tensorrt-rtx", "jetson"])
def test_an_engine_needs_what_reads_its_model(goal: str) -> None:
    """And no PyTorch, since the command that follows takes an ONNX file."""
    answers = {name: Answer(loads=True) for name in (*CORE, *BUILDS)}
    assert advise(Goal(goal), answers, set()).missing == ("onnxscript", "onnx_ir")
    advice = advise(Goal(goal), answers, {"onnxscript", "onnx_ir"})
    assert advice.missing == ()
    assert advice.command.startswith("alignseg export-trt MODEL.onnx ")
    asked = ("onnx", *NEEDS[Goal(goal)].others)
    assert set(asked) == set(ONNX_PACKAGES)


def test_what_is_installed_and_broken_is_to_mend(machine: Prepare) -> None:
    machine("numpy", "cv2", onnxruntime=LEFTOVER)
    assert f"to mend {REINSTALL}" in " ".join(page_of(examine("images")).split())
    machine("numpy", "cv2")
    assert "to install pip install onnxruntime" in " ".join(page_of(examine("images")).split())


def test_no_command_installs_this_package_by_name() -> None:
    """It is on no index, so pip would not find it."""
    by_name = re.compile(r"pip install\b[^,;&]*\balignseg-infer\b")
    assert by_name.search("pip install torch 'alignseg-infer[export]'")
    assert not by_name.search("pip install '.[cpu]', see alignseg-infer's README")
    for path in (ROOT / "alignseg_infer").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert "alignseg-infer[" not in node.value, path
                assert not by_name.search(node.value), path


def test_goals_name_packages_commands_and_modules_that_exist() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    required = set(re.findall(r"""["']([\w.-]+)[<>=;"'\[]""", text))
    for needs in NEEDS.values():
        command = needs.install.rpartition(" && ")[2]
        for word in shlex.split(command.removeprefix("pip install ")):
            assert re.split("[<=>]", word)[0] in required, word
        words = shlex.split(needs.then)
        assert words[1] in COMMANDS
        assert make_parser().parse_args(words[1:])
        assert set(needs.modules) <= {part.module for part in PARTS}
    assert set(NEEDS) == set(Goal)


def test_an_unknown_goal(machine: Prepare) -> None:
    machine(*CORE)
    with pytest.raises(OptionError, match="goal='imags'") as caught:
        examine("imags")
    assert caught.value.fix == "goal='images'"


SPOILED: dict[str, Any] = {
    "installed": ("onnxruntime", "onnxruntime-gpu", "opencv-python", "opencv-python-headless"),
    "onnxruntime": well(ORT, grid_sample_16=Verdict.WRONG, grid_sample_20=Verdict.REFUSED),
    "tensorrt": NO_DEVICE,
    "av": Answer(problem="a very long reason " * 12),
}


def test_the_page(machine: Prepare) -> None:
    machine(*CORE, **SPOILED)
    page = page_of(examine("video"))
    for line in page.splitlines():
        assert len(line) <= WIDTH or " " not in line.strip(), line
        assert line == line.rstrip()
    text = " ".join(page.split())
    for words in (
        "PyAV av 1.2.3; DOES NOT LOAD: a very long reason",
        "clash onnxruntime and onnxruntime-gpu are both installed",
        "try pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime-gpu",
        "wrong GridSample of opset 16: said why",
        "refused GridSample of opset 20: said why; not exported by this package",
        "fp32, fp16, int8: not native: grid-sample-16 is wrong in onnxruntime 1.2.3; gather,",
        "not installed OpenVINO, PyTorch",
        "to mend pip install av",
    ):
        assert words in text


def test_json_has_all_facts_of_the_page(machine: Prepare) -> None:
    machine(*CORE, **SPOILED)
    report = examine("video")
    facts = json.loads(report.to_json())
    assert facts["broken"] == list(report.broken)
    assert facts["parts"]["onnxruntime"]["graphs"]["onnxruntime"]["gather"] == ["right", "said why"]
    assert facts["parts"]["openvino"] == {"distributions": []}
    assert facts["sampler"]["onnxruntime"]["fp32"]["sampler"] == "gather"
    assert facts["next"]["command"] == "pip install av"
    assert facts["clashes"][0]["fix"].startswith("pip uninstall")


@pytest.mark.parametrize(("goal", "code"), [(None, 1), ("images", 0), ("video", 1)])
def test_exit_code(
    goal: str | None, code: int, machine: Prepare, capsys: pytest.CaptureFixture[str]
) -> None:
    machine(*CORE, av=Answer(problem="broken"))
    assert main(["doctor", *(["--for", goal] if goal else [])]) == code
    assert ("\n  broken " in capsys.readouterr().out) == bool(code)


@pytest.mark.parametrize("progress", [5, "bar", True])
def test_progress_that_is_no_function(progress: object, machine: Prepare) -> None:
    machine(*CORE)
    with pytest.raises(OptionError, match="progress=") as caught:
        examine("images", progress=progress)  # type: ignore[arg-type]
    assert caught.value.expected == "a function or None"
    assert "leave progress= out" in caught.value.fix


def test_progress_is_told(machine: Prepare) -> None:
    machine(*CORE)
    seen: list[tuple[int, int]] = []
    examine("images", progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]  # and the driver
    assert examine("images", progress=None).broken == ()


def test_json_has_no_folders_in_commands(machine: Prepare) -> None:
    """The page has them, so that the command works as printed."""
    command = f"cmake -S {Path.home()}/alignseg/plugins -B build"
    answer = Answer(problem="the library is another", fix=command)
    machine(*CORE, "onnx", "cuda", "nvrtc", tensorrt=answer)
    examined = examine("tensorrt")
    assert examined.advice is not None
    report = dataclasses.replace(
        examined,
        clashes=(Clash(("tensorrt",), "another", command),),
        advice=dataclasses.replace(examined.advice, command=command),
    )
    facts = json.loads(report.to_json())
    short = "cmake -S plugins -B build"
    assert (facts["clashes"][0]["fix"], facts["next"]["command"]) == (short, short)
    assert command in " ".join(page_of(report).split())


@pytest.fixture(scope="module")
def this_machine() -> Report:
    return examine("export")


def test_this_machine(this_machine: Report) -> None:
    version = importlib.metadata.version("torch")
    assert this_machine.broken == ()
    assert this_machine.answers["onnxruntime"].loads
    assert "  well           export works" in page_of(this_machine).splitlines()
    assert this_machine.versions["torch"] == (f"torch {version}",)


def test_json_names_nobody(this_machine: Report) -> None:
    """No folder of the user, no name of the machine or the user."""
    text = this_machine.to_json()
    assert str(Path.home()) not in text
    assert str(ROOT) not in text
    for name in (getpass.getuser(), socket.gethostname()):
        assert not re.search(rf"\b{re.escape(name)}\b", text)
