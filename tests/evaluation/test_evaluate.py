"""Evaluation end to end: with a backend that is not a network, and through the command."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix

from alignseg_infer.backends.onnxruntime_backend import OnnxRuntimeBackend
from alignseg_infer.cli import main
from alignseg_infer.datasets.class_tables import class_table_for
from alignseg_infer.datasets.labelled import (
    Dataset,
    LabelledImages,
    find_labelled_images,
    label_table,
    read_truth,
)
from alignseg_infer.errors import AlignSegError, DatasetError, ModelError, OptionError, OutputError
from alignseg_infer.evaluation.evaluate import evaluate
from alignseg_infer.export.verification.probes import probe_image
from alignseg_infer.predictor import Predictor
from alignseg_infer.spec.model import ModelSpec
from tests.support.models import SMALL_SPEC, FakeBackend

SIZE = (40, 64)
ROAD, CAR, IGNORED_ID = 7, 26, 4  # labelIds of labels 0, 13 and none


class Shifted(FakeBackend):
    """Gives label 13 where `FakeBackend` gives 0."""

    name = "shifted"

    def infer(self, batch: NDArray[np.float32]) -> NDArray[np.generic]:
        logits = super().infer(batch)
        logits[:, 13] = logits[:, 0] + 1
        return logits


class Interrupted(FakeBackend):
    """Raises KeyboardInterrupt in the third call."""

    def infer(self, batch: NDArray[np.float32]) -> NDArray[np.generic]:
        if len(self.batches) == 2:
            raise KeyboardInterrupt
        return super().infer(batch)


def write_pair(root: Path, frame: int, image: NDArray[np.uint8], ids: NDArray[np.uint8]) -> None:
    stem = f"val/ulm/ulm_{frame:06}"
    for path, pixels in (
        (root / f"leftImg8bit/{stem}_leftImg8bit.png", image),
        (root / f"gtFine/{stem}_gtFine_labelIds.png", ids),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), pixels)


@pytest.fixture
def roads(tmp_path: Path) -> Path:
    """Write five images that a `FakeBackend` labels road; a quarter is car, a quarter ignored."""
    ids = np.full(SIZE, ROAD, np.uint8)
    ids[:20, :32] = CAR
    ids[20:, :32] = IGNORED_ID
    for frame in range(5):
        write_pair(tmp_path, frame, np.zeros((*SIZE, 3), np.uint8), ids)
    return tmp_path


@pytest.fixture
def street(tmp_path: Path) -> Path:
    """Write three probe images, and random labelIds in blocks."""
    random = np.random.default_rng(0)
    for frame in range(3):
        blocks = random.integers(0, 34, (8, 12)).astype(np.uint8)
        ids = blocks.repeat(10, axis=0).repeat(12, axis=1)
        write_pair(tmp_path, frame, probe_image(ids.shape, frame), ids)
    return tmp_path


def found(root: Path) -> LabelledImages:
    return find_labelled_images(Dataset.CITYSCAPES, root)


def test_counts_by_hand(roads: Path) -> None:
    predictors = {"right": Predictor(FakeBackend()), "wrong": Predictor(Shifted())}
    result = evaluate(predictors, found(roads))
    right, wrong = result.models
    half, quarter = 5 * SIZE[0] * SIZE[1] // 2, 5 * SIZE[0] * SIZE[1] // 4
    assert (right.confusion.counts[0, 0], right.confusion.counts[13, 0]) == (half, quarter)
    assert right.confusion.counts.sum() == half + quarter
    assert (wrong.confusion.counts[0, 13], wrong.confusion.counts[13, 13]) == (half, quarter)
    assert right.confusion.mean_iou == (2 / 3 + 0) / 2
    # The road's boundary with the car: a column of 20. The other half is against ignored pixels.
    np.testing.assert_array_equal(right.boundary.true[[0, 13]], [100, 100])
    assert right.boundary.predicted.sum() == 0
    assert result.agreement == (("right", "wrong", 0.0),)
    assert (right.name, right.backend, wrong.backend) == ("right", "fake", "shifted")
    assert (result.images, result.total, result.partial) == (5, 5, False)


@pytest.mark.parametrize("batch", [1, 2, 8])
def test_batch_changes_nothing_but_the_calls(roads: Path, batch: int) -> None:
    backend = FakeBackend()
    result = evaluate({"a": Predictor(backend, batch=batch)}, found(roads))
    assert max(shape[0] for shape in backend.batches) == min(batch, 5)
    assert sum(shape[0] for shape in backend.batches) == 5
    assert result.models[0].confusion.pixel_accuracy == 2 / 3


def test_mean_times(roads: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(10**6))
    monkeypatch.setattr("time.perf_counter", lambda: float(next(ticks)))
    times = evaluate({"a": Predictor(FakeBackend())}, found(roads)).models[0].times
    assert (times.load, times.preprocess, times.infer, times.postprocess) == (1e3, 1e3, 1e3, 1e3)


def test_interrupt_keeps_what_was_counted(roads: Path) -> None:
    """The second model is interrupted at the third image, which the first has segmented."""
    predictors = {"a": Predictor(FakeBackend()), "b": Predictor(Interrupted())}
    counted: list[tuple[int, int]] = []
    result = evaluate(predictors, found(roads), progress=lambda *count: counted.append(count))
    assert (result.images, result.total, result.partial) == (2, 5, True)
    assert counted == [(1, 5), (2, 5)]
    for model in result.models:
        assert model.confusion.counts.sum() == 2 * SIZE[0] * SIZE[1] * 3 // 4
    assert "**partial: 2 of 5 images**" in result.to_markdown()
    facts = json.loads(result.to_json())
    assert (facts["partial"], facts["images"], facts["total"]) == (True, 2, 5)


def test_interrupt_before_the_first_image(roads: Path) -> None:
    backend = Interrupted()
    backend.batches = [(), ()]
    with pytest.raises(KeyboardInterrupt):
        evaluate({"a": Predictor(backend)}, found(roads))


def test_json(roads: Path) -> None:
    result = evaluate(
        {"a": Predictor(FakeBackend())}, found(roads), tolerance=2, settings={"root": roads}
    )
    facts = json.loads(result.to_json(), parse_constant=pytest.fail)
    assert facts["data"] == "cityscapes val"
    assert facts["boundary_tolerance"] == 2
    assert facts["settings"] == {"root": str(roads)}
    (model,) = facts["models"]
    assert model["mean_iou"] == pytest.approx(1 / 3)
    assert model["classes"]["road"]["iou"] == pytest.approx(2 / 3)
    assert model["classes"]["car"]["boundary_precision"] is None
    assert model["classes"]["train"]["iou"] is None
    assert np.array(model["confusion"]).shape == (19, 19)
    assert set(model["milliseconds"]) == {"load", "preprocess", "infer", "postprocess"}


def test_markdown(roads: Path) -> None:
    predictors = {"a|b": Predictor(FakeBackend()), "c": Predictor(Shifted())}
    lines = evaluate(predictors, found(roads)).to_markdown().splitlines()
    assert lines[0] == "# cityscapes val: 5 images"
    tables = [line for line in lines if line.startswith("|")]
    assert "| class | IoU a\\|b | IoU c | boundary F1 a\\|b | boundary F1 c |" in tables
    assert "| road | 66.67 | 0.00 | 0.00 | 0.00 |" in tables
    assert "| train | - | - | - | - |" in tables
    assert "| a\\|b | c | 0.00 |" in tables
    assert any(line.startswith("| a\\|b | 33.33 | 66.67 | 50.00 | 0.00 | ") for line in tables)


def test_folder_takes_the_models_classes(tmp_path: Path) -> None:
    spec = replace(
        SMALL_SPEC,
        network=replace(SMALL_SPEC.network, num_classes=3),
        classes=class_table_for(3),
    )
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    cv2.imwrite(str(tmp_path / "images/a.png"), np.full((*SIZE, 3), 2, np.uint8))
    cv2.imwrite(str(tmp_path / "labels/a.png"), np.full(SIZE, 2, np.uint8))
    data = find_labelled_images(Dataset.FOLDER, tmp_path)
    result = evaluate({"a": Predictor(FakeBackend(spec))}, data)
    assert result.classes == ("class 0", "class 1", "class 2")
    assert result.models[0].confusion.mean_iou == 1
    with pytest.raises(ModelError, match="b has 19 classes"):
        evaluate({"a": Predictor(FakeBackend(spec)), "b": Predictor(FakeBackend())}, data)
    cv2.imwrite(str(tmp_path / "labels/a.png"), np.full(SIZE, 3, np.uint8))
    with pytest.raises(DatasetError, match=r"labels/a.png has the values 3"):
        evaluate({"a": Predictor(FakeBackend(spec))}, data)


def masks(root: Path, values: list[int]) -> LabelledImages:
    """Write an image of equal stripes, which a `FakeBackend` labels 0 to C-1, and their labels."""
    for index, value in enumerate(values):
        for side in ("images", "labels"):
            (root / side).mkdir(exist_ok=True)
        image, label = np.full((*SIZE, 3), index, np.uint8), np.full(SIZE, value, np.uint8)
        cv2.imwrite(str(root / f"images/{index}.png"), image)
        cv2.imwrite(str(root / f"labels/{index}.png"), label)
    return find_labelled_images(Dataset.FOLDER, root)


def test_masks_of_0_and_255_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What the warning tells to do is done, and the scores are right."""
    data, predictor = masks(tmp_path, [0, 255]), {"a": Predictor(FakeBackend(with_classes(2)))}
    result = evaluate(predictor, data)
    (warning,) = result.warnings
    assert "the labels are only 0 and 255, and 50.0 % of the pixels are 255" in warning
    assert caplog.records[0].message == f"{tmp_path}: {warning}"
    assert warning in json.loads(result.to_json())["warnings"]
    assert "\n\nWarning: the labels are only 0 and 255" in result.to_markdown()
    fix = warning.rpartition(": ")[2]
    for pair in data.pairs:
        labels = cv2.imread(str(pair.labels), cv2.IMREAD_GRAYSCALE)
        exec(fix, {"labels": labels})
        cv2.imwrite(str(pair.labels), np.asarray(labels))
    result = evaluate(predictor, data)
    assert (result.warnings, result.models[0].confusion.mean_iou) == ((), 1)
    assert "Warning" not in result.to_markdown()


