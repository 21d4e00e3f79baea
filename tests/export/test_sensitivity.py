"""What INT8 does to the labels, block by block, and staying within a budget."""

import json
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx_ir
import pytest
from matplotlib.colors import to_rgba
from matplotlib.container import BarContainer

from alignseg_infer.cli import main
from alignseg_infer.datasets.image_sets import choose_images
from alignseg_infer.datasets.labelled import Dataset, find_labelled_images
from alignseg_infer.demo import model_path
from alignseg_infer.demo.streets.folder import write_streets
from alignseg_infer.drawing.figures import BLUE, GRAY, ORANGE, pixels_of
from alignseg_infer.errors import AlignSegError, ModelError, OptionError, VerificationError
from alignseg_infer.export.int8 import sensitivity as module
from alignseg_infer.export.int8.calibration import calibrate_ranges
from alignseg_infer.export.int8.convolutions import Convolution, Grain, Role, find_convolutions
from alignseg_infer.export.int8.effect import Effect, EffectMeter
from alignseg_infer.export.int8.from_onnx import int8_from_onnx
from alignseg_infer.export.int8.histograms import CalibrationMethod, Ranges
from alignseg_infer.export.int8.options import CalibrationOptions, Int8Options, QuantizationOptions
from alignseg_infer.export.int8.quantize import quantize_model
from alignseg_infer.export.int8.sensitivity import (
    BlockEffect,
    Sensitivity,
    keep_within_budget,
    measure_sensitivity,
)
from alignseg_infer.export.int8.sensitivity_picture import sensitivity_figure
from alignseg_infer.predictor import Predictor

DEMO = model_path("demo")
RANGES = Ranges(CalibrationMethod.MINMAX, 3, {})


@pytest.fixture(scope="module")
def streets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a folder with images and labels of two small streets that the demo was trained on."""
    folder = tmp_path_factory.mktemp("streets")
    assert len(list(write_streets(folder, 0, 2, (64, 128)))) == 2
    return folder


@pytest.fixture(scope="module")
def demo_ranges(streets: Path) -> Ranges:
    return calibrate_ranges(DEMO, choose_images(streets / "images"))


class FakeMeter:
    """Knows what each block costs; the costs of several add up."""

    def __init__(self, costs: dict[str, float], miou: float | None = None) -> None:
        self.costs = costs
        self.miou = miou
        self.images = choose_images(DEMO.parent.parent.parent / "docs")
        self.measured: list[set[str]] = []

    def measure(self, blocks: Collection[str]) -> Effect:
        self.measured.append(set(blocks))
        cost = sum(self.costs.get(block, 0.0) for block in blocks)
        return Effect(cost, None if self.miou is None else cost / 2)


@pytest.fixture
def named_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace quantising: the "model" is the set of blocks that would be quantised."""

    def blocks_of(
        _: object, __: object, chosen: Collection[Convolution], ___: object = None
    ) -> set[str]:
        found = set()
        for conv in chosen:
            found.add(conv.block() if conv.role is Role.FEATURES else f"{conv.block()} {conv.part}")
        return found

    monkeypatch.setattr(module, "quantize_convolutions", blocks_of)


@pytest.mark.usefixtures("named_blocks")
@pytest.mark.parametrize(
    ("budget", "miou", "kept", "excluded", "drop"),
    [
        (6.0, None, (), set(), 6.0),
        (5.9, None, (), {"layer2"}, 3.0),
        (2.5, None, (), {"layer2", "RRB3b"}, 1.0),
        (0.5, None, (), {"layer2", "RRB3b", "stem"}, 0.0),
        (2.5, 80.0, (), {"layer2"}, 1.5),  # mean IoU loses half as much
        (1.5, None, ("layer2", "stem"), {"layer2", "stem", "RRB3b"}, 0.0),
        (0.0, None, ("stem",), {"stem", "layer2", "RRB3b"}, 0.0),
    ],
)
def test_budget(
    budget: float, miou: float | None, kept: tuple[str, ...], excluded: set[str], drop: float
) -> None:
    model = onnx_ir.load(DEMO)
    meter: Any = FakeMeter({"layer2": 3.0, "RRB3b": 2.0, "stem": 1.0}, miou)
    counted: list[tuple[int, int]] = []
    found = keep_within_budget(
        *(model, RANGES, meter, budget, QuantizationOptions(keep_float=kept)),
        progress=lambda done, total: counted.append((done, total)),
    )
    assert set(found.options.keep_float) == excluded
    assert set(found.excluded) == excluded - set(kept)
    assert found.effect.drop == drop
    assert meter.measured[0] == {conv.block() for conv in find_convolutions(model)} - {
        *kept,
        *("CAB2", "CAB3", "CAB4", "CAB5"),
    }
    assert [done for done, _ in counted] == list(range(1, len(meter.measured) + 1))
    assert all(done <= total for done, total in counted)


