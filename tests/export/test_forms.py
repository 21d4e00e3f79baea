"""Forms of a graph: what it takes and returns, around the same network."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from alignseg_infer import ExportError, OptionError, Predictor, export_onnx
from alignseg_infer.cli import main
from alignseg_infer.datasets.remapping import Remapping
from alignseg_infer.demo import model_path
from alignseg_infer.errors import ParityError
from alignseg_infer.export.graph.forms import put_form
from alignseg_infer.export.graph.onnx_file import load_graph, save_onnx
from alignseg_infer.export.graph.options import ExportOptions
from alignseg_infer.export.verification.forms import compare_form
from alignseg_infer.export.verification.probes import probe_image
from alignseg_infer.pixels.postprocess import scores_from_logits
from alignseg_infer.pixels.preprocess import network_input, preprocess
from alignseg_infer.spec.model import OutputKind, Sampler
from alignseg_infer.spec.onnx_facts import read_onnx_facts
from tests.support.export_kinds import FIXED_GATHER, Kind
from tests.support.export_kinds import PLAIN as PLAIN_FIXED
from tests.support.slow import all_slow

SIZE = (97, 162)
CLASSES = 19
PLAIN = model_path("demo")
Form = dict[str, Any]

# The options, the type and the shape of the output for two images of `SIZE`.
FORMS: list[tuple[Form, str, tuple[int, ...]]] = [
    ({"output": "probabilities"}, "float32", (2, CLASSES, *SIZE)),
    ({"output": "probabilities", "layout": "nhwc"}, "float32", (2, *SIZE, CLASSES)),
    (
        {"output": "probabilities", "output_size": "quarter", "input": "uint8-rgb"},
        "float32",
        (2, CLASSES, 25, 41),
    ),
    ({"output": "logits", "layout": "nhwc", "input": "uint8-bgr"}, "float32", (2, 25, 41, CLASSES)),
    ({"output": "labels"}, "uint8", (2, *SIZE)),
    ({"output": "labels", "label_type": "int32", "layout": "nhwc"}, "int32", (2, *SIZE, 1)),
    (
        {"output": "labels", "label_type": "int64", "layout": "nchw", "input": "uint8-bgr"},
        "int64",
        (2, 1, *SIZE),
    ),
    (
        {"output": "labels", "label_type": "uint16", "size": SIZE, "batch": 2},
        "uint16",
        (2, *SIZE),
    ),
]


def made(folder: Path, form: Form, source: Path = PLAIN) -> Path:
    """Write `source` in another form, without the comparison that an export makes."""
    model, facts = load_graph(source), read_onnx_facts(source)
    put_form(model, facts.spec, ExportOptions(**form).formed(facts.spec))
    save_onnx(model, folder / "formed.onnx")
    return folder / "formed.onnx"


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray[Any, Any]]:
    return [probe_image(SIZE, seed) for seed in range(2)]


@pytest.fixture(scope="module")
def logits(pictures: list[np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    """What the plain graph returns for the pictures, (2, C, h, w)."""
    spec = read_onnx_facts(PLAIN).spec
    batch = np.concatenate([preprocess(picture, SIZE, spec.input) for picture in pictures])
    session = onnxruntime.InferenceSession(PLAIN)
    output: np.ndarray[Any, Any] = session.run(None, {"image": batch})[0]
    return output


@pytest.mark.parametrize(("form", "kind", "shape"), FORMS)
def test_graph_takes_and_returns_what_its_form_says(
    form: Form,
    kind: str,
    shape: tuple[int, ...],
    pictures: list[np.ndarray[Any, Any]],
    logits: np.ndarray[Any, Any],
    tmp_path: Path,
) -> None:
    path = made(tmp_path, form)
    onnx.checker.check_model(onnx.load(path), full_check=True)
    spec = read_onnx_facts(path).spec
    given = np.concatenate([network_input(picture, SIZE, spec) for picture in pictures])
    if "input" in form:  # what a camera gives
        order = slice(None) if form["input"] == "uint8-bgr" else slice(None, None, -1)
        given = np.stack(pictures)[..., order]
        assert given.shape == (2, *SIZE, 3)
    session = onnxruntime.InferenceSession(path)
    [seen] = session.run([form["output"]], {"image": given})
    assert (seen.dtype.name, seen.shape) == (kind, shape)
    scores = [scores_from_logits(one, SIZE, probabilities=True) for one in logits]
    if form.get("output_size") == "quarter":
        scores = [scores_from_logits(one, one.shape[1:], probabilities=True) for one in logits]
    wanted = {
        "logits": logits,
        "labels": np.stack([one.labels for one in scores])[:, np.newaxis],
        "probabilities": np.stack([one.probabilities for one in scores]),  # type: ignore[misc]
    }[form["output"]]
    usual = seen.transpose(0, 3, 1, 2) if form.get("layout") == "nhwc" else seen
    usual = usual[:, np.newaxis] if usual.ndim == 3 else usual
    if form["output"] == "labels":
        np.testing.assert_array_equal(usual, wanted)
    else:
        np.testing.assert_allclose(usual, wanted, atol=1e-4)


@pytest.mark.parametrize("runtime", [None, "openvino"])
@pytest.mark.parametrize(("form", "kind", "shape"), FORMS[:-1])
def test_predictor_runs_each_form_like_the_plain_one(
    form: Form, kind: str, shape: tuple[int, ...], runtime: str | None, tmp_path: Path
) -> None:
    if runtime == "openvino":
        pytest.importorskip("openvino")
    picture = probe_image(SIZE, 5)
    plain, other = Predictor(PLAIN), Predictor(made(tmp_path, form), runtime=runtime)
    expected, seen = plain(picture, probabilities=True), other(picture)
    assert seen.labels.dtype == expected.labels.dtype == np.uint8
    if form.get("output_size") == "quarter":  # upsampled probabilities: close, but not the same
        assert np.mean(seen.labels == expected.labels) > 0.9
        return
    np.testing.assert_array_equal(seen.labels, expected.labels)
    smoothing = 0.0 if form["output"] == "labels" else 0.5
    streamed = list(other.stream([picture, picture], smoothing=smoothing))
    np.testing.assert_array_equal(streamed[1].labels, expected.labels)
    if form["output"] != "labels":
        found = other(picture, probabilities=True, confidence=True)
        assert found.probabilities is not None
        assert found.confidence is not None
        assert expected.probabilities is not None
        np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-4)
        np.testing.assert_allclose(found.confidence, found.probabilities.max(axis=0), atol=1e-6)


@pytest.mark.parametrize(("form", "bound"), [(FORMS[3][0], 1.0), (FORMS[1][0], 0.97)])
def test_sliding_window_pads_and_averages(form: Form, bound: float, tmp_path: Path) -> None:
    picture, path = probe_image(SIZE, 6), made(tmp_path, form)
    expected, seen = (
        Predictor(model, mode="slide", tile=128, flip=True)(picture).labels
        for model in (PLAIN, path)
    )
    assert np.mean(seen == expected) >= bound - 0.01  # padding is the mean as a whole number


def test_export_writes_a_form_of_an_exported_model(tmp_path: Path) -> None:
    target = tmp_path / "p.onnx"
    report = export_onnx(PLAIN, target, output="probabilities", input="uint8-rgb", layout="nhwc")
    export = report.spec.export
    assert export is not None
    assert (export.output, export.image, export.layout) == ("probabilities", "uint8-rgb", "nhwc")
    with pytest.raises(ExportError, match="already has another form") as raised:
        export_onnx(target, tmp_path / "q.onnx", output="labels")
    assert "alignseg export-onnx CHECKPOINT" in raised.value.fix


@pytest.mark.parametrize(
    ("output", "kind"), [("labels", FIXED_GATHER), ("probabilities", PLAIN_FIXED)]
)
def test_any_opset_takes_a_form(
    output: str, kind: Kind, export_small: Callable[..., Path], tmp_path: Path
) -> None:
    """The nodes of a form are those of the graph's own opset, the oldest and the newest."""
    form: Form = {"output": output, "input": "uint8-rgb", "layout": "nhwc"}
    remap = Remapping(dataset="new", names={"road": "way", "sidewalk": "way"}, threshold=0.3)
    plain = export_small(**kind)
    report = export_onnx(plain, tmp_path / "a.onnx", remap=remap, **form)
    model = onnx.load(report.path)
    assert [one.version for one in model.opset_import if not one.domain] == [kind["opset"]]
    onnx.checker.check_model(model, full_check=True)
    street = probe_image(kind["size"], 1)
    seen = Predictor(report.path)(street)
    export_onnx(plain, tmp_path / "b.onnx", remap=remap)
    expected = Predictor(tmp_path / "b.onnx")(street)
    assert len(np.unique(expected.labels)) > 1
    assert np.mean(seen.labels == expected.labels) > 0.999


