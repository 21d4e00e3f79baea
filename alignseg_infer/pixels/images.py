"""Images from files, arrays and PIL, all as (H, W, 3) uint8 BGR."""

from pathlib import Path
from typing import Any, Protocol, TypeAlias, runtime_checkable

import cv2
import numpy as np
from numpy.typing import NDArray

from alignseg_infer.arrays import Image
from alignseg_infer.errors import ImageError, OutputError
from alignseg_infer.files import require_file, written_atomically
from alignseg_infer.pixels.value_range import PNG_SIGNATURE, ValueRange, value_range_of

MIN_IMAGE_SIDE = 2
SIXTEEN_BITS = ValueRange(65535)


@runtime_checkable
class PILImage(Protocol):
    """What is used of ``PIL.Image.Image``; Pillow itself is not needed here."""

    mode: str

    def convert(self, mode: str) -> Any:
        """The same image in another mode."""
        ...


ImageSource: TypeAlias = str | Path | NDArray[Any] | PILImage


def load_image(source: ImageSource) -> Image:
    """Any accepted image as (H, W, 3) uint8, BGR, 0..255.

    Args:
        source: One of

            * a path: any format OpenCV reads; EXIF rotation is applied, gray becomes three
              channels, alpha is dropped, 16 bits per channel are scaled to 8;
            * an array (H, W, 3) uint8 in BGR, (H, W, 4) in BGRA, or (H, W) or (H, W, 1) gray;
            * a PIL image; 16 bits are scaled to 8, modes I and F are refused. EXIF rotation is
              not applied to it, as in Pillow.

    Raises:
        ImageError: It is none of these, or cannot be decoded.
    """
    if isinstance(source, str | Path):
        return read_image(Path(source))
    if isinstance(source, np.ndarray):
        source = np.asarray(source)  # of np.matrix, whose views have two dimensions always
        image = image_from_array(source)
        # A camera loop may reuse its buffer while results still refer to the picture.
        return image.copy() if np.may_share_memory(image, source) else image
    if isinstance(source, PILImage):
        return _image_from_pil(source)
    raise ImageError(
        f"an image was given as {type(source).__name__}",
        "a path, a uint8 array or a PIL image",
        "a tensor: image.permute(1, 2, 0).cpu().numpy() as uint8 BGR; bytes: cv2.imdecode; "
        "a generator: list(images)",
    )


def _image_from_pil(source: PILImage) -> Image:
    try:
        return _pixels_from_pil(source)
    except ImageError:
        raise
    except Exception as error:  # Pillow decodes late, and says what is wrong in many ways
        reason = f"{error}" or type(error).__name__
        raise ImageError(
            f"the PIL image of mode {source.mode!r} cannot be decoded: {reason}",
            "a complete image that is still open, in a mode that converts to RGB",
            "image.load() inside the block that opens it; image.convert('RGB') for other modes",
        ) from error


def _pixels_from_pil(source: PILImage) -> Image:
    if source.mode.startswith("I;16"):
        return image_from_array(_scaled_to_8_bits(np.asarray(source, np.uint16)))
    if source.mode in ("I", "F"):  # Pillow would clip them to 0..255
        raise ImageError(
            f"the PIL image has mode {source.mode!r}, whose range of values is not known",
            "modes RGB, RGBA, L, P, 1, I;16 and others of 8 or 16 bits",
            "scale it to 0..255 first: Image.fromarray(values.astype(np.uint8))",
        )
    return image_from_array(np.asarray(source.convert("RGB"))[..., ::-1])


