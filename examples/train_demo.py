r"""Trains the demo model: a small AlignSeg on drawn streets.

    python examples/train_demo.py -o demo-training                      # the model that is shipped
    python examples/train_demo.py -o demo-training --frozen-offsets     # the same without alignment

If the training is interrupted, the same command continues from the last saved iteration. At the
end the model is exported and scored on streets that it has not seen. ``alignseg eval`` compares the
two models::

    alignseg eval demo-training/aligned/demo.onnx demo-training/frozen/demo.onnx \
        --dataset folder --root demo-training/held-out
"""

import argparse
import dataclasses
import json
import math
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

try:
    import torch
    from torch import Tensor, nn
    from torch.nn import functional as F
except ImportError:
    sys.exit("error: PyTorch is not installed\n  try: pip install torch==2.13.0 '.[cpu,export]'")

import cv2
import numpy as np
from numpy.typing import NDArray

from alignseg_infer import AlignSegError, DeviceError, OptionError, Predictor
from alignseg_infer.cli.streams import discard_stdout
from alignseg_infer.datasets.class_tables import CITYSCAPES
from alignseg_infer.datasets.labelled import Dataset, find_labelled_images
from alignseg_infer.demo import FIRST_HELD_OUT
from alignseg_infer.demo.streets import Street
from alignseg_infer.demo.streets.folder import write_streets
from alignseg_infer.evaluation.evaluate import evaluate
from alignseg_infer.evaluation.report import Evaluation
from alignseg_infer.export.graph.options import ExportOptions
from alignseg_infer.export.to_onnx import onnx_from_checkpoint
from alignseg_infer.files.writing import write_atomically
from alignseg_infer.models.alignseg import AlignSeg
from alignseg_infer.models.checkpoint import load_checkpoint, save_checkpoint
from alignseg_infer.spec.model import (
    InputSpec,
    ModelSpec,
    NetworkSpec,
    NormKind,
    SamplingConvention,
)

SCENE_SIZE = (256, 512)
# Sides are odd, so that every other pixel of the upsampled logits lies on one of the labels.
CROPS = ((193, 385), (255, 511))
INPUT = InputSpec(mean=(110.0, 115.0, 120.0), std=(60.0, 60.0, 60.0))
NETWORK = NetworkSpec(
    backbone="resnet18",
    width=0.375,
    decoder_channels=64,
    convention=SamplingConvention.STANDARD,
    norm=NormKind.BATCH_NORM,
)
HARD_PROBABILITY = 0.7  # OHEM learns from pixels whose true class is less probable than this,
HARD_SHARE = 0.15  # and from at least this share of all pixels
AUXILIARY_WEIGHT = 0.4
WARM_UP = 100  # iterations


@dataclass(frozen=True)
class Recipe:
    """What determines the weights, besides this file, the drawn streets and the machine.

    Attributes:
        scenes: How many streets are in the training set; their seeds are 0, 1, 2, ...
        iterations: Steps of the optimizer.
        batch: Crops per step.
        rate: Highest learning rate.
        seed: Seed of weights, crops and augmentation.
        frozen_offsets: Whether all offsets stay zero, which means no alignment.
    """

    scenes: int
    iterations: int
    batch: int
    rate: float
    seed: int
    frozen_offsets: bool


def render_scenes(path: Path, count: int) -> NDArray[np.uint8]:
    """Draw the training set, unless `path` holds it already, and return it.

    Returns:
        (count, 256, 512, 4) uint8: BGR and label.
    """
    if not path.exists():
        with write_atomically(path) as temporary, ProcessPoolExecutor() as pool:
            scenes = np.lib.format.open_memmap(temporary, "w+", np.uint8, (count, *SCENE_SIZE, 4))
            for index, scene in enumerate(pool.map(_render, range(count), chunksize=16)):
                scenes[index] = scene
                progress(f"street {index + 1}/{count}", (index + 1) / count)
            scenes.flush()
        print(file=sys.stderr)
    rendered: NDArray[np.uint8] = np.load(path, mmap_mode="r")
    return rendered


def _render(seed: int) -> NDArray[np.uint8]:
    cv2.setNumThreads(1)
    scene = Street(seed).scene(size=SCENE_SIZE)
    return np.dstack((scene.image, scene.labels))


def progress(text: str, share: float) -> None:
    """Redraw one line with a bar on stderr."""
    filled = round(24 * share)
    print(f"\r[{'#' * filled}{'.' * (24 - filled)}] {text}   ", end="", file=sys.stderr, flush=True)


def new_model(recipe: Recipe) -> AlignSeg:
    """Return a network with fresh weights, in which all offsets are zero, as the authors do."""
    torch.manual_seed(recipe.seed)
    model = AlignSeg(NETWORK)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.out_channels == 2:
                nn.init.zeros_(module.weight)
                module.weight.requires_grad_(not recipe.frozen_offsets)
    return model


