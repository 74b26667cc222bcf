"""A multilayer perceptron with batch normalisation. It is not the DenseNet of Huang et al. (2017)."""

from torch import nn

from lhtx.nets.simple_mlp import SimpleMLP


class SimpleDenseNet(SimpleMLP):
    """Flatten, 3 × (Linear, BatchNorm, ReLU, Dropout), auxiliary fusion, heads. Training needs batches of 2 or more.

    Arguments and errors are those of `SimpleMLP`.
    """

    normalisation = nn.BatchNorm1d
