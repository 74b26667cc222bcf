"""Many small networks of one architecture that train as one: `FusedTrainer`, and `can_fuse`, which says why some cannot."""

from lhtx.fused.compatibility import can_fuse
from lhtx.fused.trainer import FusedTrainer, Result

__all__ = ["FusedTrainer", "Result", "can_fuse"]
