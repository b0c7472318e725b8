"""Reads whole splits of a data set of `mk-imbalance` (a manifest.json and safetensors shards), and normalises images.

Does not check hashes; the tools do that with `--verify`.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

# What networks normalise by if the data set has no values of its own: the reference recipe's, for CIFAR.
CIFAR = {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2023, 0.1994, 0.2010)}


def read_manifest(path):
    """The manifest and its directory, given the path of either."""
    path = Path(path)
    if path.is_dir():
        path = path / "manifest.json"
    manifest = json.loads(path.read_text())
    if manifest.get("kind") != "dataset":
        raise SystemExit(f"{path}: kind is {manifest.get('kind')!r}; give a data set of mk-imbalance")
    return manifest, path.parent


def read_split(manifest, directory, role):
    """Images (N, H, W, C) u8, as evaluation sees them, and labels (N) i64 of the split `train`, `val` or `test`."""
    files = [directory / o["path"] for o in manifest["outputs"] if o["role"] == role]
    if not files:
        raise SystemExit(f"{directory}: the data set has no split {role!r}")
    shards = [load_file(f) for f in files]
    images, labels = torch.cat([s["images"] for s in shards]), torch.cat([s["labels"] for s in shards])
    if side := manifest["metrics"].get("crop"):
        top, left = (round((stored - side) / 2) for stored in images.shape[1:3])
        images = images[:, top : top + side, left : left + side]
    return images, labels


def read_stats(manifest):
    """The mean and standard deviation that networks normalise by."""
    return manifest["metrics"].get("normalise") or CIFAR


def normalise(images, stats, device):
    """(N, H, W, C) u8 → (N, C, H, W) f32; the permuted view is channels_last in memory."""
    xs = images.to(device).float().div_(255)
    xs = xs.sub_(torch.tensor(stats["mean"], device=device)).div_(torch.tensor(stats["std"], device=device))
    return xs.permute(0, 3, 1, 2)
