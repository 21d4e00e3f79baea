"""Model repositories for Triton: what is written, and what is refused."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from alignseg_infer import Predictor, export_onnx
from alignseg_infer.cli import main
from alignseg_infer.demo import FIRST_HELD_OUT, model_path
from alignseg_infer.demo.streets import Street
from alignseg_infer.deploy.triton.repository import write_repository
from alignseg_infer.deploy.triton.serving import (
    Postprocess,
    Preprocess,
    Served,
    Whole,
    require_round_trip,
)
from alignseg_infer.errors import (
    AlignSegError,
    DeviceError,
    EngineError,
    ModelFileError,
    OptionError,
    OutputError,
    SpecError,
)
from alignseg_infer.pixels.images import encode_image
from alignseg_infer.spec.model import (
    SPEC_KEY,
    ImageInput,
    LabelType,
    Layout,
    ModelSpec,
    OutputKind,
)
from alignseg_infer.trt.engine_file import Profile
from alignseg_infer.trt.flavours import Flavour
from tests.support.fake_tensorrt import EXPORT, PROFILE, write_engine
from tests.support.models import SMALL_SPEC

STREET = Street(FIRST_HELD_OUT).scene(size=(64, 96)).image
FILE = encode_image(STREET, ".png")


class FakeTensor:
    """As the server's, with memory that is shared through DLPack."""

    def __init__(self, name: str, array: Any) -> None:
        self._name, self._array = name, array

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> Any:
        return self._array

    @classmethod
    def from_dlpack(cls, name: str, tensor: "FakeTensor") -> "FakeTensor":
        return cls(name, tensor.as_numpy())


class BrokenTensor(FakeTensor):
    """As a server's that was built for another NumPy: values are lost."""

    @classmethod
    def from_dlpack(cls, name: str, tensor: FakeTensor) -> FakeTensor:
        return cls(name, np.zeros_like(tensor.as_numpy()))


class FakeRequest:
    """A request with inputs by their names, which asks for some outputs."""

    def __init__(self, *wanted: str, **inputs: Any) -> None:
        self._wanted = list(wanted)
        self.inputs = {name: FakeTensor(name, array) for name, array in inputs.items()}

    def requested_output_names(self) -> list[str]:
        return self._wanted


def utils_with(tensor: type[FakeTensor]) -> Any:
    return SimpleNamespace(
        Tensor=tensor,
        InferenceResponse=SimpleNamespace,
        TritonError=str,
        get_input_tensor_by_name=lambda request, name: request.inputs.get(name),
    )


def opened(kind: type[Served], folder: Path, batch: int = 4) -> Any:
    model = kind()
    model.utils = utils_with(FakeTensor)
    arguments = {"model_repository": str(folder), "model_version": "1"}
    model.initialize({**arguments, "model_config": json.dumps({"max_batch_size": batch})})
    return model


def outputs_of(response: Any) -> dict[str, Any]:
    return {tensor.name(): tensor.as_numpy() for tensor in response.output_tensors}


def as_files(*contents: bytes) -> Any:
    return np.array([[content] for content in contents], np.object_)


def with_facts(path: Path, **changes: Any) -> Path:
    """Write the demo model with changed facts to `path`."""
    model = onnx.load(str(model_path("demo")))
    for entry in model.metadata_props:
        if entry.key == SPEC_KEY:
            entry.value = replace(ModelSpec.from_json(entry.value), **changes).to_json()
    onnx.save(model, str(path))
    return path


