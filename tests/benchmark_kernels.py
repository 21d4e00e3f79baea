"""Checks and times the CUDA kernels, and the network around them; prints Markdown.

    PYTHONPATH=. python3 tests/benchmark_kernels.py [--networks] [--rounds 30] [-o FILE]

Needs a GPU, PyTorch for CUDA, and cuda-python with NVRTC, which compiles the kernels. All variants
of a table are interleaved in one run. What is timed runs from a CUDA graph, so that no variant pays
for Python; each graph goes through enough sets of tensors to leave the GPU's L2 cache. Bytes are
what must be read and written once; bandwidth is set against a device copy in the same table.
"""

import argparse
import math
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np
import torch
from cuda.bindings import driver
from torch import Tensor, nn
from torch.nn import functional as F

from alignseg_infer.backends import torch_kernels as kernels
from alignseg_infer.backends.kernels import (
    ARGMAX_THREADS,
    PREPROCESS_THREADS,
    SAMPLE_THREADS,
    DeviceTensor,
    Launch,
    preprocess_launch,
    upsample_argmax_launch,
)
from alignseg_infer.models.alignseg import AlignSeg
from alignseg_infer.models.decoder import OffsetSampler
from alignseg_infer.models.rewrites import rewritten_for_inference, without_auxiliary_head
from alignseg_infer.ops.sampling import offset_grid_sample
from alignseg_infer.preprocess import preprocess
from alignseg_infer.spec import InputSpec, NetworkSpec, Sampler, SamplingConvention

sys.path.insert(0, str(Path(__file__).parent / "data"))
from host_entries import ENTRIES
from seeded import seeded_state_dict

CONVENTION = SamplingConvention.RELEASE_2021_12
FEATURE = (1, 256, 257, 513)  # of a 1024 x 2048 image
COARSE = (129, 257)
LOGITS, IMAGE = (1, 19, 257, 513), (1024, 2048)
BYTES_PER_GRAPH = 400e6  # several times the L2 cache of any GPU
GPU = torch.device("cuda", 0)
THREADS = {"upsample_argmax": ARGMAX_THREADS, "preprocess": PREPROCESS_THREADS}


@dataclass(frozen=True)
class Variant:
    """One way to compute something.

    Attributes:
        name: In the table.
        call: Computes it from one set of tensors.
        sets: Sets of tensors.
        needed: Bytes that must be read and written once.
    """

    name: str
    call: Callable[..., object]
    sets: Sequence[tuple[Tensor, ...]]
    needed: int


def nbytes(*tensors: Tensor) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def captured(variant: Variant) -> torch.cuda.CUDAGraph:
    """A CUDA graph that computes it once from each set."""
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    with torch.cuda.stream(side):
        for _ in range(3):
            for tensors in variant.sets:
                variant.call(*tensors)
    side.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for tensors in variant.sets:
            variant.call(*tensors)
    return graph


def event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def times(variants: Sequence[Variant], rounds: int) -> dict[str, list[float]]:
    """Microseconds per call, one for each round; all variants run in each, in random order."""
    graphs = {variant.name: (captured(variant), len(variant.sets)) for variant in variants}
    measured: dict[str, list[float]] = {name: [] for name in graphs}
    order = list(graphs)
    for number in range(rounds + 3):
        np.random.default_rng(number).shuffle(order)
        for name in order:
            graph, calls = graphs[name]
            start, end = event(), event()
            start.record()
            graph.replay()
            end.record()
            end.synchronize()
            if number >= 3:
                measured[name].append(1e3 * start.elapsed_time(end) / calls)
    return measured


def table(title: str, variants: Sequence[Variant], rounds: int) -> str:
    """One Markdown row for each variant; the first is the copy that others are set against."""
    measured = times(variants, rounds)
    rates = {v.name: v.needed / np.median(measured[v.name]) / 1e3 for v in variants}
    copy = rates[variants[0].name]
    lines = [
        f"| {title} | median us | min us | MB needed | GB/s | of the copy's |",
        "|---|---|---|---|---|---|",
    ]
    for variant in variants:
        spent, rate = measured[variant.name], rates[variant.name]
        lines.append(
            f"| {variant.name} | {np.median(spent):.1f} | {min(spent):.1f} | "
            f"{variant.needed / 1e6:.1f} | {rate:.0f} | {rate / copy:.0%} |"
        )
    return "\n".join(lines)