@pytest.mark.parametrize(
    ("values", "classes", "said"),
    [
        ([0, 255, 2], 3, "no pixel has the label 1 (class 1), and 33.3 % of the pixels are 255"),
        ([1, 255], 2, "no pixel has the label 0 (class 0), and 50.0 % of the pixels are 255"),
        ([0, 255], 19, "1 (sidewalk), 2 (building), 3 (wall) and 15 more, and 50.0 %"),
        ([0, 1, 255], 2, None),
        ([0, 0], 2, None),
        ([0, 2], 3, None),
    ],
)
def test_a_class_that_may_be_255(
    values: list[int], classes: int, said: str | None, tmp_path: Path
) -> None:
    predictor = Predictor(FakeBackend(with_classes(classes)))
    found = evaluate({"a": predictor}, masks(tmp_path, values)).warnings
    assert len(found) == bool(said)
    assert not said or said in found[0]


def test_ignored_pixels_of_cityscapes_are_no_class(roads: Path) -> None:
    assert evaluate({"a": Predictor(FakeBackend())}, found(roads)).warnings == ()


def with_classes(count: int) -> ModelSpec:
    network = replace(SMALL_SPEC.network, num_classes=count)
    return replace(SMALL_SPEC, network=network, classes=class_table_for(count))


def renamed() -> ModelSpec:
    names = ("street", *SMALL_SPEC.classes.names[1:])
    return replace(SMALL_SPEC, classes=replace(SMALL_SPEC.classes, names=names))


