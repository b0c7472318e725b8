"""Loads one of our checkpoints into the reference network, strictly, and evaluates it if given data.

    python scripts/pytorch/check_checkpoint.py runs/…/last.safetensors --arch resnet32 --data data/…

Prints one JSON line. Exits with 1 if a tensor is missing, unknown or of another shape. A classifier without a bias is
taken to be LDAM's cosine classifier, which is implemented only for the CIFAR ResNets.
"""

import argparse
import json

from fixture_zoo import NETWORKS
from resnet_s import BLOCKS, resnet_s
from safetensors.torch import load_file
from shards import read_manifest, read_split, read_stats

from train import accuracy


def main():
    parser = argparse.ArgumentParser(description="load a checkpoint into the reference ResNet")
    parser.add_argument("checkpoint", metavar="FILE.safetensors")
    parser.add_argument("--arch", choices=[*BLOCKS, *NETWORKS], default="resnet32")
    parser.add_argument("--data", metavar="MANIFEST", help="data set to evaluate on, or its directory")
    parser.add_argument("--split", choices=["train", "val", "test"], default="test")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    args = parser.parse_args()

    state = load_file(args.checkpoint)
    name = "fc" if "fc.weight" in state else "linear"
    if f"{name}.weight" not in state:
        raise SystemExit(f"{args.checkpoint}: no {name}.weight; give a last.safetensors or best.safetensors")
    use_norm = f"{name}.bias" not in state
    classes = state[f"{name}.weight"].shape[1 if use_norm else 0]
    model = NETWORKS[args.arch](classes) if args.arch in NETWORKS else resnet_s(args.arch, classes, use_norm)
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as e:
        raise SystemExit(f"{args.checkpoint}: does not load into {args.arch}: {e}") from None
    model.to(args.device)
    found = {"checkpoint": args.checkpoint, "arch": args.arch, "classes": classes, "use_norm": use_norm}
    found |= {"tensors": len(state), "loads": True}
    if args.data:
        manifest, directory = read_manifest(args.data)
        images, labels = read_split(manifest, directory, args.split)
        found |= {"split": args.split, "images": len(labels)}
        top1 = accuracy(model, images, labels, read_stats(manifest), args.device)
        found |= {"top1": round(top1, 3)}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
