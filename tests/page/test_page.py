"""The page without a browser: its address, its results, its errors and what it hands out."""

import asyncio
import contextlib
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from alignseg_infer import Predictor
from alignseg_infer.backends import open_backend
from alignseg_infer.cli import main
from alignseg_infer.demo.streets import Street
from alignseg_infer.errors import ImageError, MissingDependencyError, OptionError, SizeError
from alignseg_infer.page import results as results_module
from alignseg_infer.page import serving
from alignseg_infer.page.results import Clip, Results
from alignseg_infer.page.serving import _Guard, address_of, bind, is_private, make_app
from alignseg_infer.page.work import MOST_FILES, Model, Page, explain, remove_soon, too_many
from tests.support.models import FakeBackend
from tests.support.waiting import eventually


@pytest.fixture
def model() -> Model:
    return Model("fake", Predictor(FakeBackend()), FakeBackend)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "street.png"
    cv2.imwrite(str(path), Street(3).scene(size=(64, 128)).image)
    return path


def waiting(what: str, done: int, total: int | None) -> bool:
    return True


# The address


def test_the_page_is_for_this_machine_only() -> None:
    with bind(port=0) as listening:
        assert is_private(listening)
        port = listening.getsockname()[1]
        assert address_of(listening) == f"http://127.0.0.1:{port}/"
    with bind("0.0.0.0", 0) as listening:
        assert not is_private(listening)
        assert address_of(listening).startswith("http://127.0.0.1:")


def test_a_port_in_use_is_said_and_the_advice_works(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "require_gradio", lambda: None)
    with bind(port=0) as first:
        port = first.getsockname()[1]
        with pytest.raises(OptionError, match=f"port={port} is in use") as caught:
            bind(port=port)
        name, value = caught.value.fix.split("=")
        assert name == "port"
        bind(port=int(value)).close()
        assert main(["page", "demo", "--port", str(port)]) == 1
        printed = capsys.readouterr().err
        assert f"--port {port} is in use" in printed
        assert "try: --port 0" in printed


@pytest.mark.parametrize(
    ("host", "port", "problem"),
    [
        ("nowhere.invalid", 0, "is not an address"),
        ("192.0.2.1", 0, "is not an address of this machine"),
        ("127.0.0.1", -1, "port=-1"),
        ("127.0.0.1", 65536, "port=65536"),
    ],
)
def test_an_address_that_cannot_be_used_is_said(host: str, port: int, problem: str) -> None:
    with pytest.raises(OptionError, match=problem):
        bind(host, port)


def test_a_wrong_model_and_a_missing_gradio_are_said(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    model: Model,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(serving, "require_gradio", lambda: None)
    assert main(["page", "nowhere.onnx", "--port", "0"]) == 1
    assert "nowhere.onnx does not exist" in capsys.readouterr().err
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(MissingDependencyError) as caught:
        make_app([model], tmp_path, private=True)
    assert caught.value.fix == "pip install gradio"
    assert main(["page", "demo"]) == 1
    assert "the package gradio, which is not installed" in capsys.readouterr().err


async def answer(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})


def answered(headers: dict[str, str], folder: Path, path: str = "/", private: bool = True) -> Any:
    """The beginning of what a page answers."""
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "path": path, "headers": raw}
    with pytest.raises(StopIteration):
        _Guard(answer, folder, private=private)(scope, None, send).send(None)
    return sent[0]


@pytest.mark.parametrize(
    ("host", "origin", "private", "status"),
    [
        ("127.0.0.1:7860", None, True, 200),
        ("localhost:1", "http://localhost:1", True, 200),
        ("localhost", None, True, 200),
        ("[::1]:7860", "http://[::1]:7860", True, 200),
        ("127.0.1.1:7860", "http://127.0.1.1:7860", True, 200),
        ("192.0.2.1:7860", None, True, 421),
        ("127.0.0.1:7860", "http://192.0.2.1:7860", True, 421),
        ("2130706433", None, True, 421),
        ("evil.example:7860", None, True, 421),
        ("127.0.0.1.evil.example", None, True, 421),
        ("", None, True, 421),
        ("127.0.0.1:7860", "https://evil.example", True, 421),
        ("127.0.0.1:7860", "null", True, 421),
        ("studio.example:7860", "http://studio.example:7860", False, 200),
    ],
)
def test_pages_of_others_do_not_reach_a_private_page(
    host: str, origin: str | None, private: bool, status: int, tmp_path: Path
) -> None:
    """They could otherwise do so from the visitor's browser."""
    headers = {"host": host} | ({"origin": origin} if origin else {})
    begin = answered(headers, tmp_path, private=private)
    assert begin["status"] == status
    if status == 200:
        (policy,) = begin["headers"]
        assert b"default-src 'self'" in policy[1]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1"])
