"""The packages of alignseg-infer, and what its source archive holds; pyproject.toml has the rest.

The folder plugins/ holds CUDA sources, which are compiled where they are needed. It is installed as
a package inside alignseg_infer, beside those that are found, which pyproject.toml cannot say. The
folder alignseg_infer/cli/start is installed as alignseg_command, outside of alignseg_infer: it says
why that cannot be imported.
"""

from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.sdist import sdist

PLUGINS = "alignseg_infer.plugins"
COMMAND = "alignseg_command"
ARCHIVED = [".ci", ".github", "alignseg_infer", "docs", "examples", "export", "plugins", "tests"]
LEFT_OUT = {"__pycache__", "build"}  # folders that are made, not written


class SourceArchive(sdist):
    """Packs everything that it takes to build, test and read the project."""

    def make_distribution(self) -> None:
        """Add the folders of a checkout to the files that setuptools has found."""
        here = Path(__file__).parent
        found = [path for folder in ARCHIVED for path in (here / folder).rglob("*")]
        found += [here / name for name in ("CHANGELOG.md", ".gitignore", ".pre-commit-config.yaml")]
        paths = [path.relative_to(here) for path in found if path.is_file()]
        kept = [path for path in paths if not LEFT_OUT & set(path.parts)]
        self.filelist.extend(map(str, kept))
        self.filelist.remove_duplicates()
        super().make_distribution()


setup(
    packages=[*find_packages(include=["alignseg_infer", "alignseg_infer.*"]), PLUGINS, COMMAND],
    package_dir={PLUGINS: "plugins", COMMAND: "alignseg_infer/cli/start"},
    cmdclass={"sdist": SourceArchive},
)
