"""What training loops save: wrappers, averages, objects, and what inference does not need."""

import argparse
import collections
import enum
import logging
import operator
import os
import pickle
import random
import re
import subprocess
import sys
import time
import types
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from alignseg_infer import CheckpointError
from alignseg_infer.models.alignseg import AlignSeg
from alignseg_infer.models.checkpoint import describe_assumptions, load_checkpoint
from alignseg_infer.models.checkpoint_options import CheckpointOptions, Weights
from alignseg_infer.spec.model import MAX_CLASSES, NetworkSpec
from tests.support.advice import run_advice

TINY = NetworkSpec(backbone="resnet18", width=0.25, decoder_channels=16)

State = dict[str, Tensor]


def tiny_state(seed: int = 0, spec: NetworkSpec = TINY) -> State:
    torch.manual_seed(seed)
    return AlignSeg(spec).state_dict()


def prefixed(prefix: str, state: State) -> State:
    return {f"{prefix}{key}": value for key, value in state.items()}


def saved(content: object, folder: Path, **options: Any) -> Path:
    torch.save(content, folder / "weights.pth", **options)
    return folder / "weights.pth"


def trained(state: State) -> State:
    """Return parameters only, as an average without running statistics."""
    return {key: v for key, v in state.items() if "running_" not in key and "tracked" not in key}


def assert_same(state: State, expected: State) -> None:
    assert state.keys() == expected.keys()
    for key, value in expected.items():
        if not key.endswith("num_batches_tracked"):
            assert torch.equal(state[key], value), key


def averaged_model(state: State) -> State:
    network = AlignSeg(TINY)
    network.load_state_dict(state)
    return AveragedModel(network).state_dict()


WRAPPED: dict[str, Callable[[State], object]] = {
    "AveragedModel": averaged_model,
    "Lightning": lambda s: {"state_dict": prefixed("model.", s), "epoch": 1, "callbacks": {}},
    "Lightning with a loss": lambda s: {
        "state_dict": {**prefixed("net.", s), "loss.weight": torch.ones(19)}
    },
    "network.": lambda s: prefixed("network.", s),
    "unknown name": lambda s: {"student": prefixed("segmentor.", s)},
    "DataParallel of Lightning of compile": lambda s: prefixed("module.model._orig_mod.", s),
    "compiled stage": lambda s: {
        k.replace("layer1.", "layer1._orig_mod."): v for k, v in s.items()
    },
    "sharded stage": lambda s: {
        k.replace("layer1.", "layer1._fsdp_wrapped_module.")
        .replace("RRB5a.", "RRB5a._fsdp_wrapped_module.")
        .replace("layer2.0.", "layer2.0._checkpoint_wrapped_module."): v
        for k, v in s.items()
    },
    "parallel part": lambda s: {k.replace("RRB5a.", "RRB5a.module."): v for k, v in s.items()},
    "nested": lambda s: {"checkpoint": {"model": {"state_dict": s}}, "optimizer": {"state": {}}},
    "network dictionary": lambda s: {"net": s, "lr": 0.1},
}


@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
def test_wrappers_are_found_wherever_they_sit(
    wrap: Callable[[State], object], tmp_path: Path
) -> None:
    state = tiny_state()
    checkpoint = load_checkpoint(saved(wrap(state), tmp_path))
    assert_same(checkpoint.state, state)
    assert checkpoint.model()(torch.zeros(1, 3, 64, 64)).logits.shape == (1, 19, 17, 17)


