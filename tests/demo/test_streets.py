"""Drawn streets: the same seed gives the same picture, labels are exact, and drives go on."""

import numpy as np
import pytest

from alignseg_infer.datasets.class_tables import CITYSCAPES
from alignseg_infer.demo.streets import Street
from alignseg_infer.demo.streets.layout import Layer, Thing
from alignseg_infer.demo.streets.street import photograph
from alignseg_infer.demo.streets.view import Atmosphere, Camera, Label, View
from alignseg_infer.errors import AlignSegError, OptionError, SizeError

PLAIN = Atmosphere(
    light=(1.0, 1.0, 1.0),
    fog=(200.0, 200.0, 200.0),
    density=0.0,
    shadow=1.0,
    sky=((200.0, 150.0, 100.0), (220.0, 210.0, 200.0)),
    clouds=0.0,
    rain=0.0,
)
STRAIGHT = Camera(x=0.0, height=2.0, focal=1.0, horizon=0.5, bend=0.0)


@pytest.fixture
def view() -> View:
    """Make a 100x200 view: canvas 200x400, focal length 400 px, horizon in row 100."""
    return View((100, 200), STRAIGHT, PLAIN)


def test_labels_are_those_of_cityscapes() -> None:
    names = tuple(label.name.lower().replace("_", " ") for label in sorted(Label))
    assert names == CITYSCAPES.names


@pytest.mark.parametrize("size", [(64, 128), (97, 161), (256, 512)])
def test_scene_has_the_size_asked_for(size: tuple[int, int]) -> None:
    scene = Street(3).scene(size=size)
    assert scene.image.shape == (*size, 3)
    assert scene.image.dtype == np.uint8
    assert scene.labels.shape == size
    assert scene.labels.dtype == np.uint8


@pytest.mark.parametrize("seed", [3, 7])
def test_a_large_picture_shows_the_same_street(seed: int) -> None:
    small = Street(seed).scene(size=(256, 512)).labels
    large = Street(seed).scene(size=(1536, 3072)).labels[3::6, 3::6]
    for columns in (slice(0, 256), slice(256, 502), slice(502, 512)):
        assert (small[:, columns] == large[:, columns]).mean() > 0.95


def test_same_seed_gives_the_same_picture_and_another_seed_another() -> None:
    one, again, other = (Street(seed).scene(0.5, (64, 128)) for seed in (5, 5, 6))
    np.testing.assert_array_equal(one.image, again.image)
    np.testing.assert_array_equal(one.labels, again.labels)
    assert (one.labels != other.labels).mean() > 0.1


def test_every_class_occurs_and_no_other() -> None:
    seen = np.zeros(256, np.int64)
    for seed in range(25):
        seen += np.bincount(Street(seed).scene(size=(128, 256)).labels.ravel(), minlength=256)
    assert (seen[: len(Label)] > 0).all()
    assert (seen[len(Label) :] == 0).all()


def test_edges_of_the_labels_are_edges_of_the_image() -> None:
    """Labels that are not drawn where the image is, such as mirrored ones, lose the contrast."""
    for seed in range(6):
        image, labels = Street(seed).scene()
        gray = image.astype(np.float32).mean(axis=-1)
        contrast = np.abs(np.diff(gray, axis=1))
        here = contrast[np.diff(labels.astype(int), axis=1) != 0].mean()
        mirrored = contrast[np.diff(labels[:, ::-1].astype(int), axis=1) != 0].mean()
        assert here > 1.8 * mirrored


def test_near_things_hide_far_ones_of_their_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    def thing(layer: Layer, z: float, label: Label, color: float) -> Thing:
        def draw(view: View, _: np.random.Generator, z: float) -> None:
            view.front((-9.0, 9.0), (0.0, 5.0), z, (color, color, color), label)

        return Thing(layer, z, (0,), draw)

    near, far = thing(Layer.ROAD, 5.0, Label.CAR, 250.0), thing(Layer.ROAD, 9.0, Label.BUS, 9.0)
    wall = thing(Layer.BORDER, 4.0, Label.WALL, 100.0)  # further to the side, though nearer
    for things in ([near, far, wall], [far, wall, near], [wall, near, far]):
        monkeypatch.setattr(Street, "_gather_things", lambda _, __, things=things: things)
        labels = Street(0).scene(size=(128, 256)).labels
        assert labels[100, 128] == Label.CAR
        assert Label.BUS not in labels


