"""Files are recognised by their structure, and the advice for each kind works."""

import io
import lzma
import pickle
import shutil
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from alignseg_infer import CheckpointError, ModelFileError
from alignseg_infer.backends import open_backend
from alignseg_infer.models.alignseg import AlignSeg
from alignseg_infer.models.checkpoint import load_checkpoint
from alignseg_infer.models.identify import FileKind, identify, require_named_as_it_is
from alignseg_infer.spec.model import NetworkSpec
from tests.support.advice import run_advice
from tests.support.slow import all_slow

STATE = AlignSeg(NetworkSpec(backbone="resnet18", width=0.25, decoder_channels=16)).state_dict()


class Holder(torch.nn.Module):
    """Has the weights of AlignSeg under their own names, and computes nothing."""

    def __init__(self) -> None:
        super().__init__()
        spec = NetworkSpec(backbone="resnet18", width=0.25, decoder_channels=16)
        for name, part in AlignSeg(spec).named_children():
            self.add_module(name, part)
        self.load_state_dict(STATE)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.get_parameter("conv1.weight").sum()


def _torch_bytes(**options: bool) -> bytes:
    buffer = io.BytesIO()
    torch.save(STATE, buffer, **options)
    return buffer.getvalue()


def _write_script(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        traced = torch.jit.trace(Holder().eval(), torch.zeros(1, 3, 4, 4))  # type: ignore[no-untyped-call]
        torch.jit.save(traced, str(path))


def _write_program(path: Path) -> None:
    program = torch.export.export(Holder().eval(), (torch.zeros(1, 3, 4, 4),))
    with path.with_suffix(".pt2").open("wb") as file:
        torch.export.save(program, file)
    path.with_suffix(".pt2").rename(path)


def _write_npz(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, **{key: value.numpy() for key, value in STATE.items()})


def _write_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps({"state_dict": STATE}))


def _write_arrays(path: Path, protocol: int = 4) -> None:
    arrays = {key: value.numpy() for key, value in STATE.items()}
    path.write_bytes(pickle.dumps({"model": arrays, "epoch": 3}, protocol))


def _write_old_arrays(path: Path) -> None:
    _write_arrays(path, 0)


def _write_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("inner/w.pth", _torch_bytes())


def _write_tar(path: Path, name: str = "w.pth") -> None:
    with tarfile.open(path, "w") as archive:
        content = _torch_bytes()
        entry = tarfile.TarInfo(name)
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))


def _write_old_tar(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        for name in ("sys_info", "pickle", "tensors", "storages"):
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())


WHOLE: dict[str, tuple[Callable[[Path], object], str]] = {
    "TorchScript": (_write_script, "a TorchScript archive"),
    "torch.export": (_write_program, "a program of torch.export"),
    "npz": (_write_npz, "NumPy arrays (.npz)"),
    "pickle": (_write_pickle, "a pickle that torch.save did not write"),
    "pickle of arrays": (_write_arrays, "a pickle that torch.save did not write"),
    "pickle of protocol 0": (_write_old_arrays, "a pickle that torch.save did not write"),
    "pickle of protocol 1": (
        lambda p: _write_arrays(p, 1),
        "a pickle that torch.save did not write",
    ),
    "page with a comment": (lambda p: p.write_text("<!-- a -->\n<html>"), "a web page"),
    "text with an umlaut": (lambda p: p.write_bytes("größe: 1\n".encode()), "text: 'größe"),
    "text that is cut within a character": (
        lambda p: p.write_bytes(b"x" + 300 * "ü".encode()),
        "text: 'xüü",
    ),
    "zip": (_write_zip, "a zip archive of inner/w.pth"),
    "tar": (_write_tar, "a tar archive of w.pth"),
    "old tar": (_write_old_tar, "a checkpoint that PyTorch before 0.1.10 wrote"),
    "gzip": (lambda p: p.write_bytes(b"\x1f\x8b\x08\x00" + bytes(90)), "a gzip archive"),
    "xz": (lambda p: p.write_bytes(lzma.compress(b"x")), "an xz archive"),
    "HDF5": (lambda p: p.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(90)), "an HDF5 file"),
    "plan": (lambda p: p.write_bytes(b"ftrt" + bytes(90)), "an engine built by TensorRT"),
    "OpenVINO": (
        lambda p: p.write_text('<?xml version="1.0"?>\n<net name="a" version="11">'),
        "an OpenVINO model",
    ),
    "zeros": (lambda p: p.write_bytes(bytes(4096)), "a file of an unknown kind"),
}


