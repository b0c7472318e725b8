#!/usr/bin/env python3
"""Measures how fast `mk-imbalance` makes shards of a folder of images, against as many processes with Pillow as cores.

    python3 scripts/bench-images.py target/release/mk-imbalance DIR --size 64

Both decode every file, turn it upright, resize it, crop the centre and write the pixels to disk; mk-imbalance also
hashes the files and the shards. They take turns; each figure is the median over the turns, in images per second.
Needs Pillow."""

import argparse
import os
import statistics
import subprocess
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from PIL import Image, ImageOps

ENDINGS = {
    ".jpg", ".jpeg", ".jpe", ".png", ".bmp", ".webp", ".gif", ".ppm", ".pgm", ".pbm", ".pnm", ".tif", ".tiff"
}  # fmt: skip


def square(path, size):
    image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    width, height = image.size
    short = min(width, height)
    image = image.resize((int(size * width / short), int(size * height / short)), Image.BILINEAR)
    left, top = round((image.width - size) / 2), round((image.height - size) / 2)
    return image.crop((left, top, left + size, top + size)).tobytes()


def squares(paths, size, out):
    with open(out, "wb") as file:
        made = sum(file.write(square(path, size)) for path in paths)
        file.flush()
        os.fsync(file.fileno())
    return made


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tool", type=Path, help="the program mk-imbalance")
    parser.add_argument("data", type=Path, help="directory of the images, with a folder for each class")
    parser.add_argument("--size", type=int, default=64, help="height and width of the result [default: 64]")
    parser.add_argument("--turns", type=int, default=3, help="number of turns of each side [default: 3]")
    args = parser.parse_args()
    paths = [p for p in args.data.rglob("*") if p.suffix.lower() in ENDINGS]
    cores = os.cpu_count()
    ours, theirs, memory = [], [], 0
    for path in paths:
        path.read_bytes()
    for _ in range(args.turns):
        with tempfile.TemporaryDirectory() as scratch:
            started = time.perf_counter()
            flags = ["-q", "--dataset", "folder", "--size", str(args.size), "--out", f"{scratch}/out"]
            command = [args.tool, "--data", args.data, *flags]
            tool = subprocess.Popen(
                command, stdout=subprocess.DEVNULL, env=os.environ | {"REMIX_CACHE_DIR": scratch}
            )
            _, status, usage = os.wait4(tool.pid, 0)
            assert status == 0, "mk-imbalance failed"
            ours.append(len(paths) / (time.perf_counter() - started))
            memory = max(memory, usage.ru_maxrss)
        with ProcessPoolExecutor(cores) as pool, tempfile.TemporaryDirectory() as scratch:
            list(pool.map(abs, range(cores)))
            started = time.perf_counter()
            parts = [paths[n :: cores * 8] for n in range(cores * 8)]
            files = [f"{scratch}/{n}" for n in range(len(parts))]
            assert (
                sum(pool.map(squares, parts, [args.size] * len(parts), files))
                == len(paths) * args.size**2 * 3
            )
            theirs.append(len(paths) / (time.perf_counter() - started))
    ratios = [a / b for a, b in zip(ours, theirs)]
    print(
        f"{len(paths)} images to {args.size}x{args.size} on {cores} cores, images/s (medians of {args.turns} turns):"
    )
    print(
        f"mk-imbalance {statistics.median(ours):.0f}, a pool with Pillow {statistics.median(theirs):.0f}, ",
        end="",
    )
    print(
        f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}); memory of ours at most {memory / 1024:.0f} MiB"
    )


if __name__ == "__main__":
    main()
