#!/usr/bin/env python3
"""Makes a tree of many small JPEGs in 100 folders, to try mk-imbalance at scale.

    python3 scripts/many-images.py many --images 100000
    /usr/bin/time -v mk-imbalance --dataset folder --data many --size 64 --out data/many

The files repeat 200 pictures, but each has a JPEG comment of its own, so that all differ. Needs Pillow and numpy.
"""

import argparse
import io
from pathlib import Path

import numpy as np
from PIL import Image


def pictures():
    """200 pictures of 64x64 pixels, as JPEG."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:64, :64]
    for _ in range(200):
        waves = [
            np.sin(x / rng.uniform(4, 20) + y / rng.uniform(4, 20) + rng.uniform(0, 6)) for _ in range(3)
        ]
        pixels = 128 + 80 * np.stack(waves, -1) + rng.normal(0, 6, (64, 64, 3))
        buffer = io.BytesIO()
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=85)
        yield buffer.getvalue()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="directory to make")
    parser.add_argument("--images", type=int, default=100_000, help="number of files [default: 100000]")
    args = parser.parse_args()
    made = list(pictures())
    for n in range(args.images):
        directory = args.out / f"class{n % 100:03d}"
        if n < 100:
            directory.mkdir(parents=True)
        jpeg = made[n % len(made)]
        # A comment segment of twelve bytes, after the first marker.
        comment = b"\xff\xfe\x00\x0a" + b"%08d" % n
        (directory / f"{n:06d}.jpg").write_bytes(jpeg[:2] + comment + jpeg[2:])


if __name__ == "__main__":
    main()