def _scaled_to_8_bits(
    image: NDArray[np.uint8] | NDArray[np.uint16], values: ValueRange = SIXTEEN_BITS
) -> Image:
    """Scale values so that ``values.maximum`` becomes 255, rounding to the nearest."""
    numbers = np.minimum(image, values.maximum).astype(np.uint32)
    scaled = ((numbers * 255 + values.maximum // 2) // values.maximum).astype(np.uint8)
    return 255 - scaled if values.inverted else scaled


def image_from_array(array: NDArray[Any]) -> Image:
    """A (H, W), (H, W, 1), (H, W, 3) BGR or (H, W, 4) BGRA uint8 array as (H, W, 3) BGR.

    Raises:
        ImageError: Another dtype or shape; the message says how to convert.
    """
    _require_uint8(array)
    if array.ndim == 2:
        array = array[..., np.newaxis]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4):
        raise ImageError(
            f"the image array has shape {array.shape}",
            "(H, W, 3) BGR, (H, W, 4) BGRA, or (H, W) gray",
            "image.transpose(1, 2, 0) for (3, H, W); a list of images for a batch",
        )
    if min(array.shape[:2]) < MIN_IMAGE_SIDE:
        raise ImageError(
            f"the image is {array.shape[0]}x{array.shape[1]} (height x width)",
            f"at least {MIN_IMAGE_SIDE} pixels per side",
            "check how the image was cropped or decoded",
        )
    if array.shape[2] == 1:
        array = np.repeat(array, 3, axis=2)
    return np.ascontiguousarray(array[..., :3])


def _require_uint8(array: NDArray[Any]) -> None:
    if array.dtype == np.uint8:
        return
    fixes = {
        "f": "(image * 255).round().astype(np.uint8) if it is in 0..1, after removing any NaN",
        "u": "(image >> 8).astype(np.uint8) for full-range 16 bit, >> 4 for 12 bit",
        "b": "image.astype(np.uint8) * 255",
    }
    raise ImageError(
        f"the image array is {array.dtype}{_nan_note(array)}",
        "uint8 with values 0..255",
        fixes.get(array.dtype.kind, "image.astype(np.uint8) once its values are in 0..255"),
    )


def _nan_note(array: NDArray[Any]) -> str:
    if array.dtype.kind != "f" or not np.isnan(array).any():
        return ""
    return f" with {int(np.isnan(array).sum())} NaN"


def read_image(path: Path) -> Image:
    """The image in the file `path` as (H, W, 3) uint8 BGR, EXIF rotation applied.

    Raises:
        ImageError: The file is missing, empty, truncated, or no image that OpenCV reads.
    """
    data = _file_content(path)
    values = value_range_of(data)
    image = _decoded(path, data, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
    if image.dtype not in (np.uint8, np.uint16) or (values is None and image.dtype != np.uint8):
        raise ImageError(
            f"{path} holds {image.dtype} values, and its header does not say which one is white",
            "an image of 8 bits per channel, or one whose header tells how many bits it has",
            "convert it first: scale its values to 0..255 and write them as an 8-bit PNG",
        )
    if values is not None and values != (255, False):
        image = _scaled_to_8_bits(image, values)
    return image_from_array(image)


def read_gray_png(path: Path) -> Image:
    """The values in the 8-bit gray PNG `path` as (H, W) uint8, none of them scaled.

    Raises:
        ImageError: The file is missing, empty, truncated, or another kind of image. OpenCV gives
            a palette PNG's colours instead of its values, and scales those of 1, 2 or 4 bits.
    """
    data = _file_content(path)
    kind = data[24:26]  # bit depth and colour type in the header, which comes first
    if not data.startswith(PNG_SIGNATURE) or kind != b"\x08\x00":
        raise ImageError(
            f"{path} is no 8-bit gray PNG{_png_kind_note(data)}",
            "labels in a PNG with one channel of 8 bits and no palette",
            "with Pillow: Image.fromarray(numpy.asarray(Image.open(OLD))).save(NEW) keeps the "
            "values of a palette PNG",
        )
    return np.asarray(_decoded(path, data, cv2.IMREAD_UNCHANGED), np.uint8)


def _png_kind_note(data: bytes) -> str:
    if not data.startswith(PNG_SIGNATURE):
        return f": its first bytes are {data[:8]!r}"
    kinds = {0: "gray", 2: "RGB", 3: "palette", 4: "gray and alpha", 6: "RGB and alpha"}
    bits, color_type = (data[24], data[25]) if len(data) > 25 else (0, -1)
    return f": it has {kinds.get(color_type, 'unknown')} pixels of {bits} bits per channel"


def _file_content(path: Path) -> bytes:
    require_file(path, "an image", ImageError)
    data = path.read_bytes()
    if _is_truncated(data):
        raise _undecodable(path, "it ends before its image data does (truncated)")
    return data


def _decoded(path: Path, data: bytes, flags: int) -> NDArray[Any]:
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise _undecodable(path, f"OpenCV says {error.err}") from error
    if image is None:
        raise _undecodable(path, f"its first bytes are {data[:8]!r}")
    return image


def _undecodable(path: Path, reason: str) -> ImageError:
    return ImageError(
        f"{path} cannot be decoded as an image: {reason}",
        "a complete JPEG, PNG, BMP, TIFF, WebP or other image that OpenCV reads",
        f"look at it with: file {path}; if it is a video: alignseg video MODEL {path} -o OUT.mp4",
    )


def _is_truncated(data: bytes) -> bool:
    """Whether a JPEG or PNG lacks its end. OpenCV decodes such files, with gray for the rest."""
    if data.startswith(b"\xff\xd8"):
        # Scan data never contains FFD9 (FF is stuffed there), so what follows it is the end. A
        # thumbnail, which has an end of its own, lies in a segment before the scan.
        scan = _jpeg_scan_start(data)
        return scan is None or data.find(b"\xff\xd9", scan) < 0
    if data.startswith(PNG_SIGNATURE):
        return b"IEND" not in data
    return False


def _jpeg_scan_start(data: bytes) -> int | None:
    """Where the first start-of-scan marker of the main image is; None if the file ends before."""
    position = data.find(b"\xff", 2)  # decoders skip stray bytes between segments
    while 0 <= position <= len(data) - 4:
        marker = data[position + 1]
        if marker == 0xDA:
            return position
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        position = data.find(b"\xff", position + (1 if marker == 0xFF else 2 + length))
    return None


def encoded_image(pixels: NDArray[np.uint8] | NDArray[np.uint16], suffix: str) -> bytes:
    """The bytes of an image file.

    Args:
        pixels: (H, W) uint8 or uint16, or (H, W, 3) uint8 BGR.
        suffix: ``.png`` or ``.jpg``.

    Raises:
        OutputError: The format does not hold so many pixels.
    """
    try:
        done, content = cv2.imencode(suffix, pixels)
    except cv2.error:  # so OpenCV 4; OpenCV 5 says False
        done = False
    if not done:
        raise OutputError(
            f"{pixels.shape[0]}x{pixels.shape[1]} pixels cannot be encoded as {suffix}",
            "at most 65500 pixels per side for JPEG",
            "segment the image in parts, or write result.labels with numpy.save",
        )
    return content.tobytes()


def write_image(path: Path, pixels: NDArray[np.uint8] | NDArray[np.uint16]) -> None:
    """Writes an image file, in the format of its ending and atomically.

    Args:
        path: ``.png`` or ``.jpg``.
        pixels: As `encoded_image` takes them.

    Raises:
        OutputError: It cannot be written, or the format does not hold so many pixels.
    """
    content = encoded_image(pixels, path.suffix)
    with written_atomically(path) as temporary:
        temporary.write_bytes(content)
