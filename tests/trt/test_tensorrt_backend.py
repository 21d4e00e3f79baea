"""Running an engine, on a fake CUDA and a fake TensorRT; see fake_tensorrt."""

import gc
import json
import logging
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from alignseg_infer import (
    AlignSegError,
    CudaError,
    DeviceError,
    EngineError,
    ImageError,
    ModelFileError,
    OptionError,
    Predictor,
    ProcessError,
    SizeError,
)
from alignseg_infer.arrays import Image, InputShape
from alignseg_infer.backend import LimitedBackend
from alignseg_infer.backends import open_backend
from alignseg_infer.backends.opening import open_again
from alignseg_infer.cli import main
from alignseg_infer.cuda.base import Cuda, Gpu
from alignseg_infer.spec.model import ImageInput, InputSpec, LabelType, Layout, OutputKind
from alignseg_infer.trt.engine_file import Profile, sidecar_path
from alignseg_infer.trt.flavours import Flavour
from alignseg_infer.trt.runtime import backend as tensorrt_backend
from alignseg_infer.trt.runtime.backend import TensorRTBackend
from alignseg_infer.trt.runtime.inspector import layers_from_json
from tests.support.fake_tensorrt import (
    EXPORT,
    PROFILE,
    VERSION,
    FakeContext,
    FakeCuda,
    FakeTensorRT,
    FakeTensorRTRTX,
    expected_logits,
    image_of,
    plan_of,
    with_offset_fields,
    write_engine,
)
from tests.support.models import SMALL_SPEC
from tests.support.processes import exit_code_of_fork, needs_fork
from tests.support.waiting import PATIENCE

LABELS = replace(SMALL_SPEC, export=replace(EXPORT, output=OutputKind.LABELS))