def listed(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_what_is_written(tmp_path: Path) -> None:
    [done] = write_repository(["demo"], tmp_path / "r")
    assert (done.name, done.version, done.backend, done.batch) == ("demo", 1, "python", 4)
    version = {"demo/1/model.py", "demo/1/model.onnx", "demo/1/alignseg.json"}
    assert listed(tmp_path / "r") == version | {"demo/config.pbtxt", "demo/labels.txt"}
    names = (tmp_path / "r/demo/labels.txt").read_text().splitlines()
    assert tuple(names) == Predictor("demo").spec.classes.names
    compile((tmp_path / "r/demo/1/model.py").read_text(), "model.py", "exec")


def test_versions_are_counted_up_and_nothing_is_changed(tmp_path: Path) -> None:
    write_repository(["demo"], tmp_path)
    edited = tmp_path / "demo/config.pbtxt"
    edited.write_text(edited.read_text().replace("count: 1", "count: 2"))
    (tmp_path / "other").mkdir()
    before = {name: (tmp_path / name).read_bytes() for name in listed(tmp_path)}
    [second] = write_repository(["demo"], tmp_path)
    [third] = write_repository(["demo"], tmp_path)
    assert (second.version, third.version) == (2, 3)
    assert {name: (tmp_path / name).read_bytes() for name in before} == before
    assert {"demo/2/model.onnx", "demo/3/model.py"} <= listed(tmp_path)


def test_what_is_there_already_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo/mine").write_text("mine")
    with pytest.raises(OutputError, match="is left as it is"):
        write_repository(["demo"], tmp_path)
    (tmp_path / "demo/1").mkdir()
    with pytest.raises(ModelFileError, match=r"has no alignseg\.json"):
        write_repository(["demo"], tmp_path)
    write_repository(["demo"], tmp_path, name="split", backend="onnxruntime")
    with pytest.raises(OutputError, match="has another backend"):
        write_repository(["demo"], tmp_path, name="split")
    spec = Predictor("demo").spec
    renamed = replace(spec.classes, names=("way", *spec.classes.names[1:]))
    other = with_facts(tmp_path / "other.onnx", classes=renamed)
    with pytest.raises(OutputError, match="has other classes"):
        write_repository([other], tmp_path, name="split", backend="onnxruntime")
    assert listed(tmp_path / "demo") == {"mine"}


def test_whole_model_as_the_server_calls_it(tmp_path: Path) -> None:
    write_repository(["demo"], tmp_path)
    model = opened(Whole, tmp_path / "demo")
    expected = Predictor("demo")(STREET, confidence=True)
    requests = [
        FakeRequest("labels", file=as_files(FILE)),
        FakeRequest("labels", "confidence", image=STREET[np.newaxis]),
        FakeRequest("labels", file=as_files(b"no image")),
        FakeRequest("labels", image=np.stack([STREET, STREET])),
        FakeRequest("labels"),
        FakeRequest("labels", file=as_files(FILE, encode_image(STREET[:, :64], ".png"))),
    ]
    one, sure, bad, two, empty, uneven = model.execute(requests)
    np.testing.assert_array_equal(outputs_of(one)["labels"], expected.labels[np.newaxis])
    assert set(outputs_of(one)) == {"labels"}
    np.testing.assert_array_equal(outputs_of(sure)["confidence"][0], expected.confidence)
    assert outputs_of(two)["labels"].shape == (2, 64, 96)
    assert "try:" in bad.error
    assert "send one of image and file" in empty.error
    assert "send one request for each image" in uneven.error


FORMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "camera": {"input": "uint8-rgb", "output": "probabilities", "layout": "nhwc"},
    "quarter": {"output": "probabilities", "output_size": "quarter"},
    "labels": {"input": "uint8-bgr", "output": "labels", "label_type": "int64", "layout": "nchw"},
    "planes": {"output": "logits", "layout": "nhwc", "size": (64, 128)},
    "one": {"output": "labels", "batch": 1},
    "few": {"remap": {"names": {"road": "way", "*": "rest"}, "threshold": 0.9}},
    "wide": {"output": "labels", "remap": {"names": {"road": "way", "sky": None}, "void": 40000}},
}
TENSORS = {  # of the network: input and output
    "plain": ("FP32 dims: [3, -1, -1]", "FP32 dims: [19, -1, -1]"),
    "camera": ("UINT8 dims: [-1, -1, 3]", "FP32 dims: [-1, -1, 19]"),
    "quarter": ("FP32 dims: [3, -1, -1]", "FP32 dims: [19, -1, -1]"),
    "labels": ("UINT8 dims: [-1, -1, 3]", "INT64 dims: [1, -1, -1]"),
    "planes": ("FP32 dims: [3, 64, 128]", "FP32 dims: [-1, -1, 19]"),
    "one": ("FP32 dims: [1, 3, -1, -1]", "UINT8 dims: [1, -1, -1]"),
    "few": ("FP32 dims: [3, -1, -1]", "FP32 dims: [19, -1, -1]"),
    "wide": ("FP32 dims: [3, -1, -1]", "UINT16 dims: [-1, -1]"),
}