UNNEEDED: dict[str, tuple[Callable[[State], State], str]] = {
    "loss": (lambda s: {**s, "criterion.criterion.weight": torch.ones(19)}, "criterion.criterion"),
    "loss of another name": (
        lambda s: {**s, "criterion_ohem.weight": torch.ones(19), "aux_loss.w": torch.ones(1)},
        "aux_loss.w, criterion_ohem.weight",
    ),
    "normalisation": (
        lambda s: {**s, "mean": torch.zeros(3), "pixel_std": torch.ones(3)},
        "set mean= and std=): mean, pixel_std",
    ),
    "mmcv": (
        lambda s: {**s, **{f"ema_{k.replace('.', '_')}": v + 1 for k, v in s.items()}},
        "the second copy by mmcv's EMAHook was left out",
    ),
    "thop": (
        lambda s: {**s, "total_ops": torch.zeros(1), "layer1.0.total_params": torch.zeros(1)},
        "layer1.0.total_params, total_ops",
    ),
    "fc": (lambda s: {**s, "fc.weight": torch.zeros(9, 8), "fc.bias": torch.zeros(9)}, "fc.bias"),
    "dsn": (
        lambda s: {**s, "dsn.3.weight": torch.zeros(21, 16, 1, 1), "dsn.3.bias": torch.zeros(21)},
        "the auxiliary head (dsn) is of another size",
    ),
    "counters": (
        lambda s: {k: v for k, v in s.items() if not k.startswith("layer1") or "tracked" not in k},
        "no num_batches_tracked counters in 5 layers",
    ),
}


@pytest.mark.parametrize(("change", "note"), UNNEEDED.values(), ids=UNNEEDED)
def test_what_inference_does_not_need_is_left_out_with_a_note(
    change: Callable[[State], State], note: str, tmp_path: Path
) -> None:
    state = tiny_state()
    checkpoint = load_checkpoint(saved(change(state), tmp_path))
    (line,) = checkpoint.notes
    assert note in line
    assert f"note: {line}" in describe_assumptions(checkpoint)
    network, expected = checkpoint.model(), AlignSeg(TINY)
    expected.load_state_dict(state)
    image = torch.rand(1, 3, 64, 64)
    assert torch.equal(network(image).logits, expected.eval()(image).logits)


@pytest.mark.parametrize(
    "key",
    [
        *("fc.extra", "criterions", "criterions.weight", "lossy.weight", "criterion_ohem"),
        *("total_opsx", "head.4.weight", "aux.bias", "means", "head.mean", "ema_conv9_weight"),
    ],
)
def test_what_only_looks_unneeded_is_an_error(key: str, tmp_path: Path) -> None:
    path = saved({**tiny_state(), key: torch.zeros(1)}, tmp_path)
    with pytest.raises(CheckpointError, match=f"1 unexpected: {key}"):
        load_checkpoint(path)


def test_a_key_that_is_missing_is_an_error_in_every_wrapper(tmp_path: Path) -> None:
    state = {k: v for k, v in tiny_state().items() if k != "dsn.0.weight"}
    with pytest.raises(CheckpointError, match=r"1 missing: dsn\.0\.weight"):
        load_checkpoint(saved({"state_dict": prefixed("model.", state)}, tmp_path))


def of_ema_pytorch(raw: State, ema: State) -> State:
    counters = {"initted": torch.tensor(True), "step": torch.tensor(4)}
    return {**prefixed("online_model.", raw), **prefixed("ema_model.", ema), **counters}


