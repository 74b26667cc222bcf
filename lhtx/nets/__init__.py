"""Networks, one file each: built from config alone, ending in one head or several. They know nothing of data or losses."""

from lhtx.nets.simple_cnn import SimpleCNN
from lhtx.nets.simple_dense_net import SimpleDenseNet
from lhtx.nets.simple_mlp import SimpleMLP

__all__ = ["SimpleCNN", "SimpleDenseNet", "SimpleMLP"]
