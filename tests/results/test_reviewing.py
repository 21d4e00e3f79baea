"""Results for the tools in which people review them: Label Studio, FiftyOne and Rerun.

Label Studio's own decoder is the judge of its masks, and Rerun itself of its images. FiftyOne takes
a gigabyte and an older OpenCV, so a stand-in sees what it is given; `docs/proof.md` says when the
real one was.
"""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from alignseg_infer.arrays import Labels
from alignseg_infer.datasets.class_tables import ADE20K, CITYSCAPES
from alignseg_infer.results.segmentation import Segmentation
from alignseg_infer.results.times import StageTimes
from alignseg_infer.spec.model import ClassSpec
from tests.support.fetching import fetched

ROOT = Path(__file__).parents[2]
LABELS = np.array([[0, 13, 255], [10, 10, 0]], np.uint8)
MANY = ClassSpec(
    dataset="many",
    names=tuple(f"class {number}" for number in range(300)),
    colors=((1, 2, 3),) * 300,
)


def segmentation(labels: Labels = LABELS, classes: ClassSpec = CITYSCAPES) -> Segmentation:
    image = np.zeros((*labels.shape, 3), np.uint8)
    return Segmentation(labels, image, classes, (64, 64), "fake", StageTimes(1, 2, 3, 4))


# Label Studio


def decode(rle: list[int]) -> NDArray[np.uint8]:
    """Read Label Studio's code bit by bit, as its page in the browser does."""
    bits = "".join(f"{byte:08b}" for byte in rle)
    at = 0

    def read(count: int) -> int:
        nonlocal at
        at += count
        return int(bits[at - count : at], 2)

    total, value_bits = read(32), read(5) + 1
    counters = [read(4) + 1 for _ in range(4)]
    values: list[int] = []
    while len(values) < total:
        repeated = read(1)
        length = read(counters[read(2)]) + 1
        if repeated:
            values += [read(value_bits)] * length
        else:
            values += [read(value_bits) for _ in range(length)]
    assert len(values) == total
    assert len(rle) * 8 - at <= 8  # and then zeros
    return np.array(values, np.uint8)


def assert_masks(result: Segmentation, decoder: Callable[[list[int]], NDArray[Any]]) -> None:
    """Check that the masks of all classes that occur are there, with names, and no others."""
    regions = result.to_label_studio()
    expected = [label for label in np.unique(result.labels) if label != 255]
    names = [result.classes.names[label] for label in expected]
    assert [region["value"]["brushlabels"] for region in regions] == [[name] for name in names]
    height, width = result.size
    for label, region in zip(expected, regions, strict=True):
        assert (region["original_height"], region["original_width"]) == (height, width)
        pixels = np.asarray(decoder(region["value"]["rle"])).reshape(height, width, 4)
        expected_alpha = np.where(result.labels == label, 255, 0)
        np.testing.assert_array_equal(pixels, np.repeat(expected_alpha[..., None], 4, axis=2))


@given(
    arrays(
        np.uint8,
        st.tuples(st.integers(1, 40), st.integers(1, 40)),
        elements=st.sampled_from([0, 1, 13, 18, 255]),
    )
)
def test_brush_masks_come_back(labels: Labels) -> None:
    assert_masks(segmentation(labels), decode)


RUNS = [2, 4, 64, 65, 16_383, 16_384, 16_385, 40_000]  # pixels; 4 bytes each


@pytest.mark.parametrize("pixels", RUNS)
def test_runs_of_all_lengths(pixels: int) -> None:
    labels = np.zeros((1, pixels + 1), np.uint8)
    labels[0, -1] = 13
    assert_masks(segmentation(labels), decode)
    assert_masks(segmentation(labels[:, ::-1].copy()), decode)


def test_nothing_but_void_is_no_region() -> None:
    assert segmentation(np.full((3, 4), 255, np.uint8)).to_label_studio() == []


