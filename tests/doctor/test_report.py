"""The page, the JSON, the goals and the exit code."""

import getpass
import importlib.metadata
import json
import re
import shlex
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from alignseg_infer import OptionError
from alignseg_infer.cli import COMMANDS, main, make_parser
from alignseg_infer.doctor import Goal, Report, examination, examine
from alignseg_infer.doctor.asking import Answer
from alignseg_infer.doctor.catalogue import CASES
from alignseg_infer.doctor.goals import NEEDS, advise
from alignseg_infer.doctor.page import WIDTH, page_of
from alignseg_infer.doctor.parts import DRIVER, PARTS, Part
from alignseg_infer.doctor.runtimes import Found, Target, Verdict, cases_of

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

        def ask(part: Part) -> Answer:
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


ADVICE = [
    ("images", {}, "alignseg predict"),
    ("gpu", {}, "pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime-gpu"),
    (
        "gpu",
        {"onnxruntime": Answer(loads=True, runs_on="CUDAExecutionProvider, CPUExecutionProvider")},
        "alignseg predict MODEL.onnx IMAGE -o out/ --device cuda",
    ),
    ("openvino", {}, "pip install 'alignseg-infer[openvino]'"),
    ("video", {"av": Answer(loads=True)}, "alignseg video"),
    ("images", {"onnxruntime": Answer(problem="broken", fix="pip install it")}, "pip install it"),
    ("images", {"onnxruntime": Answer(problem="broken")}, "pip install onnxruntime"),
]


@pytest.mark.parametrize(("goal", "others", "command"), ADVICE)
def test_advice(goal: str, others: dict[str, Answer], command: str) -> None:
    answers = {name: Answer(loads=True, runs_on="CPUExecutionProvider") for name in CORE} | others
    assert advise(Goal(goal), answers, set()).command.startswith(command)


WITHOUT_ONNXRUNTIME = [
    ("images", (), "pip install onnxruntime"),
    ("gpu", (), "pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime-gpu"),
    ("video", ("av",), "pip install onnxruntime"),
    ("video", (), "pip install onnxruntime && pip install 'alignseg-infer[video]'"),
]


@pytest.mark.parametrize(("goal", "others", "command"), WITHOUT_ONNXRUNTIME)
def test_advice_without_onnxruntime(goal: str, others: tuple[str, ...], command: str) -> None:
    """Which no extra for a goal brings, since somebody may have chosen another one."""
    answers = {name: Answer(loads=True) for name in ("numpy", "cv2", *others)}
    advice = advise(Goal(goal), answers, set())
    assert advice.command == command
    assert "onnxruntime" in advice.missing


def test_goals_name_extras_commands_and_modules_that_exist() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    extras = set(re.findall(r"^([\w-]+) = \[", text, re.MULTILINE))
    for goal, needs in NEEDS.items():
        for names in re.findall(r"alignseg-infer\[([\w,-]+)\]", needs.install):
            assert set(names.split(",")) <= extras, goal
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
        "to install pip install 'alignseg-infer[video]'",
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
    assert facts["next"]["command"] == "pip install 'alignseg-infer[video]'"
    assert facts["clashes"][0]["fix"].startswith("pip uninstall")


@pytest.mark.parametrize(("goal", "code"), [(None, 1), ("images", 0), ("video", 1)])
def test_exit_code(
    goal: str | None, code: int, machine: Prepare, capsys: pytest.CaptureFixture[str]
) -> None:
    machine(*CORE, av=Answer(problem="broken"))
    assert main(["doctor", *(["--for", goal] if goal else [])]) == code
    assert ("\n  broken " in capsys.readouterr().out) == bool(code)


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