BOTH: dict[str, Callable[[State, State], object]] = {
    "timm": lambda raw, ema: {"state_dict": raw, "state_dict_ema": ema},
    "torchvision": lambda raw, ema: {"model": raw, "model_ema": averaged_model(ema)},
    "ema_state_dict": lambda raw, ema: {"ema_state_dict": ema, "model_state_dict": raw},
    "RT-DETR": lambda raw, ema: {"model": raw, "ema": {"module": ema, "updates": 7}},
    "shadow": lambda raw, ema: {"model": raw, "ema_shadow": ema},
    "in one dictionary": lambda raw, ema: {
        "state_dict": {**prefixed("model.", raw), **prefixed("ema_model.module.", ema)}
    },
    "beside bare weights": lambda raw, ema: {**raw, **prefixed("ema.", ema)},
    "Lightning": lambda raw, ema: {
        "state_dict": prefixed("model.", ema),
        "current_model_state": prefixed("model.", raw),
        "averaging_state": {"n_averaged": torch.tensor(3)},
    },
    "modelEMA": lambda raw, ema: {"net": raw, "netEMA": ema},
    "parameters only": lambda raw, ema: {
        "model": raw,
        "ema": trained(ema),
    },
    "MMEngine, which swaps them": lambda raw, ema: {
        "meta": {"mmengine_version": "0.10.4", "epoch": 3},
        "state_dict": ema,
        "ema_state_dict": {**prefixed("module.", raw), "steps": torch.tensor(30)},
        "message_hub": {},
    },
    "MMEngine's class in another loop": lambda raw, ema: {
        "state_dict": raw,
        "ema_state_dict": {**prefixed("module.", ema), "steps": torch.tensor(30)},
    },
    "ema-pytorch": lambda raw, ema: {"ema": of_ema_pytorch(raw, ema)},
    "ema-pytorch beside a model": lambda raw, ema: {
        "model": raw,
        "ema": of_ema_pytorch(tiny_state(2), ema),
    },
    "ema-pytorch in one dictionary": lambda raw, ema: {
        "state_dict": {**prefixed("model.", raw), **prefixed("ema.", of_ema_pytorch(raw, ema))}
    },
    "a shadow with a backup": lambda raw, ema: {
        "model": raw,
        "ema": {"backup": tiny_state(2), "shadow": ema},
    },
    "Lightning's callback": lambda raw, ema: {
        "state_dict": prefixed("model.", raw),
        "callbacks": {"StochasticWeightAveraging": {"average_model_state": ema}},
    },
    "moving average": lambda raw, ema: {"net": raw, "moving_avg": ema},
    "several averages": lambda raw, ema: {"net": raw, "emas": [ema]},
    "AveragedModel under any name": lambda raw, ema: {
        "state_dict": {**prefixed("a.", raw), **prefixed("b.", averaged_model(ema))}
    },
    "a model without an average": lambda raw, ema: {"model_non_ema": raw, "ema": ema},
}


@pytest.mark.parametrize("pack", BOTH.values(), ids=BOTH)
def test_an_average_is_taken_and_said(
    pack: Callable[[State, State], object], tmp_path: Path
) -> None:
    raw, ema = tiny_state(0), tiny_state(1)
    path = saved(pack(raw, ema), tmp_path)
    checkpoint = load_checkpoint(path)
    assert_same(checkpoint.state, ema)
    (said,) = (one for one in checkpoint.assumptions if one.fact == "weights")
    assert said.value.startswith("ema (")
    assert said.override == "weights=ema|raw"
    for weights, expected in ((Weights.RAW, raw), (Weights.EMA, ema)):
        asked = load_checkpoint(path, CheckpointOptions(weights=weights))
        assert_same(asked.state, expected)
        assert "weights" not in {one.fact for one in asked.assumptions}


def test_running_statistics_of_the_raw_weights_complete_an_average(tmp_path: Path) -> None:
    raw, ema = tiny_state(0), tiny_state(1)
    raw["bn1.running_mean"] = torch.full((16,), 3.0)
    del ema["bn1.running_mean"]
    checkpoint = load_checkpoint(saved({"model": raw, "ema": ema}, tmp_path))
    assert torch.equal(checkpoint.state["bn1.running_mean"], raw["bn1.running_mean"])
    assert torch.equal(checkpoint.state["conv1.weight"], ema["conv1.weight"])
    assert any("no running statistics" in note for note in checkpoint.notes)


NO_AVERAGE: dict[str, Callable[[State, State], object]] = {
    "moments": lambda raw, other: {"model": raw, "optimizer": {"exp_avg": other}},
    "moments, shadowed": lambda raw, other: {"model": raw, "optim_state": {"model_ema": other}},
    "moments in one dictionary": lambda raw, other: {
        **prefixed("model.", raw),
        **prefixed("optimizer.exp_avg.", other),
    },
    "exp_avg elsewhere": lambda raw, other: {"model": raw, "state": {"exp_avg": other}},
    "scheduler": lambda raw, other: {"model": raw, "lr_schedulers": [{"swa_model": other}]},
    "best by a score": lambda raw, other: {"model": raw, "average_precision": {"model": other}},
    "best by another": lambda raw, other: {"state_dict": raw, "best_avg_iou": other},
    "best by an average's": lambda raw, other: {"model": raw, "best_ema_miou": {"net": other}},
}


