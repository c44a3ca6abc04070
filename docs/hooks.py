"""mkdocs: what the site shows of the repository's root. The README is its first page."""

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

SHOWN = (
    *("README.md", "BENCHMARKS.md", "CHANGELOG.md", "CONTRIBUTING.md", "CITATION.cff", "LICENSE"),
    "dslstm_jax/pretrained/MODEL_CARD.md",
)
LINKED = ("results/benchmarks/*", "examples/*.py")


def on_files(files: Files, *, config: Any) -> Files:
    """Adds them at their paths in the repository."""
    root = Path(config.config_file_path).parent
    for path in (path for pattern in SHOWN + LINKED for path in sorted(root.glob(pattern))):
        place = path.relative_to(root).as_posix().replace("README.md", "index.md")
        files.append(File.generated(config, place, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Links between the root and docs/, which are one folder in the site."""
    return markdown.replace("](../", "](").replace("](docs/", "](").replace("](README.md", "](index.md")
