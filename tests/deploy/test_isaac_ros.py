"""What Isaac ROS's nodes make of a folder is what `Predictor` makes of the model."""

import json
import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from alignseg_infer import Predictor, export_onnx
from alignseg_infer.arrays import Image
from alignseg_infer.datasets.remapping import Remapping
from alignseg_infer.demo import model_path
from alignseg_infer.demo.streets import Street
from alignseg_infer.deploy.isaac_ros import write_isaac_ros
from alignseg_infer.errors import ExportError, OutputError
from alignseg_infer.pixels.preprocess import preprocess
from alignseg_infer.spec.model import (
    ChannelOrder,
    InputSpec,
    LabelType,
    Layout,
    OutputKind,
)
from tests.support import isaac_ros
from tests.support.formed_models import SIZE, form_demo

CAMERA = (120, 176)  # another size and shape than the network's
INT32: dict[str, Any] = {"layout": Layout.NHWC, "label_type": LabelType.INT32}
DECODED = [
    (OutputKind.LABELS, LabelType.INT32),
    (OutputKind.LABELS, LabelType.INT64),
    (OutputKind.PROBABILITIES, None),
]


@pytest.fixture(scope="module")
def street() -> Image:
    return Street(1_000_007).scene(size=CAMERA).image


@pytest.mark.parametrize(("output", "label_type"), DECODED)
def test_the_decoder_makes_the_labels(
    output: OutputKind, label_type: LabelType | None, street: Image, tmp_path: Path
) -> None:
    spec = form_demo(tmp_path / "a.onnx", output, layout=Layout.NHWC, label_type=label_type)
    folder = write_isaac_ros(tmp_path / "a.onnx", tmp_path / "isaac")
    nodes = isaac_ros.read_parameters(folder)
    tensor_rt = nodes["tensor_rt_node"]
    session = onnxruntime.InferenceSession(folder / tensor_rt["model_file_path"])
    [taken], [returned] = tensor_rt["input_binding_names"], tensor_rt["output_binding_names"]
    [made] = session.run([returned], {taken: isaac_ros.encode(nodes, street)})
    mask = isaac_ros.decode(nodes, made)
    expected = network_labels(street)
    assert np.array_equal(mask, expected)
    assert len(np.unique(expected)) > 5
    colours = np.array(spec.classes.colors, np.uint8)
    assert np.array_equal(isaac_ros.colour(nodes, mask), colours[expected])


def network_labels(image: Image) -> NDArray[np.generic]:
    """Return labels at the size of the network's input, as `Predictor` makes them there."""
    import cv2

    resized = cv2.resize(image, SIZE[::-1], interpolation=cv2.INTER_LINEAR)
    return Predictor("demo", size=SIZE)(np.asarray(resized, np.uint8)).labels


@pytest.mark.parametrize("order", ChannelOrder)
def test_its_encoder_prepares_images_as_we_do(
    order: ChannelOrder, street: Image, tmp_path: Path
) -> None:
    spec = InputSpec(channel_order=order, mean=(104.0, 116.7, 122.7), std=(58.4, 57.1, 1.0))
    form_demo(tmp_path / "a.onnx", OutputKind.LABELS, prepared=spec, **INT32)
    nodes = isaac_ros.read_parameters(write_isaac_ros(tmp_path / "a.onnx", tmp_path / "out"))
    ours = preprocess(street, SIZE, spec)
    np.testing.assert_allclose(isaac_ros.encode(nodes, street), ours, rtol=0, atol=5e-5)
    formats = nodes["tensor_rt_node"]["input_tensor_formats"]
    assert formats == [f"nitros_tensor_list_nchw_{order}_f32"]


def test_tensor_rt_node_finds_what_the_encoder_publishes(tmp_path: Path) -> None:
    form_demo(tmp_path / "a.onnx", OutputKind.LABELS, **INT32)
    folder = write_isaac_ros(tmp_path / "a.onnx", tmp_path / "out")
    nodes = isaac_ros.read_parameters(folder)
    tensor_rt = nodes["tensor_rt_node"]
    # TensorRTNode::DoInference looks the tensor up by its name.
    assert tensor_rt["input_tensor_names"] == [nodes["dnn_image_encoder_node"]["tensor_name"]]
    assert not tensor_rt["force_engine_update"]
    names = [row["name"] for row in json.loads((folder / "classes.json").read_text("utf-8"))]
    assert len(names) == len(nodes["unet_decoder_node"]["color_palette"]) == 19


def test_the_launch_file_starts_the_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    form_demo(tmp_path / "a.onnx", OutputKind.LABELS, **INT32)
    folder = write_isaac_ros(tmp_path / "a.onnx", tmp_path / "out")
    made: dict[str, Any] = {"__file__": str(folder / "alignseg.launch.py")}
    stand_in_for_ros(monkeypatch)
    exec(compile((folder / "alignseg.launch.py").read_text("utf-8"), "launch", "exec"), made)
    [container] = made["generate_launch_description"]()
    nodes = container.composable_node_descriptions
    told = isaac_ros.read_parameters(folder)
    assert {node.name for node in nodes} == set(told)
    for node in nodes:
        [parameters] = node.parameters
        for name, value in told[node.name].items():
            found = str(folder / value) if name.endswith("file_path") else value
            assert parameters[name] == found
    # What one node publishes, the next one reads: topics after the remappings of the launch file.
    published, read = topics_of(nodes, PUBLISHED), topics_of(nodes, READ)
    assert read - published == {"/image", "/camera_info"}
    assert published - read == {"unet/raw_segmentation_mask", "unet/colored_segmentation_mask"}


