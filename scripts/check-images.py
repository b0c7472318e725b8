#!/usr/bin/env python3
"""Compares the pixels of a data set of image files with those of torchvision's Resize and CenterCrop.

    python3 scripts/check-images.py data/photographs-64-KEY photographs

Prints for each format how much they differ: the largest difference, the share of values that are more than two levels
off and the mean difference, the latter two over all images and for the worst one. Grey images of 16 bits are left
out, because Pillow clips them at 255. Needs PyTorch, torchvision and safetensors."""

import argparse
import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from safetensors.numpy import load_file
from torchvision.transforms import CenterCrop, Resize


def expected(image, preprocess):
    side = preprocess.get("resize", preprocess["size"])
    image = ImageOps.exif_transpose(image).convert("RGB")
    if preprocess.get("squash"):
        return np.asarray(image.resize((side, side), Image.BILINEAR))
    return np.asarray(CenterCrop(side)(Resize(side)(image)))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path, help="directory of the data set")
    parser.add_argument("files", type=Path, help="directory of the image files")
    args = parser.parse_args()
    preprocess = json.loads((args.dataset / "manifest.json").read_text())["metrics"]["preprocess"]
    paths = [line.rsplit("\t", 1)[0] for line in (args.dataset / "files.tsv").read_text().split("\n")[:-1]]
    by_format = {}
    for shard in sorted(args.dataset.glob("*.safetensors")):
        tensors = load_file(shard)
        for pixels, row in zip(tensors["images"], tensors["source_index"]):
            image = Image.open(args.files / paths[row])
            if image.mode.startswith("I"):
                continue
            off = np.abs(pixels.astype(int) - expected(image, preprocess))
            by_format.setdefault(image.format, []).append((off.max(), (off > 2).mean(), off.mean()))
    for name, rows in sorted(by_format.items()):
        most, share, mean = np.array(rows).T
        print(f"{name}: {len(rows)} images, at most {most.max():.0f} levels, ", end="")
        print(
            f"{share.mean():.4%} more than two ({share.max():.2%} of the worst image), mean {mean.mean():.3f} ({mean.max():.3f})"
        )


if __name__ == "__main__":
    main()
