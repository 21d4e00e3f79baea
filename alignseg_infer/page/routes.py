"""What the page fetches besides Gradio's own files: results, and the code that draws them."""

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response

from alignseg_infer.backports import StrEnum
from alignseg_infer.errors import AlignSegError
from alignseg_infer.offsets.pictures import arrow_map, color_map, color_wheel, pixels_text
from alignseg_infer.ops.offset_fields import OffsetField
from alignseg_infer.page.results import Clip, Picture, Results
from alignseg_infer.page.work import explain
from alignseg_infer.pixels.images import encode_image
from alignseg_infer.results.saving import SavedFormat

HERE = Path(__file__).parent
OFFSETS_WIDTH = 960  # pixels of a picture of offsets
PLAIN = "image"  # a name that every system takes, unlike those of visitors
WHEEL = 96
FORGOTTEN = "This result is no longer kept. Drop the file on the page once more."


class Drawn(StrEnum):
    """The pictures of an offset field."""

    ARROWS = "arrows"
    COLORS = "colors"


def add_routes(app: Starlette, results: Results) -> None:
    """Let `app` hand out `results`, and the script and style that show them."""

    def hand_out(name: str, make: Callable[[Picture, Mapping[str, str]], Response]) -> None:
        def answer(request: Request) -> Response:
            item = results.find(request.path_params["result"])
            if not isinstance(item, Picture):
                return Response(FORGOTTEN, 404)
            try:
                return make(item, request.path_params)
            except AlignSegError as error:
                return JSONResponse({"error": explain(error)}, 422)

        app.router.add_route(f"/results/{{result}}/{name}", answer)

    def hand_out_clip(request: Request) -> Response:
        item = results.find(request.path_params["result"])
        if not isinstance(item, Clip):
            return Response(FORGOTTEN, 404)
        return FileResponse(item.path, filename=item.path.name, content_disposition_type="inline")

    hand_out("facts", lambda picture, _: JSONResponse(picture.facts()))
    hand_out("image.png", lambda picture, _: _png(encode_image(picture.result.image, ".png")))
    hand_out("pixels.png", lambda picture, _: _png(picture.pixels_png()))
    hand_out("saved/{format}", lambda picture, asked: _saved(picture, asked["format"]))
    hand_out("offsets", lambda picture, _: JSONResponse(_offset_facts(picture)))
    hand_out(
        "offsets/{field}/{drawn}",
        lambda picture, asked: _offset_picture(picture, asked["field"], asked["drawn"]),
    )
    app.router.add_route("/results/{result}/clip.mp4", hand_out_clip)
    for name in ("view.js", "view.css"):
        app.router.add_route(f"/{name}", lambda _, path=HERE / name: FileResponse(path))
    wheel = encode_image(color_wheel(WHEEL), ".png")
    app.router.add_route("/wheel.png", lambda _: _png(wheel))


def _png(content: bytes) -> Response:
    return Response(content, media_type="image/png", headers={"Cache-Control": "no-store"})


def _saved(picture: Picture, name: str) -> Response:
    """Return what ``Segmentation.save`` writes."""
    if name not in [member.value for member in SavedFormat]:
        return Response(f"There is no format {name!r}.", 404)
    stem = Path(picture.result.source or PLAIN).stem
    with tempfile.TemporaryDirectory() as folder:
        (path,) = picture.result.save(Path(folder, PLAIN), formats=[name])
        content = path.read_bytes()
    kinds = {".png": "image/png", ".jpg": "image/jpeg", ".json": "application/json"}
    shown = stem + path.name.removeprefix(PLAIN)
    disposition = FileResponse(path, filename=shown).headers["content-disposition"]
    return Response(
        content, media_type=kinds[path.suffix], headers={"Content-Disposition": disposition}
    )


def _offset_facts(picture: Picture) -> list[dict[str, Any]]:
    facts = []
    for name, field in picture.offsets().fields.items():
        median, high, largest = map(pixels_text, field.magnitudes)
        facts.append({"field": name, "median": median, "high": high, "largest": largest})
    return facts


def _offset_picture(picture: Picture, name: str, drawn: str) -> Response:
    fields = [member.value for member in OffsetField]
    if name not in fields or drawn not in [member.value for member in Drawn]:
        return Response(f"There is no picture {drawn!r} of the field {name!r}.", 404)
    image, displacements = picture.offsets()
    field = displacements[OffsetField(name)]
    height, width = image.shape[:2]
    size = max(1, round(height * OFFSETS_WIDTH / width)), OFFSETS_WIDTH
    pixels = (
        arrow_map(image, field, size).picture if drawn == Drawn.ARROWS else color_map(field, size)
    )
    return _png(encode_image(pixels, ".png"))