def test_regions_name_the_tags_and_are_json() -> None:
    regions = segmentation().to_label_studio("brush", "picture")
    assert {region["from_name"] for region in regions} == {"brush"}
    assert {region["to_name"] for region in regions} == {"picture"}
    assert len({region["id"] for region in regions}) == len(regions) == 3
    assert json.loads(json.dumps(regions)) == regions


def test_configuration_has_names_and_colours() -> None:
    odd = replace(CITYSCAPES, names=('<road> & "lane"\'s', *CITYSCAPES.names[1:]))
    root = ET.fromstring(segmentation(classes=odd).label_studio_config("brush", "picture"))
    image, brush = list(root)
    assert image.attrib == {"name": "picture", "value": "$image"}
    assert (brush.tag, brush.attrib) == ("BrushLabels", {"name": "brush", "toName": "picture"})
    assert [label.attrib["value"] for label in brush] == list(odd.names)
    assert brush[0].attrib["background"] == "#804080"
    colors = [bytes.fromhex(label.attrib["background"][1:]) for label in brush]
    assert [tuple(color) for color in colors] == list(odd.colors)


@pytest.mark.slow
def test_label_studio_decodes_and_encodes_the_same(tmp_path: Path) -> None:
    """Its module is loaded by itself, since the package asks for an older OpenCV."""
    folder = fetched(tmp_path, "label-studio-sdk>=2")
    spec = importlib.util.spec_from_file_location(
        "brush", folder / "label_studio_sdk/converter/brush.py"
    )
    assert spec is not None
    assert spec.loader is not None
    brush = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(brush)
    generator = np.random.default_rng(0)
    for shape in ((1, 1), (3, 5), (8, 8), (100, 37), (300, 300)):
        for labels in (
            generator.choice(np.array([0, 13, 255], np.uint8), shape),
            np.full(shape, 13, np.uint8),
        ):
            result = segmentation(labels)
            assert_masks(result, brush.decode_rle)
            for region in result.to_label_studio():
                (name,) = region["value"]["brushlabels"]
                mask = np.where(result.mask(name), 255, 0).astype(np.uint8)
                if mask.size <= 1 << 14:  # of longer runs it writes the end with more bits
                    assert region["value"]["rle"] == brush.mask2rle(mask)


# FiftyOne and Rerun


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., ModuleType]]:
    """Put a module in the place of a package; its classes keep what they are given."""
    loaded: list[str] = []

    def install(name: str, ours: str, *classes: str) -> ModuleType:
        module = ModuleType(name)
        for one in classes:
            setattr(module, one, lambda *args, **kwargs: SimpleNamespace(args=args, **kwargs))
        monkeypatch.setitem(sys.modules, name, module)
        loaded.append(f"alignseg_infer.results.{ours}")
        sys.modules.pop(loaded[-1], None)
        return module

    yield install
    for ours in loaded:
        sys.modules.pop(ours, None)


@pytest.fixture
def _fiftyone(stand_in: Callable[..., ModuleType]) -> None:
    stand_in("fiftyone", "fiftyone_masks", "Segmentation", "ColorScheme")


@pytest.mark.usefixtures("_fiftyone")
@pytest.mark.parametrize(
    ("labels", "classes", "kind"),
    [
        (LABELS, CITYSCAPES, np.uint8),
        (np.array([[0, 149, 255]], np.uint8), ADE20K, np.uint8),
        (np.array([[0, 255, 299]], np.uint16), MANY, np.uint16),
    ],
    ids=["cityscapes", "ade20k", "300 classes"],
)
def test_fiftyone_shows_class_0_and_hides_void(
    labels: Labels, classes: ClassSpec, kind: type
) -> None:
    result = segmentation(labels, classes)
    mask: Any = result.to_fiftyone().mask
    assert mask.dtype == kind
    targets, scheme = result.fiftyone_targets()
    for label, value in zip(labels.flat, mask.flat, strict=True):
        void = label >= len(classes.names)
        assert value == (0 if void else label + 1)
        assert void or targets[int(value)] == classes.names[label]
    assert 0 not in targets
    colors: Any = scheme.default_mask_targets_colors
    assert [entry["intTarget"] for entry in colors] == list(targets)
    shown = [tuple(bytes.fromhex(entry["color"][1:])) for entry in colors]
    assert shown == list(classes.colors)
    assert scheme.color_by == "value"


