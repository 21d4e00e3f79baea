"""Recognising files and state dicts that are not AlignSeg checkpoints."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

SAFETENSORS_HEADER = 8  # bytes of the length that precedes the JSON header


class Detected(NamedTuple):
    """What a file is instead of a checkpoint, and what to do about it."""

    what: str
    fix: str


_BEGINNINGS = (
    (
        b"version https://git-lfs",
        Detected("a Git LFS pointer, not the file itself", "git lfs pull"),
    ),
    (b"\x08", Detected("an ONNX model", "use it directly: alignseg predict MODEL.onnx IMAGE")),
    (b"\x1f\x8b", Detected("a gzip archive", "unpack it first: gunzip FILE, or tar xzf FILE")),
    (b"Rar!", Detected("a RAR archive", "unpack it first")),
    (b"7z\xbc\xaf", Detected("a 7-zip archive", "unpack it first")),
    (b"\x89HDF", Detected("an HDF5 file (Keras?)", "use a PyTorch checkpoint")),
    (b"\x89PNG", Detected("a PNG image", "name the checkpoint first, then the images")),
    (b"\xff\xd8\xff", Detected("a JPEG image", "name the checkpoint first, then the images")),
)

_NETWORKS = (
    (("decode_head.",), "an MMSegmentation network"),
    (("classifier.", "backbone."), "a torchvision segmentation network"),
    (("encoder.", "decoder."), "an encoder-decoder of another library"),
    (("fc.", "layer1."), "an image classification ResNet: a backbone without a decoder"),
    (("layer1.", "layer4."), "a ResNet without AlignSeg's decoder"),
    (("model.",), "a network inside a training wrapper"),
)


def detect_file(path: Path) -> Detected | None:
    """Return what a file that cannot be a checkpoint looks like; None if it may be one."""
    with path.open("rb") as file:
        start = file.read(512)
    for beginning, detected in _BEGINNINGS:
        if start.startswith(beginning):
            return detected
    text = start.lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return Detected(
            "a web page, probably a download page or an error saved under this name",
            "download the file itself; for large files on a cloud drive, use the drive's client",
        )
    if path.suffix == ".safetensors":
        if start[SAFETENSORS_HEADER : SAFETENSORS_HEADER + 1] == b"{":
            return None
        return Detected("a file in another format", "rename it to .pth if torch.save wrote it")
    if not start.startswith((b"PK", b"\x80")) and _is_text(start):
        return Detected(
            f"text: {start[:40].decode(errors='replace')!r}", "read its first lines: head FILE"
        )
    if start[SAFETENSORS_HEADER : SAFETENSORS_HEADER + 1] == b"{":
        return Detected("a safetensors file", "rename it to end in .safetensors")
    return None


def detect_network(keys: Iterable[str]) -> str:
    """Return what the network with these state dict keys looks like."""
    names = list(keys)
    for prefixes, what in _NETWORKS:
        if all(any(name.startswith(prefix) for name in names) for prefix in prefixes):
            return what
    return "another network"


def _is_text(data: bytes) -> bool:
    return all(0x20 <= byte < 0x7F or byte in b"\t\r\n" for byte in data)
