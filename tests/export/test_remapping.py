"""Models whose classes are renamed, merged or left out: the graph and `Predictor` do the same."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from alignseg_infer import (
    ExportError,
    OptionError,
    Predictor,
    Segmentation,
    export_engine,
    export_onnx,
    verify,
)
from alignseg_infer.arrays import Image
from alignseg_infer.backend import LabelledBatch
from alignseg_infer.cli import main
from alignseg_infer.datasets.labelled import Dataset, LabelledImage, LabelledImages
from alignseg_infer.datasets.remapping import Remapping
from alignseg_infer.demo import model_path
from alignseg_infer.errors import DatasetError, ModelError
from alignseg_infer.evaluation.evaluate import evaluate
from alignseg_infer.export.verification.probes import probe_image
from alignseg_infer.pixels.postprocess import scores_from_logits
from alignseg_infer.spec.model import ModelSpec
from alignseg_infer.tuning.labels import require_variety
from tests.support.formed_models import form_demo
from tests.support.models import SMALL_SPEC, FakeBackend
from tests.support.slow import all_slow

SIZE = (97, 162)
PLAIN = model_path("demo")
NAMES = {"road": "ground", "sidewalk": "ground", "terrain": "ground", "sky": None, "car": "vehicle"}
MERGED = Remapping(dataset="new", names={**NAMES, "truck": "vehicle"})
JUDGED = replace(MERGED, threshold=0.6)
RENAMED = Remapping(dataset="new", names={"road": "street"}, void=40000, threshold=0.5)
REMAPPINGS = [MERGED, JUDGED, RENAMED]


@pytest.fixture(scope="module")
def street() -> Image:
    return probe_image(SIZE, 3)


@pytest.fixture(scope="module")
def own(street: Image) -> Segmentation:
    """What the model says of its own classes."""
    return Predictor(PLAIN)(street, confidence=True, probabilities=True)


def expected_of(own: Segmentation, spec: ModelSpec) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return labels and confidence, computed of all probabilities, pixel by pixel."""
    remap, probabilities = spec.remap, own.probabilities
    assert remap is not None
    assert probabilities is not None
    new = np.array(remap.labels)
    labels = new[own.labels]
    confidence = np.zeros(own.size, np.float32)
    for label in np.unique(new):
        total = probabilities[new == label].sum(axis=0)
        confidence[labels == label] = total[labels == label]
    if remap.threshold is not None:
        labels = np.where(confidence < remap.threshold, remap.void, labels)
    return labels, confidence


def exported(folder: Path, remap: Remapping, **form: Any) -> Path:
    path = folder / f"{form.get('output', 'logits')}.onnx"
    export_onnx(PLAIN, path, remap=remap, **form)
    return path


@pytest.mark.parametrize("remap", REMAPPINGS, ids=["merged", "judged", "renamed"])
def test_the_graph_and_the_predictor_remap_alike(
    remap: Remapping, street: Image, own: Segmentation, tmp_path: Path
) -> None:
    kind = None if remap.void is None else "int32"
    labels_model = exported(tmp_path, remap, output="labels", label_type=kind)
    models = [exported(tmp_path, remap), labels_model]
    models.append(exported(tmp_path, remap, output="probabilities"))
    onnx.checker.check_model(onnx.load(models[1]), full_check=True)
    for model in models:
        predictor = Predictor(model)
        labels, confidence = expected_of(own, predictor.spec)
        seen = predictor(street)
        assert seen.classes.names[0] in {"ground", "street"}
        assert seen.labels.dtype == (np.uint8 if remap.void is None else np.uint16)
        assert np.mean(seen.labels == labels) > 0.999  # rounding at the threshold
        assert len(np.unique(labels)) > 3
        if model is not models[1]:
            more = predictor(street, confidence=True, probabilities=True)
            np.testing.assert_array_equal(more.labels, seen.labels)
            assert more.confidence is not None
            np.testing.assert_allclose(more.confidence, confidence, atol=1e-4)
            assert more.probabilities is not None
            assert len(more.probabilities) == len(seen.classes.names)
    assert (labels == predictor.spec.remap.void).any()  # type: ignore[union-attr]


def test_a_labels_graph_is_remapped_without_its_logits(
    street: Image, own: Segmentation, tmp_path: Path
) -> None:
    export_onnx(PLAIN, tmp_path / "plain.onnx", output="labels")
    source = tmp_path / "plain.onnx"
    form: dict[str, Any] = {"output": "labels", "label_type": "int64", "layout": "nhwc"}
    export_onnx(source, tmp_path / "new.onnx", remap=MERGED, **form)
    predictor = Predictor(tmp_path / "new.onnx")
    np.testing.assert_array_equal(predictor(street).labels, expected_of(own, predictor.spec)[0])
    with pytest.raises(ExportError, match="labels with a threshold were asked for"):
        export_onnx(source, tmp_path / "judged.onnx", output="labels", remap=JUDGED)


