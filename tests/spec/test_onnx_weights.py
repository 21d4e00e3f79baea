"""Files of weights: found wherever a model may name them, and refused outside its folder."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from alignseg_infer import ModelFileError, Predictor
from alignseg_infer.arrays import InputShape
from alignseg_infer.cli import main
from alignseg_infer.demo import model_path
from alignseg_infer.demo.streets import Street
from alignseg_infer.spec.onnx_weights import read_locations, require_weights_beside
from alignseg_infer.trt.builder.engine import engine_from_onnx
from alignseg_infer.trt.builder.options import BuildOptions
from alignseg_infer.trt.engine_file import Profile
from tests.support.fake_tensorrt_network import FakeTensorRTNetwork
from tests.support.split_models import write_with_data

SIZE = (64, 96)
# ONNX Runtime reads files outside the folder before 1.24.1, so on Python 3.10 to this day.
RUNTIME_READS_OUTSIDE = onnxruntime.__version__.startswith(
    ("1.20.", "1.21.", "1.22.", "1.23.", "1.24.0")
)


def name_a_file_above(folder: Path) -> str:
    return "../weights.data"


def name_a_whole_path(folder: Path) -> str:
    return str(folder.parent / "weights.data")


def link_to_a_file_above(folder: Path) -> str:
    (folder / "weights.data").symlink_to("../elsewhere.data")
    return "weights.data"  # which is written through the link


OUTSIDE = [name_a_file_above, name_a_whole_path, link_to_a_file_above]


@pytest.fixture(params=OUTSIDE)
def outside(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The demo model with weights in a file outside its folder."""
    folder = tmp_path / "models"
    folder.mkdir()
    write_with_data(folder / "a.onnx", model_path("demo"), request.param(folder))
    return folder / "a.onnx"


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_weights_outside_are_not_opened(outside: Path, runtime: str) -> None:
    with pytest.raises(ModelFileError, match="outside its folder") as caught:
        Predictor(outside, runtime=runtime)
    assert str(outside.parent) in caught.value.expected


def test_our_own_check_is_the_guard_for_old_runtimes(outside: Path) -> None:
    try:
        onnxruntime.InferenceSession(outside, providers=["CPUExecutionProvider"])
        reads = True
    except Exception as error:
        assert "External data path" in str(error)  # noqa: PT017 - which one it raises has changed
        reads = False
    assert reads is RUNTIME_READS_OUTSIDE


