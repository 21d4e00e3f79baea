"""The packages of alignseg-infer; everything else about it is in pyproject.toml.

The folder plugins/ holds CUDA sources, which are compiled where they are needed. It is installed as
a package inside alignseg_infer, beside those that are found, which pyproject.toml cannot say.
"""

from setuptools import find_packages, setup

PLUGINS = "alignseg_infer.plugins"

setup(
    packages=[*find_packages(include=["alignseg_infer", "alignseg_infer.*"]), PLUGINS],
    package_dir={PLUGINS: "plugins"},
)