@pytest.mark.slow
def test_facts_alone_go_into_the_graph_later(
    street: Image, own: Segmentation, tmp_path: Path
) -> None:
    logits = exported(tmp_path, JUDGED)
    export_onnx(logits, tmp_path / "labels.onnx", output="labels")
    export_onnx(logits, tmp_path / "half.onnx", precision="fp16")
    wanted = Predictor(logits)(street).labels
    assert np.mean(Predictor(tmp_path / "labels.onnx")(street).labels == wanted) > 0.999
    assert np.mean(Predictor(tmp_path / "half.onnx")(street).labels == wanted) > 0.99
    with pytest.raises(OptionError, match="remapped before"):
        export_onnx(logits, tmp_path / "twice.onnx", remap=MERGED)
    wide = tmp_path / "wide.onnx"
    export_onnx(tmp_path / "labels.onnx", wide, output="labels", label_type="int32")
    assert np.mean(Predictor(wide)(street).labels == wanted) > 0.999


@pytest.mark.parametrize("against", ["plain", "logits"])
@pytest.mark.parametrize("of", ["labels", *all_slow("logits", "probabilities")])
def test_files_are_verified_against_the_plain_file_and_a_remapped_one(
    of: str, against: str, tmp_path: Path
) -> None:
    form_demo(tmp_path / "plain.onnx", size=(64, 96))
    for output in {of, "logits"}:
        target = tmp_path / f"{output}.onnx"
        export_onnx(tmp_path / "plain.onnx", target, output=output, remap=JUDGED)
    if of == against:
        against = "plain"
    found = verify(tmp_path / f"{of}.onnx", tmp_path / f"{against}.onnx")
    assert min(row.worst_agreement for row in found.rows) > 0.999
    export_onnx(tmp_path / "plain.onnx", tmp_path / "other.onnx", remap=RENAMED)
    with pytest.raises(ModelError, match="the same classes"):
        verify(tmp_path / f"{of}.onnx", tmp_path / "other.onnx")


