"""Which class an output stands for: the one place that says so, for training, metrics and tables. Knows no losses.

An output that is not a number stands for no class: `NO_CLASS` is never right. Nothing here waits for the device.
"""

from torch import Tensor

NO_CLASS = -1
"""In place of a class index, where the output was not a number."""


def largest_class(logits: Tensor) -> Tensor:
    """The class of the largest logit: (B, C) → int64 (B,); `NO_CLASS` for a row that holds a NaN."""
    largest, index = logits.detach().max(dim=1)  # the maximum of a row with a NaN is NaN
    return index.masked_fill_(largest != largest, NO_CLASS)  # NaN alone; one operation less than isnan


def predicted_class(prediction: Tensor, classes: int) -> Tensor:
    """What an objective predicts, (B,), as class indices int64 (B,).

    A class index stays as it is; a position in class steps, floating point, gives the nearest class, and NaN `NO_CLASS`.
    """
    if not prediction.is_floating_point():
        return prediction
    nearest = prediction.round().clamp(0, classes - 1)
    return nearest.nan_to_num(NO_CLASS).long()
