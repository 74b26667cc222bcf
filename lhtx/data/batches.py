"""Whole batches by index, from one tensor in memory or from the files, in an order that a seed and an epoch decide.

There is no per-sample Python: a batch is one indexing operation a tensor. Knows no file format and no task.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from lhtx.data.records import MappedImages
from lhtx.errors import ConfigError


class StreamedImages:
    """Images of several files as if they were one, read from disk by index; `channels` picks what is handed out."""

    def __init__(self, sources: Sequence[np.ndarray | MappedImages], channels: Sequence[int]) -> None:
        self.sources = list(sources)
        self.channels = list(channels)
        self.ends = np.cumsum([len(source) for source in sources])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, index: torch.Tensor) -> torch.Tensor:
        """The images at `index`, (B,) int64, in its order: (B, C, H, W) uint8."""
        index = index.numpy()
        height, width = self.sources[0].shape[2:]
        images = np.empty((len(index), len(self.channels), height, width), dtype=np.uint8)
        order = np.argsort(index, kind="stable")  # the files are read from front to back
        starts = [0, *self.ends[:-1]]
        for source, start, end in zip(self.sources, starts, self.ends, strict=True):
            rows = order[(index[order] >= start) & (index[order] < end)]
            if len(rows):
                found = source[index[rows] - start]
                images[rows] = found if len(self.channels) == found.shape[1] else found[:, self.channels]
        return torch.from_numpy(images)

    def load(self) -> torch.Tensor:
        """Every image, in memory: (N, C, H, W) uint8."""
        images = torch.empty(self.shape, dtype=torch.uint8)
        self.fill(images.numpy())
        return images

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of every image, together."""
        return (len(self), len(self.channels), *self.sources[0].shape[2:])

    @property
    def bytes(self) -> int:
        """What every image takes in memory, together."""
        return int(np.prod(self.shape, dtype=np.int64))

    def fill(self, images: np.ndarray) -> None:
        """Write every image to `images`, uint8 of `shape`."""
        for source, end in zip(self.sources, self.ends, strict=True):
            for first in range(0, len(source), 1024):  # so that a selection of channels copies little at a time
                chunk = source[first : first + 1024]
                start = end - len(source) + first
                images[start : start + len(chunk)] = chunk[:, self.channels]


class Batches(Dataset):
    """Columns of one length, indexed a batch at a time: an index tensor gives a dict of tensors."""

    def __init__(self, columns: Mapping[str, torch.Tensor | StreamedImages]) -> None:
        self.columns = dict(columns)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, index: torch.Tensor) -> dict[str, torch.Tensor]:
        """The rows at `index`, (B,) int64, of every column."""
        return {
            name: column.index_select(0, index) if isinstance(column, torch.Tensor) else column[index]
            for name, column in self.columns.items()
        }


class BatchOrder(Sampler[torch.Tensor]):
    """Yields index tensors: `samples` cut into batches, shuffled by (`seed`, epoch) alone where `seed` is given.

    Lightning calls `set_epoch`, so that a resumed run continues with the order that it would have had. A last batch of a
    single sample joins the one before it when shuffled (that is, in training), as batch normalisation cannot train on it.

    Of several processes each gets its own part, and all get the same number of batches, as they wait for each other.
    Shuffled: the k-th batches of all W processes together are what one process would have as its k-th batch of
    W·`batch_size`; the up to W − 1 samples that do not divide are left out, other ones each epoch. In order: every sample is
    in just one process, some of which have one sample more in their last batch than others.

    Args:
        samples: positions to choose from, int64 (N,).
        batch_size: of one process.
        seed: of the shuffling; None keeps the order of `samples`.
        rank, world_size: which of how many processes this is.
        first: the number of the order that epoch 0 takes; epoch e takes that of e + `first`.

    Raises:
        ConfigError: for fewer samples than processes.
    """

    def __init__(
        self,
        samples: torch.Tensor,
        batch_size: int,
        seed: int | None = None,
        rank: int = 0,
        world_size: int = 1,
        first: int = 0,
    ) -> None:
        if len(samples) < world_size:
            raise ConfigError(f"a split of {len(samples)} samples is too small for {world_size} processes; use fewer devices")
        self.samples = samples
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.first = first
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Take the order of `epoch` from now on."""
        self.epoch = epoch

    @property
    def _sizes(self) -> list[int]:
        """The sizes of this process's batches."""
        share, rest = divmod(len(self.samples), self.world_size)
        largest = share + (rest > 0 and self.seed is None)
        whole, last = divmod(largest, self.batch_size)
        sizes = [self.batch_size] * whole + [last] * (last > 0)
        if self.seed is not None and last == 1 and whole:
            sizes[-2:] = [self.batch_size + 1]
        elif self.seed is None and self.world_size > 1 and len(sizes) > 1 and sizes[-1] == 1:
            sizes[-2:] = [sizes[-2] + 1]  # the process with one sample less would have an empty batch there
        if self.seed is None and 0 < rest <= self.rank:
            sizes[-1] -= 1
        return sizes

    def __len__(self) -> int:
        return len(self._sizes)

    def __iter__(self) -> Iterator[torch.Tensor]:
        sizes = self._sizes
        if self.seed is None:
            mine = self.samples.tensor_split(self.world_size)[self.rank]
        else:
            order = np.random.default_rng([self.seed, self.epoch + self.first]).permutation(len(self.samples))
            mine = self.samples[torch.from_numpy(order[self.rank :: self.world_size][: sum(sizes)])]
        yield from mine.split(sizes)


class _LateLoader(DataLoader):
    """Starts its workers at the first batch: they fetch ahead as soon as they are there, and Lightning tells the epoch
    only after it has called `iter`. Without workers there is nothing to fetch ahead, and a batch costs one indexing alone."""

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        if self.num_workers or self.pin_memory:
            yield from super().__iter__()
        else:
            yield from map(self.dataset.__getitem__, self.sampler)


def batch_loader(batches: Batches, order: BatchOrder, num_workers: int = 0, pin_memory: bool = False) -> DataLoader:
    """A DataLoader that only hands batches on; it takes no number from the global random state."""
    return _LateLoader(
        batches,
        batch_size=None,
        sampler=order,
        num_workers=num_workers,
        pin_memory=pin_memory,
        persistent_workers=False,
        collate_fn=_as_it_is,
        generator=torch.Generator(),
    )


def _as_it_is(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return batch