# From the sources of the nodes, in `isaac_ros.DECLARED`.
READ = {
    "resize_node": ["image", "camera_info"],
    "image_format_node": ["image_raw"],
    "dnn_image_encoder_node": ["image", "camera_info"],
    "tensor_rt_node": ["tensor_pub"],
    "unet_decoder_node": ["tensor_sub"],
}
PUBLISHED = {
    "resize_node": ["resize/image", "resize/camera_info"],
    "image_format_node": ["image"],
    "dnn_image_encoder_node": ["tensors"],
    "tensor_rt_node": ["tensor_sub"],
    "unet_decoder_node": ["unet/raw_segmentation_mask", "unet/colored_segmentation_mask"],
}


def topics_of(nodes: list[SimpleNamespace], topics: dict[str, list[str]]) -> set[str]:
    renamed = {node.name: dict(node.remappings) for node in nodes}
    return {renamed[name].get(topic, topic) for name, listed in topics.items() for topic in listed}


def stand_in_for_ros(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the launch file import what ROS would bring; each class keeps its arguments."""
    for name, member, kind in (
        ("launch", "LaunchDescription", list),
        ("launch_ros", None, None),
        ("launch_ros.actions", "ComposableNodeContainer", SimpleNamespace),
        ("launch_ros.descriptions", "ComposableNode", SimpleNamespace),
    ):
        module = ModuleType(name)
        if member:
            setattr(module, member, kind)
        monkeypatch.setitem(sys.modules, name, module)


REFUSED = [
    ({"output": OutputKind.LOGITS}, "logits", (96, 160)),
    ({"output": OutputKind.LABELS, "label_type": LabelType.INT32}, "channel axis", (96, 160)),
    ({"output": OutputKind.LABELS, "layout": Layout.NHWC}, "uint8", (96, 160)),
    ({"output": OutputKind.PROBABILITIES, "layout": Layout.NCHW}, "nchw", (96, 160)),
    ({"output": OutputKind.LABELS, **INT32, "size": (97, 160)}, "97x160", (98, 160)),
    ({"output": OutputKind.LABELS, **INT32, "size": (96, 161)}, "96x161", (96, 162)),
]


@pytest.mark.parametrize(("form", "seen", "size"), REFUSED)
def test_other_forms_are_refused_with_the_command_that_makes_one(
    form: dict[str, Any], seen: str, size: tuple[int, int], tmp_path: Path
) -> None:
    form_demo(tmp_path / "a.onnx", **form)
    with pytest.raises(ExportError) as caught:
        write_isaac_ros(tmp_path / "a.onnx", tmp_path / "out")
    assert seen in caught.value.problem
    assert caught.value.fix == (
        "alignseg export-onnx demo.pth -o demo-isaac-ros.onnx --output labels --label-type int32 "
        f"--layout nhwc --size {size[0]}x{size[1]}"
    )
    assert not (tmp_path / "out").exists()


def test_classes_are_remapped_by_the_graph_or_not_at_all(tmp_path: Path) -> None:
    remap = Remapping(dataset="few", names={"road": "free", "sky": None, "*": "blocked"})
    form: dict[str, Any] = {"layout": "nhwc", "remap": remap}
    plain = tmp_path / "plain.onnx"
    form_demo(plain, size=(64, 96))
    export_onnx(plain, tmp_path / "a.onnx", output="probabilities", **form)
    with pytest.raises(ExportError, match="19 classes, which only this package can turn") as caught:
        write_isaac_ros(tmp_path / "a.onnx", tmp_path / "out")
    assert caught.value.fix.endswith("--layout nhwc --size 64x96 --remap FILE.json")
    export_onnx(plain, tmp_path / "b.onnx", output="labels", label_type="int32", **form)
    folder = write_isaac_ros(tmp_path / "b.onnx", tmp_path / "out")
    parameters = "".join(path.read_text(encoding="utf-8") for path in folder.rglob("*.y*ml"))
    [palette] = re.findall(r"color_palette: \[(.*?)\]", parameters)
    colors = palette.split(", ")
    assert (len(colors), colors[2:]) == (256, ["0"] * 254)  # up to void, 255


def test_a_model_of_any_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="several sizes") as caught:
        write_isaac_ros(model_path("demo"), tmp_path / "out")
    assert "alignseg export-onnx demo -o" in caught.value.fix
    assert "--size 512x1024" in caught.value.fix


def test_a_folder_with_files_stays(tmp_path: Path) -> None:
    form_demo(tmp_path / "a.onnx", OutputKind.LABELS, **INT32)
    with pytest.raises(OutputError):
        write_isaac_ros(tmp_path / "a.onnx", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["a.onnx"]
