"""Learning-rate schedules that torch lacks, for a config to name. They know the optimizer and how often they are stepped."""

from math import cos, pi

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from lhtx.errors import ConfigError


def warmup_cosine(optimizer: Optimizer, total_steps: int, warmup: float = 0.05, final: float = 0.0) -> LambdaLR:
    """Linear warm-up to the optimizer's own learning rate, then half a cosine down to `final` times it.

    With W = round(`warmup`·T) steps of warm-up among T = `total_steps`, step k (from 0) has the factor (k + 1)/(W + 1) while
    k < W, then final + (1 − final)·½(1 + cos π(k − W)/(T − W)), and `final` from k = T on. It depends on k and T alone.

    Args:
        optimizer: whose groups' learning rates are the peaks.
        total_steps: T, the steps of the whole run: epochs or optimizer steps. The task knows it, so a config leaves it out.
        warmup: share of the steps, in [0, 1).
        final: learning rate at the end, as a share of the peak, in [0, 1].

    Raises:
        ConfigError: for a number outside these ranges.

    >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    >>> warmup_cosine(optimizer, total_steps=20, warmup=0.1).get_last_lr()
    [0.3333333333333333]
    """
    if total_steps < 1:
        raise ConfigError(f"warmup_cosine: total_steps is {total_steps}; expected 1 or more")
    if not 0 <= warmup < 1:
        raise ConfigError(f"warmup_cosine: warmup is {warmup}; expected a share of the steps, 0 or more and below 1")
    if not 0 <= final <= 1:
        raise ConfigError(f"warmup_cosine: final is {final}; expected a share of the learning rate, from 0 to 1")
    rising = min(round(warmup * total_steps), total_steps - 1)

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / (rising + 1)
        progress = min((step - rising) / (total_steps - rising), 1.0)
        return final + (1 - final) * (1 + cos(pi * progress)) / 2

    return LambdaLR(optimizer, factor)
