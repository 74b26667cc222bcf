"""The few settings from which a cluster's files are rendered: what each means, and what is wrong with one that is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import ray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sweeps import located_yaml
from sweeps.cluster.connection import ClusterError
from sweeps.errors import suggestions

NAME = r"^[a-z][a-z0-9-]{0,38}[a-z0-9]$"
_PATH = r"^/[\w./-]+$"
_WORD = r"^[\w.-]+$"


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Node(_Section):
    """What a node has."""

    cpus: int = Field(ge=1, le=1024, description="cores")
    gpus: int = Field(0, ge=0, le=64, description="GPUs")
    memory_gib: int = Field(ge=1, le=65536, description="memory in GiB")


class Workers(_Section):
    """How many workers there are. SLURM starts `max` of them."""

    min: int = Field(1, ge=1, description="that are there always: a sweep is refused where no trial fits yet")
    max: int = Field(ge=1, description="at most")


class Launcher(_Section):
    """Where Ray's cluster launcher starts machines."""

    provider: Literal["aws", "gcp", "azure"] = Field(description="of the machines")
    region: str = Field(pattern=_WORD, description="in the provider's words; under azure, the location")
    zone: str | None = Field(None, pattern=_WORD, description="gcp: the zone; aws: it is chosen if not given")
    project: str | None = Field(None, pattern=_WORD, description="gcp: the project; azure: the resource group")
    head_type: str = Field(pattern=_WORD, description="the machine type of the head")
    worker_type: str = Field(pattern=_WORD, description="the machine type of a worker")
    user: str = Field(pattern=_WORD, description="who logs in by ssh")


class Kubernetes(_Section):
    """Where KubeRay runs the sweep."""

    namespace: str = Field("default", pattern=NAME, description="of the job")
    volume_claim: str = Field(pattern=NAME, description="a persistent volume claim, mounted at the parent of `runs`")
    code: str = Field(pattern=_PATH, description="this project's directory in the image")


class Slurm(_Section):
    """Which nodes SLURM gives, and for how long."""

    partition: str = Field(pattern=_WORD, description="of the nodes")
    account: str | None = Field(None, pattern=_WORD, description="who pays, where that is asked")
    hours: int = Field(ge=1, le=24 * 365, description="the job's time limit")
    activate: str = Field(pattern=r"^[\w./-]+$", description="the virtual environment's activate script, seen by every node")


class Settings(_Section):
    """A cluster."""

    name: str = Field(pattern=NAME, description="of the cluster")
    sweep: str = Field(pattern=_WORD, description="the search space that Kubernetes and SLURM run")
    runs: str = Field(pattern=_PATH, description="where sweeps live on the cluster")
    image: str = Field(min_length=1, pattern=r"^[\w./:@-]+$", description="the container image")
    ports: dict[Literal["gcs", "dashboard", "client"], int] = Field(
        {"gcs": 6379, "dashboard": 8265, "client": 10001}, description="of the head"
    )
    head: Node = Field(description="what the head node has; no trial runs on it")
    worker: Node = Field(description="what each worker has")
    workers: Workers = Field(description="how many there are")
    launcher: Launcher
    kubernetes: Kubernetes
    slurm: Slurm

    @property
    def ray(self) -> str:
        """The version of Ray that this project runs."""
        return ray.__version__


def load(file: Path) -> Settings:
    """The settings in a YAML file.

    Raises:
        ClusterError: it cannot be read; every key that is wrong, with its line, what was found and what is expected.
    """
    if not file.is_file():
        raise ClusterError(f"{file}: there is no such file; cluster/settings.yaml is the one that comes with the project.")
    document = located_yaml.load(file)
    try:
        settings = Settings.model_validate(document.value)
    except ValidationError as error:
        raise ClusterError("\n".join(_told(document, each) for each in error.errors())) from None
    for key, problem in _inconsistent(settings):
        raise ClusterError(f"{document.where(key)}: {problem}")
    return settings


def _inconsistent(settings: Settings) -> list[tuple[tuple[str, ...], str]]:
    problems: list[tuple[tuple[str, ...], str]] = []
    if settings.workers.min > settings.workers.max:
        problems.append((("workers",), f"min {settings.workers.min} is above max {settings.workers.max}"))
    if settings.launcher.provider != "aws" and settings.launcher.project is None:
        what = {"gcp": "the project", "azure": "the resource group"}[settings.launcher.provider]
        problems.append((("launcher",), f"{settings.launcher.provider} needs project: {what}"))
    if settings.launcher.provider == "gcp" and settings.launcher.zone is None:
        problems.append((("launcher",), "gcp needs a zone, such as us-west1-a"))
    if len(set(settings.ports.values())) < 3 or set(settings.ports) != {"gcs", "dashboard", "client"}:
        problems.append((("ports",), "expected three different ports: gcs, dashboard and client"))
    return problems


def _told(document: Any, error: Any) -> str:
    path = tuple(error["loc"])
    key = ".".join(map(str, path))
    if error["type"] == "extra_forbidden":
        section: Any = Settings
        for part in path[:-1]:
            section = section.model_fields[part].annotation
        return f"{document.where(path)}: {key} is unknown. {suggestions(str(path[-1]), list(section.model_fields))}"
    if error["type"] == "missing":
        return f"{document.where(path[:-1])}: {key} is missing"
    return f"{document.where(path)}: {key} is {error['input']!r}: {error['msg'][0].lower()}{error['msg'][1:]}"