@pytest.mark.parametrize("pack", NO_AVERAGE.values(), ids=NO_AVERAGE)
def test_what_is_no_average_is_never_taken_for_one(
    pack: Callable[[State, State], object], tmp_path: Path
) -> None:
    raw, other = tiny_state(0), tiny_state(1)
    path = saved(pack(raw, other), tmp_path)
    checkpoint = load_checkpoint(path)
    assert_same(checkpoint.state, raw)
    assert "weights" not in {one.fact for one in checkpoint.assumptions}
    with pytest.raises(CheckpointError, match="has no averaged weights, which weights='ema'"):
        load_checkpoint(path, CheckpointOptions(weights=Weights.EMA))


def test_what_was_not_trained_completes_an_average(tmp_path: Path) -> None:
    raw, ema = tiny_state(0), tiny_state(1)
    frozen = ("conv1.", "bn1.", "layer1.")
    shadow = {k: v for k, v in trained(ema).items() if not k.startswith(frozen)}
    path = saved({"model": {**raw, "criterion.w": torch.ones(1)}, "ema": shadow}, tmp_path)
    checkpoint = load_checkpoint(path)
    assert_same(checkpoint.state, {**raw, **shadow})
    assert any("ema has no bn1.bias, bn1.weight, conv1.weight, " in n for n in checkpoint.notes)


def test_a_whole_average_gets_no_parts_of_a_larger_network(tmp_path: Path) -> None:
    raw, ema = (
        tiny_state(0),
        tiny_state(1, NetworkSpec(backbone="resnet50", width=0.25, decoder_channels=16)),
    )
    larger = tiny_state(0, NetworkSpec(backbone="resnet101", width=0.25, decoder_channels=16))
    for other in (raw, larger):
        checkpoint = load_checkpoint(saved({"model": other, "ema": ema}, tmp_path))
        assert_same(checkpoint.state, ema)
        assert checkpoint.notes == ()


@pytest.mark.parametrize("place", ["conv1.weight", "RRB5a.unify.weight"])
def test_an_average_that_cannot_be_used_leads_to_the_raw_weights(
    place: str, tmp_path: Path
) -> None:
    raw, ema = tiny_state(0), tiny_state(1)
    ema[place] = torch.full_like(ema[place], torch.nan)
    path = saved({"model": raw, "ema": ema}, tmp_path)
    with pytest.raises(CheckpointError, match=r"1 tensors.*\(ema weights, in ema\)") as caught:
        load_checkpoint(path)
    assert caught.value.fix.endswith("or take the other weights in the file: weights='raw'")
    assert_same(load_checkpoint(path, CheckpointOptions(weights=Weights.RAW)).state, raw)


@pytest.mark.parametrize(
    ("content", "weights"), [({"model": None}, "ema"), ({"model_ema": None}, "raw")], ids=str
)
def test_the_only_copy_is_taken_and_the_other_refused(
    content: dict[str, None], weights: str, tmp_path: Path
) -> None:
    path = saved(dict.fromkeys(content, tiny_state()), tmp_path)
    assert "weights" not in {one.fact for one in load_checkpoint(path).assumptions}
    with pytest.raises(CheckpointError, match=f"weights, which weights='{weights}' asks") as caught:
        load_checkpoint(path, CheckpointOptions(weights=Weights(weights)))
    assert caught.value.fix == "leave weights= out"


def test_several_networks_are_named(tmp_path: Path) -> None:
    one, two = tiny_state(0), tiny_state(1)
    checkpoint = load_checkpoint(saved({"teacher": two, "model": one}, tmp_path))
    assert_same(checkpoint.state, one)
    assert "model was taken, not teacher" in " ".join(checkpoint.notes)