def copy_of(needed: int) -> Variant:
    """A device copy that reads and writes `needed` bytes together."""
    half = needed // 2
    count = max(2, math.ceil(BYTES_PER_GRAPH / needed))
    sets = [
        tuple(torch.empty(half, dtype=torch.uint8, device=GPU) for _ in "ab") for _ in range(count)
    ]
    return Variant("device copy", lambda a, b: b.copy_(a), sets, needed)


def sets_of(make: Callable[[], tuple[Tensor, ...]], needed: int) -> list[tuple[Tensor, ...]]:
    return [make() for _ in range(max(2, math.ceil(BYTES_PER_GRAPH / needed)))]


def last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last)


def error_of(seen: Tensor, expected: Tensor) -> str:
    """Relative L2 error against float64."""
    reference = expected.double()
    return f"{float((seen.double() - reference).norm() / reference.norm()):.1e}"


def smooth_offsets(dtype: torch.dtype) -> Tensor:
    """Offsets as networks learn them: a few pixels, smooth."""
    coarse = torch.randn(1, 2, 17, 33, device=GPU) * 3
    return F.interpolate(coarse, FEATURE[2:], mode="bicubic", align_corners=True).to(dtype)


def sampled(feature: Tensor, offset: Tensor) -> Tensor:
    result: Tensor = torch.ops.alignseg.offset_grid_sample(feature, offset, str(CONVENTION))
    return result


def fused(high: Tensor, low: Tensor, high_offset: Tensor, low_offset: Tensor) -> Tensor:
    tensors = (high, low, high_offset, low_offset)
    result: Tensor = torch.ops.alignseg.aligned_add(*tensors, str(CONVENTION))
    return result


def unfused(high: Tensor, low: Tensor, high_offset: Tensor, low_offset: Tensor) -> Tensor:
    """The same as PyTorch does it: upsample, two samples of a grid, a sum."""
    up = F.interpolate(high, size=low.shape[-2:], mode="bilinear", align_corners=True)
    one = offset_grid_sample(up, high_offset, CONVENTION)
    return one + offset_grid_sample(low, low_offset, CONVENTION)


def plain_grid_sample(feature: Tensor, grid: Tensor) -> Tensor:
    return F.grid_sample(feature, grid, mode="bilinear", align_corners=False)


def sampling_report(rounds: int) -> str:
    parts = []
    for dtype in (torch.float16, torch.float32):

        def make(dtype: torch.dtype = dtype) -> tuple[Tensor, ...]:
            return torch.randn(FEATURE, device=GPU).to(dtype), smooth_offsets(dtype)

        one = make()
        needed = nbytes(one[0], one[0], one[1])
        sets = sets_of(make, needed)
        gridded = [(feature, gridlike(feature)) for feature, _ in sets]
        variants = [
            copy_of(needed),
            Variant("OffsetGridSample, planar", sampled, sets, needed),
            Variant(
                "OffsetGridSample, channels last",
                sampled,
                [(last(feature), offset) for feature, offset in sets],
                needed,
            ),
            Variant("F.grid_sample alone, its grid given", plain_grid_sample, gridded, needed),
        ]
        exact = offset_grid_sample(one[0].double(), one[1].double(), CONVENTION)
        errors = [error_of(sampled(feature, one[1]), exact) for feature in (one[0], last(one[0]))]
        parts.append(table(f"{FEATURE}, {dtype}".replace("torch.", ""), variants, rounds))
        parts.append(f"Relative L2 error, planar and channels last: {', '.join(errors)}")
    return "\n\n".join(parts)


def gridlike(feature: Tensor) -> Tensor:
    """A grid near the identity, of the feature's type, for F.grid_sample."""
    size = [1, 1, *feature.shape[-2:]]
    theta = torch.tensor([[[1.0, 0.0, 0.01], [0.0, 1.0, -0.01]]], device=GPU)
    return F.affine_grid(theta, size, align_corners=False).to(feature.dtype)


