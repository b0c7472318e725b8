"""Writes small files of `torch.save` into tests/fixtures/torch, in the forms in which checkpoints are usually saved.

    python scripts/pytorch/make_torch_files.py

All files that can be read have the same network `Small`, and all of its values are exact in float16 and bfloat16: value
i (row-major) of a tensor with n elements is ((7 * i + n) % 31 - 15) / 8, or for a running variance the absolute value
of that. So the tests expect the same weights of every file. The names say what is special about each:

- plain: a state_dict; parallel: that of two nested DataParallel with torch.compile between them; averaged: that of
  AveragedModel
- nested: in `state_dict`, beside an epoch, an accuracy, and an optimiser and a scheduler after a step; net, model: in
  an entry of that name
- half, bfloat16, double: the type of the weights; beyond: doubles, one of which is out of float32's range
- parameters: a dictionary of parameters; strided: views, transposed or with an offset into a shared storage
- twice: an additional tensor `module.linear.bias`; mixed: `module.` before only some of the names
- older: the format before PyTorch 1.6; module: a whole module; numpy: an accuracy that is a numpy scalar

The bytes are the same in every run of one version of PyTorch (2.15 made those in the repository), except for `older`,
which contains addresses."""

import argparse
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from torch import nn

DEFAULT = Path(__file__).resolve().parents[2] / "tests/fixtures/torch"


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(2)
        self.linear = nn.Linear(2, 4)

    def forward(self, xs):
        return self.linear(torch.relu(self.bn1(self.conv1(xs))).mean((2, 3)))


def value(name, t):
    n = t.numel()
    values = torch.tensor([((7 * i + n) % 31 - 15) / 8 for i in range(n)]).reshape(t.shape)
    return values.abs() if name.endswith("running_var") else values


def network():
    torch.manual_seed(0)
    model = Small()
    model.load_state_dict({n: value(n, t) if t.ndim else t for n, t in model.state_dict().items()})
    return model


def optimised():
    """The states of an optimiser and a scheduler after a step of another network of this kind."""
    model = network()
    sgd = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=2e-4)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(sgd, [1, 2])
    model(torch.ones(2, 3, 4, 4)).sum().backward()
    sgd.step()
    scheduler.step()
    return sgd.state_dict(), scheduler.state_dict()


def strided(state):
    """The same tensors as views: the kernels transposed, and both tensors of the classifier in one storage."""
    weight, bias = state["linear.weight"], state["linear.bias"]
    both = torch.cat([torch.zeros(3), weight.flatten(), bias])
    kernels = state["conv1.weight"].permute(2, 3, 1, 0).contiguous().permute(3, 2, 0, 1)
    assert not kernels.is_contiguous()
    n = weight.numel()
    return state | {
        "conv1.weight": kernels,
        "linear.weight": both[3 : 3 + n].view(weight.shape),
        "linear.bias": both[3 + n :],
    }


def prefixed(prefix, state):
    return OrderedDict((prefix + name, t) for name, t in state.items())


def files():
    state = network().state_dict()
    to = lambda dtype: OrderedDict((n, t.to(dtype) if t.ndim else t) for n, t in state.items())
    averaged = torch.optim.swa_utils.AveragedModel(network())
    sgd, scheduler = optimised()
    beyond = to(torch.float64)
    beyond["linear.bias"][1] = 1e300
    yield "plain", state
    yield "parallel", prefixed("module._orig_mod.module.", state)
    yield "averaged", averaged.state_dict()
    yield (
        "nested",
        {
            "epoch": 200,
            "arch": "small",
            "state_dict": prefixed("module.", state),
            "best_acc1": torch.tensor(71.5),
            "optimizer": sgd,
            "scheduler": scheduler,
            "rng_state": torch.zeros(16, dtype=torch.uint8),
        },
    )
    yield "net", {"net": state, "acc": 71.5, "epoch": 199}
    yield "model", {"model": state, "lr": None}
    yield "half", to(torch.float16)
    yield "bfloat16", to(torch.bfloat16)
    yield "double", to(torch.float64)
    yield "beyond", beyond
    yield "parameters", {n: nn.Parameter(t) if t.ndim else t for n, t in state.items()}
    yield "strided", strided(state)
    yield "twice", state | {"module.linear.bias": state["linear.bias"] + 1}
    yield "mixed", OrderedDict((n if n.startswith("linear") else "module." + n, t) for n, t in state.items())
    yield "older", state
    yield "module", network()
    yield "numpy", {"state_dict": state, "best_acc1": np.float64(71.5)}


def main():
    parser = argparse.ArgumentParser(description="write small files of torch.save for the Rust tests")
    parser.add_argument("--out", type=Path, default=DEFAULT, help="directory [default: tests/fixtures/torch]")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for name, content in files():
        file = args.out / f"{name}.pth"
        torch.save(content, file, _use_new_zipfile_serialization=name != "older")
        print(f"{file}: {file.stat().st_size} bytes")


if __name__ == "__main__":
    main()