def test_an_average_of_another_form_is_not_passed_over_in_silence(tmp_path: Path) -> None:
    state = tiny_state()
    for name, average in {
        "ema": {"shadow_params": list(state.values()), "decay": 0.99},
        "model_ema": {key.replace(".", ""): value for key, value in state.items()},
    }.items():
        checkpoint = load_checkpoint(saved({"model": state, name: average}, tmp_path))
        assert_same(checkpoint.state, state)
        assert f"not used, since it is not like the network: {name}" in checkpoint.notes[0]
    moments = {"exp_avg": tiny_state(1), "exp_avg_sq": list(tiny_state(2).values())}
    plain = saved({"model": state, "ema_decay": 0.99, "optimizer": moments}, tmp_path)
    assert load_checkpoint(plain).notes == ()


class Config:
    """Stands for a class of training code; loading must not need it."""

    def __init__(self) -> None:
        self.lr = 0.1

    def __setstate__(self, state: object) -> None:
        raise AssertionError("code of the checkpoint was run")


class Settings(dict[str, object]):
    pass


class Values(list[object]):
    pass


class Outer:
    """Protocol 2 writes the classes inside, and bound methods, as calls of getattr."""

    class Options(dict[str, object]):
        pass

    class Schedule:
        def __init__(self) -> None:
            self.step = 1

    class Mode(enum.Enum):
        TRAIN = 1

    def method(self) -> None: ...


OBJECTS: dict[str, object] = {
    "nested classes": [Outer.Schedule(), Outer.Mode.TRAIN, Outer.Options(a=1)],
    "bound method": Outer().method,
    "logger": logging.getLogger("training"),
    "pattern": re.compile("a"),
    "random numbers": random.Random(1),
    "time": time.localtime(),
    "functions of Python": [print, operator.itemgetter(1), type(None), ...],
    "NumPy scalar": np.float64(0.5),
    "NumPy array": np.arange(3.0),
    "Namespace": argparse.Namespace(lr=0.1, out=Path("runs")),
    "SimpleNamespace": types.SimpleNamespace(lr=0.1),
    "defaultdict": collections.defaultdict(list, {"loss": [1.0, 2.0]}),
    "deque": collections.deque([1, 2]),
    "class of training code": Config(),
    "kind of dict": Settings(lr=0.1, inner=Settings(a=1)),
    "kind of list": Values([1, 2]),
    "scheduler": torch.optim.lr_scheduler.LambdaLR,
}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before 1.6"])
@pytest.mark.parametrize("value", OBJECTS.values(), ids=OBJECTS)
def test_objects_beside_the_weights_are_left_out(
    value: object, zipped: bool, tmp_path: Path
) -> None:
    state = tiny_state()
    content = {"args": value, "state_dict": state}
    path = saved(content, tmp_path, _use_new_zipfile_serialization=zipped)
    checkpoint = load_checkpoint(path)
    assert_same(checkpoint.state, state)
    assert any("objects were left out, and their code was not run: " in n for n in checkpoint.notes)
    with pytest.raises(pickle.UnpicklingError):  # nothing stays allowed in this process
        torch.load(path, weights_only=True)


def test_a_whole_network_is_read_without_its_code(tmp_path: Path) -> None:
    network = AlignSeg(TINY)
    network.register_buffer("scratch", torch.zeros(3), persistent=False)
    for content in (
        network,
        {"model": nn.DataParallel(network), "other": nn.Conv2d(2, 2, 1)},
        torch.compile(network),
        {"net": torch.compile(nn.Sequential(network))},
    ):
        checkpoint = load_checkpoint(saved(content, tmp_path))
        assert_same(checkpoint.state, network.state_dict())
        assert any("alignseg_infer.models.alignseg.AlignSeg" in note for note in checkpoint.notes)


