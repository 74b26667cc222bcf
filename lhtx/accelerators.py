"""Which accelerator `trainer.accelerator: auto` means. Knows nothing else of a run."""

from lightning.pytorch.accelerators import CUDAAccelerator, MPSAccelerator


def choose(accelerator: str) -> str:
    """`accelerator` as it is, but for `auto`: CUDA where there is one, else MPS, else the CPU.

    Lightning's own `auto` asks for a TPU first, and for MPS before CUDA.
    """
    if accelerator != "auto":
        return accelerator
    if CUDAAccelerator.is_available():
        return "cuda"
    return "mps" if MPSAccelerator.is_available() else "cpu"
