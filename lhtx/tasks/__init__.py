"""Tasks: what is predicted, with which losses and metrics. They know nothing of files or of sweeps."""

from lhtx.tasks.multihead import MultiheadTask

__all__ = ["MultiheadTask"]