class Exploit:
    """Calls a function while it is loaded."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before 1.6"])
@pytest.mark.parametrize("name", ["os.system", "builtins.eval", "builtins.exec", "shutil.rmtree"])
def test_code_is_refused_and_named(
    name: str, zipped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    module, _, function = name.rpartition(".")
    argument = {
        "system": "rmdir here",
        "rmtree": "here",
    }.get(function, "__import__('os').rmdir('here')")
    exploit = Exploit(getattr(__import__(module), function), argument)
    path = saved({"a": exploit, **tiny_state()}, tmp_path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(
        CheckpointError, match=f"can run code while it is loaded: it names .*{function}"
    ):
        load_checkpoint(path)
    assert (tmp_path / "here").is_dir()


@pytest.mark.parametrize("name", ["_os.py", "codes.net", "pickles.x", "code.net"])
def test_names_of_training_code_are_no_names_of_python(name: str, tmp_path: Path) -> None:
    path = renamed(saved({"a": Config(), **tiny_state()}, tmp_path), f"{name}\nConfig\n".encode())
    assert f"{name}.Config" in load_checkpoint(path).notes[0]


def renamed(path: Path, name: bytes) -> Path:
    """Rewrite an archive so that it has another name for `Config`."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in members.items():
            changed = content.replace(f"{__name__}\nConfig\n".encode(), name)
            assert (changed != content) == member.endswith("data.pkl")
            archive.writestr(member, changed)
    return path


@pytest.mark.parametrize(
    "name", [b"foo\nb\0ar\n", b"foo\n\x1b[31m\n", b"m\n" + b"C" * 40_000 + b"\n"], ids=range(3)
)
def test_a_name_that_no_code_has_is_refused_at_once(name: bytes, tmp_path: Path) -> None:
    path = renamed(saved({"a": Config(), **tiny_state()}, tmp_path), name)
    start = time.perf_counter()
    with pytest.raises(CheckpointError, match="a class that no code can have"):
        load_checkpoint(path)
    assert time.perf_counter() - start < 5  # PyTorch's own message took 24 s for the last one


def test_many_kinds_of_dict_are_learned_in_one_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = [type(f"Kind{n}", (dict,), {"__module__": __name__}) for n in range(300)]
    for kind in kinds:
        monkeypatch.setitem(globals(), kind.__name__, kind)
    path = saved({"a": [kind(a=1) for kind in kinds], "model": tiny_state()}, tmp_path)
    passes: list[object] = []
    monkeypatch.setattr(torch, "load", _counted(torch.load, passes))
    assert_same(load_checkpoint(path).state, tiny_state())
    assert len(passes) == 1


def _counted(function: Callable[..., object], calls: list[object]) -> Callable[..., object]:
    def counted(*arguments: object, **options: object) -> object:
        calls.append(arguments)
        return function(*arguments, **options)

    return counted


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before 1.6"])
def test_a_tuple_that_grows_without_end_is_refused(zipped: bool, tmp_path: Path) -> None:
    key: tuple[object, ...] = ("x",)
    for _ in range(17):
        key = (key, key)
    options = {"_use_new_zipfile_serialization": zipped}
    state = tiny_state()
    assert load_checkpoint(saved({"a": {key[0]: 1}, "model": state}, tmp_path, **options)).state
    with pytest.raises(CheckpointError, match="has a tuple of more than"):
        load_checkpoint(saved({"a": {(key, key): 1}, "model": state}, tmp_path, **options))


class Named(list[object]):
    """A list with an attribute of its own."""


class Packed(dict[str, object]):
    def __getstate__(self) -> tuple[int, int]:
        return 1, 2


class OldXla:
    def __reduce__(self) -> Any:
        array = np.zeros(16, "f4")
        return torch._utils._rebuild_device_tensor_from_numpy, (array, torch.float32, "xla", False)


def _named() -> Named:
    made = Named([1])
    made.name = "x"  # type: ignore[attr-defined]
    return made


@pytest.mark.parametrize(
    ("value", "name"),
    [(_named(), "Named"), (Packed(a=1), "Packed"), (OldXla(), "numpy.dtype")],
    ids=["list", "dict", "XLA"],
)
def test_what_no_stand_in_replaces_is_named(value: object, name: str, tmp_path: Path) -> None:
    path = saved({"a": value, "model": tiny_state()}, tmp_path)
    with pytest.raises(CheckpointError, match=f"cannot be read without the code of .*{name}") as e:
        load_checkpoint(path)
    assert "safe_globals" not in str(e.value)


