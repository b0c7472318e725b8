"""Shows how much one ReLU whose input changes its sign by rounding changes the gradients of a network.

    python scripts/pytorch/relu_flips.py resnet18-cifar 27 44

This explains why gradients in f32 can differ by a thousandth from those in f64. Takes a training step of a network of
`fixture_zoo.py` in f64, and then again for each of the ReLU inputs nearest to zero, with the mask of that one ReLU
inverted. Prints the input (such inputs have a standard deviation of about one) and the gradient that changes most, by
the two numbers that the fixture stores, relative to its length."""

import argparse

import fixture_zoo
import torch
import torch.nn.functional as F
from fixture_resnet import uniform


class Relu:
    """ReLU, except that the mask of one value is inverted."""

    def __init__(self):
        self.nearest, self.flipped, self.call = [], None, 0

    def begin(self, flipped=None):
        self.nearest, self.flipped, self.call = [], flipped, 0

    def __call__(self, xs, inplace=False):
        mask = xs > 0
        if self.flipped and self.flipped[1] == self.call:
            mask = mask.flatten().clone()
            mask[self.flipped[2]] ^= True
            mask = mask.view_as(xs)
        # Exact zeros are skipped; they are of channels that are shut everywhere.
        sizes = xs.detach().abs().flatten()
        sizes[sizes == 0] = 1
        self.nearest += [
            (size.item(), self.call, at.item()) for size, at in zip(*sizes.topk(3, largest=False))
        ]
        self.call += 1
        return xs * mask


def gradients(model, xs):
    model.zero_grad()
    F.cross_entropy(model(xs), torch.tensor(fixture_zoo.LABELS)).backward()
    return {n: p.grad.flatten().clone() for n, p in model.named_parameters()}


def deviation(found, truth):
    """The largest relative deviation of the fixture's two numbers, and its gradient.

    Gradients shorter than 1e-4 of the longest, which may be rounding alone, count as that long.
    """
    least = 1e-4 * max(true.norm().item() for true in truth.values())
    most = (0.0, "")
    for name, true in truth.items():
        probe = torch.from_numpy(uniform("probe", (true.numel(),))).double() - 0.5
        length = max(true.norm().item(), least)
        off = max(abs(found[name].norm() - true.norm()).item(), abs((found[name] - true) @ probe).item())
        most = max(most, (off / length, name))
    return most


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("arch", choices=fixture_zoo.NETWORKS)
    parser.add_argument("height", type=int)
    parser.add_argument("width", type=int)
    parser.add_argument(
        "--flips", type=int, default=5, help="number of ReLUs, each inverted alone [default: 5]"
    )
    args = parser.parse_args()
    relu = Relu()
    F.relu = torch.relu = relu
    model = fixture_zoo.network(args.arch).double().train()
    for module in model.modules():
        if isinstance(module, torch.nn.ReLU):
            module.forward = relu
    pixels = uniform(
        f"pixels.{args.height}x{args.width}", (len(fixture_zoo.LABELS), 3, args.height, args.width)
    )
    xs = 4 * torch.from_numpy(pixels).double() - 2
    truth = gradients(model, xs)
    for flipped in sorted(relu.nearest)[: args.flips]:
        relu.begin(flipped)
        off, name = deviation(gradients(model, xs), truth)
        print(
            f"{args.arch} {args.height}x{args.width}: ReLU {flipped[1]}, input {flipped[0]:.1e}: {name} is {off:.1e} off"
        )


if __name__ == "__main__":
    main()
