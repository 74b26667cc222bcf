"""Datasets: the VIMH format, its generator, and the datamodule that feeds whole batches to a network."""

from typing import TYPE_CHECKING, Any

from lhtx.data.spec import DataSpec, HeadSpec

if TYPE_CHECKING:
    from lhtx.data.datamodule import VIMHDataModule

__all__ = ["DataSpec", "HeadSpec", "VIMHDataModule"]


def __getattr__(name: str) -> Any:
    """Import the datamodule when it is asked for: the generator and the readers need no Lightning."""
    if name == "VIMHDataModule":
        from lhtx.data.datamodule import VIMHDataModule

        return VIMHDataModule
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