def take_crops(scenes: NDArray[np.uint8], recipe: Recipe, iteration: int) -> tuple[Tensor, Tensor]:
    """Take the crops of one iteration: images (N, 3, h, w) float32, labels (N, h, w) int64."""
    rng = np.random.default_rng([recipe.seed, iteration])
    height, width = CROPS[iteration >= 0.8 * recipe.iterations]  # whole pictures at the end
    images, labels = [], []
    for index in rng.integers(len(scenes), size=recipe.batch):
        top = rng.integers(SCENE_SIZE[0] - height + 1)
        left = rng.integers(SCENE_SIZE[1] - width + 1)
        crop = scenes[index, top : top + height, left : left + width]  # (h, w, 4)
        if rng.random() < 0.5:
            crop = crop[:, ::-1]
        gain, shift = rng.uniform(0.85, 1.15), rng.uniform(-15, 15, 3)
        images.append((crop[..., :3] * gain + shift - INPUT.mean) / INPUT.std)
        labels.append(crop[..., 3])
    pixels = np.stack(images).astype(np.float32)  # (N, h, w, 3)
    planes = torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())  # (N, 3, h, w)
    return planes, torch.from_numpy(np.stack(labels).astype(np.int64))


def hard_example_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross entropy over hard pixels only (OHEM, Shrivastava et al. 2016).

    Args:
        logits: (N, C, h, w) of any float type.
        labels: (N, h, w) int64.
    """
    losses = F.cross_entropy(logits.float(), labels, reduction="none").flatten()
    hard = losses > -np.log(HARD_PROBABILITY)
    if hard.sum() < HARD_SHARE * losses.numel():
        return losses.topk(int(HARD_SHARE * losses.numel())).values.mean()
    return losses[hard].mean()


def loss_of(model: AlignSeg, images: Tensor, labels: Tensor) -> Tensor:
    """Return the loss of both heads: on every other pixel, and at the auxiliary resolution."""
    with torch.autocast(images.device.type, torch.bfloat16, enabled=has_bfloat16(images.device)):
        outputs = model(images)
    labels = labels[:, ::2, ::2]  # (N, (h + 1) / 2, (w + 1) / 2)
    logits = F.interpolate(
        outputs.logits.float(), size=labels.shape[1:], mode="bilinear", align_corners=True
    )
    coarse = F.interpolate(labels[:, None].float(), size=outputs.auxiliary.shape[2:])[:, 0].long()
    auxiliary = F.cross_entropy(outputs.auxiliary.float(), coarse)
    return hard_example_loss(logits, labels) + AUXILIARY_WEIGHT * auxiliary


def has_bfloat16(device: torch.device) -> bool:
    """Return whether the device computes bfloat16 in hardware."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def rate_at(recipe: Recipe, iteration: int) -> float:
    """Return the learning rate: linear warm-up, then (1 - share)**0.9 (poly)."""
    warm = min(1.0, (iteration + 1) / WARM_UP)
    return float(recipe.rate * warm * (1 - iteration / recipe.iterations) ** 0.9)