def test_parts_of_tensors_are_named_and_the_advice_works(tmp_path: Path) -> None:
    path, script = tmp_path / "parts.pth", tmp_path / "train.py"
    script.write_text(
        "import torch, torch.distributed as dist\n"
        "from torch.distributed.fsdp import fully_shard\n"
        "from torch.distributed.device_mesh import init_device_mesh\n"
        "from tests.models.test_foreign_checkpoints import TINY, AlignSeg\n"
        "dist.init_process_group('gloo', store=dist.HashStore(), rank=0, world_size=1)\n"
        "PATH = 'parts.pth'\n"
        "model = fully_shard(AlignSeg(TINY), mesh=init_device_mesh('cpu', (1,)))\n"
        "torch.save(model.state_dict(), PATH)\n"
    )
    run_python(script, tmp_path)
    with pytest.raises(CheckpointError, match="holds parts of tensors") as caught:
        load_checkpoint(path)
    advice = caught.value.fix.removeprefix("where it was trained: ")
    script.write_text(f"{script.read_text()}{advice}\n")
    run_python(script, tmp_path)
    assert load_checkpoint(path).state.keys() == tiny_state().keys()


def run_python(script: Path, folder: Path) -> None:
    paths = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    subprocess.run(
        [sys.executable, script], cwd=folder, check=True, env={**os.environ, "PYTHONPATH": paths}
    )