def formed(path: Path, options: dict[str, Any]) -> Path:
    """Write the demo model in another form to `path`."""
    if "remap" in options:
        names = path.with_suffix(".json")
        names.write_text(json.dumps(options["remap"]))
        options = {**options, "remap": names}
    export_onnx(model_path("demo"), path, **options)
    return path


@pytest.mark.parametrize("form", FORMS)
def test_ensemble_as_the_server_calls_it(form: str, tmp_path: Path) -> None:
    model = formed(tmp_path / "a.onnx", FORMS[form]) if FORMS[form] else model_path("demo")
    write_repository([model], tmp_path / "r", backend="onnxruntime", name="demo")
    taken, returned = TENSORS[form]
    configuration = (tmp_path / "r/demo_network/config.pbtxt").read_text()
    assert f"TYPE_{taken} }}" in configuration
    assert f"TYPE_{returned} }}" in configuration
    before = opened(Preprocess, tmp_path / "r/demo_before")
    after = opened(Postprocess, tmp_path / "r/demo_after")
    files = (FILE,) if form == "one" else (FILE, FILE)
    [prepared] = before.execute([FakeRequest(file=as_files(*files))])
    given = outputs_of(prepared)
    session = onnxruntime.InferenceSession(model)
    [output, *_] = session.run(None, {"image": given["image"]})
    [done] = after.execute([FakeRequest(output=output, size=given["size"])])
    expected = Predictor(model)(list(files))
    for labels, result in zip(outputs_of(done)["labels"], expected, strict=True):
        np.testing.assert_array_equal(labels, result.labels)
    wrong = before.execute([FakeRequest(file=as_files(b"")), FakeRequest(file=as_files(FILE))])
    assert "try:" in wrong[0].error
    assert outputs_of(wrong[1])["size"].tolist() == [[64, 96]]


def test_types_that_another_tool_changed(tmp_path: Path) -> None:
    """The configuration says what the graph has, not what it had when it was exported."""
    model = onnx.load(str(model_path("demo")))
    for value in (*model.graph.input, *model.graph.output[:1]):
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    inner = onnx.helper.make_node("Cast", ["logits"], ["given.logits"], to=onnx.TensorProto.FLOAT16)
    for node in model.graph.node:
        node.output[:] = ["inner.logits" if name == "logits" else name for name in node.output]
    inner.input[0], inner.output[0] = "inner.logits", "logits"
    model.graph.node.append(inner)
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    onnx.save(model, tmp_path / "half.onnx")
    write_repository([tmp_path / "half.onnx"], tmp_path / "r", backend="onnxruntime")
    configuration = (tmp_path / "r/half_network/config.pbtxt").read_text()
    assert "TYPE_FP32 dims: [3, -1, -1]" in configuration
    assert "TYPE_FP16 dims: [19, -1, -1]" in configuration
    after = opened(Postprocess, tmp_path / "r/half_after")
    logits = np.random.default_rng(0).normal(size=(1, 19, 17, 25)).astype(np.float16)
    given = {"output": logits, "size": np.array([[64, 96]], np.int32)}
    [done] = after.execute([FakeRequest(**given)])
    assert outputs_of(done)["labels"].shape == (1, 64, 96)

    cast = onnx.helper.make_node("Cast", ["image"], ["inner.image"], to=onnx.TensorProto.FLOAT)
    for node in model.graph.node:
        node.input[:] = ["inner.image" if name == "image" else name for name in node.input]
    model.graph.node.insert(0, cast)
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    onnx.save(model, tmp_path / "both.onnx")
    with pytest.raises(ModelFileError, match="takes float16") as caught:
        write_repository([tmp_path / "both.onnx"], tmp_path / "r", backend="onnxruntime")
    assert caught.value.fix.endswith("or leave out the backend")
    write_repository([tmp_path / "both.onnx"], tmp_path / "r")


