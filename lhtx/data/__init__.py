"""Datasets: their formats, the VIMH generator, and the datamodules that feed whole batches to a network."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lhtx.data.spec import DataSpec, HeadSpec, ImageInfo

if TYPE_CHECKING:
    from lhtx.data.cifar import CIFARDataModule
    from lhtx.data.digits import DigitsDataModule
    from lhtx.data.images import ImageDataModule, Part
    from lhtx.data.mnist import MNISTDataModule
    from lhtx.data.vimh import VIMHDataModule

__all__ = [
    "CIFARDataModule",
    "DataSpec",
    "DigitsDataModule",
    "HeadSpec",
    "ImageDataModule",
    "ImageInfo",
    "MNISTDataModule",
    "Part",
    "VIMHDataModule",
]
_LATE = {
    "CIFARDataModule": "cifar",
    "DigitsDataModule": "digits",
    "ImageDataModule": "images",
    "MNISTDataModule": "mnist",
    "Part": "images",
    "VIMHDataModule": "vimh",
}


def __getattr__(name: str) -> Any:
    """Import a datamodule when it is asked for: the generator and the readers need no Lightning."""
    if name in _LATE:
        return getattr(import_module(f"lhtx.data.{_LATE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
