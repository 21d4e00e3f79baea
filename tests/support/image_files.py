"""Image files of every format and form that the tests can write."""

import io
import struct
import zlib
from typing import Any

import cv2
import numpy as np
import PIL.Image
from numpy.typing import NDArray

from alignseg_infer.arrays import Size

HEIGHT, WIDTH = 40, 72
OPENCV_ENDINGS = (".jpg", ".png", ".bmp", ".tiff", ".webp", ".jp2", ".ppm", ".pam", ".ras")


def noise(height: int = HEIGHT, width: int = WIDTH, channels: int = 3) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), np.uint8)


def by_opencv(ending: str, pixels: NDArray[Any], *options: int) -> bytes:
    done, data = cv2.imencode(ending, pixels, options)
    assert done
    return data.tobytes()


def by_pillow(kind: str, mode: str = "RGB", size: Size = (HEIGHT, WIDTH), **options: Any) -> bytes:
    channels = 4 if mode == "RGBA" else 3
    picture = PIL.Image.fromarray(noise(*size, channels)).convert(mode)
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def empty_png(height: int, width: int) -> bytes:
    """A black PNG of one bit per pixel, which is small."""
    packer, row = zlib.compressobj(9), bytes(1 + (width + 7) // 8)
    pixels = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def old_bmp() -> bytes:
    """A BMP with the header of OS/2, whose sides have 16 bits."""
    head = struct.pack("<IHHI", 0, 0, 0, 26) + struct.pack("<IHHHH", 12, WIDTH, HEIGHT, 1, 24)
    return b"BM" + head + noise().tobytes()


def bmp_from_the_top() -> bytes:
    data = bytearray(by_opencv(".bmp", noise()))
    struct.pack_into("<i", data, 22, -HEIGHT)
    return bytes(data)


def pnm(kind: str) -> bytes:
    return f"{kind} # a comment\n{WIDTH}\n# another\n{HEIGHT}\n255\n".encode() + noise().tobytes()


FILES: dict[str, bytes] = {
    **{f"OpenCV {end}": by_opencv(end, noise()) for end in OPENCV_ENDINGS},
    "OpenCV .pgm": by_opencv(".pgm", noise()[..., 0]),
    "OpenCV .pbm": by_opencv(".pbm", noise()[..., 0]),
    "OpenCV .hdr": by_opencv(".hdr", noise().astype(np.float32)),
    "OpenCV .pfm": by_opencv(".pfm", noise().astype(np.float32)),
    "WebP without loss": by_pillow("WEBP", lossless=True),
    "WebP with alpha": by_pillow("WEBP", "RGBA"),
    "WebP of odd size": by_pillow("WEBP", size=(41, 73)),
    "progressive JPEG": by_pillow("JPEG", progressive=True),
    "CMYK JPEG": by_pillow("JPEG", "CMYK"),
    "JPEG 2000 codestream": by_pillow("JPEG2000", no_jp2=True),
    "JPEG 2000 file": by_pillow("JPEG2000"),
    "GIF": by_pillow("GIF"),
    "AVIF": by_pillow("AVIF"),
    "AVIF with alpha": by_pillow("AVIF", "RGBA"),
    "BigTIFF": by_pillow("TIFF", big_tiff=True),
    "palette PNG": by_pillow("PNG", "P"),
    "BMP of OS/2": old_bmp(),
    "BMP from the top": bmp_from_the_top(),
    "PPM as text": pnm("P3"),
    "PPM": pnm("P6"),
}