ONE = replace(PROFILE.minimum, height=64, width=128)


@pytest.mark.parametrize(("most", "dims"), [(4, "[3, 64, 128]"), (1, "[1, 3, 64, 128]")])
def test_an_engine_of_one_size_gets_images_of_that_size(
    most: int, dims: str, tmp_path: Path
) -> None:
    """The ONNX file that it was built from may take any size; its profile does not."""
    engine = tmp_path / "a.engine"
    write_engine(engine, profile=Profile(ONE, ONE, replace(ONE, batch=most)))
    [done] = write_repository([engine], tmp_path / "r")
    assert done.batch == (most if most > 1 else 0)
    assert f"dims: {dims}" in (tmp_path / "r/a_network/config.pbtxt").read_text()
    before = opened(Preprocess, tmp_path / "r/a_before")
    [prepared] = before.execute([FakeRequest(file=as_files(FILE))])
    assert outputs_of(prepared)["image"].shape == (1, 3, 64, 128)


def test_an_engine_of_another_form(tmp_path: Path) -> None:
    engine = tmp_path / "a.engine"
    export = replace(
        EXPORT,
        image=ImageInput.UINT8_RGB,
        output=OutputKind.LABELS,
        label_type=LabelType.INT32,
        layout=Layout.NHWC,
    )
    write_engine(engine, spec=replace(SMALL_SPEC, export=export))
    write_repository([engine], tmp_path / "r")
    configuration = (tmp_path / "r/a_network/config.pbtxt").read_text()
    assert "TYPE_UINT8 dims: [-1, -1, 3]" in configuration
    assert "TYPE_INT32 dims: [-1, -1, 1]" in configuration
    labels = np.full((1, 64, 96, 1), 7, np.int32)
    after = opened(Postprocess, tmp_path / "r/a_after")
    given = {"output": labels, "size": np.array([[32, 48]], np.int32)}
    [done] = after.execute([FakeRequest(**given)])
    assert (outputs_of(done)["labels"] == np.full((1, 32, 48), 7, np.uint8)).all()


def test_several_images_and_no_fewer(tmp_path: Path) -> None:
    engine = tmp_path / "a.engine"
    write_engine(engine, profile=Profile(*[replace(ONE, batch=4)] * 3))
    with pytest.raises(ModelFileError, match="takes 4 images at once, and no fewer") as caught:
        write_repository([engine], tmp_path / "r")
    shapes = "--min-shape 1x64x128 --opt-shape 4x64x128 --max-shape 4x64x128"
    assert caught.value.fix.endswith(f"alignseg export-trt MODEL -o ENGINE {shapes}")
    model = formed(tmp_path / "b.onnx", {"batch": 2})
    with pytest.raises(ModelFileError, match="takes 2 images at once") as caught:
        write_repository([model], tmp_path / "r", backend="openvino")
    assert "for any number of images" in caught.value.fix
    assert write_repository([model], tmp_path / "r")[0].batch == 4  # which fills batches up


def test_a_backend_for_another_numpy_is_refused() -> None:
    require_round_trip(utils_with(FakeTensor))
    with pytest.raises(DeviceError, match=f"does not read arrays of NumPy {np.__version__}"):
        require_round_trip(utils_with(BrokenTensor))