@pytest.mark.parametrize("function", [np.save, torch.save, cv2.imwrite], ids=range(3))
def test_functions_of_packages_are_never_called(
    function: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are stand-ins too; the weights beside them are read."""
    monkeypatch.chdir(tmp_path)
    path = saved({"a": Exploit(function, "made.npy", "made.npy"), **tiny_state()}, tmp_path)
    assert load_checkpoint(path).notes
    assert [file.name for file in tmp_path.iterdir()] == ["weights.pth"]


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before 1.6"])
def test_protocol_3_is_read(zipped: bool, tmp_path: Path) -> None:
    options = {"pickle_protocol": 3, "_use_new_zipfile_serialization": zipped}
    assert_same(load_checkpoint(saved(tiny_state(), tmp_path, **options)).state, tiny_state())


def test_protocol_0_is_named(tmp_path: Path) -> None:
    """PyTorch itself does not read it in any way."""
    with pytest.raises(CheckpointError, match="saved with a pickle protocol that") as caught:
        load_checkpoint(saved(tiny_state(), tmp_path, pickle_protocol=0))
    assert "state_dict()" in caught.value.fix


def test_a_whole_network_of_before_1_6_is_named(tmp_path: Path) -> None:
    path = saved(nn.Conv2d(2, 2, 1), tmp_path, _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match="a whole network with its source code"):
        load_checkpoint(path)


@pytest.mark.parametrize("protocol", [4, 5])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before 1.6"])
def test_other_protocols_are_named_and_the_advice_works(
    protocol: int, zipped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = {"pickle_protocol": protocol, "_use_new_zipfile_serialization": zipped}
    path = saved(tiny_state(), tmp_path, **options)
    with pytest.raises(CheckpointError, match="saved with a pickle protocol that") as caught:
        load_checkpoint(path)
    run_advice(caught.value.fix, tmp_path)
    assert_same(load_checkpoint(tmp_path / "NEW.pth").state, tiny_state())


def _loop() -> dict[str, object]:
    loop: dict[str, object] = {}
    loop["model"] = loop
    return loop


def _deep() -> object:
    content: object = tiny_state()
    for _ in range(100):
        content = {"model": content}
    return content


def _one_storage() -> State:
    flat = torch.ones(200_000)
    return {k: flat[: v.numel()].view(v.shape) for k, v in tiny_state().items()}


class Hiding:
    """Writes an object with attributes that have the names of its methods."""

    def __init__(self, made: Tensor | dict[str, Any], attributes: list[str]) -> None:
        self.made, self.attributes = made, dict.fromkeys(attributes, 1)

    def __reduce__(self) -> Any:
        if isinstance(self.made, Tensor):
            reduce: Any = self.made.__reduce_ex__
            call, how = reduce(2)[:2]
            return torch._tensor._rebuild_from_type_v2, (call, Tensor, how, self.attributes)
        return collections.OrderedDict, (), self.attributes, None, iter(self.made.items())


def test_attributes_of_the_file_hide_no_methods(tmp_path: Path) -> None:
    state = tiny_state()
    methods = [name for name in dir(Tensor) if callable(getattr(Tensor, name)) and name[0] != "_"]
    odd: Any = {**state, "conv1.weight": Hiding(state["conv1.weight"], methods)}
    methods = [name for name in dir(dict) if name[0] != "_"]
    odd = Hiding({"model": Hiding(odd, methods), "meta": Hiding({}, methods)}, methods)
    assert_same(load_checkpoint(saved(odd, tmp_path)).state, state)


def test_keys_of_any_kind_are_shown_in_short(tmp_path: Path) -> None:
    key: Any = ()
    for _ in range(16):
        key = (key, key)
    for odd in (key, 10**600):
        with pytest.raises(CheckpointError) as caught:
            load_checkpoint(saved({odd: 1}, tmp_path))
        assert f"it has the keys {type(odd).__name__}" in caught.value.problem
        assert_same(load_checkpoint(saved({odd: tiny_state()}, tmp_path)).state, tiny_state())


ODD: dict[str, tuple[Callable[[], object], str]] = {
    "meta": (lambda: {k: v.to("meta") for k, v in tiny_state().items()}, "the device meta"),
    "loop": (_loop, "it has the keys model"),
    "empty": (dict, "it is an empty dictionary"),
    "deep": (_deep, "it has the keys model"),
    "quantised": (
        lambda: {
            **tiny_state(),
            "bn1.weight": torch.quantize_per_tensor(torch.ones(16), 0.1, 0, torch.qint8),
        },
        "torch.qint8",
    ),
    "sparse": (lambda: {**tiny_state(), "bn1.weight": torch.ones(16).to_sparse()}, "sparse_coo"),
    "complex": (lambda: {**tiny_state(), "bn1.weight": torch.ones(16) * 1j}, "torch.complex64"),
    "float8": (
        lambda: {**tiny_state(), "bn1.bias": torch.zeros(16, dtype=torch.float8_e4m3fn)},
        "has values of torch.float8_e4m3fn in bn1.bias",
    ),
    "many classes": (
        lambda: {**tiny_state(), "head.3.weight": torch.zeros(MAX_CLASSES + 1, 16, 1, 1)},
        f"{MAX_CLASSES + 1} classes",
    ),
    "one storage for all": (
        lambda: (
            (flat := torch.ones(200_000)) is not None
            and {k: flat[: v.numel()].view(v.shape) for k, v in tiny_state().items()}
        ),
        "bytes for all tensors",
    ),
    "a function of torch called with anything": (
        lambda: {"a": Exploit(torch._utils._rebuild_tensor_v2, 1, 2), **tiny_state()},
        "truncated or damaged",
    ),
}


@pytest.mark.parametrize(("make", "seen"), ODD.values(), ids=ODD)
def test_odd_files_are_checkpoint_errors(
    make: Callable[[], object], seen: str, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=seen) as caught:
        load_checkpoint(saved(make(), tmp_path))
    assert "weights_only" not in str(caught.value)


def test_advice_for_quantised_and_sparse_weights_works(tmp_path: Path) -> None:
    for odd in (
        torch.quantize_per_tensor(torch.ones(16), 0.1, 0, torch.qint8),
        torch.ones(16).to_sparse(),
    ):
        with pytest.raises(CheckpointError) as caught:
            load_checkpoint(saved({**tiny_state(), "bn1.weight": odd}, tmp_path))
        code = caught.value.fix.removeprefix("convert it first: ")
        converted = eval(code, {"state": {"bn1.weight": odd}})
        load_checkpoint(saved({**tiny_state(), **converted}, tmp_path))


def test_an_archive_that_unpacks_to_much_is_refused(tmp_path: Path) -> None:
    path = saved(tiny_state(), tmp_path)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("weights/data/9999", bytes(300 << 20))
    with pytest.raises(CheckpointError, match="would unpack to"):
        load_checkpoint(path)
