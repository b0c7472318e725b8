#!/usr/bin/env python3
"""Measures training steps on a GPU against PyTorch and against the limits of the card, and prints Markdown.

    python3 scripts/bench-cuda.py --torch ~/torch-venv/bin/python

Our side is benches/cuda.rs (a step as one CUDA graph, including the loader). PyTorch's side is
scripts/pytorch/bench_step.py, without a loader: the eager step, the eager step recorded as one CUDA graph,
torch.compile with CUDA graphs, and the reference code's loop over the samples. Both sides take turns; each figure is
the median over the turns. The limits are a step's bytes divided by the measured copy bandwidth, and its FLOPs divided
by the measured rate of a large bf16 matrix product (scripts/pytorch/gpu_limits.py). Standard library only."""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BATCH = 128
# The quick ones first, so that there are results if the time runs out.
PEERS = {
    "eager": "--repeats 20 --warmup 20",
    "graph": "--skip-eager --graph --repeats 50 --warmup 20",
    "loop": "--skip-eager --loop --repeats 2 --warmup 2",
    "compiled-bf16": "--skip-eager --compile --precision bf16 --repeats 20 --warmup 20",
    "compiled-f32": "--skip-eager --compile --precision f32 --repeats 20 --warmup 20",
}


def convolutions(blocks=5):
    """(pixels out, channels in, channels out, pixels in) of the convolutions of a CIFAR ResNet, here ResNet-32."""
    all, pixels, channels = [(1024, 3, 16, 1024)], 1024, 16
    for stage in range(3):
        for block in range(blocks):
            out = 16 << stage
            into = pixels // 4 if stage and not block else pixels
            all += [(into, channels, out, pixels), (into, out, out, into)]
            pixels, channels = into, out
    return all


def work(size):
    """FLOPs and bytes of a step with values of `size` bytes; a tensor counts once for each kernel that uses it."""
    flop = bytes = 0
    for n, (pixels, cin, cout, before) in enumerate(convolutions()):
        out, into = pixels * cout, before * (4 if n == 0 else cin)
        flop += 2 * 9 * pixels * cin * cout * (2 if n == 0 else 3)
        # Forward: the raw values of the input, for the first layer of a block also a shortcut, the input as it is
        # stored for the backward pass, and the result.
        bytes += size * (into + out + (into + (n % 2) * into if n else 0))
        # Weight gradient: dz, y and the input. Input gradient: dz, y, the input (its mask), the previous y, in the
        # first layer of a block also a residual, and the result.
        bytes += size * (2 * out + into) + (size * (2 * out + (3 + n % 2) * into) if n else 0)
    return flop * BATCH, bytes * BATCH


def lines(command, seconds=None):
    """The JSON lines that a command prints; none, with a message, if it fails or takes longer than `seconds`."""
    print("+", *command, file=sys.stderr, flush=True)
    try:
        out = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        print(f"not finished after {seconds} s; left out", file=sys.stderr, flush=True)
        return []
    if out.returncode:
        print(f"failed with exit code {out.returncode}; left out", file=sys.stderr, flush=True)
        return []
    return [json.loads(line) for line in out.stdout.splitlines() if line.startswith("{")]