@pytest.mark.usefixtures("named_blocks")
def test_budget_that_cannot_be_met() -> None:
    model = onnx_ir.load(DEMO)
    meter: Any = FakeMeter(dict.fromkeys(["stem", "head", *_features(model)], 1.0))
    with pytest.raises(VerificationError, match=r"costs 1.000 even if only \w+ is quantised"):
        keep_within_budget(model, RANGES, meter, 0.9)


def _features(model: onnx_ir.Model) -> list[str]:
    return [conv.block() for conv in find_convolutions(model) if conv.role is Role.FEATURES]


@pytest.mark.parametrize("budget", [-1.0, float("nan")])
def test_budget_that_is_none(budget: float) -> None:
    meter: Any = FakeMeter({})
    with pytest.raises(OptionError, match="int8_budget="):
        keep_within_budget(onnx_ir.load(DEMO), RANGES, meter, budget)


@pytest.mark.usefixtures("named_blocks")
def test_blocks_are_ranked() -> None:
    model = onnx_ir.load(DEMO)
    meter: Any = FakeMeter({"layer2": 3.0, "CAB3 offsets": 4.0, "head classifier": 1.0})
    found = measure_sensitivity(model, RANGES, meter)
    assert [one.block for one in found.blocks[:3]] == ["CAB3 offsets", "layer2", "head classifier"]
    assert [one.always_float for one in found.blocks[:3]] == [True, False, True]
    assert found.together.disagreement == 3.0
    assert sum(one.convolutions for one in found.blocks) == 76
    assert "| CAB3 offsets (stays float) | 4 | 4.000 | - |" in found.to_markdown()
    assert found.to_markdown().endswith("| all others together | 55 | 3.000 | - |\n")


@pytest.mark.usefixtures("named_blocks")
def test_grain() -> None:
    meter: Any = FakeMeter({})
    found = measure_sensitivity(onnx_ir.load(DEMO), RANGES, meter, grain=Grain.BLOCK)
    assert {"layer3.0", "layer3.1", "stem", "RRB2b"} < {one.block for one in found.blocks}


def test_comparison_counts_pixels(streets: Path, demo_ranges: Ranges, tmp_path: Path) -> None:
    """The reference is the same measurement by hand; the original does not differ from itself."""
    demo = onnx_ir.load(DEMO)
    data = find_labelled_images(Dataset.FOLDER, streets)
    counted: list[tuple[int, int]] = []
    meter = EffectMeter(
        *(DEMO, choose_images(streets / "images", 1), tmp_path),
        labelled=data,
        progress=lambda done, total: counted.append((done, total)),
    )
    assert counted == [(1, 2), (2, 2)]
    assert meter.measure(demo) == Effect(0.0, 0.0)
    rough = {name: limit / 20 for name, limit in demo_ranges.limits.items()}
    changed = quantize_model(demo, Ranges(CalibrationMethod.MINMAX, 1, rough))
    effect = meter.measure(changed)
    onnx_ir.save(changed, tmp_path / "rough.onnx")
    paths = [pair.image for pair in data.pairs]
    pairs = zip(Predictor(DEMO)(paths), Predictor(tmp_path / "rough.onnx")(paths), strict=True)
    different = np.mean([one.labels != other.labels for one, other in pairs])
    assert effect.disagreement == pytest.approx(100 * different)
    assert effect.disagreement > 1
    assert effect.miou_loss == effect.drop
    assert effect.drop > 1
    unlabelled = EffectMeter(DEMO, choose_images(streets / "images"), tmp_path)
    assert unlabelled.measure(changed) == Effect(effect.disagreement)


def test_int8_from_onnx_within_a_budget(streets: Path, tmp_path: Path) -> None:
    calibration = CalibrationOptions(cache=tmp_path / "cache")
    options = Int8Options(source=streets / "images", calibration=calibration)
    free = int8_from_onnx(DEMO, options)
    assert (free.excluded, free.effect) == ((), None)
    limited = int8_from_onnx(DEMO, Int8Options(**{**vars(options), "budget": 100.0}))
    assert limited.excluded == ()
    assert limited.effect is not None
    assert 0 < limited.effect.drop < 2
    assert onnx_ir.to_proto(limited.model) == onnx_ir.to_proto(free.model)
    kept = QuantizationOptions(keep_float=("layer4",))
    other = int8_from_onnx(DEMO, Int8Options(**{**vars(options), "quantization": kept}))
    assert "model.layer4.0.conv1.weight" in other.model.graph.initializers


