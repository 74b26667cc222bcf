"""The files that start a cluster, rendered from its settings: for Ray's launcher, for KubeRay and for SLURM."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from lhtx.files import write_atomically
from sweeps.cluster.jobs import STOP_SECONDS
from sweeps.cluster.settings import Settings

FILES = ("ray-cluster.yaml", "rayjob.yaml", "slurm.sbatch")


def render(settings: Settings) -> dict[str, str]:
    """Every file's name and text."""
    environment = Environment(
        loader=PackageLoader("sweeps.cluster", "templates"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        comment_start_string="{##",  # the shell has a use for {#
        autoescape=False,  # nothing here is HTML, and settings hold no character that YAML or a shell would take apart
    )
    values = {"settings": settings, "root": str(Path(settings.runs).parent), "stop_seconds": STOP_SECONDS}
    return {name: environment.get_template(f"{name}.j2").render(values) for name in FILES}


def write(settings: Settings, directory: Path) -> list[Path]:
    """Render into `directory`; the files whose text has changed."""
    changed = []
    for name, text in render(settings).items():
        path = directory / name
        if not path.exists() or path.read_text() != text:
            write_atomically(path, text)
            changed.append(path)
    return changed