def test_tensorrt_does_not_read_weights_outside(
    outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = FakeTensorRTNetwork()
    module.install(monkeypatch)
    shape = InputShape(1, *SIZE)
    profile = Profile(shape, shape, shape)
    with pytest.raises(ModelFileError, match="outside its folder"):
        engine_from_onnx(outside, BuildOptions(profile=profile))


@pytest.mark.parametrize("command", ["predict {} street.png -o out", "inspect {}", "bench {}"])
def test_commands_refuse_weights_outside(
    outside: Path, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("street.png").write_bytes(b"not read")
    assert main(command.format(outside).split()) == 1
    assert "outside its folder" in capfd.readouterr().err


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_weights_in_the_folder_are_read(
    runtime: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside the model, in a folder below it, and if a link leads to the folder of both."""
    image = Street(7).scene(size=SIZE).image
    expected = Predictor("demo", runtime=runtime, size=SIZE)(image).labels
    folder = tmp_path / "models"
    (folder / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to(folder)
    write_with_data(folder / "a.onnx", model_path("demo"), "a.onnx.data")
    write_with_data(folder / "b.onnx", model_path("demo"), "deep/b.data")
    monkeypatch.chdir(folder)
    for path in (folder / "a.onnx", tmp_path / "link" / "a.onnx", "a.onnx", folder / "b.onnx"):
        labels = Predictor(path, runtime=runtime, size=SIZE)(image).labels
        np.testing.assert_array_equal(labels, expected)


def external(location: str) -> TensorProto:
    tensor = TensorProto(name=location, data_type=TensorProto.FLOAT, dims=[1])
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("offset", "0"), ("location", location), ("length", "4")):
        tensor.external_data.add(key=key, value=value)
    return tensor


def graph(*nodes: onnx.NodeProto, weights: tuple[TensorProto, ...] = ()) -> onnx.GraphProto:
    return helper.make_graph(list(nodes), "g", [], [], list(weights))


def constant(location: str) -> onnx.NodeProto:
    return helper.make_node("Constant", [], ["c"], value=external(location))


def in_a_subgraph() -> onnx.ModelProto:
    inner = helper.make_node(
        "If", ["c"], ["y"], then_branch=graph(constant("a")), else_branch=graph(constant("b"))
    )
    return helper.make_model(graph(helper.make_node("If", ["c"], ["y"], then_branch=graph(inner))))


def in_lists_of_an_attribute() -> onnx.ModelProto:
    node = helper.make_node("N", [], [], tensors=[external("a"), external("b")])
    other = helper.make_node("N", [], [], graphs=[graph(constant("c"))])
    return helper.make_model(graph(node, other))


def in_a_function() -> onnx.ModelProto:
    function = helper.make_function("d", "f", [], ["c"], [constant("a")], [])
    function.attribute_proto.append(helper.make_attribute("t", external("b")))
    return helper.make_model(graph(), functions=[function])


def in_sparse_weights() -> onnx.ModelProto:
    sparse = helper.make_sparse_tensor(external("a"), external("b"), [4])
    node = helper.make_node("Constant", [], ["c"], sparse_value=sparse)
    model = helper.make_model(graph(node))
    more = helper.make_sparse_tensor(external("c"), external("d"), [4])
    model.graph.sparse_initializer.append(more)
    return model


def in_weights() -> onnx.ModelProto:
    return helper.make_model(graph(weights=(external("a"), external("../b"))))


def in_training_information() -> onnx.ModelProto:
    model = helper.make_model(graph())
    model.training_info.add(initialization=graph(constant("a")), algorithm=graph(constant("b")))
    return model


def as_deep_as_protobuf_reads() -> onnx.ModelProto:
    """The entry with the path is in 99 messages, each in the one before, below the file's own."""
    sparse = graph()
    sparse.sparse_initializer.append(helper.make_sparse_tensor(external("a"), external("b"), [4]))
    for _ in range(32):
        sparse = graph(helper.make_node("N", [], [], graph=sparse))
    return helper.make_model(sparse)


PLACES = [
    (in_weights, "a ../b"),
    (in_a_subgraph, "a b"),
    (in_lists_of_an_attribute, "a b c"),
    (in_a_function, "a b"),
    (in_sparse_weights, "a b c d"),
    (in_training_information, "a b"),
    (as_deep_as_protobuf_reads, "a b"),
]


@pytest.mark.parametrize(("make", "locations"), PLACES)
def test_all_places_are_searched(
    make: Callable[[], onnx.ModelProto], locations: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.onnx"
    path.write_bytes(make().SerializeToString())
    onnx.load(path, load_external_data=False)  # protobuf reads it, too
    assert sorted(read_locations(path)) == sorted(locations.split())


GROUP = b"\xf3\x06\x08\x01\xf4\x06"  # field 110, which ONNX does not have
# Each is read by protobuf as what it stands before or instead of.
DISGUISES: list[Callable[[bytes], bytes]] = [
    lambda content: GROUP + content,
    lambda content: b"\x08\x8a\x80\x00" + content,  # a number written longer than it has to be
    lambda content: content.replace(b"\x3a", b"\xba\x80\x80\x80\x00", 1),  # so is a field's number
    lambda content: content + helper.make_model(graph()).SerializeToString(),  # merged with it
]


@pytest.mark.parametrize("disguise", DISGUISES)
def test_what_protobuf_reads_is_found(disguise: Callable[[bytes], bytes], tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    model = onnx.ModelProto(graph=graph(weights=(external("../a"),)))
    path.write_bytes(disguise(model.SerializeToString()))
    seen = onnx.load(path, load_external_data=False).graph.initializer
    assert [one.external_data[1].value for one in seen] == ["../a"]
    assert list(read_locations(path)) == ["../a"]


BAD = [
    ("", "is a directory"),
    ("a\0b", "outside"),
    ("lost.data", "does not exist"),
    ("loop", "loop"),
    ("pipe", "is a pipe"),
    ("../models/weights", "does not exist"),
    ("weights/../../b", "outside"),
    ("link", "outside"),
    ("*/_ORT_MEM_ADDR_/*", "outside"),  # ONNX Runtime's mark of an address in memory
    ("x" * 70_000, "too long"),
]


@pytest.mark.parametrize(("location", "words"), BAD)
def test_locations_that_are_no_files(location: str, words: str, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    (folder / "*/_ORT_MEM_ADDR_").mkdir(parents=True)
    (folder / "*/_ORT_MEM_ADDR_/*").write_bytes(bytes(4))
    (folder / "loop").symlink_to("loop")
    (folder / "link").symlink_to("/etc/hostname")
    os.mkfifo(folder / "pipe")
    path = folder / "a.onnx"
    path.write_bytes(helper.make_model(graph(weights=(external(location),))).SerializeToString())
    with pytest.raises(ModelFileError, match=words):
        require_weights_beside(path)


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 99, b"\x08\x07", b"text", b"\xff" * 40, b"\x3a\xff\xff\xff\x7f"]
)
def test_what_is_no_model_passes(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    path.write_bytes(content)
    require_weights_beside(path)
    require_weights_beside(tmp_path / "lost.onnx")


def test_a_file_of_small_fields_is_given_up_soon(tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    path.write_bytes(b"\x08\x07" * 1_000_000)
    start = time.process_time()
    with pytest.raises(ModelFileError, match="more than 500,000 fields"):
        require_weights_beside(path)
    assert time.process_time() - start < 5


@pytest.mark.parametrize("entries", [("inside", "../a"), ("../a", "inside")])
def test_each_of_several_paths_counts(entries: tuple[str, str], tmp_path: Path) -> None:
    """OpenVINO takes the last one; ONNX Runtime refuses such files."""
    tensor = external(entries[0])
    tensor.external_data.add(key="location", value=entries[1])
    (tmp_path / "inside").write_bytes(bytes(4))
    path = tmp_path / "a.onnx"
    path.write_bytes(helper.make_model(graph(weights=(tensor,))).SerializeToString())
    with pytest.raises(ModelFileError, match=r"'\.\./a' .* outside"):
        require_weights_beside(path)


@pytest.mark.parametrize(
    "command", ["inspect {}", "predict {} a.png -o out", "verify {} --against demo"]
)
def test_a_pipe_is_no_model(command: str, tmp_path: Path, capsys: Any) -> None:
    """Nobody may ever write to it, so it is not opened."""
    os.mkfifo(tmp_path / "pipe.onnx")
    assert main(command.format(tmp_path / "pipe.onnx").split()) == 1
    assert "pipe.onnx is a pipe" in capsys.readouterr().err
