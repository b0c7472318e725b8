"""Reads whole splits of a data set of `mk-imbalance` (a manifest.json and safetensors shards) into memory.

Does not check hashes; the tools do that with `--verify`.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file


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
    """Images (N, H, W, C) u8 and labels (N) i64 of the split `train`, `val` or `test`."""
    files = [directory / o["path"] for o in manifest["outputs"] if o["role"] == role]
    if not files:
        raise SystemExit(f"{directory}: the data set has no split {role!r}")
    shards = [load_file(f) for f in files]
    return torch.cat([s["images"] for s in shards]), torch.cat([s["labels"] for s in shards])