def test_a_label_is_that_of_the_lower_right_sub_pixel(view: View) -> None:
    for place, label in (((0, 0), 1), ((0, 1), 2), ((1, 0), 3), ((1, 1), 4)):
        view.labels[place[0] :: 2, place[1] :: 2] = label
    scene = photograph(view, np.random.default_rng(0))
    assert (scene.labels == 4).all()


def test_projection_by_hand(view: View) -> None:
    # 400 px * 1 m / 10 m = 40 px right of column 200; 2 m camera over 0 m: 80 px below row 100
    assert view.spot(1.0, 0.0, 10.0) == (240.0, 180.0)
    assert view.spot(0.0, 2.0, 33.0) == (200.0, 100.0)


def test_image_and_labels_are_drawn_on_the_same_pixels(view: View) -> None:
    view.front((-1.0, 1.0), (0.0, 2.0), 10.0, (10.0, 20.0, 250.0), Label.BUS)
    bus = view.labels == Label.BUS
    np.testing.assert_array_equal(bus, view.image[..., 2] == 250)
    rows, columns = np.nonzero(bus)  # polygons of OpenCV include their border
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (100, 180, 160, 240)
    assert bus.sum() == 81 * 81


def test_fog_hides_colours_but_not_labels() -> None:
    foggy = Atmosphere(**{**vars(PLAIN), "density": 0.1})
    view = View((100, 200), STRAIGHT, foggy)
    view.front((-1.0, 1.0), (0.0, 2.0), 10.0, (0.0, 0.0, 0.0), Label.CAR)
    # exp(-0.1 * 10) of black and the rest of 200: 126
    assert view.image[140, 200, 0] == 126
    assert view.labels[140, 200] == Label.CAR


def test_nothing_is_drawn_behind_the_camera(view: View) -> None:
    view.front((-1.0, 1.0), (0.0, 2.0), -5.0, (9.0, 9.0, 9.0), Label.CAR)
    view.wall(1.0, (0.0, 2.0), (-9.0, -2.0), (9.0, 9.0, 9.0), Label.WALL)
    view.floor((-1.0, 1.0), (-9.0, -2.0), (9.0, 9.0, 9.0), Label.SIDEWALK)
    assert not view.image.any()
    assert not view.labels.any()


def test_a_drive_moves_a_little_from_frame_to_frame_and_much_in_a_while() -> None:
    street, size = Street(44), (128, 256)
    first, next_, later = (street.scene(time, size).labels for time in (2.0, 2.04, 4.0))
    assert 0.001 < (first != next_).mean() < 0.12
    assert (first != later).mean() > 0.12


def test_a_drive_goes_on() -> None:
    for time in (30.0, 61.7, 600.0):
        labels = Street(7).scene(time, (64, 128)).labels
        assert {Label.ROAD, Label.SKY, Label.BUILDING} <= set(np.unique(labels))


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: Street(-1), OptionError),
        (lambda: Street("7"), OptionError),  # type: ignore[arg-type]
        (lambda: Street(True), OptionError),
        (lambda: Street(0).scene(-1.0), OptionError),
        (lambda: Street(0).scene(float("nan")), OptionError),
        (lambda: Street(0).scene(1e308), OptionError),
        (lambda: Street(0).scene(size=(16, 512)), SizeError),
        (lambda: Street(0).scene(size=(256, 8192)), SizeError),
    ],
)
def test_what_cannot_be_drawn_is_refused(make: object, error: type[AlignSegError]) -> None:
    with pytest.raises(error):
        make()  # type: ignore[operator]
