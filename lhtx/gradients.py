"""Gradient statistics as pure functions: across the network at one step, and across the steps of an epoch. Keeps no state
and knows no trainer; `lhtx.callbacks.GradientStatistics` gathers what goes in.

A *scope* is a set of parameter tensors: the whole network, or one layer. For the minibatch gradients g_1 … g_K of an epoch
every statistic of a scope follows from three numbers that add up over its tensors: ‖ḡ‖², Σ_k ‖g_k‖² and ḡ·ḡ′ (ḡ′ the mean
of the epoch before). In particular tr Σ̂ = (Σ_k ‖g_k‖² − K‖ḡ‖²)/(K − 1), the sum of the elementwise variances, needs no
sum of squares the size of the parameters.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

ACROSS_NETWORK = ("norm_mean", "norm_std", "norm_max", "norm_min", "norm_ratio")
ACROSS_STEPS = ("snr", "evidence", "noise_scale", "epoch_mean", "epoch_std", "stability", "cosine")


def tensor_norms(gradients: Sequence[Tensor]) -> Tensor:
    """The L2 norm of each of P gradient tensors, float32 of shape (P,), on their device and without waiting for it."""
    dtype = torch.float64 if gradients[0].dtype == torch.float64 else torch.float32  # summed up in; halves would overflow
    return torch.stack(torch._foreach_norm(gradients, 2, dtype=dtype)).float()


def layers(parameter_names: Sequence[str]) -> dict[str, list[int]]:
    """The positions of the parameters of each layer. A layer is the module that owns them, by its full dotted name.

    A parameter that belongs to the root module is a layer of its own name.

    >>> layers(["net.conv1.weight", "net.conv1.bias", "net.head.weight", "scale"])
    {'net.conv1': [0, 1], 'net.head': [2], 'scale': [3]}
    """
    positions: dict[str, list[int]] = {}
    for position, name in enumerate(parameter_names):
        layer = name.replace("_orig_mod.", "").rpartition(".")[0] or name  # torch.compile wraps modules in _orig_mod
        positions.setdefault(layer, []).append(position)
    return positions


def network_statistics(norms: Tensor) -> dict[str, Tensor]:
    """Statistics over the tensor norms of each step.

    Args:
        norms: L2 norm of each parameter tensor's gradient, shape (..., P).

    Returns:
        `norm_mean`, `norm_std` (population), `norm_max`, `norm_min` and `norm_ratio` = mean/std, each of shape (...).
        With a single tensor, or equal norms, the ratio is infinite; with norms all zero it is NaN.
    """
    mean, std = norms.mean(-1), norms.std(-1, correction=0)
    return {
        "norm_mean": mean,
        "norm_std": std,
        "norm_max": norms.amax(-1),
        "norm_min": norms.amin(-1),
        "norm_ratio": mean / std,
    }


def scope_sums(values: Tensor, scopes: Mapping[str, Sequence[int]]) -> Tensor:
    """Sums of `values`, shape (..., P), over the tensors of each of S scopes: shape (..., S).

    A value that is not finite reaches the scopes it belongs to and no other.
    """
    return torch.stack([values[..., list(positions)].sum(-1) for positions in scopes.values()], -1)


def noise_statistics(mean_square: Tensor, sum_of_squares: Tensor, steps: int, batch_size: float) -> dict[str, Tensor]:
    """Signal and noise of the mean of K minibatch gradients, pooled over all elements of a scope.

    Args:
        mean_square: ‖ḡ‖², of any shape.
        sum_of_squares: Σ_k ‖g_k‖², of the same shape.
        steps: K, the number of minibatch gradients.
        batch_size: B, samples in one minibatch.

    Returns:
        Three tensors of the same shape. With K < 2 all are undefined, and NaN.

        `snr` = ‖ḡ‖² / (tr Σ̂ / K). 1 means nothing but noise; infinite without noise, NaN if the gradient is 0 as well.

        `evidence` = 1 − K‖ḡ‖² / tr Σ̂ = 1 − snr. Above 0 the gradient cannot be told from zero. After Mahsereci et al. 2017
        (arXiv:1703.09580, eq. 7), but pooled over the elements: their elementwise mean is biased to 1 − (K−1)/(K−3) when
        Σ̂ comes from the K minibatches themselves.

        `noise_scale` = B · tr Σ̂ / ‖G‖² with ‖G‖² = ‖ḡ‖² − tr Σ̂/K (McCandlish et al. 2018, arXiv:1812.06162, eq. 2.8 and
        appendix A.1), in samples. NaN where ‖G‖² ≤ 0, which is where the evidence is not below 0: the batch size at which
        noise and signal balance cannot be estimated from a gradient that is all noise.
    """
    if steps < 2:
        undefined = torch.full_like(mean_square, torch.nan)
        return {"snr": undefined, "evidence": undefined.clone(), "noise_scale": undefined.clone()}
    trace = ((sum_of_squares - steps * mean_square) / (steps - 1)).clamp(min=0)  # rounding can take it below
    snr = mean_square / (trace / steps)
    signal = mean_square - trace / steps
    noise_scale = torch.where(signal > 0, batch_size * trace / signal, torch.nan)
    return {"snr": snr, "evidence": 1 - snr, "noise_scale": noise_scale}


def norm_statistics(step_norms: Tensor) -> dict[str, Tensor]:
    """How the gradient's norm behaves over the K ≥ 1 steps of an epoch.

    Args:
        step_norms: ‖g_k‖ of each scope, shape (K, S).

    Returns:
        `epoch_mean`, `epoch_std` (population) and `stability` = std/mean (lower is steadier), each of shape (S,).
        `stability` is NaN with K < 2, and where the gradient was always 0.
    """
    mean, std = step_norms.mean(0), step_norms.std(0, correction=0)
    stability = std / mean if len(step_norms) > 1 else torch.full_like(mean, torch.nan)
    return {"epoch_mean": mean, "epoch_std": std, "stability": stability}


def cosine(dot: Tensor, square: Tensor, other_square: Tensor) -> Tensor:
    """Cosine between two vectors from their dot product and squared norms, elementwise; NaN where one of them is 0."""
    return (dot / (square.sqrt() * other_square.sqrt())).clamp(-1, 1)
