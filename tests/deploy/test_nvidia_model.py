"""Engines, plugins, precisions: what both DeepStream and Isaac ROS take or refuse of a model."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
import yaml
from onnx import helper

from alignseg_infer.arrays import InputShape
from alignseg_infer.deploy.deepstream import write_deepstream
from alignseg_infer.deploy.isaac_ros import write_isaac_ros
from alignseg_infer.errors import EngineError, ExportError, ModelFileError, OptionError
from alignseg_infer.spec.model import (
    ExportSpec,
    ImageInput,
    InputSpec,
    LabelType,
    Layout,
    OutputKind,
    Precision,
)
from alignseg_infer.spec.plugin_contract import DOMAIN
from alignseg_infer.trt.engine_file import Profile
from alignseg_infer.trt.flavours import Flavour
from tests.support.fake_tensorrt import write_engine
from tests.support.formed_models import SIZE, form_demo
from tests.support.models import LOGITS_EXPORT, SMALL_SPEC
from tests.support.nvinfer import read_config

LABELS = replace(
    LOGITS_EXPORT,
    output=OutputKind.LABELS,
    size=SIZE,
    label_type=LabelType.INT32,
    layout=Layout.NHWC,
)
WRITERS = [write_deepstream, write_isaac_ros]
each_consumer = pytest.mark.parametrize("write", WRITERS)
AT_LOAD = "libalignseg_plugin_at_load.so"


def write_fixed_engine(
    path: Path, export: ExportSpec = LABELS, batches: tuple[int, int] = (1, 4), **changes: Any
) -> Path:
    """Write something in place of a plan file, and the facts of an engine of one size."""
    low, high = (InputShape(batch, *SIZE) for batch in batches)
    spec = replace(SMALL_SPEC, export=export)
    write_engine(path, b"a plan", spec=spec, profile=Profile(low, low, high), **changes)
    return path


@each_consumer
def test_an_engine_goes_into_the_folder_with_its_facts(write: Any, tmp_path: Path) -> None:
    engine = write_fixed_engine(tmp_path / "a.engine")
    folder = write(engine, tmp_path / "out")
    assert (folder / "model.engine").read_bytes() == b"a plan"
    facts = (folder / "model.engine.json").read_text(encoding="utf-8")
    assert facts == (tmp_path / "a.engine.json").read_text(encoding="utf-8")
    assert "TensorRT 11" in (folder / "README.md").read_text(encoding="utf-8")


def test_nvinfer_has_one_factor_for_an_engine(tmp_path: Path) -> None:
    engine = tmp_path / "a.engine"
    prepared = InputSpec(std=(58.4, 57.1, 57.4))
    spec = replace(SMALL_SPEC, export=LABELS, input=prepared)
    write_engine(engine, b"a plan", spec=spec, profile=Profile(*[InputShape(1, *SIZE)] * 3))
    with pytest.raises(ExportError, match="divides its channels"):
        write_deepstream(engine, tmp_path / "out")
    assert write_isaac_ros(engine, tmp_path / "isaac").exists()


def test_what_names_an_engine(tmp_path: Path) -> None:
    engine = write_fixed_engine(tmp_path / "a.engine")
    config = read_config(write_deepstream(engine, tmp_path / "deepstream", batch=4))
    assert config["model-engine-file"] == "model.engine"
    assert "onnx-file" not in config
    text = (write_isaac_ros(engine, tmp_path / "isaac") / "parameters.yaml").read_text("utf-8")
    tensor_rt = yaml.safe_load(text)["tensor_rt_node"]["ros__parameters"]
    assert tensor_rt["engine_file_path"] == "model.engine"
    assert "model_file_path" not in tensor_rt
    assert tensor_rt["force_engine_update"] is False


def test_a_batch_that_an_engine_does_not_take(tmp_path: Path) -> None:
    engine = write_fixed_engine(tmp_path / "a.engine")
    with pytest.raises(OptionError) as caught:
        write_deepstream(engine, tmp_path / "out", batch=5)
    assert caught.value.fix == "batch=4"


@each_consumer
def test_engines_that_they_cannot_run(write: Any, tmp_path: Path) -> None:
    for changes in (
        {"flavour": Flavour.TENSORRT_RTX, "gpu": None},
        {"plugins": ("AlignedAdd/1",), "plugins_embedded": True},
        {"batches": (2, 4)},
        {"export": replace(LABELS, image=ImageInput.UINT8_BGR)},
    ):
        engine = write_fixed_engine(tmp_path / "a.engine", **changes)
        with pytest.raises(ExportError):
            write(engine, tmp_path / "out")
    engine.write_bytes(b"another plan")
    with pytest.raises(EngineError):
        write(engine, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@each_consumer
def test_an_engine_with_plugins_needs_the_library_that_registers_them(
    write: Any, tmp_path: Path
) -> None:
    engine = write_fixed_engine(tmp_path / "a.engine", plugins=("AlignedAdd/1",))
    with pytest.raises(ExportError, match="AlignedAdd/1"):
        write(engine, tmp_path / "out")
    plain, library = tmp_path / "libalignseg_plugin.so", tmp_path / AT_LOAD
    with pytest.raises(ModelFileError):
        write(engine, tmp_path / "out", plugin=plain)
    plain.write_bytes(b"plain")
    with pytest.raises(OptionError) as caught:
        write(engine, tmp_path / "out", plugin=plain)
    assert caught.value.fix == f"plugin={str(library)!r}"
    library.write_bytes(b"registers")
    folder = write(engine, tmp_path / "out", plugin=library)
    assert (folder / AT_LOAD).read_bytes() == b"registers"
    named = (folder / "README.md").read_text("utf-8") + "".join(
        path.read_text("utf-8") for path in folder.glob("parameters.yaml")
    )
    assert AT_LOAD in named


@each_consumer
def test_a_graph_with_plugins_needs_the_library_too(write: Any, tmp_path: Path) -> None:
    form_demo(
        tmp_path / "a.onnx", OutputKind.LABELS, layout=Layout.NHWC, label_type=LabelType.INT32
    )
    model = onnx.load(tmp_path / "a.onnx")
    model.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    node = helper.make_node("AlignedAdd", ["image"], ["unused"], domain=DOMAIN, plugin_version="1")
    model.graph.node.append(node)
    onnx.save(model, tmp_path / "a.onnx")
    with pytest.raises(ExportError, match="AlignedAdd/1"):
        write(tmp_path / "a.onnx", tmp_path / "out")


def test_a_precision_is_the_graphs(tmp_path: Path) -> None:
    form_demo(
        tmp_path / "a.onnx", OutputKind.LABELS, layout=Layout.NHWC, label_type=LabelType.INT32
    )
    assert "strongly-typed" not in read_config(
        write_deepstream(tmp_path / "a.onnx", tmp_path / "b")
    )
    retell(tmp_path / "a.onnx", precision=Precision.FP16)
    config = read_config(write_deepstream(tmp_path / "a.onnx", tmp_path / "out"))
    assert (config["network-mode"], config["strongly-typed"]) == ("0", "1")
    with pytest.raises(ExportError) as caught:
        write_isaac_ros(tmp_path / "a.onnx", tmp_path / "isaac")
    assert caught.value.fix == f"alignseg export-trt {tmp_path / 'a.onnx'} -o model.engine"


def retell(path: Path, **changes: Any) -> None:
    """Change the export facts of an ONNX file."""
    from alignseg_infer.spec.model import SPEC_KEY, ModelSpec

    model = onnx.load(path)
    [entry] = [entry for entry in model.metadata_props if entry.key == SPEC_KEY]
    spec = ModelSpec.from_json(entry.value)
    assert spec.export is not None
    entry.value = replace(spec, export=replace(spec.export, **changes)).to_json()
    onnx.save(model, path)


@each_consumer
def test_a_checkpoint_is_exported_first(write: Any, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError) as caught:
        write(tmp_path / "a.pth", tmp_path / "out")
    assert caught.value.fix.startswith("alignseg export-onnx ")
