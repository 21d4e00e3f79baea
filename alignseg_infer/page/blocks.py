"""The page's layout, in Gradio: where files are dropped, and where ``view.js`` shows results."""

import html
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from alignseg_infer.arrays import Image
from alignseg_infer.demo import DEMO, FIRST_HELD_OUT
from alignseg_infer.demo.streets import Street
from alignseg_infer.errors import AlignSegError
from alignseg_infer.page.work import (
    MOST_FILES,
    MOST_MEGABYTES,
    Page,
    explain,
    remove_soon,
    too_many,
)

# Cameras would give all that they have, of which little is seen, and which takes long to segment.
CAMERA = {"video": {"width": {"ideal": 1280}, "height": {"ideal": 720}}}
STREET_SIZE = (256, 512)  # what the demo model was trained on
TITLE = "Segment pictures and videos"
HEAD = f'<script src="./view.js" data-megabytes="{MOST_MEGABYTES}"></script>'
STYLE = Path(__file__).with_name("page.css")
FONTS = ["system-ui", "sans-serif"]  # names in quotes would be fetched from Google
MONOSPACE = ["ui-monospace", "monospace"]
ABOUT_DEMO = (
    "The demo model knows <b>drawn streets</b> only: its masks of photographs mean nothing. "
    "To see what it can do, let a street be drawn."
)
WAITING_AT_MOST = 64  # drops that wait for their turn


def make_theme() -> Any:
    """Return a theme whose fonts are those of the visitor's system."""
    theme = gr.themes.Default(
        primary_hue="teal", neutral_hue="slate", font=FONTS, font_mono=MONOSPACE
    )
    button = "button_primary_background_fill"
    plain = dict.fromkeys([button, f"{button}_dark"], "*primary_700")
    return theme.set(
        **plain, **dict.fromkeys([f"{button}_hover", f"{button}_hover_dark"], "*primary_800")
    )


def make_blocks(page: Page) -> Any:
    """Return the page as Gradio's blocks."""
    actions = _Actions(page)
    has_demo = any(model.name == DEMO for model in page.models)
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(60, 600)) as blocks:
        gr.HTML(_heading(page), apply_default_css=False)
        with gr.Row():
            with gr.Column(scale=1, min_width=280, elem_classes="alignseg-input"):
                with gr.Tab("File"):
                    files = gr.File(
                        label="Drop pictures or a video here", file_count="multiple", height=180
                    )
                with gr.Tab("Camera"):
                    camera = gr.Image(
                        sources=["webcam"],
                        webcam_options=gr.WebcamOptions(mirror=False, constraints=CAMERA),
                        type="numpy",
                        label="Take a picture",
                        height=240,
                    )
                if has_demo:
                    street = gr.Button("Draw a street", variant="primary")
                    gr.HTML(f'<p class="alignseg-note">{ABOUT_DEMO}</p>', apply_default_css=False)
            with gr.Column(scale=3, min_width=320):
                view = gr.HTML(view_of([]), apply_default_css=False)
        gr.HTML(f'<p class="alignseg-note">{_limits()}</p>', apply_default_css=False)
        files.upload(
            actions.segment_files, files, [files, view], api_name="segment", show_progress_on=view
        )
        camera.change(actions.segment_camera, camera, view, api_visibility="private")
        for component in (files, camera):
            _take_uploads_only(component, page.folder)
        if has_demo:
            drawn = gr.State(FIRST_HELD_OUT)
            street.click(actions.draw_street, drawn, [drawn, view], api_visibility="private")
        blocks.unload(actions.leave)
    blocks.queue(max_size=WAITING_AT_MOST, default_concurrency_limit=2)
    return blocks


def _take_uploads_only(component: Any, folder: Path) -> None:
    """Let a component take what was uploaded, and no other file of this machine or of the network.

    Whoever sends a request of their own may name any path or address. Gradio 6.31 refuses them only
    where `launch` serves it, not where it is mounted in an application.
    """
    take = component.async_move_resource_to_block_cache

    async def take_uploaded(path: str | Path | None) -> Any:
        if path is not None and not Path(path).resolve().is_relative_to(folder.resolve()):
            raise gr.Error(
                "Only files that were dropped on the page are segmented.", print_exception=False
            )
        return await take(path)

    component.async_move_resource_to_block_cache = take_uploaded


class _Actions:
    """What happens on the page."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self._left: set[str] = set()  # visits that ended

    def leave(self, request: gr.Request) -> None:
        """Stop working for a browser that has gone away."""
        self._left.add(str(request.session_hash))

    def segment_files(
        self,
        paths: list[str] | None,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 - Gradio finds it by this
    ) -> Iterator[tuple[Any, str]]:
        """Show the results of all files, each as soon as it is there."""
        files = [Path(path) for path in paths or []]
        if len(files) > MOST_FILES:
            for path in files:
                remove_soon(path)
            error = {"name": f"{len(files)} files", "error": explain(too_many(len(files)))}
            yield None, view_of([error])
            return
        shown: list[dict[str, Any]] = []

        def tell(what: str, done: int, total: int | None) -> bool:
            progress((done, total), desc=files[len(shown)].name, unit=what)
            return request.session_hash not in self._left

        for path in files:
            shown.append(self._page.segment_file(path, tell))
            yield None, view_of(shown)

    def segment_camera(self, image: Image | None) -> str:
        """Show the result of a picture that the camera took: (H, W, 3) uint8 RGB."""
        return view_of([]) if image is None else self._segment(image[..., ::-1], "camera.png")

    def draw_street(self, seed: int) -> tuple[int, str]:
        """Show the result of a drawn street, and return the seed of the next one."""
        image = Street(seed).scene(size=STREET_SIZE).image
        return seed + 1, self._segment(image, f"street-{seed}.png")

    def _segment(self, image: Image, name: str) -> str:
        try:
            return view_of([self._page.segment_image(image, name)])
        except AlignSegError as error:
            return view_of([{"name": name, "error": explain(error)}])


def view_of(files: list[dict[str, Any]]) -> str:
    """Return the element that shows results, which ``view.js`` fills."""
    return f'<alignseg-view files="{html.escape(json.dumps(files))}"></alignseg-view>'


def _heading(page: Page) -> str:
    models = " and ".join(f"<b>{html.escape(model.name)}</b>" for model in page.models)
    backends = " and ".join(dict.fromkeys(model.predictor.backend for model in page.models))
    word = "Models" if len(page.models) > 1 else "Model"
    return (
        f'<header class="alignseg-heading"><h1>{TITLE}</h1>'
        f"<p>{word} {models} on {html.escape(backends)}</p></header>"
    )


def _limits() -> str:
    return (
        f"Up to {MOST_FILES} files at once, each up to {MOST_MEGABYTES} MB. Files are deleted half "
        "a minute after they were segmented, and never leave the machine that runs this page."
    )