def test_command(streets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The report on the small network lists all blocks; with labels and without."""
    command = ["sensitivity", "demo", "--calibration", str(streets / "images"), "-o", str(tmp_path)]
    command += ["--max-calibration-images", "1", "--calibration-cache", str(tmp_path / "cache")]
    labels = ["--dataset", "folder", "--root", str(streets), "--max-images", "1"]
    assert main([*command, *labels]) == 0
    out = capsys.readouterr().out
    assert out == (tmp_path / "sensitivity.md").read_text()
    facts = json.loads((tmp_path / "sensitivity.json").read_text())
    assert len(facts["blocks"]) == 22
    assert facts["method"] == "percentile"
    shares = [one["effect"]["disagreement"] for one in facts["blocks"]]
    assert shares == sorted(shares, reverse=True)
    assert 0 < facts["together"]["disagreement"] < 5
    assert 20 < facts["miou"] < 100
    picture = cv2.imread(str(tmp_path / "sensitivity.png"))
    assert picture is not None


def test_picture_shows_lengths() -> None:
    blocks = [
        BlockEffect("CAB5 offsets", 4, True, Effect(2.0, 0.5)),
        BlockEffect("layer1", 5, False, Effect(1.0, -0.1)),
    ]
    together = Effect(4.0, 1.0)
    figure = sensitivity_figure(Sensitivity("x", "minmax", 1, 80.0, tuple(blocks), together))
    (axes,) = figure.axes
    (bars,) = axes.containers
    assert isinstance(bars, BarContainer)
    assert [bar.get_width() for bar in bars] == [2.0, 1.0, 4.0]
    assert [bar.get_facecolor() for bar in bars] == [
        to_rgba(color) for color in (GRAY, BLUE, ORANGE)
    ]
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == ["CAB5 offsets", "layer1", "all together"]
    notes = [text.get_text() for text in axes.texts]
    assert notes == ["2.000 (+0.50)", "1.000 (-0.10)", "4.000 (+1.00)"]


@pytest.mark.parametrize("count", [0, 1, 60])
@pytest.mark.parametrize("name", ["stem", "a-block-of-a-long-name-" * 6])
def test_picture_is_not_cut(count: int, name: str) -> None:
    blocks = [BlockEffect(name, 1, False, Effect(float(number))) for number in range(count)]
    found = Sensitivity("images " * 40, "minmax", 1, None, tuple(blocks), Effect(0.0))
    picture = pixels_of(sensitivity_figure(found))
    border = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
    assert (border == 255).all()


def test_command_without_matplotlib(
    streets: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It says so before it measures anything."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    command = ["sensitivity", "demo", "--calibration", str(streets / "images"), "-o", str(tmp_path)]
    assert main(command) == 1
    errors = capsys.readouterr().err
    assert "needs the package matplotlib, which is not installed" in errors
    assert "try: pip install matplotlib" in errors
    assert "calibrat" not in errors


COMMANDS: list[tuple[str, type[AlignSegError], str]] = [
    ("sensitivity nowhere.onnx --calibration IMAGES -o out", AlignSegError, "does not exist"),
    ("sensitivity demo --calibration nowhere -o out", AlignSegError, "does not exist"),
    ("sensitivity demo --calibration IMAGES -o out --dataset folder", OptionError, "only one of"),
    ("sensitivity demo --calibration IMAGES -o out --root ROOT", OptionError, "only one of"),
    (
        "sensitivity demo --calibration IMAGES -o out --max-calibration-images 0",
        OptionError,
        "0 images of",
    ),
    ("sensitivity demo --calibration IMAGES -o out --calibration-size 8x8", AlignSegError, "8x8"),
    (
        "sensitivity demo --calibration IMAGES -o out --dataset folder --root IMAGES",
        AlignSegError,
        "is not a folder",
    ),
]


@pytest.mark.parametrize(("command", "error", "problem"), COMMANDS)
def test_bad_commands(
    command: str,
    error: type[AlignSegError],
    problem: str,
    streets: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    names = {"IMAGES": str(streets / "images"), "ROOT": str(streets)}
    words = [names.get(word, word) for word in command.split()]
    assert main(words) == 1
    message = capsys.readouterr().err
    assert problem in message
    assert "Traceback" not in message
    assert not list(tmp_path.glob("out/*"))
    with pytest.raises(error, match=problem):
        main([*words, "--debug"])


def test_labels_of_another_dataset(streets: Path, tmp_path: Path) -> None:
    ade = find_labelled_images(Dataset.FOLDER, streets)
    other = type(ade)(Dataset.ADE20K, ade.name, ade.root, ade.pairs)
    with pytest.raises(ModelError, match="19 classes"):
        EffectMeter(DEMO, choose_images(streets / "images"), tmp_path, labelled=other)
