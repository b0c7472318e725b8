"""Counts the channels of a CIFAR ResNet that are zero after their ReLU on all test images.

    python scripts/pytorch/dead_channels.py --data data/cifar10-exp-100 runs/…/last.safetensors …

Also takes the state.safetensors of a training that was stopped. Prints one JSON line per file: the dead channels of the
stem and of each block (of the ReLU inside it and of the one after its shortcut), their number and that of all channels,
and the norm of the weights of all convolutions.
"""

import argparse
import json

import torch
from resnet_s import BLOCKS, resnet_s
from safetensors.torch import load_file
from shards import normalise, read_manifest, read_split, read_stats


def main():
    parser = argparse.ArgumentParser(description="count the channels that are zero on all test images")
    parser.add_argument("checkpoints", metavar="FILE.safetensors", nargs="+")
    parser.add_argument("--arch", choices=BLOCKS, default="resnet32")
    parser.add_argument("--data", metavar="MANIFEST", required=True, help="data set, or its directory")
    args = parser.parse_args()
    manifest, directory = read_manifest(args.data)
    images, _ = read_split(manifest, directory, "test")
    stats = read_stats(manifest)
    for file in args.checkpoints:
        state = load_file(file)
        model = resnet_s(args.arch, len(state["linear.bias"]))
        model.load_state_dict({name: state[name] for name in model.state_dict()})
        print(json.dumps({"file": file} | dead(model.eval(), images, stats)), flush=True)


def dead(model, images, stats):
    """The counts of one network."""
    largest = {}

    def watch(name):
        def keep(_, __, out):
            most = out.clamp(min=0).amax((0, 2, 3))
            largest[name] = torch.maximum(largest.get(name, most), most)

        return keep

    for name, module in model.named_modules():
        is_block = name.startswith("layer") and name.count(".") == 1
        if is_block or name.endswith("bn1"):
            module.register_forward_hook(watch(name))
    with torch.no_grad():
        for xs in images.split(500):
            model(normalise(xs, stats, "cpu"))
    counts = {name: int((most == 0).sum()) for name, most in largest.items()}
    convolutions = [p for p in model.parameters() if p.dim() == 4]
    return {
        "dead": sum(counts.values()),
        "channels": sum(len(most) for most in largest.values()),
        "norm": round(sum(float(p.detach().norm()) ** 2 for p in convolutions) ** 0.5, 2),
        "by_layer": {name: n for name, n in counts.items() if n},
    }


if __name__ == "__main__":
    main()
