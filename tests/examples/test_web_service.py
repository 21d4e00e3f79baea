"""The web service on loopback, under uvicorn and under gunicorn, with what strangers send."""

import asyncio
import json
import re
from collections.abc import Iterator, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from alignseg_infer import Predictor
from alignseg_infer.export.verification.probes import probe_image
from alignseg_infer.pixels.images import encode_image
from tests.support.web_service import GUNICORN, UVICORN, post, serve

pytest.importorskip("fastapi", reason="fastapi is not installed")

import web_service

IMAGE = probe_image((64, 96), 0)
FILE = encode_image(IMAGE, ".png")


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with serve(UVICORN, tmp_path_factory.mktemp("service") / "log.txt") as port:
        yield port


def decode(content: bytes) -> np.ndarray:
    picture = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    assert picture is not None
    return picture


def test_replies_are_those_of_a_predictor(port: int) -> None:
    expected = Predictor("demo")(IMAGE)
    status, kind, content = post(port, FILE)
    assert (status, kind) == (200, "image/png")
    np.testing.assert_array_equal(decode(content), expected.labels)
    status, kind, content = post(port, FILE, "overlay")
    assert (status, kind) == (200, "image/jpeg")
    assert content == encode_image(expected.overlay(), ".jpg")
    status, kind, content = post(port, FILE, "json")
    assert (status, kind) == (200, "application/json")
    assert json.loads(content)["classes"] == expected.to_dict()["classes"]


def test_a_body_without_a_length(port: int) -> None:
    status, _, content = post(port, (FILE[at : at + 1000] for at in range(0, len(FILE), 1000)))
    assert status == 200
    np.testing.assert_array_equal(decode(content), Predictor("demo")(IMAGE).labels)


TOO_LARGE = np.zeros((7100, 7100), np.uint8)


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b"", 422, "try:"),
        (b"no image at all", 422, "the encoded image of 15 bytes"),
        (FILE[:200], 422, "expected:"),
        (encode_image(IMAGE[:8, :8], ".png"), 422, "8x8"),
        (encode_image(TOO_LARGE, ".png"), 422, "50,000,000|50000000"),
        (bytes(web_service.MAX_BYTES + 1), 413, "more than 33554432 bytes"),
        (iter([bytes(1 << 20)] * 33), 413, "more than 33554432 bytes"),
    ],
    ids=["nothing", "text", "cut", "small", "pixels", "bytes", "bytes without a length"],
)
def test_a_bad_file_is_refused_with_our_text(
    body: bytes, status: int, said: str, port: int
) -> None:
    code, kind, content = post(port, body)
    assert code == status, content
    assert kind is not None
    assert re.search(said, content.decode())
    assert "Traceback" not in content.decode()
    assert post(port, FILE)[0] == 200


def test_an_unknown_reply_is_refused(port: int) -> None:
    status, _, content = post(port, FILE, "video")
    assert status == 422
    assert "labels" in content.decode()


def test_a_sender_who_goes_away_is_no_fault_of_the_service() -> None:
    """The server would write a traceback for each, after it has read a part of the file."""
    events: list[MutableMapping[str, Any]] = [
        {"type": "http.request", "body": FILE[:100], "more_body": True},
        {"type": "http.disconnect"},
    ]
    scope = {"type": "http", "method": "POST", "path": "/segment", "query_string": b""}
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        return events.pop(0)

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    asyncio.run(web_service.app({**scope, "headers": []}, receive, send))
    assert not events
    assert [message.get("status") for message in sent] == [400, None]


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [(*UVICORN, "--workers", "2"), (*GUNICORN, "-w", "2")],
    ids=["uvicorn", "gunicorn --preload"],
)
def test_several_workers_answer_at_once(command: tuple[str, ...], tmp_path: Path) -> None:
    images = [probe_image((48 + 8 * number, 80), number) for number in range(4)]
    files = [encode_image(image, ".png") for image in images]
    expected = [Predictor("demo")(image).labels for image in images]
    log = tmp_path / "log.txt"
    with serve(command, log) as port, ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda file: post(port, file), files * 8))
    for number, (status, _, content) in enumerate(answers):
        assert status == 200, log.read_text()
        np.testing.assert_array_equal(decode(content), expected[number % 4])
