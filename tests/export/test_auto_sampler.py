"""``sampler="auto"``: the sampler that is right in the runtime, printed and recorded."""

from pathlib import Path

import pytest

from alignseg_infer import OptionError, export_engine, export_onnx
from alignseg_infer.cli import main
from alignseg_infer.doctor import sampler as choosing
from alignseg_infer.doctor.asking import Answer
from alignseg_infer.doctor.catalogue import CASES
from alignseg_infer.doctor.parts import Part
from alignseg_infer.doctor.runtimes import Found, Target, Verdict
from alignseg_infer.errors import ExportError
from alignseg_infer.export.adapting import choose_sampler
from alignseg_infer.export.recipe import recipe_for
from alignseg_infer.spec.model import Sampler
from alignseg_infer.spec.onnx_facts import read_onnx_facts


def answer_with(target: Target, wrong: str) -> Answer:
    """The answer of a runtime in which all graphs whose names begin like this are wrong."""
    found = {
        case.name: Found(Verdict.WRONG if case.name.startswith(wrong) else Verdict.RIGHT)
        for case in CASES
    }
    return Answer(loads=True, results={target: found})


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The runtimes that were asked; GridSample is wrong in all of them."""
    modules: list[str] = []

    def ask(part: Part) -> Answer:
        modules.append(part.module)
        return answer_with(part.targets[0], "grid-sample")

    monkeypatch.setattr(choosing, "ask", ask)
    return modules


def test_the_choice_is_printed_and_recorded(
    asked: list[str],
    small_checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    target = tmp_path / "a.onnx"
    words = [
        "export-onnx",
        str(small_checkpoint),
        "-o",
        str(target),
        "--size",
        "64x96",
        "--batch",
        "1",
    ]
    assert main([*words, "--sampler", "auto"]) == 0
    assert asked == ["onnxruntime"]
    reason = "not native: grid-sample-16 is wrong in onnxruntime"
    assert f"--sampler auto: {reason}" in capsys.readouterr().err
    facts = read_onnx_facts(target)
    assert facts.export.sampler is Sampler.GATHER
    assert facts.grid_samples == 0
    assert f"; sampler chosen by auto: {reason}" in facts.export.exporter
    assert main(["inspect", str(target)]) == 0
    assert reason in capsys.readouterr().out


def test_an_engine_asks_its_own_flavour(asked: list[str], tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    recipe = choose_sampler(
        tmp_path / "a.pth", recipe_for({"sampler": "auto"}), Target.TENSORRT_RTX
    )
    assert asked == ["tensorrt_rtx"]
    assert recipe.graph is not None
    assert recipe.graph.sampler is Sampler.GATHER
    assert recipe.sampler_choice is not None


def test_other_options_of_the_graph_stay(asked: list[str]) -> None:
    recipe = recipe_for({"sampler": "auto", "opset": 17, "output": "labels"})
    chosen = choose_sampler(Path("a.pth"), recipe, Target.ONNXRUNTIME)
    assert chosen.graph is not None
    assert (chosen.graph.opset, chosen.graph.output) == (17, "labels")


def test_a_sampler_that_is_named_is_not_chosen(asked: list[str]) -> None:
    recipe = recipe_for({"sampler": "native"})
    assert choose_sampler(Path("a.pth"), recipe, Target.ONNXRUNTIME) is recipe
    assert asked == []


def test_no_sampler_is_right(
    monkeypatch: pytest.MonkeyPatch, small_checkpoint: Path, tmp_path: Path
) -> None:
    monkeypatch.setattr(choosing, "ask", lambda part: answer_with(part.targets[0], "g"))
    with pytest.raises(ExportError, match="sampler='auto' finds none that is right"):
        export_onnx(small_checkpoint, tmp_path / "a.onnx", sampler="auto")
    assert list(tmp_path.iterdir()) == []


def test_an_exported_model_has_its_sampler(asked: list[str], tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    with pytest.raises(OptionError, match="sampler= cannot change"):
        export_engine("demo", tmp_path / "a.engine", flavour="tensorrt-rtx", sampler="auto")
    assert asked == []