def test_a_private_page_answers_at_its_own_address(host: str, tmp_path: Path) -> None:
    """Also where the name of a machine leads to 127.0.1.1, as Debian has it."""
    try:
        listening = bind(host, 0)
    except OptionError as error:
        pytest.skip(f"this machine does not have the address: {error}")
    with listening:
        assert is_private(listening)
        shown = address_of(listening).removeprefix("http://").strip("/")
    assert answered({"host": shown, "origin": f"http://{shown}"}, tmp_path)["status"] == 200


UPLOAD = "/gradio_api/upload"


def upload_of(size: int | str) -> dict[str, str]:
    return {"host": "localhost", "content-length": str(size)}


def test_uploads_do_not_fill_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "MOST_UPLOADED", 1 << 20)
    assert answered(upload_of(1 << 20), tmp_path, UPLOAD)["status"] == 200
    assert answered(upload_of((1 << 20) + 1), tmp_path, UPLOAD)["status"] == 507
    (tmp_path / "hash").mkdir()
    (tmp_path / "hash" / "street.png").write_bytes(bytes(1 << 19))
    assert answered(upload_of(1 << 18), tmp_path, UPLOAD)["status"] == 200
    assert answered(upload_of((1 << 19) + 1), tmp_path, UPLOAD)["status"] == 507
    assert answered({"host": "localhost"}, tmp_path)["status"] == 200


@pytest.mark.parametrize(
    ("size", "status"),
    [
        (serving.MOST_IN_UPLOAD, 200),
        (serving.MOST_IN_UPLOAD + 1, 413),
        ("", 411),
        ("-1", 411),
        ("1e3", 411),
        ("9" * 5000, 411),
    ],
)
def test_an_upload_says_its_size_which_is_limited(
    size: int | str, status: int, tmp_path: Path
) -> None:
    assert answered(upload_of(size), tmp_path, UPLOAD)["status"] == status
    assert answered(upload_of(size), tmp_path, f"{UPLOAD}/")["status"] == status


def test_uploads_at_the_same_time_count_and_leave_nothing_if_they_break_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gradio leaves what came of an upload if the browser goes away."""
    monkeypatch.setattr(serving, "MOST_UPLOADED", 1 << 20)
    part, kept = tmp_path / "tmpabc", tmp_path / "tmpvideo" / "video.mp4"
    kept.parent.mkdir()
    kept.write_bytes(b"video")
    part.write_bytes(bytes(100))
    happened: list[object] = []

    def raw(size: int) -> list[tuple[bytes, bytes]]:
        return [(name.encode(), value.encode()) for name, value in upload_of(size).items()]

    async def note(message: dict[str, Any]) -> None:
        happened.extend([message["status"]] if "status" in message else [])

    async def break_off(scope: Any, receive: Any, send: Any) -> None:
        happened.append("began")
        if len(happened) == 1:
            for size in (1 << 18, 1 << 19):  # others come meanwhile, of which the first has room
                with contextlib.suppress(ConnectionError):
                    await guard({**scope, "headers": raw(size)}, None, note)
            assert part.exists()
        raise ConnectionError

    guard = _Guard(break_off, tmp_path, private=True)
    with pytest.raises(ConnectionError):
        asyncio.run(guard({"type": "http", "path": UPLOAD, "headers": raw(600 << 10)}, None, note))
    assert happened == ["began", "began", 507]
    assert not part.exists()
    assert kept.exists()


def test_an_upload_that_pauses_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would otherwise hold the room that it asked for."""
    monkeypatch.setattr(serving, "LONGEST_PAUSE", 0.2)
    got: list[str] = []

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(60 if got else 0)
        return {"type": "http.request", "body": b"some", "more_body": True}

    async def read(scope: Any, receive: Any, send: Any) -> None:
        while got[-1:] != ["http.disconnect"]:
            got.append((await receive())["type"])

    raw = [(name.encode(), value.encode()) for name, value in upload_of(9).items()]
    guard = _Guard(read, tmp_path, private=True)
    asyncio.run(guard({"type": "http", "path": UPLOAD, "headers": raw}, receive, None))
    assert got == ["http.request", "http.disconnect"]
    assert guard._coming == []


def test_other_requests_are_short() -> None:
    async def read(size: int) -> str:
        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": bytes(size), "more_body": False}

        return str((await serving._up_to(serving.MOST_ASKED, receive)())["type"])

    assert asyncio.run(read(serving.MOST_ASKED)) == "http.request"
    assert asyncio.run(read(serving.MOST_ASKED + 1)) == "http.disconnect"


