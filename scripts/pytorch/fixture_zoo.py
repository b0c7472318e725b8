"""The fixture `zoo.json`: torchvision's ResNets and the wide ones for CIFAR at several image sizes, in float64.

Weights follow from their names by the formula of `fixture_resnet.py`; images (N, 3, H, W) are `4*u - 2` with the name
`pixels.HxW`. For each network and size the fixture has the logits in evaluation, and at the sizes with a step also the
logits in training, the loss (mean cross-entropy with `LABELS`), and of each gradient its length and its product with
the vector u(probe, i) - 1/2.
"""

import sys

import torch
import torch.nn.functional as F
from fixture_resnet import uniform, value
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

CLASSES = 10
LABELS = [3, 8, 0, 3]


class Block(nn.Module):
    """The basic block of `pytorch-cifar`."""

    def __init__(self, cin, planes, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(cin, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.shortcut = nn.Sequential()
        if stride != 1 or cin != planes:
            self.shortcut = nn.Sequential(
                nn.Conv2d(cin, planes, 1, stride, bias=False), nn.BatchNorm2d(planes)
            )

    def forward(self, xs):
        ys = F.relu(self.bn1(self.conv1(xs)))
        return F.relu(self.bn2(self.conv2(ys)) + self.shortcut(xs))


class CifarResNet(nn.Module):
    """The ResNet-18 and 34 of `pytorch-cifar`, pooled over all pixels."""

    def __init__(self, blocks, classes=CLASSES):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        cin = 64
        for stage, (planes, count) in enumerate(zip([64, 128, 256, 512], blocks), 1):
            layer = []
            for n in range(count):
                layer.append(Block(cin, planes, 2 if stage > 1 and n == 0 else 1))
                cin = planes
            setattr(self, f"layer{stage}", nn.Sequential(*layer))
        self.linear = nn.Linear(512, classes)

    def features(self, xs):
        xs = F.relu(self.bn1(self.conv1(xs)))
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            xs = stage(xs)
        return xs.mean((2, 3))

    def forward(self, xs):
        return self.linear(self.features(xs))


NETWORKS = {
    "resnet18-cifar": lambda classes=CLASSES: CifarResNet([2, 2, 2, 2], classes),
    "resnet34-cifar": lambda classes=CLASSES: CifarResNet([3, 4, 6, 3], classes),
    "resnet10": lambda classes=CLASSES: ResNet(BasicBlock, [1, 1, 1, 1], num_classes=classes),
    "resnet18": lambda classes=CLASSES: ResNet(BasicBlock, [2, 2, 2, 2], num_classes=classes),
    "resnet34": lambda classes=CLASSES: ResNet(BasicBlock, [3, 4, 6, 3], num_classes=classes),
    "resnet50": lambda classes=CLASSES: ResNet(Bottleneck, [3, 4, 6, 3], num_classes=classes),
}

# Height, width, and whether a step is taken. At these sizes the last stage has more than one value per channel.
SIZES = {
    "cifar": [(16, 24, True), (19, 28, True), (32, 32, False), (27, 44, False), (64, 64, False)],
    "large": [
        (32, 32, False),
        (64, 64, False),
        (48, 64, True),
        (96, 96, False),
        (75, 101, True),
        (224, 224, False),
    ],
    # No step at 75×101, nor above at 64×64 and 27×44: there the input of a ReLU is so close to zero that rounding in
    # f32 changes its sign, and one such ReLU changes a gradient by 1e-3 or more; see relu_flips.py.
    "resnet50": [
        (32, 32, False),
        (64, 64, False),
        (48, 64, True),
        (96, 96, False),
        (75, 101, False),
        (224, 224, False),
    ],
}


def network(name):
    """A network with the weights of the formula, in f32."""
    model = NETWORKS[name]()
    state = {n: torch.from_numpy(value(n, tuple(t.shape))) for n, t in model.state_dict().items() if t.ndim}
    missing = model.load_state_dict(state, strict=False).missing_keys
    assert all(n.endswith("num_batches_tracked") for n in missing), missing
    return model


def run(name, height, width, trains, dtype):
    """What the fixture stores for a network and a size."""
    model = network(name).to(dtype)
    xs = (
        4 * torch.from_numpy(uniform(f"pixels.{height}x{width}", (len(LABELS), 3, height, width))).to(dtype)
        - 2
    )
    model.eval()
    with torch.no_grad():
        out = {"arch": name, "height": height, "width": width, "logits": model(xs).flatten().tolist()}
    if trains:
        model.train()
        logits = model(xs)
        loss = F.cross_entropy(logits, torch.tensor(LABELS))
        loss.backward()
        out |= {"train_logits": logits.flatten().tolist(), "loss": loss.item(), "gradients": {}}
        for n, p in model.named_parameters():
            probe = torch.from_numpy(uniform("probe", (p.numel(),))).double() - 0.5
            out["gradients"][n] = [p.grad.double().norm().item(), (p.grad.double().flatten() @ probe).item()]
    return out


def make():
    """The content of the fixture. Prints on stderr how far PyTorch's own f32 is from it."""
    cases = []
    for name in NETWORKS:
        for size in SIZES.get(name, SIZES["cifar" if name.endswith("cifar") else "large"]):
            truth, single = (run(name, *size, dtype) for dtype in (torch.float64, torch.float32))
            largest = max(map(abs, truth["logits"]))
            off = max(abs(a - b) for a, b in zip(truth["logits"], single["logits"])) / largest
            text = f"{name} {size}: f32 from float64: logits {off:.1e}"
            if "gradients" in truth:
                text += f", loss {abs(single['loss'] / truth['loss'] - 1):.1e}"
                worst = max(
                    (max(abs(x - y) for x, y in zip(single["gradients"][n], g)) / g[0], n)
                    for n, g in truth["gradients"].items()
                )
                text += f", {worst[0]:.1e} of a gradient ({worst[1]})"
            print(text, file=sys.stderr)
            cases.append(truth)
    return {"labels": LABELS, "cases": cases}


def rounded(values):
    """The values with nine significant digits."""
    if isinstance(values, float):
        return float(f"{values:.9g}")
    if isinstance(values, list):
        return [rounded(v) for v in values]
    if isinstance(values, dict):
        return {n: rounded(v) for n, v in values.items()}
    return values