@pytest.fixture
def _rerun(stand_in: Callable[..., ModuleType]) -> None:
    stand_in("rerun", "rerun_images", "SegmentationImage", "AnnotationContext", "AnnotationInfo")


@pytest.mark.usefixtures("_rerun")
@pytest.mark.parametrize(("classes", "void"), [(CITYSCAPES, True), (MANY, False)])
def test_rerun_gets_labels_names_and_colours(classes: ClassSpec, void: bool) -> None:
    image: Any
    context: Any
    image, context = segmentation(classes=classes).to_rerun()
    np.testing.assert_array_equal(image.args[0], LABELS)
    (infos,) = context.args
    kept = infos[: len(classes.names)]
    assert [(info.id, info.label) for info in kept] == list(enumerate(classes.names))
    assert [info.color for info in kept] == list(classes.colors)
    last = infos[-1]
    assert (last.id, last.label, last.color) == (
        (255, "void", (0, 0, 0, 0)) if void else (299, "class 299", (1, 2, 3))
    )


@pytest.mark.slow
@pytest.mark.skipif(sys.version_info < (3, 11), reason="rerun-sdk needs Python 3.11")
def test_rerun_itself_takes_them(tmp_path: Path) -> None:
    """It takes half a gigabyte, so it is fetched for this test and not for the environment."""
    folder = fetched(tmp_path, "rerun-sdk", "pyarrow", "attrs")
    program = """
import json
import numpy as np
import rerun as rr
from alignseg_infer import Segmentation, StageTimes
from alignseg_infer.datasets.class_tables import CITYSCAPES
labels = np.array([[0, 13, 255], [10, 10, 0]], np.uint8)
image = np.zeros((2, 3, 3), np.uint8)
result = Segmentation(labels, image, CITYSCAPES, (8, 8), "fake", StageTimes(1, 1, 1, 1))
image, context = result.to_rerun()
with rr.RecordingStream("test") as recording:
    recording.save("kept.rrd")
    recording.log("street/labels", image, context)
(infos,) = context.context.as_arrow_array().to_pylist()
print(json.dumps([
    image.buffer.as_arrow_array().to_pylist()[0],
    [info["class_description"]["info"] for info in infos],
]))
"""
    paths = [str(ROOT), str(folder), str(folder / "rerun_sdk")]
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    pixels, infos = json.loads(done.stdout)
    assert pixels == LABELS.ravel().tolist()
    assert [info["label"] for info in infos] == [*CITYSCAPES.names, "void"]
    colors = [info["color"].to_bytes(4, "big") for info in infos]
    assert [tuple(color[:3]) for color in colors[:-1]] == list(CITYSCAPES.colors)
    assert {color[3] for color in colors[:-1]} == {255}
    assert colors[-1] == bytes(4)
    assert (tmp_path / "kept.rrd").stat().st_size > 1000


@pytest.mark.parametrize(
    ("package", "call", "said"),
    [
        ("fiftyone", "to_fiftyone()", "pip install 'fiftyone"),
        ("fiftyone", "fiftyone_targets()", "pip install 'fiftyone"),
        ("rerun", "to_rerun()", "pip install 'rerun-sdk"),
    ],
)
def test_a_missing_package_is_named(
    package: str, call: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from alignseg_infer import MissingDependencyError

    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependencyError) as caught:
        getattr(segmentation(), call[:-2])()
    assert said in str(caught.value)