@pytest.mark.parametrize(("write", "what"), WHOLE.values(), ids=WHOLE)
def test_each_kind_is_named_wherever_a_model_is_asked_for(
    write: Callable[[Path], object], what: str, tmp_path: Path
) -> None:
    path = tmp_path / "model.pth"
    write(path)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    assert caught.value.problem.startswith(f"{path} is not a checkpoint: it looks like {what}")
    assert "download" not in caught.value.fix or what == "a web page"
    unknown = path.rename(tmp_path / "model.pt2")
    with pytest.raises(ModelFileError, match="no backend reads; it looks like") as told:
        open_backend(unknown)
    assert what in told.value.problem
    if what != "a file of an unknown kind":
        with pytest.raises(ModelFileError, match="cannot be loaded: it looks like") as told:
            open_backend(unknown.rename(tmp_path / "model.onnx"))
        assert what in told.value.problem


@pytest.mark.parametrize(
    "kind",
    [
        *("TorchScript", "torch.export", "npz", "pickle"),
        *all_slow("pickle of arrays", "pickle of protocol 0", "pickle of protocol 1"),
    ],
)
def test_advice_makes_a_checkpoint_without_other_code(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "my model's.pth"
    WHOLE[kind][0](path)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    run_advice(caught.value.fix, tmp_path)
    made = load_checkpoint(tmp_path / "NEW.pth").state
    assert all(torch.equal(made[key], STATE[key]) for key in STATE)


def test_advice_unpacks_a_zip(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    _write_zip(path)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    run_advice(caught.value.fix, tmp_path)
    assert load_checkpoint(tmp_path / "FOLDER/inner/w.pth").state


@pytest.mark.parametrize("name", ["a.pth", "a.ckpt", "a.bin", "a.safetensors", "a.pth.tar", "a"])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before 1.6"])
def test_a_checkpoint_is_read_whatever_its_name(name: str, zipped: bool, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(_torch_bytes(_use_new_zipfile_serialization=zipped))
    assert load_checkpoint(path).state.keys() == STATE.keys()
    assert open_backend(path).name == "torch (cpu)"


@pytest.mark.parametrize("name", ["a.safetensors", "a.pth", "a.ckpt"])
def test_safetensors_are_read_whatever_their_name(name: str, tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch", reason="needs safetensors")
    safetensors.save_file(STATE, tmp_path / name)
    assert load_checkpoint(tmp_path / name).state.keys() == STATE.keys()


def test_every_first_byte_of_safetensors_is_right(tmp_path: Path) -> None:
    """The length in front takes any value, such as those that begin ONNX, pickles and gzip."""
    for length in range(0x100, 0x200):
        header = b'{"__metadata__":{}}'.ljust(length)
        (tmp_path / "a").write_bytes(length.to_bytes(8, "little") + header)
        assert identify(tmp_path / "a").kind is FileKind.SAFETENSORS, length


@pytest.mark.parametrize("text", ["(dp0\nis a word.\nand more", "cat\ndog\n", "]q"])
def test_text_that_begins_as_an_old_pickle_is_text(text: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_text(text)
    assert identify(tmp_path / "a").kind is FileKind.TEXT


def test_onnx_is_known_by_its_fields(small_onnx: Path, tmp_path: Path) -> None:
    assert identify(small_onnx).kind is FileKind.ONNX
    require_named_as_it_is(small_onnx)
    content = small_onnx.read_bytes()
    for name, other in {
        "cut": content[:-100],
        "byte": b"\x08" + bytes(99),
        "more": content + b"\0",
    }.items():
        (tmp_path / name).write_bytes(other)
        assert identify(tmp_path / name).kind is FileKind.UNKNOWN, name


def test_what_is_missing_or_unknown_passes(tmp_path: Path) -> None:
    """Loading it says what is wrong."""
    require_named_as_it_is(tmp_path / "missing.onnx")
    for name, content in {"a.onnx": b"", "b.onnx": b"\0\1\2", "c.engine": b"a plan"}.items():
        (tmp_path / name).write_bytes(content)
        require_named_as_it_is(tmp_path / name)
    shutil.copy(tmp_path / "c.engine", tmp_path / "c.onnx")
    with pytest.raises(ModelFileError, match="looks like text: 'a plan'"):
        require_named_as_it_is(tmp_path / "c.onnx")


@pytest.mark.parametrize(
    "start", [b"PK\x03\x04", b"\x80\x02", b"\x80", b"{", b"\x08\x09:", b"\xff" * 9]
)
def test_beginnings_alone_are_no_error_of_another_kind(start: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_bytes(start + bytes(600))
    with pytest.raises(CheckpointError):
        load_checkpoint(tmp_path / "a.pth")
