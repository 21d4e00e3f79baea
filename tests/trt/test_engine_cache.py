"""Engines that are built at first use: what is found again, what is built again, and when.

TensorRT is a stand-in that runs the graph in ONNX Runtime, so that verification is real.
"""

import errno
import json
import logging
import os
import pickle
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import onnx
import pytest

from alignseg_infer import (
    AlignSegError,
    DeviceError,
    EngineError,
    ModelFileError,
    OptionError,
    OutputError,
    Predictor,
    SizeError,
    VerificationError,
)
from alignseg_infer.arrays import Image, InputShape
from alignseg_infer.backends.cached_engine import engine_of
from alignseg_infer.backends.engine_order import EngineOrder, building_engines_with
from alignseg_infer.backends.opening import open_again
from alignseg_infer.cli import main
from alignseg_infer.cuda import opening
from alignseg_infer.cuda.base import Gpu
from alignseg_infer.demo import model_path
from alignseg_infer.demo.streets import Street
from alignseg_infer.demo.streets.folder import write_streets
from alignseg_infer.export.to_precision import onnx_in_precision
from alignseg_infer.files import caches
from alignseg_infer.files.reading import sha256_of
from alignseg_infer.pixels.preprocess import SizePolicy
from alignseg_infer.spec.model import ExportSpec, Precision
from alignseg_infer.spec.verification import REQUIRED_AGREEMENT
from alignseg_infer.trt.cache import needs as cache_needs
from alignseg_infer.trt.cache import store
from alignseg_infer.trt.engine_file import Profile, read_facts, sidecar_path
from alignseg_infer.trt.flavours import Flavour
from tests.support.export_kinds import PLAIN_OFFSETS
from tests.support.fake_tensorrt import EXPORT
from tests.support.fake_tensorrt_network import FakeTensorRTNetwork
from tests.support.permissions import permissions_for_all
from tests.support.slow import all_slow
from tests.support.waiting import PATIENCE