def main():
    parser = argparse.ArgumentParser(description="measure the GPU engine against PyTorch")
    parser.add_argument(
        "--torch", help="Python interpreter with PyTorch for CUDA; without it only our side is measured"
    )
    parser.add_argument("--ours", help="the compiled benches/cuda.rs [default: built by cargo]")
    parser.add_argument("--turns", type=int, default=3, help="number of turns of each side [default: 3]")
    parser.add_argument(
        "--peers",
        nargs="+",
        choices=PEERS,
        default=list(PEERS),
        help="modes of PyTorch to measure [default: all]",
    )
    parser.add_argument("--limit", type=float, help="time limit of each PyTorch command in seconds")
    parser.add_argument("--json", help="also write all measurements to this file")
    parser.add_argument(
        "--dry", action="store_true", help="print the commands that would be run, and the work of a step"
    )
    args = parser.parse_args()

    ours_command = [args.ours] if args.ours else ["cargo", "bench", "--bench", "cuda", "--"]
    limits_command = [args.torch, "scripts/pytorch/gpu_limits.py"]
    peer = [args.torch, "scripts/pytorch/bench_step.py", "--device", "cuda", "--train", "--rounds", "5"]
    peers = [[*peer, *flags.split()] for name, flags in PEERS.items() if name in args.peers]
    for precision, size in (("bf16", 2), ("f32", 4)):
        flop, bytes = work(size)
        print(
            f"A step of ResNet-32 at batch {BATCH} in {precision}: {flop / 1e9:.1f} GFLOP, {bytes / 1e9:.2f} GB.",
            flush=True,
        )
    if args.dry:
        for command in [ours_command + ["DATASET"], *([limits_command, *peers] if args.torch else [])]:
            print("+", *command)
        return

    ours, modes, limits = defaultdict(list), defaultdict(list), []
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch) / "data"
        tool = ROOT / os.environ.get("CARGO_TARGET_DIR", "target") / "release/mk-imbalance"
        subprocess.run(
            [tool, "--dataset", "synthetic", "--imb-type", "none", "--out", data, "-q"],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        for _ in range(args.turns):
            for line in lines([*ours_command, data]):
                ours[line["precision"]].append(line)
                print(
                    f"ours, {line['precision']}: {line['step_ms']:.3f} ms a step", file=sys.stderr, flush=True
                )
            limits += lines(limits_command) if args.torch else []
            for command in peers if args.torch else []:
                for line in lines(command, args.limit):
                    if "mode" in line:
                        modes[line["mode"]].append(line["milliseconds"])
                        print(
                            f"PyTorch {line['mode']}: {line['milliseconds']:.3f} ms a step",
                            file=sys.stderr,
                            flush=True,
                        )
                # Written after each command, because the next one may not finish in time.
                if args.json:
                    Path(args.json).write_text(
                        json.dumps({"ours": ours, "torch": modes, "limits": limits}, indent=1)
                    )
    if args.json:
        Path(args.json).write_text(json.dumps({"ours": ours, "torch": modes, "limits": limits}, indent=1))
    if not ours:
        sys.exit("no GPU: nothing was measured")

    median = lambda rows, key: statistics.median(row[key] for row in rows)
    print(f"\n{ours['bf16'][0]['device']}\n")
    if limits:
        copy, gemm = median(limits, "copy_bytes_per_s"), median(limits, "bf16_flop_per_s")
        print(f"Copy: {copy / 1e12:.2f} TB/s. bf16 matrix product: {gemm / 1e12:.0f} TFLOP/s.\n")
    print("| training step, batch 128 | ms | images/s | TFLOP/s | GB/s |\n|:--|--:|--:|--:|--:|")

    def row(name, ms, networks=1, size=None):
        rates = "| | |"
        if size:
            flop, bytes = work(size)
            rates = f"| {networks * flop / ms / 1e9:.1f} | {networks * bytes / ms / 1e6:.0f} |"
        print(f"| {name} | {ms:.3f} | {networks * BATCH / ms * 1e3:.0f} {rates}")

    for precision, size in (("bf16", 2), ("f32", 4)):
        if rows := ours.get(precision):
            row(
                f"ours, {precision}, one graph of {rows[0]['launches']} launches",
                median(rows, "step_ms"),
                1,
                size,
            )
            for i, (n, _) in enumerate(rows[0]["side_by_side"]):
                row(
                    f"ours, {precision}, {n} networks at once",
                    statistics.median(r["side_by_side"][i][1] for r in rows),
                    n,
                    size,
                )
    for mode, times in modes.items():
        row("PyTorch " + mode.removeprefix("train-"), statistics.median(times))
    if limits:
        flop, bytes = work(2)
        row("limit in bf16: bytes over copy bandwidth", bytes / copy * 1e3)
        row("limit in bf16: FLOPs over the matrix product's rate", flop / gemm * 1e3)
    rows = ours["bf16"]
    print(
        f"\nAn epoch of {rows[0]['epoch_steps']} steps takes {median(rows, 'epoch_ms'):.1f} ms with its plan; {rows[0]['test_images']} "
        f"test images {median(rows, 'test_ms'):.1f} ms.\n\n| kernel, bf16 | launches | µs in all |\n|:--|--:|--:|"
    )
    kernels = defaultdict(list)
    for name, us in rows[-1]["kernels_us"]:
        kernels[name].append(us)
    for name, us in sorted(kernels.items(), key=lambda k: -sum(k[1])):
        print(f"| {name} | {len(us)} | {sum(us):.1f} |")


if __name__ == "__main__":
    main()