class Stand:
    """An engine on disk, and the fakes that run it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "a.engine"
        self.cuda = FakeCuda()
        self.module = FakeTensorRT(self.cuda)
        self.version: tuple[int, ...] = VERSION
        write_engine(self.path)

    def open(self, **arguments: Any) -> TensorRTBackend:
        return TensorRTBackend(self.path, **arguments)


@pytest.fixture
def stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stand:
    stand = Stand(tmp_path)

    def open_fake(index: int, package: str) -> Cuda:
        return stand.cuda

    monkeypatch.setattr(tensorrt_backend, "open_cuda", open_fake)
    monkeypatch.setattr(
        tensorrt_backend, "load_tensorrt", lambda runtime: stand.module.loaded(stand.version)
    )
    return stand


def test_infer(stand: Stand) -> None:
    with stand.open() as backend:
        assert backend.name == "tensorrt 11.4.0.106 (NVIDIA L4)"
        batch = image_of((2, 3, 45, 77))
        np.testing.assert_array_equal(backend.infer(batch), expected_logits(batch))


def test_outputs_belong_to_the_caller(stand: Stand) -> None:
    with stand.open() as backend:
        batches = [image_of((1, 3, 64, 64), seed) for seed in range(3)]
        outputs = [backend.infer(batch) for batch in batches]
    for output, batch in zip(outputs, batches, strict=True):
        np.testing.assert_array_equal(output, expected_logits(batch))


def test_input_may_be_a_view(stand: Stand) -> None:
    wide = image_of((1, 3, 64, 128))[..., ::2]
    assert not wide.flags.c_contiguous
    with stand.open() as backend:
        np.testing.assert_array_equal(backend.infer(wide), expected_logits(wide))


def test_layers_as_built(stand: Stand) -> None:
    """TensorRT 10 and 11 name types differently; a layer that is only a name has none."""
    with stand.open() as backend:
        layers = {(row.kind, row.data_type): row.count for row in backend.layers()}
    assert layers == {
        ("kgen", "HALF"): 1,
        ("conv", "FLOAT"): 1,
        ("conv", "INT8"): 1,
        ("NoOp", "?"): 1,
        ("?", "?"): 1,
    }


@pytest.mark.parametrize("said", ["", "no JSON", "[]", "{}", '{"Layers": 3}'])
def test_an_inspector_that_says_something_else(said: str) -> None:
    with pytest.raises(EngineError, match="inspector describes"):
        layers_from_json(said)


@pytest.mark.parametrize(("data_type", "dtype"), [("UINT8", np.uint8), ("INT32", np.uint8)])
def test_labels(stand: Stand, data_type: str, dtype: type[np.generic]) -> None:
    write_engine(stand.path, plan_of("labels", data_type), spec=LABELS)
    batch = np.arange(64 * 64, dtype=np.float32).reshape(1, 1, 64, 64).repeat(3, 1) % 19
    with stand.open() as backend:
        labels = backend.infer(batch)
    assert labels.dtype == dtype
    np.testing.assert_array_equal(labels, batch[:, 0])


def test_engine_for_a_camera(stand: Stand) -> None:
    """It takes (N, H, W, 3) uint8 and returns (N, H, W, 1) int32."""
    export = replace(
        EXPORT,
        output=OutputKind.LABELS,
        layout=Layout.NHWC,
        label_type=LabelType.INT32,
        image=ImageInput.UINT8_RGB,
    )
    shapes = (PROFILE.minimum, PROFILE.optimum, PROFILE.maximum)
    plan = plan_of(
        tensors=[["image", "INPUT", "UINT8"], ["labels", "OUTPUT", "INT32"]],
        profile=[[one.batch, one.height, one.width, 3] for one in shapes],
        shapes={"image": [-1, -1, -1, 3], "labels": [-1, -1, -1, 1]},
    )
    write_engine(stand.path, plan, spec=replace(SMALL_SPEC, export=export))
    image = np.random.default_rng(3).integers(0, 19, (64, 96, 3), np.uint8)
    with stand.open() as backend:
        first, second = Predictor(backend, batch=2)([image, 18 - image])
        with pytest.raises(OptionError, match="something else than logits"):
            backend.load_kernels()
    np.testing.assert_array_equal(first.labels, image[..., 2])  # the first channel of RGB
    np.testing.assert_array_equal(second.labels, 18 - image[..., 2])
    assert first.labels.dtype == np.uint8


HALF_DOORS = [("HALF", "FLOAT"), ("FLOAT", "HALF"), ("HALF", "HALF")]


@pytest.mark.parametrize(("taken", "given"), HALF_DOORS)
def test_float16_images_and_logits_are_converted(stand: Stand, taken: str, given: str) -> None:
    tensors = [["image", "INPUT", taken], ["logits", "OUTPUT", given]]
    write_engine(stand.path, plan_of(tensors=tensors))
    types = {"HALF": np.float16, "FLOAT": np.float32}
    with stand.open() as backend:
        for shape in [(1, 3, 64, 64), (2, 3, 64, 96), (2, 3, 64, 96), (2, 3, 64, 96)]:
            batch = image_of(shape)
            seen = backend.infer(batch)
            rounded = batch.astype(types[taken]).astype(np.float32)
            expected = expected_logits(rounded).astype(types[given]).astype(np.float32)
            assert seen.dtype == np.float32
            np.testing.assert_array_equal(seen, expected)


MISFITS = {
    "uint8 image": (
        [["image", "INPUT", "UINT8"], ["logits", "OUTPUT", "FLOAT"]],
        {},
        "image uint8",
    ),
    "rank 3": (None, {"image": [3, -1, -1]}, "image float32 (3, any, any)"),
    "channels last": (None, {"image": [-1, -1, -1, 3]}, "image float32 (any, any, any, 3)"),
    "4 channels": (None, {"image": [-1, 4, -1, -1]}, "image float32 (any, 4, any, any)"),
    "21 classes": (None, {"logits": [-1, 21, -1, -1]}, "logits float32 (any, 21, any, any)"),
    "no classes": (None, {"logits": []}, "logits float32 ()"),
    "another batch": (None, {"image": [1, 3, -1, -1], "logits": [2, 19, -1, -1]}, "(2, 19, any"),
    "int8 logits": ([["image", "INPUT", "FLOAT"], ["logits", "OUTPUT", "INT8"]], {}, "logits int8"),
    "another name": ([["data", "INPUT", "FLOAT"], ["logits", "OUTPUT", "FLOAT"]], {}, "data float"),
}


@pytest.mark.parametrize(("tensors", "shapes", "seen"), MISFITS.values(), ids=MISFITS)
def test_tensors_that_do_not_fit_the_facts(
    stand: Stand, tensors: list[list[str]] | None, shapes: dict[str, list[int]], seen: str
) -> None:
    changes: dict[str, Any] = {"shapes": {"image": [-1, 3, -1, -1], "logits": [-1, 19, -1, -1]}}
    changes["shapes"] |= shapes
    changes |= {"tensors": tensors} if tensors else {}
    write_engine(stand.path, plan_of(**changes))
    with pytest.raises(EngineError) as caught:
        stand.open()
    assert seen in caught.value.problem
    assert "alignseg export-trt MODEL -o ENGINE" in caught.value.fix


def softmax(name: str, image: NDArray[np.float32]) -> NDArray[np.float32]:
    powers = np.exp(expected_logits(image) / 100)
    shares: NDArray[np.float32] = powers / powers.sum(axis=1, keepdims=True)
    return shares


def test_probabilities_are_refused(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeContext, "_output", staticmethod(softmax))
    with stand.open() as backend:
        for _ in "ab":
            with pytest.raises(ModelFileError, match="returned probabilities"):
                backend.infer(image_of((1, 3, 64, 64)))


def test_labels_are_checked_before_they_become_uint8(stand: Stand) -> None:
    """256 would be 0."""
    write_engine(stand.path, plan_of("labels", "INT32"), spec=LABELS)
    batch = np.zeros((1, 3, 64, 64), np.float32)
    with stand.open() as backend:
        for wrong in (256, 19, -1):
            batch[0, 0, 5, 6] = wrong
            with pytest.raises(ModelFileError, match=f"returned the label {wrong}"):
                backend.infer(batch)
        batch[0, 0, 5, 6] = 18
        assert backend.infer(batch)[0, 5, 6] == 18


def test_offset_fields_get_addresses_and_are_not_copied(stand: Stand) -> None:
    write_engine(stand.path, with_offset_fields(plan_of()))
    batch = image_of((1, 3, 64, 64))
    with stand.open() as backend:
        np.testing.assert_array_equal(backend.infer(batch), expected_logits(batch))
        assert stand.cuda.counts["allocate"] == 11
        assert stand.cuda.counts["allocate_pinned"] == 2
        assert stand.cuda.counts["copy_to_host"] == 1


def test_memory_is_for_the_largest_input_and_made_once(stand: Stand) -> None:
    with stand.open() as backend:
        sizes = sorted(memory.size for memory in stand.cuda.memory.values())
        assert sizes == sorted([4 * 2 * 3 * 64 * 96, 4 * 2 * 19 * 16 * 24])
        made = {
            name: stand.cuda.counts[name] for name in ("allocate", "allocate_pinned", "new_stream")
        }
        for shape in [(1, 3, 64, 64)] * 3 + [(2, 3, 64, 96), (1, 3, 32, 32)]:
            backend.infer(image_of(shape))
        assert made == {name: stand.cuda.counts[name] for name in made}


def test_graph_is_captured_when_a_shape_repeats(stand: Stand) -> None:
    small, large = image_of((1, 3, 32, 32)), image_of((2, 3, 64, 96))
    seen = []
    with stand.open() as backend:
        for batch in (small, small, small, large, small, small):
            np.testing.assert_array_equal(backend.infer(batch), expected_logits(batch))
            counts = stand.cuda.counts
            seen.append((counts["enqueue"], counts["end_capture"], counts["launch_graph"]))
            assert counts["end_capture"] - counts["free_graph"] <= 1
    # plain; captured and launched; launched; plain; plain; captured and launched
    assert seen == [(1, 0, 0), (2, 1, 1), (2, 1, 2), (3, 1, 2), (4, 1, 2), (5, 2, 3)]


def test_a_graph_reads_each_calls_input(stand: Stand) -> None:
    with stand.open() as backend:
        for seed in range(5):
            batch = image_of((1, 3, 64, 64), seed)
            np.testing.assert_array_equal(backend.infer(batch), expected_logits(batch))


@pytest.mark.parametrize(
    "obstacle", ["no capture in this package", "engine refuses", "cuda refuses"]
)
def test_without_a_graph(stand: Stand, obstacle: str, caplog: pytest.LogCaptureFixture) -> None:
    if obstacle == "no capture in this package":
        stand.cuda.can_capture = False
    elif obstacle == "engine refuses":
        stand.module.refuses.add("capture")
    else:
        stand.cuda.failing.add("end_capture")
    with stand.open() as backend:
        for seed in range(4):
            batch = image_of((1, 3, 64, 64), seed)
            np.testing.assert_array_equal(backend.infer(batch), expected_logits(batch))
    assert stand.cuda.counts["launch_graph"] == 0
    attempts = 0 if obstacle.startswith("no") else 1
    assert stand.cuda.counts["begin_capture"] == attempts
    warned = [record for record in caplog.records if "without a CUDA graph" in record.message]
    assert len(warned) == attempts


def test_threads_have_contexts_of_their_own(stand: Stand) -> None:
    meeting = threading.Barrier(3)
    copy = stand.cuda.copy_to_device

    def met(address: int, source: NDArray[Any], stream: int) -> None:
        meeting.wait(PATIENCE)  # fails unless three calls are here at the same time
        copy(address, source, stream)

    stand.cuda.copy_to_device = met  # type: ignore[method-assign]
    batches = [image_of((1, 3, 64, 64), seed) for seed in range(3)]
    with stand.open() as backend, ThreadPoolExecutor(3) as threads:
        outputs = list(threads.map(backend.infer, batches))
    for output, batch in zip(outputs, batches, strict=True):
        np.testing.assert_array_equal(output, expected_logits(batch))
    assert stand.module.contexts == 3


def test_more_threads_than_contexts(stand: Stand) -> None:
    batches = [image_of((1 + seed % 2, 3, 64, 64), seed) for seed in range(40)]
    with stand.open(contexts=2) as backend, ThreadPoolExecutor(8) as threads:
        outputs = list(threads.map(backend.infer, batches))
    for output, batch in zip(outputs, batches, strict=True):
        np.testing.assert_array_equal(output, expected_logits(batch))
    assert 1 <= stand.module.contexts <= 2


def test_one_thread_has_one_context(stand: Stand) -> None:
    with stand.open() as backend:
        for shape in ((1, 3, 64, 64), (1, 3, 32, 32)):
            backend.infer(image_of(shape))
    assert stand.module.contexts == 1


CLOSED = [
    *("graph freed", "context gone", "memory freed", "memory freed", "stream freed"),
    *("engine gone", "runtime gone", "cuda closed"),
]


def test_close_frees_in_order_and_once(stand: Stand) -> None:
    backend = stand.open()
    for _ in range(2):
        backend.infer(image_of((1, 3, 64, 64)))
    backend.close()
    assert stand.cuda.events == CLOSED
    backend.close()
    assert stand.cuda.events == CLOSED
    with pytest.raises(EngineError, match="was closed"):
        backend.infer(image_of((1, 3, 64, 64)))


def test_letting_go_closes(stand: Stand) -> None:
    backend = stand.open()
    for _ in range(2):
        backend.infer(image_of((1, 3, 64, 64)))
    del backend
    gc.collect()
    assert stand.cuda.events == CLOSED


@needs_fork
def test_a_forked_process_leaves_the_gpu_alone(stand: Stand) -> None:
    backend = stand.open()
    before = list(stand.cuda.events)

    def use() -> None:
        with pytest.raises(ProcessError, match="forked"):
            backend.infer(image_of((1, 3, 64, 64)))
        backend.close()
        assert stand.cuda.events == before

    assert exit_code_of_fork(use) == 0
    backend.infer(image_of((1, 3, 64, 64)))
    backend.close()
    assert stand.cuda.events == CLOSED[-len(stand.cuda.events) :]


def test_an_engine_can_be_sent(stand: Stand) -> None:
    predictor = Predictor(stand.path, batch=2, on_device=False)
    name, sent = predictor.backend, pickle.dumps(predictor)
    del predictor
    gc.collect()
    twin = pickle.loads(sent)
    assert (twin.backend, twin.batch, twin.on_device) == (name, 2, False)
    open_again.cache_clear()


def test_close_waits_for_calls_under_way(stand: Stand) -> None:
    inside, may_go = threading.Event(), threading.Event()
    synchronize = stand.cuda.synchronize

    def slow(stream: int) -> None:
        inside.set()
        assert may_go.wait(PATIENCE)
        synchronize(stream)

    stand.cuda.synchronize = slow  # type: ignore[method-assign]
    backend = stand.open()
    batch = image_of((1, 3, 64, 64))
    with ThreadPoolExecutor(2) as threads:
        call = threads.submit(backend.infer, batch)
        assert inside.wait(PATIENCE)
        closing = threads.submit(backend.close)
        assert not closing.done()
        assert "context gone" not in stand.cuda.events
        may_go.set()
        np.testing.assert_array_equal(call.result(PATIENCE), expected_logits(batch))
        closing.result(PATIENCE)
    assert stand.cuda.events[-1] == "cuda closed"


def test_a_failed_call_does_not_spoil_the_next(stand: Stand) -> None:
    batch = image_of((1, 3, 64, 64))
    with stand.open() as backend:
        stand.cuda.failing.add("copy_to_host")
        with pytest.raises(CudaError, match="CUDA_ERROR_ILLEGAL_ADDRESS"):
            backend.infer(batch)
        stand.cuda.failing.clear()
        np.testing.assert_array_equal(backend.infer(batch), expected_logits(batch))
        stand.module.refuses.add("enqueue")
        with pytest.raises(EngineError, match=r"start the engine: this layer synchronises"):
            backend.infer(image_of((1, 3, 32, 32)))


@pytest.mark.parametrize("room", [0, 4 * 2 * 3 * 64 * 96])
def test_too_little_memory(stand: Stand, room: int) -> None:
    stand.cuda.room = room
    with pytest.raises(CudaError, match=r"(?s)OUT_OF_MEMORY: 0\.\d MiB .*build the engine"):
        stand.open()
    assert stand.cuda.events[-1] == "cuda closed"  # the fake checks that nothing is left


@pytest.mark.parametrize("refusal", ["context", "deserialize"])
def test_tensorrt_says_no(stand: Stand, refusal: str) -> None:
    stand.module.refuses.add(refusal)
    said = {"context": "OutOfMemory: 300 MiB", "deserialize": "bad magic 0; bad magic 1"}
    with pytest.raises(EngineError, match=said[refusal]):
        stand.open()
    assert stand.cuda.events[-1] == "cuda closed"


SHAPES: list[tuple[tuple[int, ...], type[AlignSegError] | None]] = [
    ((1, 3, 32, 32), None),
    ((2, 3, 64, 96), None),
    ((3, 3, 64, 64), SizeError),
    ((1, 3, 65, 96), SizeError),
    ((1, 3, 64, 97), SizeError),
    ((1, 3, 31, 64), SizeError),
    ((1, 4, 64, 64), ImageError),
    ((3, 64, 64), ImageError),
]


@pytest.mark.parametrize(("shape", "error"), SHAPES, ids=str)
def test_shapes(stand: Stand, shape: tuple[int, ...], error: type[AlignSegError] | None) -> None:
    with stand.open() as backend:
        if error is None:
            backend.infer(image_of(shape))
        else:
            with pytest.raises(error):
                backend.infer(image_of(shape))
            assert stand.cuda.counts["enqueue"] == 0


def test_outside_the_profile_names_what_to_type(stand: Stand) -> None:
    with stand.open() as backend, pytest.raises(SizeError) as caught:
        backend.infer(image_of((1, 3, 20, 200)))
    assert "1x20x200" in caught.value.problem
    assert "1x32x32 to 2x64x96" in caught.value.expected
    assert "--opt-shape 1x64x64 --min-shape 1x20x32 --max-shape 2x64x200" in caught.value.fix


def nothing(stand: Stand) -> None:
    pass


def cut_plan(stand: Stand) -> None:
    stand.path.write_bytes(stand.path.read_bytes()[:-5])


def edit_facts(stand: Stand, **changes: Any) -> None:
    path = sidecar_path(stand.path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def rtx_with_plugins(stand: Stand) -> None:
    stand.module = FakeTensorRTRTX(stand.cuda)
    write_engine(stand.path, flavour=Flavour.TENSORRT_RTX, plugins=("AlignedAdd/1",))


REFUSALS: dict[str, tuple[Callable[[Stand], Any], type[AlignSegError], str]] = {
    "no plan": (lambda s: s.path.unlink(), EngineError, "does not exist"),
    "empty plan": (lambda s: s.path.write_bytes(b""), EngineError, "is empty"),
    "truncated plan": (cut_plan, EngineError, "is not the plan"),
    "other plan": (lambda s: s.path.write_bytes(plan_of("labels")), EngineError, "not the plan"),
    "no facts": (lambda s: sidecar_path(s.path).unlink(), EngineError, "no a.engine.json beside"),
    "facts of another engine": (lambda s: edit_facts(s, sha256="ab" * 32), EngineError, "abab"),
    "facts of another version": (lambda s: edit_facts(s, version=0), EngineError, "version 0"),
    "facts with more": (lambda s: edit_facts(s, extra=1), EngineError, "extra"),
    "no JSON": (lambda s: sidecar_path(s.path).write_text("{"), EngineError, "cannot be read"),
    "plugins": (lambda s: write_engine(s.path, plugins=("A/1", "B/2")), EngineError, "A/1, B/2"),
    "plugins on TensorRT for RTX": (
        rtx_with_plugins,
        EngineError,
        "TensorRT for RTX does not support",
    ),
    "older TensorRT": (lambda s: setattr(s, "version", (11, 3, 0, 1)), EngineError, "11.3.0.1 is"),
    "newer TensorRT": (lambda s: setattr(s, "version", (11, 4, 0, 107)), EngineError, "11.4.0.107"),
    "other GPU": (lambda s: setattr(s.cuda, "gpu", Gpu("T4", "7.5")), EngineError, "GPU, T4"),
    "no GPU told": (lambda s: write_engine(s.path, gpu=None), EngineError, "do not name"),
    "facts of another profile": (
        lambda s: write_engine(s.path, profile=replace(PROFILE, maximum=InputShape(2, 96, 96))),
        EngineError,
        "1x32x32 to 2x64x96, but its facts say 1x32x32 to 2x96x96",
    ),
    "other output": (
        lambda s: write_engine(s.path, spec=LABELS),
        EngineError,
        "its outputs are logits float32 (any, 19, any, any)\n  expected: labels alone",
    ),
    "second output": (
        lambda s: write_engine(
            s.path,
            plan_of(tensors=[["image", "INPUT", "FLOAT"], ["logits", "OUTPUT", "FLOAT"]] * 2),
        ),
        EngineError,
        "its inputs are image float32 (any, 3, any, any), image float32",
    ),
}


@pytest.mark.parametrize(("change", "kind", "fragment"), REFUSALS.values(), ids=REFUSALS)
def test_refusals(
    stand: Stand, change: Callable[[Stand], Any], kind: type[AlignSegError], fragment: str
) -> None:
    change(stand)
    with pytest.raises(kind) as caught:
        stand.open()
    assert fragment in str(caught.value)
    assert stand.module.contexts == 0
    assert stand.cuda.events in ([], *(CLOSED[-count:] for count in (1, 2, 3)))


def test_a_changed_plan_is_never_deserialised(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand.path.write_bytes(plan_of(data_type="FLOAT", note="changed"))

    def never(flavour: Flavour) -> Any:
        raise AssertionError("TensorRT was loaded")

    with monkeypatch.context() as patch:
        patch.setattr(tensorrt_backend, "load_tensorrt", never)
        with pytest.raises(EngineError, match="is not the plan"):
            stand.open()
    with stand.open(trust_changed_plan=True) as backend:
        backend.infer(image_of((1, 3, 64, 64)))


VERSIONS = [
    ("11.4.0.106", (11, 4, 0, 106), False, True),
    ("11.4.0.106", (11, 4, 1, 5), True, True),
    ("11.4.0.106", (11, 4, 0, 105), True, False),
    ("10.9.0.34", (11, 4, 0, 106), True, True),
    ("10.9.0.34", (11, 4, 0, 106), False, False),
    ("9.3.0.1", (11, 4, 0, 106), True, False),
    ("11.4.0.106", (12, 0, 0, 1), True, False),
]


@pytest.mark.parametrize(("built", "running", "compatible", "runs"), VERSIONS)
def test_versions(
    stand: Stand, built: str, running: tuple[int, ...], compatible: bool, runs: bool
) -> None:
    write_engine(stand.path, tensorrt_version=built, version_compatible=compatible)
    stand.version = running
    if runs:
        stand.open().close()
    else:
        with pytest.raises(EngineError, match="was built by tensorrt"):
            stand.open()


GPUS = [
    ("8.9", {}, True),
    ("8.6", {}, False),
    ("8.6", {"hardware_compatibility": "ampere-plus"}, True),
    ("12.0", {"hardware_compatibility": "ampere-plus"}, True),
    ("7.5", {"hardware_compatibility": "ampere-plus"}, False),
    ("8.9", {"hardware_compatibility": "same-compute-capability"}, True),
    ("9.0", {"hardware_compatibility": "same-compute-capability"}, False),
    *(
        (capability, {"flavour": Flavour.TENSORRT_RTX, "gpu": None}, True)
        for capability in ("8.0", "8.6", "8.9", "12.0", "12.1", "13.0")
    ),
    *(
        (capability, {"flavour": Flavour.TENSORRT_RTX, "gpu": None}, False)
        for capability in ("7.5", "8.7", "9.0", "10.0", "11.0")
    ),
    ("7.5", {"flavour": Flavour.TENSORRT_RTX, "compute_capabilities": ("7.5", "8.9")}, True),
    ("8.6", {"flavour": Flavour.TENSORRT_RTX, "compute_capabilities": ("7.5", "8.9")}, False),
]


@pytest.mark.parametrize(("capability", "changes", "runs"), GPUS)
def test_gpus(stand: Stand, capability: str, changes: dict[str, Any], runs: bool) -> None:
    write_engine(stand.path, **changes)
    stand.cuda.gpu = Gpu("a GPU", capability)
    if runs:
        stand.open().close()
    else:
        with pytest.raises(EngineError, match=rf"a GPU \(compute capability {capability}\)"):
            stand.open()


def test_another_gpu_of_the_same_kind_is_a_warning(
    stand: Stand, caplog: pytest.LogCaptureFixture
) -> None:
    stand.cuda.gpu = Gpu("NVIDIA L40S", "8.9")
    with caplog.at_level(logging.WARNING, "alignseg_infer"):
        stand.open().close()
    assert "built on NVIDIA L4 and runs on NVIDIA L40S" in caplog.text


@pytest.mark.parametrize(
    "arguments",
    [{"device": "cpu"}, {"device": "gpu"}, {"contexts": 0}, {"contexts": True}],
    ids=str,
)
def test_bad_arguments(stand: Stand, arguments: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        stand.open(**arguments)


def test_which_gpu(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def open_cuda(index: int, package: str) -> FakeCuda:
        asked.append((index, package))
        return stand.cuda

    monkeypatch.setattr(tensorrt_backend, "open_cuda", open_cuda)
    for device in ("cuda", "auto", "cuda:3"):
        stand.open(device=device, cuda="pycuda").close()
    assert asked == [(0, "pycuda"), (0, "pycuda"), (3, "pycuda")]


def test_no_gpu(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_there(index: int, package: str) -> FakeCuda:
        raise DeviceError("none", "one", "buy")

    monkeypatch.setattr(tensorrt_backend, "open_cuda", none_there)
    with pytest.raises(DeviceError):
        stand.open()


# Predictor


@pytest.fixture
def plain(stand: Stand) -> Stand:
    """The input is blue, so class 18 has the highest logit wherever blue is not zero."""
    spec = replace(SMALL_SPEC, export=EXPORT, input=InputSpec(mean=(0.0, 0.0, 0.0)))
    write_engine(stand.path, spec=spec)
    return stand


@pytest.mark.parametrize("name", ["a.engine", "a.plan", "a.trt", "a.ENGINE"])
def test_predictor_just_works(plain: Stand, image: Image, name: str) -> None:
    facts = sidecar_path(plain.path)
    plain.path.rename(plain.path.with_name("kept"))
    plain.path.with_name("kept").rename(plain.path.with_name(name))
    facts.rename(sidecar_path(plain.path.with_name(name)))
    result = Predictor(plain.path.with_name(name), size=(64, 96))(image)
    assert result.backend == "tensorrt 11.4.0.106 (NVIDIA L4)"
    assert result.labels.shape == image.shape[:2]
    assert set(np.unique(result.labels[:, 20:])) == {18}


def test_cpu_cannot_be_asked_for(plain: Stand) -> None:
    for device in ("cpu", "tpu"):
        with pytest.raises(OptionError):
            Predictor(plain.path, device=device)
    with pytest.raises(OptionError, match="threads=2"):
        open_backend(plain.path, threads=2)


def test_engine_of_one_size_is_given_that_size(plain: Stand, image: Image) -> None:
    only = InputShape(2, 64, 96)
    shape = [[only.batch, 3, only.height, only.width]] * 3
    spec = replace(SMALL_SPEC, export=EXPORT)
    profile = Profile(only, only, only)
    write_engine(plain.path, plan_of(profile=shape), profile=profile, spec=spec)
    with pytest.raises(SizeError):
        Predictor(plain.path, size=(32, 32))
    gc.collect()
    assert plain.cuda.events[-1] == "cuda closed"
    predictor = Predictor(plain.path)
    assert predictor.batch == 2
    assert predictor(image).input_size == (64, 96)


@pytest.mark.parametrize(("batch", "calls"), [(1, 3), (2, 2)])
def test_batches(plain: Stand, image: Image, batch: int, calls: int) -> None:
    predictor = Predictor(plain.path, batch=batch, size=(64, 96), on_device=False)
    assert len(predictor([image] * 3)) == 3
    assert plain.cuda.counts["copy_to_host"] == calls


def test_batch_the_engine_does_not_take(plain: Stand) -> None:
    with pytest.raises(OptionError, match=r"batch=3, but this engine takes 1 to 2"):
        Predictor(plain.path, batch=3)


def test_too_few_images_are_filled_up(plain: Stand, image: Image) -> None:
    low, high = InputShape(2, 64, 96), InputShape(4, 64, 96)
    shapes = [[shape.batch, 3, shape.height, shape.width] for shape in (low, low, high)]
    profile = Profile(low, low, high)
    write_engine(plain.path, plan_of(profile=shapes), profile=profile)
    assert len(Predictor(plain.path, batch=4)([image] * 5)) == 5


def test_backend_says_which_batches_it_takes(plain: Stand) -> None:
    with plain.open() as backend:
        assert isinstance(backend, LimitedBackend)
        assert backend.batch_limits == (1, 2)


def test_image_outside_the_profile_is_reported(
    plain: Stand, tmp_path: Path, image: Image, capsys: pytest.CaptureFixture[str]
) -> None:
    import cv2

    cv2.imwrite(str(tmp_path / "a.png"), image)
    command = ["predict", str(plain.path), str(tmp_path / "a.png"), "-o", str(tmp_path / "out")]
    assert main(command) == 1
    assert "1x32x32 to 2x64x96, the range that it was built for" in capsys.readouterr().err
    assert main([*command, "--size", "64x96"]) == 0


@pytest.mark.parametrize("answer", [-1, ["image"], RuntimeError("infer_shapes error code: -1")])
def test_shapes_that_tensorrt_cannot_infer(
    answer: Any, stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bindings return names that are missing; for an error they raise, and C++ returns -1."""

    def infer_shapes(self: FakeContext) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    with stand.open() as backend:
        monkeypatch.setattr(FakeContext, "infer_shapes", infer_shapes)
        with pytest.raises(EngineError, match="could not infer shapes for the input"):
            backend.infer(image_of((1, 3, 64, 64)))
