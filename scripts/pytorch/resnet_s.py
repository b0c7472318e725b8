"""The CIFAR ResNet of the reference code: `ResNet_s` of LDAM-DRW, after the repository of akamaster.

It has option-A shortcuts (without parameters) and Kaiming-normal weights. The names of its modules are the tensor names
of this project's checkpoints of these networks. It is not torchvision's ResNet, which is for ImageNet and has
projected shortcuts.
"""

import torch
import torch.nn.functional as F
from torch import nn

BLOCKS = {"resnet20": 3, "resnet32": 5, "resnet44": 7, "resnet56": 9, "resnet110": 18}


class NormedLinear(nn.Module):
    """LDAM's cosine classifier: unit features times unit class vectors. The weight is (in, out); there is no bias."""

    def __init__(self, in_features, out_features):
        super().__init__()
        # The reference draws from a uniform distribution and scales each column to length 1.
        self.weight = nn.Parameter(F.normalize(torch.rand(in_features, out_features) * 2 - 1, dim=0))

    def forward(self, xs):
        return F.normalize(xs, dim=1) @ F.normalize(self.weight, dim=0)


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut that subsamples and pads channels with zeros on both sides."""

    def __init__(self, in_planes, planes, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(in_planes, planes, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.reduces = stride != 1 or in_planes != planes
        self.pad = planes // 4

    def forward(self, xs):
        ys = F.relu(self.bn1(self.conv1(xs)))
        ys = self.bn2(self.conv2(ys))
        if self.reduces:
            xs = F.pad(xs[:, :, ::2, ::2], (0, 0, 0, 0, self.pad, self.pad))
        return F.relu(ys + xs)


class ResNetS(nn.Module):
    """(N, 3, H, W) → logits (N, classes). `use_norm`: LDAM's cosine classifier instead of a linear layer.

    `mix` is (stage, function), for Manifold Mixup: the function is applied to the output of that stage.
    """

    def __init__(self, blocks, classes=10, use_norm=False):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self._layer(16, 16, blocks, 1)
        self.layer2 = self._layer(16, 32, blocks, 2)
        self.layer3 = self._layer(32, 64, blocks, 2)
        self.linear = NormedLinear(64, classes) if use_norm else nn.Linear(64, classes)
        for m in self.modules():
            if isinstance(m, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(m.weight)

    @staticmethod
    def _layer(in_planes, planes, blocks, stride):
        first = BasicBlock(in_planes, planes, stride)
        return nn.Sequential(first, *(BasicBlock(planes, planes, 1) for _ in range(blocks - 1)))

    def features(self, xs, mix=None):
        """(N, 3, H, W) → pooled features (N, 64)."""
        ys = F.relu(self.bn1(self.conv1(xs)))
        for stage, layer in enumerate((self.layer1, self.layer2, self.layer3), 1):
            ys = layer(ys)
            if mix and mix[0] == stage:
                ys = mix[1](ys)
        return ys.mean((2, 3))

    def forward(self, xs, mix=None):
        return self.linear(self.features(xs, mix))


def resnet_s(arch, classes=10, use_norm=False):
    """The network with one of the names in `BLOCKS`."""
    return ResNetS(BLOCKS[arch], classes, use_norm)