@pytest.mark.parametrize("spec", [with_classes(21), with_classes(150), renamed()])
def test_model_of_other_classes_never_runs(roads: Path, spec: ModelSpec) -> None:
    backends = [FakeBackend(), FakeBackend(spec)]
    predictors = dict(zip("ab", map(Predictor, backends), strict=True))
    with pytest.raises(ModelError, match=f"b has {len(spec.classes.names)} classes"):
        evaluate(predictors, found(roads))
    assert backends[0].batches == backends[1].batches == []


def test_too_many_classes(roads: Path) -> None:
    data = replace(found(roads), dataset=Dataset.FOLDER)
    with pytest.raises(ModelError, match="a has 256 classes"):
        evaluate({"a": Predictor(FakeBackend(with_classes(256)))}, data)


@pytest.mark.parametrize("options", [{"predictors": {}}, {"tolerance": -1}])
def test_bad_options(roads: Path, options: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        evaluate(**{"predictors": {"a": Predictor(FakeBackend())}, "data": found(roads), **options})


def test_broken_image_is_found_before_anything_runs(roads: Path) -> None:
    data, backend = found(roads), FakeBackend()
    path = Path(data.pairs[-1].image)
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(DatasetError, match="1 of 5 labelled images"):
        evaluate({"a": Predictor(backend)}, data)
    assert backend.batches == []


def eval_command(root: Path, *models: Path) -> list[str]:
    return ["eval", *map(str, models), "--dataset", "cityscapes", "--root", str(root)]


def test_command(
    small_onnx: Path, street: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Compare with scikit-learn's counts of the same predictor's labels."""
    out = tmp_path / "out"
    assert main([*eval_command(street, small_onnx), "--split", "val", "-o", str(out)]) == 0
    captured = capsys.readouterr()
    assert sorted(file.name for file in out.iterdir()) == ["evaluation.json", "evaluation.md"]
    assert captured.out == (out / "evaluation.md").read_text()
    assert "3 of 3 images" in captured.err
    data, table = found(street), label_table(Dataset.CITYSCAPES, 19)
    expected = np.zeros((19, 19), np.int64)
    predictor = Predictor(small_onnx)
    for pair in data.pairs:
        truth, labels = read_truth(pair.labels, table), predictor(pair.image).labels
        valid = truth < 19
        expected += confusion_matrix(truth[valid], labels[valid], labels=range(19))
    facts = json.loads((out / "evaluation.json").read_text())
    assert facts["models"][0]["confusion"] == expected.tolist()
    assert facts["models"][0]["name"] == small_onnx.name
    assert facts["settings"]["split"] == "val"


def test_models_of_one_name_stay_apart(
    small_onnx: Path, street: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "fp32").mkdir()
    twin = Path(shutil.copy(small_onnx, tmp_path / "fp32"))
    command = eval_command(street, small_onnx, twin)
    assert main([*command, "--max-images", "1", "--size", "64x96", "--threads", "1"]) == 0
    out = capsys.readouterr().out
    assert "# cityscapes val, first 1 of 3: 1 images" in out
    assert f"| {small_onnx} | {twin} | 100.00 |" in out


def test_interrupted_command(
    small_onnx: Path,
    street: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    infer, calls = OnnxRuntimeBackend.infer, iter(range(9))

    def interrupted(self: OnnxRuntimeBackend, batch: NDArray[np.float32]) -> NDArray[np.generic]:
        if next(calls) == 2:
            raise KeyboardInterrupt
        return infer(self, batch)

    monkeypatch.setattr(OnnxRuntimeBackend, "infer", interrupted)
    out = tmp_path / "out"
    assert main([*eval_command(street, small_onnx), "-o", str(out)]) == 130
    captured = capsys.readouterr()
    assert "interrupted after 2 of 3" in captured.err
    assert "partial: 2 of 3 images" in captured.out
    assert json.loads((out / "evaluation.json").read_text())["partial"] is True


BAD: list[tuple[str, type[AlignSegError], str]] = [
    ("small.onnx --dataset cityscapes --root nowhere", DatasetError, "nowhere/leftImg8bit/val"),
    ("small.onnx --dataset ade20k --root .", DatasetError, "images/validation/**/*.jpg"),
    ("small.onnx --dataset cityscapes --root . --split train", DatasetError, "leftImg8bit/train"),
    ("small.onnx --dataset cityscapes --root . --max-images -1", OptionError, "--max-images -1"),
    ("small.onnx --dataset folder --root . --split val", OptionError, "--split val"),
    ("small.onnx ./small.onnx --dataset cityscapes --root .", OptionError, "given twice"),
    ("small.onnx --dataset ade20k --root ade", ModelError, "small.onnx has 19 classes"),
    ("small.onnx --dataset cityscapes --root . -o small.onnx/x", OutputError, "cannot write"),
]


@pytest.mark.parametrize(("command", "kind", "fragment"), BAD, ids=[case[0] for case in BAD])
def test_bad_command(
    small_onnx: Path,
    street: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
    kind: type[AlignSegError],
    fragment: str,
) -> None:
    monkeypatch.chdir(street)
    Path("small.onnx").symlink_to(small_onnx)
    for side, name in (("images", "1.jpg"), ("annotations", "1.png")):
        Path(f"ade/{side}/validation").mkdir(parents=True)
        cv2.imwrite(f"ade/{side}/validation/{name}", np.ones(SIZE, np.uint8))
    assert main(["eval", *command.split()]) == 1
    captured = capsys.readouterr()
    assert fragment in captured.err
    assert "\n  expected: " in captured.err
    assert "\n  try: " in captured.err
    assert captured.out == ""
    with pytest.raises(kind) as caught:
        main(["eval", *command.split(), "--debug"])
    assert type(caught.value) is kind