SIZE = (64, 96)
SMALL_ORDER = EngineOrder(policy=SizePolicy(fixed=SIZE))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of engines, which does not exist yet."""
    monkeypatch.setenv(caches.FOLDER_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache" / "engines"


@pytest.fixture
def tensorrt(monkeypatch: pytest.MonkeyPatch) -> FakeTensorRTNetwork:
    module = FakeTensorRTNetwork()
    module.install(monkeypatch)
    return module


@pytest.fixture
def street() -> Image:
    return Street(7).scene(size=SIZE).image


def opened(model: str | Path = "demo", **options: Any) -> Predictor:
    given = {"runtime": "tensorrt", "size": SIZE, "on_device": False, **options}
    return Predictor(model, **given)


def plan_in(cache: Path) -> Path:
    (plan,) = cache.glob("*/model.engine")
    return plan


def test_it_labels_like_the_file(tensorrt: FakeTensorRTNetwork, street: Image) -> None:
    predictor = opened()
    expected = Predictor("demo", size=SIZE)
    np.testing.assert_array_equal(predictor(street).labels, expected(street).labels)
    assert predictor(street).backend == "tensorrt 11.4.0.106 (NVIDIA L4)"
    assert predictor.spec.export is not None
    assert predictor.spec.export.precision is Precision.FP32


def test_it_is_verified_before_it_is_used(tensorrt: FakeTensorRTNetwork, cache: Path) -> None:
    opened(precision="fp16", batch=2)
    facts = read_facts(plan_in(cache))
    assert facts.spec.export is not None
    assert facts.spec.export.precision is Precision.FP16
    assert facts.verification is not None
    assert facts.verification.reference_sha256 == sha256_of(model_path("demo"))
    assert {row.shape for row in facts.verification.rows} == {
        InputShape(1, *SIZE),
        InputShape(2, *SIZE),
    }


def test_one_that_is_wrong_is_not_kept(tensorrt: FakeTensorRTNetwork, cache: Path) -> None:
    tensorrt.wrong = True
    with pytest.raises(VerificationError):
        opened()
    assert [path.suffix for path in cache.iterdir()] == [".lock"]
    tensorrt.wrong = False
    opened()
    assert tensorrt.builds == 2


def test_it_is_found_again(tensorrt: FakeTensorRTNetwork, tmp_path: Path) -> None:
    opened()
    opened(shutil.copy(model_path("demo"), tmp_path / "other name.onnx"))
    opened(batch=1, threads=None, device="cuda")
    opened(device="auto")
    assert tensorrt.builds == 1


def test_it_is_found_in_a_folder_that_cannot_be_written(
    tensorrt: FakeTensorRTNetwork, cache: Path
) -> None:
    """Such as in the image of a container."""
    opened()
    paths = [cache, *cache.rglob("*")]
    for path in paths:
        path.chmod(0o555)
    try:
        with permissions_for_all():
            opened()
    finally:
        for path in paths:
            path.chmod(0o755)
    assert tensorrt.builds == 1


def change_gpu(tensorrt: FakeTensorRTNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    tensorrt.gpus = [Gpu("NVIDIA L40S", "8.9")]


def change_capability(tensorrt: FakeTensorRTNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    tensorrt.gpus = [replace(tensorrt.gpus[0], compute_capability="9.0")]


def change_version(tensorrt: FakeTensorRTNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    tensorrt.version = (11, 4, 0, 107)


def change_driver(tensorrt: FakeTensorRTNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    tensorrt.driver = "580.95.06"


def change_package(tensorrt: FakeTensorRTNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    made = cache_needs.Needs

    def make(**facts: Any) -> cache_needs.Needs:
        return made(**facts, package="0.0.1")

    monkeypatch.setattr("alignseg_infer.trt.cache.needs.Needs", make)


def change_cache_version(tensorrt: FakeTensorRTNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    made = cache_needs.Needs

    def make(**facts: Any) -> cache_needs.Needs:
        return made(**facts, cache_version=cache_needs.CACHE_VERSION + 1)

    monkeypatch.setattr("alignseg_infer.trt.cache.needs.Needs", make)


Change = Callable[[FakeTensorRTNetwork, pytest.MonkeyPatch], None]


@pytest.mark.parametrize(
    "change",
    [
        change_gpu,
        change_version,
        change_package,
        *all_slow(change_capability, change_driver, change_cache_version),
    ],
)
def test_another_machine_or_package_builds_another(
    change: Change, tensorrt: FakeTensorRTNetwork, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    with monkeypatch.context() as context:
        opened()
        change(tensorrt, context)
        opened()
        assert tensorrt.builds == 2
    assert len(list(cache.glob("*/model.engine"))) == 2


@pytest.mark.parametrize(
    "options",
    [
        {"precision": "fp16"},
        {"size": (96, 64)},
        {"opt_shape": (1, *SIZE), "max_shape": (1, 96, 96)},
        *all_slow({"batch": 2}, {"size": 96}, {"mode": "slide", "tile": 72}),
    ],
    ids=str,
)
def test_another_order_builds_another(
    options: dict[str, Any], tensorrt: FakeTensorRTNetwork
) -> None:
    opened()
    opened(**options)
    opened(**options)
    assert tensorrt.builds == 2


def test_another_graph_builds_another(tensorrt: FakeTensorRTNetwork, tmp_path: Path) -> None:
    path = tmp_path / "changed.onnx"
    model = onnx.load(model_path("demo"))
    model.doc_string = "changed"
    onnx.save(model, path)
    opened()
    opened(path)
    assert tensorrt.builds == 2


@pytest.fixture
def split(tmp_path: Path) -> Path:
    """The demo model with its weights in a file beside it."""
    path = tmp_path / "split" / "split.onnx"
    path.parent.mkdir()
    onnx.save(
        onnx.load(model_path("demo")), path, save_as_external_data=True, location="split.onnx.data"
    )
    return path


def key_of(model: Path, **options: Any) -> str:
    """The key of an engine for no GPU, which needs no build."""
    seen = []

    def build(*arguments: Any) -> None:
        seen.append(arguments[-1].parent.name)
        raise OutputError("stop", "nothing", "nothing")

    with building_engines_with(build), pytest.raises(OutputError):
        engine_of(model, Flavour.TENSORRT, SMALL_ORDER, None)
    return str(seen[0])


def test_weights_in_another_file_count(split: Path, tensorrt: FakeTensorRTNetwork) -> None:
    before, data = key_of(split), split.with_name("split.onnx.data")
    assert key_of(split) == before
    content = bytearray(data.read_bytes())
    content[1000] ^= 1
    data.write_bytes(content)
    assert key_of(split) != before
    data.unlink()
    with pytest.raises(ModelFileError, match=r"split\.onnx\.data does not exist"):
        engine_of(split, Flavour.TENSORRT, SMALL_ORDER, None)


@pytest.mark.parametrize("location", ["../split.onnx.data", "/etc/passwd"])
def test_weights_outside_the_folder_are_refused(
    split: Path, tensorrt: FakeTensorRTNetwork, location: str
) -> None:
    model = onnx.load(split, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    split.write_bytes(model.SerializeToString())
    with pytest.raises(ModelFileError, match="outside its folder"):
        engine_of(split, Flavour.TENSORRT, SMALL_ORDER, None)


def test_the_library_of_plugins_counts(
    export_small: Callable[..., Path],
    tensorrt: FakeTensorRTNetwork,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    library = tmp_path / "libalignseg_plugin.so"
    library.write_bytes(b"one")
    monkeypatch.setenv("ALIGNSEG_PLUGIN", str(library))
    model = export_small(sampler="plugin", size=(64, 96), batch=1)
    before, without = key_of(model), key_of(model_path("demo"))
    assert key_of(model) == before
    library.write_bytes(b"two")
    assert key_of(model) != before
    assert key_of(model_path("demo")) == without


def truncate(plan: Path) -> None:
    os.truncate(plan, plan.stat().st_size // 2)


def empty(plan: Path) -> None:
    plan.write_bytes(b"")


def remove(plan: Path) -> None:
    plan.unlink()


def flip_a_bit(plan: Path) -> None:
    content = bytearray(plan.read_bytes())
    content[len(content) // 2] ^= 1
    plan.write_bytes(content)


def lose_the_facts(plan: Path) -> None:
    sidecar_path(plan).unlink()


def spoil_the_facts(plan: Path) -> None:
    sidecar_path(plan).write_text("{")


def lose_the_record(plan: Path) -> None:
    plan.with_name(store.RECORD).unlink()


def spoil_the_record(plan: Path) -> None:
    plan.with_name(store.RECORD).write_text("[]")


def replace_plan_and_facts(plan: Path) -> None:
    """Both belong together, but not to this engine."""
    flip_a_bit(plan)
    facts = replace(read_facts(plan), sha256=sha256_of(plan))
    sidecar_path(plan).write_text(facts.to_json())


def make_it_a_folder(plan: Path) -> None:
    plan.unlink()
    plan.mkdir()


def leave_what_was_being_written(plan: Path) -> None:
    """As a process that was killed does."""
    plan.with_name(store.RECORD).unlink()
    (plan.parent / ".writing-x").mkdir()
    plan.rename(plan.parent / ".writing-x" / plan.name)


FAULTS = [
    *(truncate, flip_a_bit, spoil_the_facts, lose_the_record, leave_what_was_being_written),
    *all_slow(empty, remove, lose_the_facts, spoil_the_record),
    *all_slow(replace_plan_and_facts, make_it_a_folder),
]


@pytest.mark.parametrize("damage", FAULTS)
def test_what_is_damaged_is_built_again(
    damage: Callable[[Path], None],
    tensorrt: FakeTensorRTNetwork,
    cache: Path,
    street: Image,
    caplog: pytest.LogCaptureFixture,
) -> None:
    expected = opened()(street).labels
    damage(plan_in(cache))
    np.testing.assert_array_equal(opened()(street).labels, expected)
    assert tensorrt.builds == 2
    assert "is built again" in caplog.text
    opened()
    assert tensorrt.builds == 2
    assert {path.name for path in plan_in(cache).parent.iterdir()} == {
        *("model.engine", "model.engine.json", "needs.json")
    }


def test_engines_that_changed_places_are_built_again(
    tensorrt: FakeTensorRTNetwork, cache: Path
) -> None:
    opened()
    opened(batch=2)
    one, other = (plan.parent for plan in cache.glob("*/model.engine"))
    one.rename(cache / "third")
    other.rename(one)
    (cache / "third").rename(other)
    opened()
    opened(batch=2)
    assert tensorrt.builds == 4


def test_an_engine_of_another_machine_is_built_again(
    tensorrt: FakeTensorRTNetwork, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody copied it to where this machine looks."""
    opened()
    (there,) = (plan.parent for plan in cache.glob("*/model.engine"))
    tensorrt.gpus = [Gpu("Orin", "8.7")]
    opened()
    (here,) = {plan.parent for plan in cache.glob("*/model.engine")} - {there}
    shutil.rmtree(here)
    shutil.copytree(there, here)
    opened()
    assert tensorrt.builds == 3
    assert "it was built for something else" in caplog.text
    assert read_facts(here / "model.engine").gpu == Gpu("Orin", "8.7")