class Trainer:
    """The network and its optimizer, with a state that can be saved and continued.

    Args:
        recipe: How to train.
        path: File that holds the state.
        device: Device to compute on.

    Raises:
        OptionError: The state at `path` comes from another recipe.
    """

    def __init__(self, recipe: Recipe, path: Path, device: torch.device) -> None:
        self.recipe, self.path, self.device = recipe, path, device
        self.model = new_model(recipe).to(device).train()
        self.learned = [weight for weight in self.model.parameters() if weight.requires_grad]
        self.optimizer = torch.optim.AdamW(self.learned, lr=recipe.rate, weight_decay=1e-2)
        self.iteration = 0
        if path.exists():
            self._load()

    def _load(self) -> None:
        state = torch.load(self.path, map_location=self.device, weights_only=True)
        if state["recipe"] != dataclasses.asdict(self.recipe):
            raise OptionError(
                f"{self.path} was started with {state['recipe']}",
                f"the current recipe: {dataclasses.asdict(self.recipe)}",
                f"use the options it was started with, another folder with -o, or rm {self.path}",
            )
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.iteration = state["iteration"]
        self._random_numbers().set_rng_state(state["random"].cpu())
        print(f"continuing from iteration {self.iteration}", file=sys.stderr)

    def save(self) -> None:
        """Write the state, from which the same command can continue."""
        state = {
            "recipe": dataclasses.asdict(self.recipe),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "iteration": self.iteration,
            "random": self._random_numbers().get_rng_state(),
        }
        with write_atomically(self.path) as temporary:
            torch.save(state, temporary)

    def _random_numbers(self) -> ModuleType:
        """Return the module that gives dropout its random numbers."""
        return torch.cuda if self.device.type == "cuda" else torch.random

    def step(self, scenes: NDArray[np.uint8]) -> float:
        """Run one iteration and return its loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate_at(self.recipe, self.iteration)
        images, labels = take_crops(scenes, self.recipe, self.iteration)
        loss = loss_of(self.model, images.to(self.device), labels.to(self.device))
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.learned, 5.0)
        self.optimizer.step()
        self.iteration += 1
        return loss.item()


def train(trainer: Trainer, scenes: NDArray[np.uint8], every: int) -> None:
    """Train to the end of the recipe, saving the state every `every` iterations."""
    recipe, first, smooth = trainer.recipe, trainer.iteration, math.nan
    start = time.perf_counter()
    while trainer.iteration < recipe.iterations:
        loss = trainer.step(scenes)
        smooth = loss if math.isnan(smooth) else 0.98 * smooth + 0.02 * loss
        done = trainer.iteration
        pace = (time.perf_counter() - start) / (done - first)
        left = f"{pace * (recipe.iterations - done) / 60:.0f} min left"
        progress(f"{done}/{recipe.iterations} loss {smooth:.3f}, {left}", done / recipe.iterations)
        if done % every == 0 or done == recipe.iterations:
            trainer.save()
    print(file=sys.stderr)


def save_model(model: AlignSeg, folder: Path) -> Path:
    """Write ``demo.pth`` (float16, without the auxiliary head) and export it as ``demo.onnx``."""
    model.dsn = None
    spec = ModelSpec(network=NETWORK, input=INPUT, classes=CITYSCAPES)
    save_checkpoint(folder / "demo.pth", model.cpu().half().eval(), spec)
    checkpoint = load_checkpoint(folder / "demo.pth")
    return onnx_from_checkpoint(
        checkpoint, folder / "demo.onnx", ExportOptions(with_offsets=True)
    ).path


def score(model: Path, folder: Path, count: int) -> Evaluation:
    """Score an exported model on `count` streets that it was not trained on, kept in `folder`."""
    for number, _ in enumerate(write_streets(folder, FIRST_HELD_OUT, count), 1):
        progress(f"held-out street {number}/{count}", number / count)
    print(file=sys.stderr)
    data = find_labelled_images(
        Dataset.FOLDER, folder, max_images=count
    )  # earlier runs may have left more
    return evaluate({model.parent.name: Predictor(model)}, data)


def main() -> int:
    """Draw the streets, train, export and score."""
    arguments = parse_arguments()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    _require_usable(arguments)
    names = [field.name for field in dataclasses.fields(Recipe)]
    recipe = Recipe(**{name: getattr(arguments, name) for name in names})
    folder = arguments.destination / ("frozen" if recipe.frozen_offsets else "aligned")
    folder.mkdir(parents=True, exist_ok=True)
    scenes = render_scenes(arguments.destination / f"streets-{recipe.scenes}.npy", recipe.scenes)
    trainer = Trainer(recipe, folder / "state.pth", torch.device(arguments.device))
    train(trainer, scenes, arguments.every)
    model = save_model(trainer.model, folder)
    evaluation = score(model, arguments.destination / "held-out", arguments.held_out)
    facts = {
        "recipe": dataclasses.asdict(recipe),
        "torch": torch.__version__,
        "evaluation": json.loads(evaluation.to_json()),
    }
    if evaluation.partial:
        raise KeyboardInterrupt
    with write_atomically(folder / "recipe.json") as temporary:
        temporary.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    print(evaluation.to_markdown())
    print(model)
    return 0


def _require_usable(arguments: argparse.Namespace) -> None:
    for name in ("scenes", "iterations", "batch", "every", "held_out"):
        if (value := getattr(arguments, name)) < 1:
            option = f"--{name.replace('_', '-')}"
            raise OptionError(f"{option} {value}", "1 or more", f"leave {option} out")
    if arguments.seed < 0:
        raise OptionError(f"--seed {arguments.seed}", "a whole number, 0 or more", "--seed 0")
    try:
        torch.zeros(1, device=arguments.device)
    except (RuntimeError, AssertionError) as error:
        first_line = str(error).splitlines()[0]
        raise DeviceError(
            f"--device {arguments.device} cannot be used: {first_line}",
            "cpu, or cuda where PyTorch finds it",
            "--device cpu",
        ) from error


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--destination", type=Path, required=True, help="folder to work in")
    parser.add_argument("--frozen-offsets", action="store_true", help="keep all offsets at zero")
    parser.add_argument("--scenes", type=int, default=4000, help="streets to train on")
    parser.add_argument("--iterations", type=int, default=3000)
    parser.add_argument("--batch", type=int, default=8, help="crops per iteration")
    parser.add_argument("--rate", type=float, default=2e-3, help="highest learning rate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=int, default=100, help="iterations between checkpoints")
    parser.add_argument("--held-out", type=int, default=200, help="streets to score on")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, help="CPU threads (default: PyTorch's choice)")
    return parser.parse_args()


if __name__ == "__main__":
    try:
        status = main()
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as head, has seen enough
        discard_stdout()
        status = 1
    except AlignSegError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(status)
