"""Training the demo model: small budgets, resumption, the loss, and one run from end to end."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

import train_demo
from alignseg_infer import AlignSegError, OptionError, Predictor
from alignseg_infer.demo.streets import Street
from alignseg_infer.models.checkpoint import load_checkpoint
from train_demo import Recipe, Trainer

RECIPE = Recipe(scenes=2, iterations=4, batch=2, rate=1e-3, seed=0, frozen_offsets=False)
CPU = torch.device("cpu")


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Use one thread, since several threads add gradients in another order each time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def scenes() -> NDArray[np.uint8]:
    return np.stack([np.dstack((s.image, s.labels)) for s in (Street(i).scene() for i in (0, 1))])


def offset_weights(model: torch.nn.Module) -> list[torch.Tensor]:
    return [w for w in model.state_dict().values() if w.ndim == 4 and w.shape[0] == 2]


@pytest.mark.slow
def test_recipe_from_end_to_end(tmp_path: Path) -> None:
    script = Path(train_demo.__file__)
    tiny = "--scenes 4 --iterations 3 --batch 2 --every 2 --held-out 2 --device cpu"
    command = [sys.executable, str(script), "-o", str(tmp_path), *tiny.split()]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "mIoU" in done.stdout
    folder = tmp_path / "aligned"
    assert Predictor(folder / "demo.onnx").spec.network == train_demo.NETWORK
    assert load_checkpoint(folder / "demo.pth").assumptions == ()
    recipe = (folder / "recipe.json").read_text()
    assert '"iterations": 3' in recipe
    assert '"mean_iou"' in recipe


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_interrupted_training_goes_on_to_the_same_weights(
    tmp_path: Path, scenes: NDArray[np.uint8]
) -> None:
    straight = Trainer(RECIPE, tmp_path / "straight.pth", CPU)
    train_demo.train(straight, scenes, every=4)
    interrupted = Trainer(RECIPE, tmp_path / "state.pth", CPU)
    interrupted.step(scenes)
    interrupted.step(scenes)
    interrupted.save()
    resumed = Trainer(RECIPE, tmp_path / "state.pth", CPU)
    assert resumed.iteration == 2
    train_demo.train(resumed, scenes, every=4)
    for one, other in zip(
        straight.model.state_dict().values(), resumed.model.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.slow
def test_offsets_learn_unless_they_are_frozen(tmp_path: Path, scenes: NDArray[np.uint8]) -> None:
    for frozen in (False, True):
        trainer = Trainer(replace(RECIPE, frozen_offsets=frozen), tmp_path / f"{frozen}.pth", CPU)
        before = [weight.clone() for weight in offset_weights(trainer.model)]
        assert len(before) == 9
        assert not any(weight.any() for weight in before)
        trainer.step(scenes)
        assert all(bool(weight.any()) is not frozen for weight in offset_weights(trainer.model))


def test_state_of_another_recipe_is_refused(tmp_path: Path) -> None:
    Trainer(RECIPE, tmp_path / "state.pth", CPU).save()
    with pytest.raises(OptionError, match="'iterations': 4"):
        Trainer(replace(RECIPE, iterations=5), tmp_path / "state.pth", CPU)


@pytest.mark.parametrize(
    ("option", "fix"),
    [
        ("--batch 0", "leave --batch out"),
        ("--every 0", "leave --every out"),
        ("--scenes 0", "leave --scenes out"),
        ("--held-out -3", "leave --held-out out"),
        ("--seed -1", "--seed 0"),
        ("--device foo", "--device cpu"),
    ],
)
def test_bad_options_are_refused(
    option: str, fix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["train_demo.py", "-o", str(tmp_path), *option.split()])
    with pytest.raises(AlignSegError, match=fix):
        train_demo.main()
    assert not list(tmp_path.iterdir())


def test_crops_are_the_same_for_the_same_iteration(scenes: NDArray[np.uint8]) -> None:
    one, again, other = (train_demo.take_crops(scenes, RECIPE, i) for i in (1, 1, 2))
    torch.testing.assert_close(one, again, rtol=0, atol=0)
    assert not torch.equal(one[0], other[0])
    assert one[0].shape == (2, 3, 193, 385)
    assert one[1].shape == (2, 193, 385)
    late = train_demo.take_crops(scenes, replace(RECIPE, iterations=5), 4)
    assert late[1].shape == (2, 255, 511)  # whole pictures near the end


def test_loss_counts_hard_pixels_only() -> None:
    # Half of the pixels are sure (probability 0.99), half are undecided between two classes (0.5).
    sure, even = np.log(99.0), 0.0
    logits = torch.tensor([[[[sure, even]], [[0.0, 0.0]]]])
    labels = torch.zeros(1, 1, 2, dtype=torch.int64)
    torch.testing.assert_close(
        train_demo.hard_example_loss(logits, labels), torch.tensor(np.log(2.0)).float()
    )


def test_loss_keeps_the_hardest_where_all_are_easy() -> None:
    logits = torch.zeros(1, 2, 10, 10)
    logits[:, 0] = torch.linspace(2, 6, 100).reshape(10, 10)
    labels = torch.zeros(1, 10, 10, dtype=torch.int64)
    losses = F.cross_entropy(logits, labels, reduction="none").flatten()
    expected = losses.sort(descending=True).values[:15].mean()
    torch.testing.assert_close(train_demo.hard_example_loss(logits, labels), expected)


def test_rate_warms_up_and_decays() -> None:
    recipe = replace(RECIPE, iterations=1000, rate=1.0)
    rates = [train_demo.rate_at(recipe, iteration) for iteration in (0, 99, 500, 999)]
    assert rates[0] == pytest.approx(0.01)
    assert rates[1] == pytest.approx((1 - 0.099) ** 0.9)
    assert rates[2] == pytest.approx(0.5**0.9)
    assert rates[3] == pytest.approx(0.001**0.9)


def test_half_resolution_labels_lie_on_the_upsampled_logits() -> None:
    """Sides of crops are odd, so that with align_corners both lie on the same points."""
    for height, width in train_demo.CROPS:
        ramp = torch.linspace(0, 1, height)[::2]
        half = F.interpolate(
            torch.linspace(0, 1, (height + 3) // 4).reshape(1, 1, -1, 1),
            size=((height + 1) // 2, 1),
            mode="bilinear",
            align_corners=True,
        ).flatten()
        torch.testing.assert_close(half, ramp)
        assert width % 2 == 1
