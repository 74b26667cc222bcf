"""Networks, one file each: built from config alone, ending in one head or several. They know nothing of data or losses."""

from lhtx.nets.convnext_v2 import ConvNeXtV2
from lhtx.nets.simple_cnn import SimpleCNN
from lhtx.nets.simple_dense_net import SimpleDenseNet
from lhtx.nets.simple_efficientnet import SimpleEfficientNet
from lhtx.nets.simple_mlp import SimpleMLP
from lhtx.nets.vision_transformer import VisionTransformer

__all__ = ["ConvNeXtV2", "SimpleCNN", "SimpleDenseNet", "SimpleEfficientNet", "SimpleMLP", "VisionTransformer"]