def test_an_engine_that_tensorrt_does_not_read(
    tensorrt: FakeTensorRTNetwork, capsys: pytest.CaptureFixture[str]
) -> None:
    opened()
    tensorrt.refuses.add("deserialize")
    with pytest.raises(EngineError, match="cannot be opened") as caught:
        opened()
    tensorrt.refuses.clear()
    assert caught.value.fix.startswith("alignseg cache clear, and try again")
    assert main(shlex.split(caught.value.fix.partition(",")[0])[1:]) == 0
    assert "1 engine" in capsys.readouterr().out
    opened()
    assert tensorrt.builds == 2


def test_a_folder_that_cannot_be_written_to(
    tensorrt: FakeTensorRTNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    monkeypatch.setenv(caches.FOLDER_VARIABLE, str(closed))
    with permissions_for_all(), pytest.raises(OutputError, match="cannot be kept") as caught:
        opened()
    assert tensorrt.builds == 0
    assert caught.value.fix.startswith("export ALIGNSEG_CACHE=FOLDER")
    monkeypatch.setenv(caches.FOLDER_VARIABLE, str(tmp_path / "open"))
    opened()
    assert len(list((tmp_path / "open" / "engines").glob("*/model.engine"))) == 1


def test_a_file_in_place_of_the_folder(
    tensorrt: FakeTensorRTNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(caches.FOLDER_VARIABLE, str(tmp_path / "file"))
    with pytest.raises(OutputError, match="cannot be kept") as caught:
        opened()
    assert "ALIGNSEG_CACHE" in caught.value.fix


@pytest.mark.parametrize("name", ["model.engine", "model.engine.json", "needs.json"])
def test_a_full_disk(
    name: str, tensorrt: FakeTensorRTNetwork, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At whichever of the three files it is full."""

    def fill(write: Callable[..., int]) -> Callable[..., int]:
        def write_if_there_is_room(path: Path, *content: Any, **options: Any) -> int:
            if path.name == name:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return write(path, *content, **options)

        return write_if_there_is_room

    with monkeypatch.context() as context:
        context.setattr(Path, "write_bytes", fill(Path.write_bytes))
        context.setattr(Path, "write_text", fill(Path.write_text))
        with pytest.raises(OutputError, match="No space left on device") as caught:
            opened()
    assert caught.value.fix.startswith("export ALIGNSEG_CACHE=FOLDER")
    assert [path.suffix for path in cache.iterdir()] == [".lock"]
    opened()
    assert tensorrt.builds == 2


def test_locks_that_a_disk_does_not_have(
    tensorrt: FakeTensorRTNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    def acquire(lock: Any, **options: Any) -> None:
        raise NotImplementedError("FileSystem does not appear to support flock")

    monkeypatch.setattr(filelock.FileLock, "acquire", acquire)
    with pytest.raises(OutputError, match="cannot be locked") as caught:
        opened()
    assert "ALIGNSEG_CACHE" in caught.value.fix


def test_threads_build_once(tensorrt: FakeTensorRTNetwork) -> None:
    errors: list[BaseException] = []

    def open_one() -> None:
        try:
            opened()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=open_one) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert errors == []
    assert tensorrt.builds == 1


def test_pickled_predictors_open_the_same_engine(
    tensorrt: FakeTensorRTNetwork, street: Image
) -> None:
    predictor = opened(precision="fp16", opt_shape=(1, *SIZE), max_shape=(2, *SIZE), batch=2)
    expected = predictor(street).labels
    open_again.cache_clear()
    twin = pickle.loads(pickle.dumps(predictor))
    np.testing.assert_array_equal(twin(street).labels, expected)
    assert (twin.backend, twin.batch) == (predictor.backend, 2)
    assert tensorrt.builds == 1


FIXED: dict[str, Any] = {"policy": SizePolicy(fixed=(128, 256))}
TILES: dict[str, Any] = {"tile": (872, 872), "scales": (0.5, 2.0)}
FULL_HD = SizePolicy(longest_side=1920)
EXPORTED = replace(EXPORT, precision=Precision.FP32)


def profile(*shapes: tuple[int, int, int]) -> Profile:
    return Profile(*(InputShape(*shape) for shape in shapes))


@pytest.mark.parametrize(
    ("options", "export", "expected"),
    [
        ({}, {}, ((1, 256, 256), (1, 1024, 2048), (1, 2048, 2048))),
        ({"batch": 4}, {}, ((1, 256, 256), (4, 1024, 2048), (4, 2048, 2048))),
        ({}, {"size": (512, 1024)}, ((1, 512, 1024),) * 3),
        ({}, {"size": (512, 1024), "batch": 2}, ((2, 512, 1024),) * 3),
        ({"batch": 3}, {"batch": 2}, ((2, 256, 256), (2, 1024, 2048), (2, 2048, 2048))),
        (FIXED, {}, ((1, 128, 256),) * 3),
        ({"policy": FULL_HD}, {}, ((1, 480, 480), (1, 1080, 1920), (1, 1920, 1920))),
        ({"policy": SizePolicy(longest_side=64)}, {}, ((1, 32, 32), (1, 36, 64), (1, 64, 64))),
        ({**TILES, "batch": 4}, {}, ((1, 872, 872), (4, 872, 872), (4, 872, 872))),
        ({**FIXED, "scales": (0.75, 1.5)}, {}, ((1, 96, 192), (1, 128, 256), (1, 192, 384))),
        ({**FIXED, "scales": (2.0,)}, {}, ((1, 128, 256), (1, 128, 256), (1, 256, 512))),
        ({"scales": (0.1, 100.0)}, {}, ((1, 32, 32), (1, 1024, 2048), (1, 16384, 16384))),
    ],
    ids=str,
)  # fmt: skip
def test_shapes(
    options: dict[str, Any], export: dict[str, Any], expected: tuple[tuple[int, int, int], ...]
) -> None:
    exported: ExportSpec = replace(EXPORTED, **export)
    assert EngineOrder(**options).profile_for(exported) == profile(*expected)


def test_shapes_that_were_asked_for() -> None:
    asked = profile((1, 64, 64), (2, 128, 128), (4, 256, 256))
    assert EngineOrder(shapes=asked, batch=4).profile_for(EXPORTED) == asked


def test_an_image_outside_the_range_says_what_to_ask_for(
    tensorrt: FakeTensorRTNetwork, street: Image, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shapes: dict[str, Any] = {"size": None, "opt_shape": (1, *SIZE)}
    predictor = opened(**shapes)
    large = np.ascontiguousarray(street.repeat(2, axis=0))
    with pytest.raises(SizeError) as caught:
        opened(opt_shape=(1, 64, 64), max_shape=(1, 64, 96), size="native")(large)
    asked = "opt_shape=(1, 64, 64) min_shape=(1, 64, 64) max_shape=(1, 128, 96)"
    assert caught.value.fix.endswith(f"ask for an engine that takes more: {asked}")
    assert predictor(street).labels.shape == SIZE
    builds = tensorrt.builds
    found = opened(
        size="native", opt_shape=(1, 64, 64), min_shape=(1, 64, 64), max_shape=(1, 128, 96)
    )
    assert found(large).labels.shape == (128, 96)
    assert tensorrt.builds == builds + 1
    (file,) = (files.image for files in write_streets(tmp_path, 7, 1, (128, 96)))
    words = f"predict demo {file} -o {tmp_path / 'out'} --runtime tensorrt --size native"
    words += " --no-on-device --opt-shape 1x64x64"
    assert main([*words.split(), "--max-shape", "1x64x96"]) == 1
    assert "--max-shape 1x128x96" in capsys.readouterr().err
    assert main([*words.split(), "--min-shape", "1x64x64", "--max-shape", "1x128x96"]) == 0


BAD: list[tuple[dict[str, Any], type[AlignSegError], str]] = [
    ({"device": "cpu"}, OptionError, "run on a GPU only"),
    ({"device": "cuda:1"}, OptionError, "device='cuda:1' is Orin"),
    ({"threads": 2}, OptionError, "threads=2"),
    ({"precision": "int4"}, OptionError, "precision='int4'"),
    ({"precision": "int8"}, OptionError, "precision='int8' was given"),
    ({"max_shape": (1, 64, 64)}, OptionError, "without opt_shape="),
    ({"opt_shape": (1, 64)}, OptionError, "opt_shape="),
    ({"opt_shape": (1, 8, 8)}, SizeError, "8x8"),
    ({"opt_shape": (1, 64, 64), "min_shape": (1, 96, 96)}, OptionError, "do not shrink"),
    ({"opt_shape": (1, 64, 64), "batch": 2}, OptionError, "batch=2 with max_shape"),
    ({"scales": (0,)}, OptionError, "scales="),
    ({"tile": 64}, OptionError, "without a sliding window"),
    ({"mode": "slide", "tile": 8}, SizeError, "8x8"),
    ({"size": 0}, OptionError, "size=0"),
    ({"runtime": None, "precision": "fp16"}, OptionError, "precision='fp16' was given without"),
    ({"runtime": "openvino", "opt_shape": (1, 64, 64)}, OptionError, "opt_shape= was given"),
]


@pytest.mark.parametrize(("options", "error", "words"), BAD, ids=[str(case[0]) for case in BAD])
def test_bad_options_are_refused_before_a_build(
    options: dict[str, Any],
    error: type[AlignSegError],
    words: str,
    tensorrt: FakeTensorRTNetwork,
    cache: Path,
) -> None:
    tensorrt.gpus.append(Gpu("Orin", "8.7"))
    with pytest.raises(error) as caught:
        opened(**options)
    assert words in str(caught.value)
    assert tensorrt.builds == 0
    assert not cache.exists()


def test_a_second_gpu_like_the_first(tensorrt: FakeTensorRTNetwork) -> None:
    tensorrt.gpus *= 2
    opened(device="cuda:1")
    assert tensorrt.builds == 1


def test_options_that_do_not_fit_the_file(
    export_small: Callable[..., Path], tensorrt: FakeTensorRTNetwork
) -> None:
    labels = export_small(**PLAIN_OFFSETS)
    with pytest.raises(OptionError, match="the model returns labels"):
        opened(labels, size=None, flip=True)
    with pytest.raises(SizeError, match="exported for 65x98"):
        opened(labels)
    assert tensorrt.builds == 0


def test_the_advice_about_int8_works(
    tensorrt: FakeTensorRTNetwork,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    list(write_streets(tmp_path / "streets", 0, 2, size=SIZE))
    (tmp_path / "streets" / "images").rename("FOLDER")
    shutil.copy(model_path("demo"), "demo.onnx")
    with pytest.raises(OptionError) as caught:
        opened("demo.onnx", precision="int8")
    command, _, rest = caught.value.fix.partition(";")
    assert rest == " and open that file"
    monkeypatch.setitem(REQUIRED_AGREEMENT, Precision.INT8, 0.1)  # of two tiny images
    assert main(shlex.split(command)[1:]) == 0
    caplog.clear()
    predictor = opened("demo_int8.onnx")
    assert predictor.spec.export is not None
    assert predictor.spec.export.precision is Precision.INT8
    assert "built, not verified (demo_int8.onnx is not float32)" in caplog.text
    caplog.clear()
    opened("demo_int8.onnx", precision="int8")
    assert "this engine was built, not verified: alignseg verify" in caplog.text
    assert tensorrt.builds == 1
    with pytest.raises(OptionError, match="which is int8"):
        opened("demo_int8.onnx", precision="fp16")


def test_verifying_later_calms_the_warning(
    tensorrt: FakeTensorRTNetwork, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    half = tmp_path / "half.onnx"
    onnx_in_precision(model_path("demo"), half, Precision.FP16)
    opened(half)
    caplog.clear()
    opened(half)
    (warning,) = (record for record in caplog.records if record.levelno == logging.WARNING)
    command = warning.getMessage().partition("verified: ")[2].replace("FLOAT32.onnx", "demo")
    assert main(shlex.split(command)[1:]) == 0
    caplog.clear()
    opened(half)
    assert "verified" not in caplog.text
    assert tensorrt.builds == 1


def test_no_gpu_is_said_before_a_build(cache: Path) -> None:
    if opening.driver_cuda_version() is not None:
        pytest.skip("this machine has a driver")
    with pytest.raises(DeviceError, match="no working NVIDIA driver"):
        Predictor("demo", runtime="tensorrt-rtx")
    assert not cache.exists()


def test_rtx_is_built_for_this_gpu() -> None:
    module = pytest.importorskip("tensorrt_rtx", reason="asks TensorRT for RTX what it supports")
    from alignseg_infer.backends.cached_engine import _capabilities
    from alignseg_infer.trt.flavours import load_tensorrt

    rtx = load_tensorrt(Flavour.TENSORRT_RTX)
    assert module.__version__
    assert _capabilities(rtx, Gpu("RTX 4090", "8.9")) == ("8.9",)
    assert _capabilities(rtx, Gpu("a later one", "13.0")) == ()
    assert _capabilities(rtx, None) == ()
    with pytest.raises(DeviceError, match=r"H100, has compute capability 9\.0") as caught:
        _capabilities(rtx, Gpu("H100", "9.0"))
    assert caught.value.fix == "runtime='tensorrt'"


def test_without_the_variable_it_is_in_the_users_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(caches.FOLDER_VARIABLE)
    folder = store.cache_folder()
    assert folder.is_absolute()
    assert folder.parts[-2:] == ("alignseg-infer", "engines")
    monkeypatch.setenv(caches.FOLDER_VARIABLE, "~/mine")
    assert store.cache_folder() == Path.home() / "mine" / "engines"


def test_list_and_clear(
    tensorrt: FakeTensorRTNetwork, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["cache", "list"]) == 0
    assert capsys.readouterr().out.startswith(f"0 engines, 0.0 MB, in {cache}\n")
    opened()
    old = plan_in(cache)
    opened(precision="fp16")
    month = time.time() - 30 * store.SECONDS_A_DAY
    os.utime(old.with_name(store.RECORD), (month, month))
    assert main(["cache", "list"]) == 0
    first, path, second, _, total, *_ = capsys.readouterr().out.splitlines()
    assert first.startswith("demo.onnx: fp16, tensorrt 11.4.0.106 on NVIDIA L4, 1x64x96 to 1x64x96")
    assert "verified" in first
    assert Path(path.strip()).is_file()
    assert "fp32" in second
    assert total.startswith("2 engines, ")
    assert main(["cache", "clear", "--older-than", "29"]) == 0
    assert not old.exists()
    assert capsys.readouterr().out.startswith("1 engine, ")
    assert main(["cache", "clear"]) == 0
    assert not list(cache.glob("*/*"))
    opened()
    assert tensorrt.builds == 3


def test_use_makes_an_engine_young(tensorrt: FakeTensorRTNetwork, cache: Path) -> None:
    opened()
    record = plan_in(cache).with_name(store.RECORD)
    os.utime(record, (0, 0))
    opened()
    assert store.clear_cache(1) == ([], [])
    assert tensorrt.builds == 1


def test_what_is_being_built_stays(
    tensorrt: FakeTensorRTNetwork, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    opened()
    folder = plan_in(cache).parent
    (folder / store.RECORD).unlink()
    with filelock.FileLock(cache / f"{folder.name}.lock"):
        command = [sys.executable, "-m", "alignseg_infer", "cache", "clear"]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        output = subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout
    assert "left, since another process builds them" in output
    assert folder.is_dir()
    assert main(["cache", "list"]) == 0
    assert capsys.readouterr().out.startswith("not complete: ")


def test_a_cache_that_cannot_be_cleared(tensorrt: FakeTensorRTNetwork, cache: Path) -> None:
    opened()
    folder = plan_in(cache).parent
    folder.chmod(0o555)
    try:
        with permissions_for_all(), pytest.raises(OutputError, match="cannot be removed"):
            store.clear_cache()
    finally:
        folder.chmod(0o755)


@pytest.mark.parametrize(
    ("words", "fragment"),
    [
        (["list", "--older-than", "3"], "--older-than with list"),
        (["clear", "--older-than", "-1"], "--older-than -1"),
        (["clear", "--older-than", "nan"], "--older-than nan"),
    ],
)
def test_wrong_words(words: list[str], fragment: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", *words]) == 1
    assert fragment in capsys.readouterr().err


@pytest.mark.slow
def test_the_commands_show_progress(
    tensorrt: FakeTensorRTNetwork, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (file,) = (files.image for files in write_streets(tmp_path, 7, 1, SIZE))
    words = f"predict demo {file} -o {tmp_path / 'out'} --runtime tensorrt --precision fp16"
    words += " --size 64x96 --no-on-device"
    assert main(words.split()) == 0
    seen = capsys.readouterr()
    assert "images compared with demo.onnx" in seen.err
    assert "on tensorrt 11.4.0.106 (NVIDIA L4)" in seen.out
    assert main(words.split()) == 0
    assert "compared" not in capsys.readouterr().err
    assert tensorrt.builds == 1


def test_the_library_logs(
    tensorrt: FakeTensorRTNetwork,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    with caplog.at_level(logging.INFO, "alignseg_infer"):
        opened()
    assert "building an engine of" in caplog.text
    assert "for NVIDIA L4, in fp32, for inputs of 1x64x96 to 1x64x96" in caplog.text
    assert capfd.readouterr().out == ""


@pytest.mark.slow
def test_bench_gives_each_batch_its_engine(
    tensorrt: FakeTensorRTNetwork, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    from alignseg_infer.cli.commands import bench

    monkeypatch.setattr(bench, "measure_footprint", lambda *given: None)
    words = "bench demo@tensorrt --size 64x96 --batch 1 2 --rounds 5 --no-on-device"
    assert main(words.split()) == 0
    profiles = {str(read_facts(plan).profile.optimum) for plan in cache.glob("*/model.engine")}
    assert profiles == {"1x64x96", "2x64x96"}


def test_offsets_are_not_of_engines(
    tensorrt: FakeTensorRTNetwork, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = f"video demo streets -o {tmp_path / 'a.mp4'} --offsets cab2.high --runtime tensorrt"
    assert main(words.split()) == 1
    assert "engines return no offset fields" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(f"offsets demo a.jpg -o {tmp_path / 'a.png'} --runtime tensorrt".split())
    assert tensorrt.builds == 0


@pytest.mark.parametrize(
    ("nvml", "expected"),
    [
        ("works", "580.95.05"),
        ("fails", "CUDA 13.0"),
        ("is missing", "CUDA 13.0"),
        ("old", "CUDA 13.0"),
    ],
)
def test_driver_version(nvml: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Nvml:
        def nvmlInit_v2(self) -> int:
            return 0

        def nvmlShutdown(self) -> int:
            return 0

        def nvmlSystemGetDriverVersion(self, text: Any, length: int) -> int:
            assert length == len(text) == 80
            text.value = b"580.95.05"
            return 0 if nvml == "works" else 999

    def load(name: str) -> object:
        if nvml == "is missing":
            raise OSError(name)
        return object() if nvml == "old" else Nvml()

    monkeypatch.setattr("ctypes.CDLL", load)
    monkeypatch.setattr(opening, "driver_cuda_version", lambda: (13, 0))
    assert opening.driver_version() == expected
    monkeypatch.setattr(opening, "driver_cuda_version", lambda: None)
    assert opening.driver_version() == (expected if nvml == "works" else None)


def test_the_record_says_everything(tensorrt: FakeTensorRTNetwork, cache: Path) -> None:
    opened()
    needs = json.loads(plan_in(cache).with_name(store.RECORD).read_text())["needs"]
    assert needs["driver"] == "580.95.05"
    assert needs["gpu"] == {"name": "NVIDIA L4", "compute_capability": "8.9"}
    text = cache_needs.Needs.__doc__
    assert text is not None
    assert all(f"        {name}: " in text for name in needs)