@pytest.mark.parametrize("precision", ["fp32", "fp16", *all_slow("int8")])
def test_tensorrt_takes_the_nodes(precision: str, street: Image, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    form_demo(tmp_path / "plain.onnx", size=(64, 96))
    form: dict[str, Any] = {"precision": precision, "output": "labels", "remap": JUDGED}
    if precision == "int8":
        cv2.imwrite(str(tmp_path / "street.png"), street)
        form |= {"calibration": tmp_path / "street.png", "min_agreement": 0.5}
    export_onnx(tmp_path / "plain.onnx", tmp_path / "a.onnx", **form)
    report = export_engine(
        *(tmp_path / "a.onnx", tmp_path / "a.engine"), flavour="tensorrt-rtx", opt_shape=(1, 64, 96)
    )
    assert report.facts.spec.remap == Predictor(tmp_path / "a.onnx").spec.remap


def test_labels_need_room_for_void(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="labels up to 40000") as caught:
        exported(tmp_path, RENAMED, output="labels", label_type="uint8")
    assert caught.value.fix == "label_type='uint16'"


class OnDevice(FakeBackend):
    """Labels pixels itself, as a GPU does, and counts how often."""

    calls = 0

    def load_kernels(self) -> None:
        """Nothing to load."""

    def segment(
        self, images: list[Image], input_size: tuple[int, int], *, confidence: bool
    ) -> LabelledBatch:
        self.calls += 1
        logits = self.infer(np.stack([image.transpose(2, 0, 1) for image in images]).astype("f4"))
        scores = [scores_from_logits(one, input_size, confidence=confidence) for one in logits]
        return LabelledBatch(scores, 1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("remap", "asked", "calls"),
    [
        (MERGED, {}, 1),
        (MERGED, {"confidence": True}, 0),  # only the CPU adds probabilities up
        (JUDGED, {}, 0),
        (replace(RENAMED, void=None), {}, 1),
        (replace(RENAMED, void=None), {"confidence": True}, 1),
    ],
)
def test_on_a_device(remap: Remapping, asked: dict[str, bool], calls: int) -> None:
    image = np.random.default_rng(0).integers(0, 19, (*SIZE, 3)).astype(np.uint8)
    spec = remap.apply(SMALL_SPEC)
    device, host = OnDevice(spec), FakeBackend(spec)
    seen = Predictor(device, on_device=True)(image, **asked)
    wanted = Predictor(host)(image, **asked)
    assert device.calls == calls
    np.testing.assert_array_equal(seen.labels, wanted.labels)
    assert (seen.confidence is None) == (wanted.confidence is None) == (not asked)


@pytest.mark.parametrize("void", [255, 40000])
def test_pixels_without_a_class(void: int, street: Image, tmp_path: Path) -> None:
    """Nothing that a result can do names them, counts them or fails."""
    spec = replace(MERGED, void=void).apply(SMALL_SPEC)
    image = np.zeros((32, 64, 3), np.uint8)
    image[:, 32:] = 10  # sky, in `FakeBackend`
    result = Predictor(FakeBackend(spec))(image)
    assert (result.labels[:, -1] == void).all()
    assert list(result.class_share()) == ["ground"]
    share = result.class_share()["ground"]
    assert 0.4 < share < 0.6
    assert not result.color()[:, -1].any()
    assert {polygon.name for polygon in result.polygons()} == {"ground"}
    assert [part["category_id"] for part in result.to_coco()] == [0]
    assert [one["name"] for one in result.to_dict(rle=True)["classes"]] == ["ground"]
    assert len(result.to_label_studio()) == 1
    assert result.legend().shape[1] >= 64
    assert "ground" in repr(result)
    formats = ("labels", "color", "overlay", "polygons", "coco", "summary")
    paths = result.save(tmp_path / "street", formats=formats)
    labels = cv2.imread(str(paths[0]), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(labels, result.labels)
    pytest.importorskip("supervision")
    assert [*result.to_supervision().data["class_name"]] == ["ground"]
    assert {*result.to_supervision(regions=True).data["class_name"]} == {"ground"}


def test_cityscapes_ids_of_pixels_without_a_class() -> None:
    sure = Remapping(dataset="cityscapes", names={"road": "road"}, threshold=0.9999)
    result = Predictor(FakeBackend(sure.apply(SMALL_SPEC)))(np.zeros((32, 64, 3), np.uint8))
    assert (result.labels == 255).all()
    assert not result.label_ids().any()  # 0 is unlabeled


def test_images_of_one_label_only_cannot_judge() -> None:
    labels = [np.full((4, 4), 255, np.uint8)]
    with pytest.raises(DatasetError, match="as 'no class'"):
        require_variety(labels, ("road",), 0.98)


def data_of(folder: Path, truth: NDArray[np.uint8], image: Image) -> LabelledImages:
    cv2.imwrite(str(folder / "truth.png"), truth)
    cv2.imwrite(str(folder / "image.png"), image)
    pair = LabelledImage(folder / "image.png", folder / "truth.png")
    return LabelledImages(Dataset.FOLDER, "folder", str(folder), (pair,))


def test_evaluation_remaps_the_truth(tmp_path: Path) -> None:
    """Columns of road, sidewalk, sky and wall are predicted; the truth has terrain and no sky."""
    image = np.repeat(np.array([0, 1, 10, 3], np.uint8), 32)  # the labels, in `FakeBackend`
    image = np.ascontiguousarray(np.broadcast_to(image[None, :, None], (32, 128, 3)))
    truth = np.repeat(np.array([9, 0, 3, 10], np.uint8), 32)
    truth = np.ascontiguousarray(np.broadcast_to(truth[None], (32, 128)))
    data = data_of(tmp_path, truth, image)
    predictor = Predictor(FakeBackend(MERGED.apply(SMALL_SPEC)), size=(32, 128))
    found = evaluate({"new": predictor}, data)
    [scores] = found.models
    assert found.classes == predictor.spec.classes.names
    counts, wall = scores.confusion.counts, found.classes.index("wall")
    labels = predictor(image).labels
    missed = scores.confusion.missed
    assert counts.sum() + missed.sum() == 3 * 32 * 32  # what is sky in the truth is ignored
    assert missed[wall] == np.count_nonzero(labels[:, 64:96] == 255) > 500  # no class, but a wall
    assert counts[0, 0] == np.count_nonzero(labels[:, :64] == 0)
    assert scores.confusion.pixel_accuracy == pytest.approx(
        (counts[0, 0] + counts[wall, wall]) / (3 * 32 * 32)
    )
    assert json.loads(found.to_json())["models"][0]["missed"] == missed.tolist()
    assert not found.warnings  # of 255, which stands in no file
    others = {"new": predictor, "own": Predictor(FakeBackend(), size=(32, 128))}
    with pytest.raises(ModelError, match="own labels 19 classes"):
        evaluate(others, data)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, path = tmp_path / "few.json", str(tmp_path / "few.onnx")
    file.write_text(json.dumps({"names": {"road": "free", "*": "blocked"}, "threshold": 0.5}))
    command = ["export-onnx", str(PLAIN), "-o", path, "--output", "labels", "--remap", str(file)]
    assert main(command) == 0
    assert main(["inspect", path]) == 0
    seen = capsys.readouterr().out
    assert "classes: few (free, blocked)" in seen
    assert "remapped from 19" in seen
    assert "255 stands for no class, as below a confidence of 0.5" in seen
    assert "the class of each pixel, 0 to 1, or 255 for none" in seen
    assert main(["inspect", str(exported(tmp_path, JUDGED))]) == 0
    seen = capsys.readouterr().out
    assert "becomes the label at position c of 0, 0, 2, 3, 4" in seen
    assert "or 255, if the probabilities of classes with this label sum to less than 0.6" in seen
    file.write_text('{"names": {"rode": "free"}}')
    assert main(command) == 1
    assert "did you mean 'road'" in capsys.readouterr().err