def test_engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = tmp_path / "a.engine"
    write_engine(engine, version_compatible=True)
    [done] = write_repository([engine], tmp_path / "r", batch=64)
    assert done.backend == "tensorrt_plan"
    assert done.batch == min(64, PROFILE.maximum.batch)
    assert done.server_options == ("--backend-config=tensorrt,version-compatible=true",)
    assert (tmp_path / "r/a_network/1/model.plan").read_bytes() == engine.read_bytes()
    assert "KIND_GPU" in (tmp_path / "r/a_network/config.pbtxt").read_text()
    assert "KIND_CPU" in (tmp_path / "r/a_before/config.pbtxt").read_text()

    write_engine(engine, plugins=("OffsetGridSample/1",))
    monkeypatch.setenv("ALIGNSEG_PLUGIN", str(tmp_path / "missing.so"))
    with pytest.raises(EngineError, match="needs the library of TensorRT plugins"):
        write_repository([engine], tmp_path / "p")
    assert not (tmp_path / "p").exists()
    monkeypatch.setenv("ALIGNSEG_PLUGIN", str(engine))
    [done] = write_repository([engine], tmp_path / "p")
    [option] = done.server_options
    library = Path(option.removeprefix("--backend-config=tensorrt,plugins="))
    assert library.read_bytes() == engine.read_bytes()


REFUSED: list[tuple[dict[str, Any], type[AlignSegError], str]] = [
    ({"batch": 0}, OptionError, "batch=0"),
    ({"backend": "torch"}, OptionError, "backend='torch'"),
    ({"backend": "tensorrt_plan"}, OptionError, "does not run"),
    ({"name": "a/b"}, OptionError, "would be called 'a/b'"),
]


@pytest.mark.parametrize(("options", "error", "message"), REFUSED)
def test_options_that_are_refused(
    options: dict[str, Any], error: type[AlignSegError], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        write_repository(["demo"], tmp_path / "r", **options)
    assert not (tmp_path / "r").exists()


def test_models_that_are_refused(tmp_path: Path) -> None:
    checkpoint = tmp_path / "weights.pth"
    checkpoint.write_bytes(model_path("demo").with_suffix(".pth").read_bytes())
    engine = tmp_path / "rtx.engine"
    write_engine(engine, flavour=Flavour.TENSORRT_RTX, gpu=None)
    classes = Predictor("demo").spec.classes
    names = ("a: b", *classes.names[1:])
    cases: list[tuple[Sequence[Any], type[AlignSegError], str]] = [
        ([checkpoint], ModelFileError, f"alignseg export-onnx {checkpoint} -o weights.onnx"),
        ([engine], EngineError, "--flavour tensorrt"),
        (["demo", "demo"], OptionError, "several models would be called demo"),
        ([tmp_path / "no.onnx"], ModelFileError, "no.onnx"),
        (
            [with_facts(tmp_path / "n.onnx", classes=replace(classes, names=names))],
            SpecError,
            "a class called 'a: b'",
        ),
    ]
    for models, error, message in cases:
        with pytest.raises(error) as caught:
            write_repository(models, tmp_path / "r")
        assert message in str(caught.value)
    assert not (tmp_path / "r").exists()


def test_advice_is_typed_where_names_have_spaces(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "my models"
    model = with_facts(tmp_path / "my model.onnx")
    assert main(["deploy", "triton", str(model), "-o", str(folder)]) == 0
    command = ["deploy", "triton", str(model), "-o", str(folder), "--backend", "onnxruntime"]
    assert main(command) == 1
    advice = capsys.readouterr().err.partition("try: ")[2].strip()
    assert main(shlex.split(advice)[1:]) == 0
    assert (folder / "my_model-2/1/model.onnx").exists()
    (tmp_path / "my weights.pth").write_bytes(model_path("demo").with_suffix(".pth").read_bytes())
    assert main(["deploy", "triton", str(tmp_path / "my weights.pth"), "-o", str(folder)]) == 1
    words = shlex.split(capsys.readouterr().err.partition("first: alignseg ")[2])
    assert words == ["export-onnx", str(tmp_path / "my weights.pth"), "-o", "my weights.onnx"]


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "my models"
    typed = ["deploy", "triton", "demo", "-o", str(folder), "--name", "street", "--debug"]
    assert main(typed) == 0
    said = capsys.readouterr().out
    assert "street, version 1: backend python, up to 4 images" in said
    assert f"tritonserver --model-repository='{folder}'" in said
    assert main(["deploy", "triton", "missing.onnx", "-o", str(folder)]) == 1
    assert "missing.onnx" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["deploy", "triton", "demo", "-o", str(folder), "--backend", "onnxruntim"])
    assert "did you mean" in capsys.readouterr().err