@pytest.mark.parametrize(
    ("precision", "target"), [("fp16", None), ("int8", "cpu"), *all_slow(("int8", None))]
)
def test_any_precision_takes_a_form(precision: str, target: str | None, tmp_path: Path) -> None:
    picture = probe_image(SIZE, 1)
    cv2.imwrite(str(tmp_path / "a.png"), picture)
    report = export_onnx(
        *(PLAIN, tmp_path / "a.onnx"),
        precision=precision,
        target=target,
        output="labels",
        label_type="int32",
        size=SIZE,
        min_agreement=0.9,
        calibration=tmp_path / "a.png" if precision == "int8" else None,
    )
    assert report.verification is not None
    export = report.spec.export
    assert export is not None
    assert (export.precision, export.label_type, export.size) == (precision, "int32", SIZE)
    expected = Predictor(PLAIN)(picture).labels
    assert np.mean(Predictor(report.path)(picture).labels == expected) > 0.9


def test_comparison_finds_a_wrong_graph(tmp_path: Path) -> None:
    path = made(tmp_path, {"output": "labels", "input": "uint8-bgr"})
    model = onnx.load(path)
    [mean] = [one for one in model.graph.initializer if one.name == "input.constant_1"]
    mean.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(mean), mean.name))
    onnx.save(model, path)
    with pytest.raises(ParityError, match="labels of the graph in its new form differ by"):
        compare_form(path, PLAIN)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("--output-size quarter", "--output probabilities"),
        ("--output logits --label-type int32", "--output labels"),
        ("--output labels --size 8x8", "32 to 16384"),
    ],
)
def test_refuses_what_makes_no_sense(
    options: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "a.onnx"
    assert main(["export-onnx", str(PLAIN), "-o", str(target), *options.split()]) == 1
    assert expected in capsys.readouterr().err
    assert not target.exists()


def test_refuses_another_size_than_the_model_has(tmp_path: Path) -> None:
    path = made(tmp_path, {"output": "logits", "size": (64, 96)})
    with pytest.raises(OptionError, match="was exported for"):
        export_onnx(path, tmp_path / "b.onnx", output="labels", size=(96, 96))


@pytest.mark.parametrize(
    ("form", "said"),
    [
        (
            {"output": "logits", "layout": "nchw"},
            ["float32 (N, 3, H, W), NCHW", "align_corners=True"],
        ),
        (FORMS[2][0], ["uint8 (N, H, W, 3), NHWC", "RGB", "the lowest class"]),
        (FORMS[5][0], ["int32 (N, H, W, 1), NHWC", "nearest neighbour"]),
        (FORMS[7][0], ["float32 (2, 3, 97, 162)", "uint16 (2, 97, 162), NHW"]),
    ],
)
def test_inspect_tells_the_contract(
    form: Form, said: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(made(tmp_path, form))]) == 0
    text = capsys.readouterr().out
    for fragment in said:
        assert fragment in text


def test_plugin_graph_takes_a_form(export_small: Callable[..., Path], tmp_path: Path) -> None:
    """Labels of the plugin sampler come from a plugin; only their type and layout change."""
    source = export_small(sampler=Sampler.PLUGIN, output=OutputKind.LABELS, opset=17)
    path = made(tmp_path, {"output": "labels", "label_type": "int64", "layout": "nchw"}, source)
    compare_form(path, source)
    assert [node.op_type for node in onnx.load(path).graph.node][-2:] == ["Unsqueeze", "Cast"]


def test_a_form_can_be_changed_that_was_made_of_a_file(
    pictures: list[np.ndarray[Any, Any]], logits: np.ndarray[Any, Any], tmp_path: Path
) -> None:
    """Nodes were put behind the graph twice then."""
    export_onnx(PLAIN, tmp_path / "a.onnx", output="labels")
    export_onnx(tmp_path / "a.onnx", tmp_path / "b.onnx", output="labels", label_type="int32")
    seen = Predictor(tmp_path / "b.onnx")(pictures[0]).labels
    np.testing.assert_array_equal(seen, scores_from_logits(logits[0], SIZE).labels)
