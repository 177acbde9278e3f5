"""The model pillar: families of architectures that take depth and width, and what a model costs.

Every family is a plain ``nn.Module`` whose arguments are plain values, so that a search can vary them.
"""

from torch import nn

from torchspeed.models.cnn import CNN
from torchspeed.models.resnet import ResNet
from torchspeed.models.rnn import RNN
from torchspeed.models.speednet import SpeedNet, whiten
from torchspeed.models.summary import Summary, summary
from torchspeed.models.transformer import Transformer

__all__ = ["CNN", "FAMILIES", "RNN", "ResNet", "SpeedNet", "Summary", "Transformer", "summary", "whiten"]

FAMILIES: dict[str, type[nn.Module]] = {
    "cnn": CNN,
    "resnet": ResNet,
    "rnn": RNN,
    "transformer": Transformer,
}
