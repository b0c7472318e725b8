"""Writes the golden fixtures of the Rust tests, computed by PyTorch, scikit-learn and plain scalar Python.

    python scripts/pytorch/make_fixtures.py            # all, into tests/fixtures

- `resnet32.safetensors`, `manifold.json` (fixture_resnet.py): logits, loss, gradients and three SGD steps of a
  ResNet-32; loss and gradients of a step in which hidden states are mixed.
- `metrics.json` (fixture_metrics.py): the metrics of `eval` for 200 × 10 random logits.
- `methods.json` (fixture_methods.py): Remix, CutMix's patches, class weights, sampling, margins and schedules.
- `classifiers.json` (fixture_classifiers.py): steps and results of classifiers on features.
- `losses.json` (fixture_losses.py): each loss with its gradients.
- `zoo.json` (fixture_zoo.py): logits, losses and gradients of torchvision's ResNets and of the wide ones for CIFAR.

The docstring of each module specifies its file. How far PyTorch's own f32 is from the results in float64 is printed on
stderr. The bytes are the same in every run, except that another build of PyTorch may round the last bits of
`resnet32.safetensors` differently.
"""

import argparse
import json
from pathlib import Path

import fixture_classifiers
import fixture_losses
import fixture_methods
import fixture_metrics
import fixture_resnet
import fixture_zoo
from safetensors.torch import save_file

DEFAULT = Path(__file__).resolve().parents[2] / "tests/fixtures"


def main():
    parser = argparse.ArgumentParser(description="write the golden fixtures of the Rust tests")
    parser.add_argument("--out", type=Path, default=DEFAULT, help="directory [default: tests/fixtures]")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    save_file(fixture_resnet.make(), args.out / "resnet32.safetensors")
    made_by = {
        "classifiers": fixture_classifiers.make,
        "metrics": fixture_metrics.make,
        "methods": fixture_methods.make,
        "losses": fixture_losses.make,
        "manifold": fixture_resnet.manifold,
        "zoo": lambda: fixture_zoo.rounded(fixture_zoo.make()),
    }
    for name, made in ((name, make()) for name, make in made_by.items()):
        # One top-level value per line: compact, and a diff still shows what changed.
        lines = ",\n".join(f'"{k}": {json.dumps(v, separators=(",", ":"))}' for k, v in made.items())
        (args.out / f"{name}.json").write_text("{\n" + lines + "\n}\n")
    for f in ["resnet32.safetensors", *(f"{name}.json" for name in made_by)]:
        print(f"{args.out / f}: {(args.out / f).stat().st_size} bytes")


if __name__ == "__main__":
    main()