def aligned_add_report(rounds: int) -> str:
    def make() -> tuple[Tensor, ...]:
        high = torch.randn(*FEATURE[:2], *COARSE, device=GPU).half()
        low = torch.randn(FEATURE, device=GPU).half()
        return high, low, smooth_offsets(torch.float16), smooth_offsets(torch.float16)

    one = make()
    needed = nbytes(*one, one[1])
    sets = sets_of(make, needed)
    lasts = [in_last(tensors) for tensors in sets]
    variants = [
        copy_of(needed),
        Variant("AlignedAdd, planar", fused, sets, needed),
        Variant("AlignedAdd, channels last", fused, lasts, needed),
        Variant("upsample + 2 grid_sample + add, eager", unfused, sets, needed),
        Variant("the same, torch.compile", torch.compile(unfused), sets, needed),
    ]
    exact = unfused(*(tensor.double() for tensor in one))
    errors = [error_of(fused(*tensors), exact) for tensors in (one, in_last(one))]
    text = f"Relative L2 error, planar and channels last: {', '.join(errors)}; "
    text += f"of PyTorch's float16: {error_of(unfused(*one), exact)}"
    return table(f"AlignedAdd {COARSE} to {FEATURE}, float16", variants, rounds) + "\n\n" + text


def in_last(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    high, low, *offsets = tensors
    return (last(high), last(low), *offsets)


def stored(tensor: Tensor) -> DeviceTensor:
    return DeviceTensor(tensor.data_ptr(), tuple(tensor.shape), kernels._DTYPES[tensor.dtype])


def run(launch: Launch) -> None:
    kernels.torch_kernels(0).run(launch)


def argmax_report(rounds: int) -> str:
    def make() -> tuple[Tensor, ...]:
        coarse = torch.randn(1, LOGITS[1], 17, 33, device=GPU) * 4
        logits = F.interpolate(coarse, LOGITS[2:], mode="bicubic", align_corners=True)
        labels = torch.empty((1, *IMAGE), dtype=torch.uint8, device=GPU)
        return logits.contiguous(), labels, torch.empty_like(labels)

    def labelled(logits: Tensor, labels: Tensor, confidence: Tensor) -> None:
        run(upsample_argmax_launch(stored(logits), stored(labels)))

    def with_confidence(logits: Tensor, labels: Tensor, confidence: Tensor) -> None:
        address = confidence.data_ptr()
        run(upsample_argmax_launch(stored(logits), stored(labels), confidence=address))

    def plain(logits: Tensor, labels: Tensor, confidence: Tensor) -> Tensor:
        up = F.interpolate(logits, IMAGE, mode="bilinear", align_corners=True)
        return up.argmax(1)

    one = make()
    needed = nbytes(one[0], one[1])
    sets = sets_of(make, needed)
    variants = [
        copy_of(needed),
        Variant("UpsampleArgmax, labels", labelled, sets, needed),
        Variant(
            "UpsampleArgmax, labels and confidence", with_confidence, sets, needed + nbytes(one[1])
        ),
        Variant("interpolate + argmax, eager", plain, sets[:4], needed),
    ]
    labelled(*one)
    exact = F.interpolate(one[0].double(), IMAGE, mode="bilinear", align_corners=True).argmax(1)
    alike = float((one[1].long() == exact).double().mean())
    return table(f"{LOGITS} to labels {IMAGE}", variants, rounds) + f"\n\nLabels alike: {alike:.6f}"


def preprocess_report(rounds: int) -> str:
    spec = InputSpec()

    def make() -> tuple[Tensor, ...]:
        image = torch.randint(0, 256, (*IMAGE, 3), dtype=torch.uint8, device=GPU)
        return (
            image,
            torch.empty((1, 3, *IMAGE), device=GPU),
            torch.empty((1, 3, 512, 1024), device=GPU),
        )

    one = make()
    same, half = nbytes(one[0], one[1]), nbytes(one[0], one[2])
    sets = sets_of(make, same)
    variants = [
        copy_of(same),
        Variant(
            "preprocess, same size",
            lambda image, out, _: run(preprocess_launch(stored(image), stored(out), spec)),
            sets,
            same,
        ),
        Variant(
            "preprocess, to 512 x 1024",
            lambda image, _, out: run(preprocess_launch(stored(image), stored(out), spec)),
            sets,
            half,
        ),
    ]
    run(preprocess_launch(stored(one[0]), stored(one[2]), spec))
    expected = preprocess(one[0].cpu().numpy(), (512, 1024), spec)
    worst = float(np.abs(one[2].cpu().numpy() - expected).max())
    return (
        table(f"image {IMAGE}", variants, rounds)
        + f"\n\nLargest difference from the CPU's, in grey levels: {worst:.3f}"
    )


def network_report(rounds: int, size: tuple[int, int]) -> str:
    """R101 in float16: the authors' graph, and ours in steps."""
    official = seeded_model().half().to(GPU)
    variants = [
        Variant("authors' network, both heads", *call(official, size)),
        Variant("one head, no rewrites", *call(without_auxiliary_head(official), size)),
        Variant("rewritten", *call(rewritten_for_inference(seeded_model()).half().to(GPU), size)),
        Variant("rewritten, our kernels", *call(with_kernels(), size)),
        Variant(
            "rewritten, our kernels, channels last", *call(with_kernels(), size, channels_last=True)
        ),
    ]
    measured = times(variants, rounds)
    base = np.array(measured[variants[0].name])
    lines = [
        f"| R101, 1 x {size[0]} x {size[1]}, float16 | median ms | speed-up, paired (quartiles) |",
        "|---|---|---|",
    ]
    for variant in variants:
        spent = np.array(measured[variant.name])
        low, middle, high = np.percentile(base / spent, (25, 50, 75))
        milliseconds = np.median(spent) / 1e3
        lines.append(
            f"| {variant.name} | {milliseconds:.2f} | {middle:.2f} ({low:.2f}-{high:.2f}) |"
        )
    return "\n".join(lines)


def seeded_model() -> AlignSeg:
    model = AlignSeg(NetworkSpec(backbone="resnet101"))
    shapes = {key: list(value.shape) for key, value in model.state_dict().items()}
    state = seeded_state_dict(shapes)
    model.load_state_dict({key: torch.from_numpy(np.asarray(v)) for key, v in state.items()})
    return model.eval().requires_grad_(False)


def with_kernels() -> nn.Module:
    model = rewritten_for_inference(seeded_model()).half().to(GPU)
    for module in model.modules():
        if isinstance(module, OffsetSampler):
            module.sampler = Sampler.PLUGIN
    return model


def call(
    model: nn.Module, size: tuple[int, int], *, channels_last: bool = False
) -> tuple[Callable[..., object], Sequence[tuple[Tensor, ...]], int]:
    tensor = torch.randn(1, 3, *size, device=GPU).half() * 60
    if channels_last:
        model, tensor = model.to(memory_format=torch.channels_last), last(tensor)  # type: ignore[call-overload]

    def forward(image: Tensor) -> object:
        with torch.inference_mode():
            return model(image)

    return forward, [(tensor,)], 0


def resources_report() -> str:
    """Registers, spills and occupancy of each kernel that was launched."""
    lines = [
        "| kernel | registers | local bytes (spills) | shared bytes | blocks/SM | threads/SM |",
        "|---|---|---|---|---|---|",
    ]
    attribute = driver.CUfunction_attribute
    wanted = (
        attribute.CU_FUNC_ATTRIBUTE_NUM_REGS,
        attribute.CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES,
        attribute.CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES,
    )
    cuda = kernels.torch_kernels(0)
    with cuda.cuda.current():
        for source, (_, names, _) in ENTRIES.items():
            module = cuda.kernels._module(source)
            for name in names:
                _, function = driver.cuModuleGetFunction(module, name.encode())
                values = [driver.cuFuncGetAttribute(one, function)[1] for one in wanted]
                threads = THREADS.get(source, SAMPLE_THREADS)
                blocks = driver.cuOccupancyMaxActiveBlocksPerMultiprocessor(function, threads, 0)[1]
                lines.append(
                    f"| {name} | {' | '.join(map(str, values))} | {blocks} | {blocks * threads} |"
                )
    return "\n".join(lines)


def main() -> None:
    """Runs everything."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--networks", action="store_true", help="time R101 too (some minutes)")
    parser.add_argument("--rounds", type=int, default=30, help="rounds of each table")
    parser.add_argument("-o", "--output", type=Path, help="a file that gets the text too")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("PyTorch sees no CUDA device; this is to run on a GPU")
    torch.backends.cudnn.benchmark = True
    driver_version = driver.cuDriverGetVersion()[1]
    parts = [
        f"{torch.cuda.get_device_name(0)}, driver API {driver_version}, torch {torch.__version__}, "
        f"CUDA {torch.version.cuda}, Python {platform.python_version()}, "
        f"{datetime.now(UTC).date()}, medians of {arguments.rounds} rounds",
    ]
    rounds = arguments.rounds
    reports: list[Callable[[], str]] = [
        partial(sampling_report, rounds),
        partial(aligned_add_report, rounds),
        partial(argmax_report, rounds),
        partial(preprocess_report, rounds),
        resources_report,
    ]
    if arguments.networks:
        reports += [partial(network_report, 10, size) for size in ((512, 1024), (1024, 2048))]
    for report in reports:
        parts.append(report())
        print(parts[-1], flush=True)
        if arguments.output:
            arguments.output.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