def test_a_page_for_the_network_is_warned_of(
    model: Model, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def stop(models: Any, folder: Path, *, private: bool) -> None:
        assert folder.exists()
        raise KeyboardInterrupt

    monkeypatch.setattr(serving, "make_app", stop)
    for host, warned in (("127.0.0.1", False), ("0.0.0.0", True)):
        with pytest.raises(KeyboardInterrupt):
            serving.serve([model], bind(host, 0), print)
        assert ("without a password" in caplog.text) is warned


# Work


def test_a_file_that_is_no_image_is_explained_by_its_name(model: Model, tmp_path: Path) -> None:
    path = tmp_path / "uploads" / "notes.txt"
    path.parent.mkdir()
    path.write_text("no picture")
    shown = Page([model], tmp_path).segment_file(path, waiting)
    error = shown["error"]
    assert shown["name"] == "notes.txt"
    assert error["problem"].startswith("notes.txt cannot be decoded as an image")
    assert str(tmp_path) not in str(shown)
    assert set(error) == {"problem", "expected", "fix"}


def test_advice_is_for_someone_who_sees_the_page_only() -> None:
    kept = OptionError("p", "e", "alignseg export-onnx CHECKPOINT -o MODEL.onnx --with-offsets")
    assert explain(kept)["fix"] == kept.fix
    assert explain(ImageError("p", "e", "file FILE"))["fix"].startswith("another file")
    assert explain(SizeError("p", "e", "size=64"))["fix"] == "a picture of another size"
    assert f"up to {MOST_FILES}" in too_many(11).expected


@pytest.mark.parametrize(("count", "is_said"), [(1, False), (3, True)])
def test_a_page_says_that_only_the_first_picture_of_a_file_is_shown(
    count: int, is_said: bool, model: Model, tmp_path: Path
) -> None:
    pillow = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    first, *others = [pillow.new("RGB", (64, 64), (40 * one, 9, 9)) for one in range(count)]
    first.save(tmp_path / "a.gif", save_all=True, append_images=others)
    shown = Page([model], tmp_path).segment_file(tmp_path / "a.gif", waiting)
    assert ("of which the first is shown" in shown.get("note", "")) is is_said
    assert shown["pictures"]


def test_an_upload_is_removed_but_not_one_that_came_again(tmp_path: Path) -> None:
    once, again = tmp_path / "once", tmp_path / "again"
    for path in (once, again):
        path.write_text("x")
        remove_soon(path, 0.3)
    time.sleep(0.05)
    (tmp_path / "new").write_text("x")
    (tmp_path / "new").replace(again)
    assert eventually(lambda: not once.exists())
    assert eventually(lambda: threading.active_count() < 3 or again.exists())
    time.sleep(0.3)
    assert again.exists()
    remove_soon(tmp_path / "missing")  # nothing to remove


def test_the_oldest_results_are_forgotten(
    model: Model, picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = Results()
    clip = Clip(tmp_path / "clip" / "a.mp4")
    clip.path.parent.mkdir()
    clip.path.write_bytes(b"video")
    first, image = results.add(clip), model.segment(picture, "street.png")
    monkeypatch.setattr(results_module, "MOST_BYTES", 2 * image.size)
    names = [results.add(image), results.add(image)]
    assert results.find(first) is None
    assert not clip.path.parent.exists()
    assert [results.find(name) for name in names] == [image, image]
    monkeypatch.setattr(results_module, "MOST_BYTES", 1)
    newest = results.add(image)
    assert results.find(newest) is image  # whatever it takes
    assert results.find(names[1]) is None


# What is handed out


@pytest.fixture
def visitor() -> Any:
    """Asks for results, as ``view.js`` does."""
    pytest.importorskip("httpx", reason="httpx, which the extra page brings, is not installed")
    starlette = pytest.importorskip("starlette.applications", reason="starlette is not installed")
    from starlette.testclient import TestClient

    from alignseg_infer.page.routes import add_routes

    app, results = starlette.Starlette(), Results()
    add_routes(app, results)
    client = TestClient(app)
    client.results = results
    return client


def test_pixels_hold_labels_and_confidence(visitor: Any, picture: Path) -> None:
    demo = Model("demo", Predictor("demo"), lambda: open_backend("demo"))
    result = demo.predictor(picture, confidence=True)
    name = visitor.results.add(demo.segment(picture, "my street.png"))
    data = visitor.get(f"/results/{name}/pixels.png").content
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert pixels is not None
    np.testing.assert_array_equal(pixels[..., 2], result.labels)
    assert not pixels[..., 1].any()
    assert result.confidence is not None
    np.testing.assert_allclose(pixels[..., 0] / 255, result.confidence, atol=0.5 / 255 + 1e-6)
    saved = visitor.get(f"/results/{name}/saved/labels")
    assert "my%20street_labels.png" in saved.headers["content-disposition"]
    facts = visitor.get(f"/results/{name}/facts").json()
    shares = {one["name"]: one["share"] for one in facts["classes"] if one["share"]}
    assert shares == result.class_share()
    fields = visitor.get(f"/results/{name}/offsets").json()
    assert len(fields) == 9
    arrows = visitor.get(f"/results/{name}/offsets/{fields[0]['field']}/arrows")
    assert arrows.headers["content-type"] == "image/png"


@pytest.mark.parametrize(
    ("name", "saved"),
    [
        ("my street.png", "my%20street_labels.png"),
        ("...png", ".._labels.png"),
        ("漢" * 120 + ".png", "%E6%BC%A2" * 120 + "_labels.png"),
        ("con.png", "con_labels.png"),
    ],
)
def test_downloads_have_the_name_of_the_picture(
    name: str, saved: str, visitor: Any, model: Model, picture: Path
) -> None:
    """Whatever names this system takes for files: visitors have other ones."""
    result = visitor.results.add(model.segment(picture, name))
    answer = visitor.get(f"/results/{result}/saved/labels")
    assert answer.status_code == 200
    assert saved in answer.headers["content-disposition"]


@pytest.mark.parametrize(
    "path", ["facts", "image.png", "pixels.png", "saved/labels", "offsets", "clip.mp4"]
)
def test_results_that_are_no_longer_kept_are_said(visitor: Any, path: str) -> None:
    answer = visitor.get(f"/results/unknown/{path}")
    assert answer.status_code == 404
    assert "Drop the file on the page once more" in answer.text


def test_what_a_model_cannot_give_is_explained(visitor: Any, model: Model, picture: Path) -> None:
    name = visitor.results.add(model.segment(picture, "street.png"))
    answer = visitor.get(f"/results/{name}/offsets")
    assert answer.status_code == 422
    assert "--with-offsets" in answer.json()["error"]["fix"]
    for path in ("saved/exe", "offsets/cab2.high/drawing", "offsets/cab9/arrows"):
        assert visitor.get(f"/results/{name}/{path}").status_code == 404


def test_a_closed_socket_frees_the_port() -> None:
    with bind(port=0) as listening:
        port = listening.getsockname()[1]
    with socket.create_server(("127.0.0.1", port)):
        pass


# What the page may read


@pytest.fixture
def page(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The whole page, asked as a browser asks it, or somebody who writes requests by hand."""
    pytest.importorskip("gradio", reason="gradio is not installed")
    pytest.importorskip("httpx", reason="httpx is not installed")
    from starlette.testclient import TestClient

    for name in (*serving.SWITCHES, "GRADIO_TEMP_DIR"):
        monkeypatch.setenv(name, "")  # set by make_app, and put back at the end
    folder = tmp_path / "page"
    folder.mkdir()
    with TestClient(make_app([model], folder, private=True), "http://localhost") as client:
        yield client


def segmented(page: Any, path: str, function: int) -> str:
    """What the page answers to a file that is dropped (0), or comes from the camera (1)."""
    file = {"path": path, "meta": {"_type": "gradio.FileData"}}
    data = [file if function else [file]]
    answer = page.post("/gradio_api/run/predict", json={"data": data, "fn_index": function})
    return str(answer.text)


def test_uploads_are_segmented_and_no_other_file_of_the_machine(
    page: Any, picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever reaches the page could otherwise look at every picture of the machine."""
    functions = [
        dependency["targets"][0][1] for dependency in page.get("/config").json()["dependencies"]
    ]
    assert functions[:2] == ["upload", "change"]  # of the files and of the camera
    (uploaded,) = page.post(UPLOAD, files={"files": picture.open("rb")}).json()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "page" / "link.png").symlink_to(picture)
    others = [
        str(picture),
        picture.name,
        f"{tmp_path}/page/../{picture.name}",
        f"{tmp_path}/page/link.png",
        f"file://{picture}",
        "http://192.0.2.1/street.png",
        "https://example.com/street.png",
    ]
    for function in (0, 1):
        assert "pictures" in segmented(page, uploaded, function)
        for other in others:
            answer = segmented(page, other, function)
            assert "Only files that were dropped on the page" in answer, (other, answer)
    assert picture.exists()
