"""The model in the package: what it is, how good it is, and that ``demo`` names it everywhere."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from alignseg_infer import Predictor
from alignseg_infer.cli import main
from alignseg_infer.datasets.class_tables import CITYSCAPES
from alignseg_infer.demo import FIRST_HELD_OUT, checkpoint_path, model_path
from alignseg_infer.demo.streets import Street
from alignseg_infer.demo.streets.folder import write_streets
from alignseg_infer.evaluation.metrics import BoundaryMatches, ConfusionMatrix
from alignseg_infer.files.reading import sha256_of
from alignseg_infer.models.checkpoint import load_checkpoint
from alignseg_infer.spec.model import SamplingConvention
from tests.support.slow import all_slow

FILES = [model_path("demo"), checkpoint_path("demo")]


def test_files_are_small() -> None:
    assert sum(path.stat().st_size for path in FILES) < 15e6


def test_only_the_word_demo_is_the_demo() -> None:
    for path in ("demo.onnx", "out/demo", Path("x/demo")):
        assert model_path(path) == Path(path)
        assert checkpoint_path(path) == Path(path)


def test_demo_is_what_its_spec_says() -> None:
    spec = Predictor("demo").spec
    assert spec.classes == CITYSCAPES
    assert spec.network.convention is SamplingConvention.STANDARD
    assert spec.source is not None
    assert spec.source.sha256 == sha256_of(checkpoint_path("demo"))


def test_demo_is_good_on_streets_it_was_not_trained_on() -> None:
    """These 20 give 84.9 % mean IoU and 88.2 % boundary F1; all 200 give 83.5 % and 86.7 %."""
    predictor, classes = Predictor("demo"), len(CITYSCAPES.names)
    confusions, boundaries = [], []
    for seed in range(FIRST_HELD_OUT, FIRST_HELD_OUT + 20):
        scene = Street(seed).scene()
        labels = predictor(scene.image).labels
        confusions.append(ConfusionMatrix.of(scene.labels, labels, classes))
        boundaries.append(BoundaryMatches.of(scene.labels, labels, classes))
    assert sum(confusions[1:], confusions[0]).mean_iou > 0.84
    assert sum(boundaries[1:], boundaries[0]).mean_f1 > 0.875


def test_recipe_tells_seed_and_scores() -> None:
    facts = json.loads((model_path("demo").parent / "recipe.json").read_text())
    assert facts["recipe"]["seed"] == 0
    assert facts["evaluation"]["images"] == 200
    (model,) = facts["evaluation"]["models"]
    assert model["mean_iou"] > 0.75


def test_checkpoint_and_export_are_one_network() -> None:
    image = Street(FIRST_HELD_OUT).scene().image
    checkpoint = load_checkpoint("demo")
    assert checkpoint.assumptions == ()
    exported, trained = Predictor("demo"), Predictor(checkpoint_path("demo"))
    assert exported.spec.network == trained.spec.network == checkpoint.spec.network
    assert (exported(image).labels == trained(image).labels).mean() > 0.9999


def test_flip_of_a_mirrored_street_gives_mirrored_labels() -> None:
    predictor = Predictor("demo", flip=True)
    image = Street(FIRST_HELD_OUT).scene(size=(96, 161)).image
    mirrored = np.ascontiguousarray(image[:, ::-1])
    same = predictor(image).labels == predictor(mirrored).labels[:, ::-1]
    assert same.mean() > 0.999  # not all, since sums are rounded in another order


def test_files_hold_the_streets_that_were_drawn(tmp_path: Path) -> None:
    (files,) = write_streets(tmp_path, 5, 1, (64, 128))
    np.testing.assert_array_equal(cv2.imread(str(files.image)), files.scene.image)
    np.testing.assert_array_equal(cv2.imread(str(files.labels), -1), files.scene.labels)
    np.testing.assert_array_equal(files.scene.image, Street(5).scene(size=(64, 128)).image)


@pytest.fixture
def demo_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[Path, str]:
    folder = tmp_path / "made" / "on the way"
    assert main(["demo", "-o", str(folder), "--streets", "2"]) == 0
    return folder, capsys.readouterr().out


def test_demo_command_writes_pictures_and_a_dataset(
    demo_output: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, said = demo_output
    assert said.splitlines()[-1] == str(folder / "demo.png")
    score = next(line for line in said.splitlines() if line.startswith("mean IoU "))
    sheet = cv2.imread(str(folder / "demo.png"))
    assert sheet is not None
    assert sheet.shape[0] > 2 * 256
    assert sheet.shape[1] == 3 * 512
    assert len(list((folder / "results").glob("*_overlay.jpg"))) == 2
    # The folder is a dataset, for which `alignseg eval` finds the same scores.
    arguments = ["eval", "demo", "--dataset", "folder", "--root", str(folder)]
    assert main([*arguments, "-o", str(folder)]) == 0
    capsys.readouterr()
    (model,) = json.loads((folder / "evaluation.json").read_text())["models"]
    assert f"{model['mean_iou']:.1%}" in score


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["inspect", "demo"], "resnet18"),
        (["predict", "demo", "IMAGE", "-o", "OUT"], "overlay"),
        (["predict", "demo", "IMAGE", "-o", "OUT", "--mode", "slide", "--tile", "128"], "overlay"),
        (["offsets", "demo", "IMAGE", "-o", "OUT/offsets.png"], "cab2.high"),
        *all_slow(
            (
                ["export-onnx", "demo", "-o", "OUT/x.onnx", "--size", "64x96", "--batch", "1"],
                "x.onnx",
            )
        ),
    ],
)
def test_every_command_knows_the_demo(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (files,) = write_streets(tmp_path, 3, 1, (128, 256))
    places = {"IMAGE": str(files.image), "OUT": str(tmp_path)}
    filled = [places.get(text, text.replace("OUT", str(tmp_path))) for text in arguments]
    assert main(filled) == 0
    assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "fix"),
    [
        (["--streets", "0"], "--streets 4"),
        (["--seed", "-1"], "--seed 0"),
        (["--device", "tpu"], "--device cpu"),
    ],
)
def test_demo_refuses_bad_arguments(
    arguments: list[str], fix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "-o", str(tmp_path), *arguments]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert fix in said


def test_results_state_the_scores_of_both_trainings() -> None:
    readme = (Path(__file__).parents[2] / "docs" / "results.md").read_text(encoding="utf-8")
    folder = model_path("demo").parent
    models = [
        json.loads((folder / name).read_text())["evaluation"]["models"][0]
        for name in ("recipe.json", "recipe-frozen-offsets.json")
    ]
    rows = {name: [model["classes"][name] for model in models] for name in CITYSCAPES.names}
    rows["**mean**"] = [
        {"iou": model["mean_iou"], "boundary_f1": model["mean_boundary_f1"]} for model in models
    ]
    for name, scores in rows.items():
        figures = [score[key] for key in ("iou", "boundary_f1") for score in scores]
        assert f"| {name} | {' | '.join(f'{100 * x:.1f}' for x in figures)} |" in readme


@pytest.mark.parametrize(
    "arguments",
    [
        ["eval", "LOOP", "--dataset", "folder", "--root", "ROOT"],
        ["offsets", "demo", "IMAGE", "-o", "LOOP"],
        ["predict", "demo", "LOOP", "-o", "ROOT/out"],
    ],
)
def test_a_link_to_itself_is_an_error_of_ours(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (files,) = write_streets(tmp_path, 3, 1, (64, 128))
    loop = tmp_path / "loop.png"
    loop.symlink_to(loop)
    places = {"LOOP": str(loop), "IMAGE": str(files.image), "ROOT": str(tmp_path)}
    assert main([places.get(text, text.replace("ROOT", str(tmp_path))) for text in arguments]) == 1
    assert capsys.readouterr().err.startswith("error: ")
