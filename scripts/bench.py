#!/usr/bin/env python3
"""Measures the CPU engine and PyTorch side by side and prints the result as Markdown.

    python3 scripts/bench.py --torch ~/torch-venv/bin/python

Criterion's benchmarks (benches/kernels.rs) take turns with those in scripts/pytorch, first bench_conv.py, then
bench_step.py, so that a change in the speed of the machine affects both. Each figure is the median over the turns, as
is the ratio to PyTorch's best mode in the same turn, which is followed by the smallest and the largest ratio. The
share of a convolution is that of the multiply-add peak measured in the same run. The roofline is the number of images
per second at that peak if each convolution took all its multiply-adds (Winograd takes fewer, so it can be exceeded).
Without --torch only our side is measured. Standard library only."""

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Floating-point operations of ResNet-32's forward pass on one image of 32x32 pixels, two per multiply-add; a training
# step takes three times as many.
FLOPS = 2 * 9 * 1024 * (3 * 16 + 10 * 16 * 16 + (16 * 32 + 9 * 32 * 32) / 4 + (32 * 64 + 9 * 64 * 64) / 16)
# The side of the images and the batch size, as in benches/kernels.rs.
NETWORKS = {"resnet32": (32, 128), "resnet18-cifar": (32, 128), "resnet50": (224, 16)}
CRITERION = ROOT / os.environ.get("CARGO_TARGET_DIR", "target") / "criterion"


def ours(filter, *flags):
    """Runs criterion once; returns {(group, name): elements per second}."""
    shutil.rmtree(CRITERION, ignore_errors=True)
    command = ["cargo", "bench", "--bench", "kernels", "--", filter, *flags]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    rates = {}
    for file in CRITERION.glob("**/new/benchmark.json"):
        about = json.loads(file.read_text())
        seconds = json.loads((file.parent / "estimates.json").read_text())["median"]["point_estimate"] * 1e-9
        name = about["function_id"] + (" " + about["value_str"] if about["value_str"] else "")
        rates[about["group_id"], name] = about["throughput"]["Elements"] / seconds
    return rates


def pytorch(python, script, *flags):
    """Runs a script of scripts/pytorch once; returns {mode: images, or floating-point operations, per second}."""
    command = [python, ROOT / "scripts/pytorch" / script, *flags]
    out = subprocess.run(command, check=True, capture_output=True, text=True)
    lines = [json.loads(line) for line in out.stdout.splitlines()]
    rate = {"bench_step.py": "images_per_second", "bench_conv.py": "flop_per_second"}[script]
    return {line["mode"]: line[rate] for line in lines if "mode" in line}


def convolutions(rates, turns):
    for precision in ("f32", "bf16"):
        group = f"conv-{precision}"
        peak = rates["peak", precision]
        print(f"Multiply-add peak in {precision}: {peak / 1e9:.0f} GFLOP/s.\n")
        print(
            f"| convolution, {precision} | forward, GFLOP/s | of the peak | ours / PyTorch's | backward, GFLOP/s | of the peak | ours / PyTorch's |"
        )
        print("|:--|--:|--:|--:|--:|--:|--:|")
        layers = {name.split()[1] for where, name in rates if where == group}
        for layer in sorted(layers, key=lambda layer: [int(n) for n in re.findall("[0-9]+", layer)]):
            cells = [layer]
            for kind in ("forward", "backward"):
                name = f"{kind} {layer}"
                rate = rates[group, name]
                ratios = [
                    mine[group, name] / theirs[f"{group} {name}"]
                    for mine, theirs in turns
                    if f"{group} {name}" in theirs
                ]
                cells += [f"{rate / 1e9:.0f}", f"{100 * rate / peak:.0f} %", spread(ratios)]
            print("| " + " | ".join(cells) + " |")
        print()


def spread(ratios):
    """The median, with the smallest and the largest."""
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})" if ratios else "–"


def steps(arch, batch, rates, modes, turns):
    print(
        f"| {arch}, batch {batch} | images/s | roofline | candle | PyTorch, eager | PyTorch, compiled | ours / PyTorch's best |"
    )
    print("|:--|--:|--:|--:|--:|--:|--:|")
    for ours, precision, kind in (
        ("train f32", "f32", "train-f32"),
        ("train bf16", "bf16", "train-bf16"),
        ("infer", "f32", "eval-f32"),
    ):
        rate, roofline, candle = rates[arch, ours], "–", "–"
        if arch == "resnet32":
            roofline = f"{rates['peak', precision] / (FLOPS * (3 if ours.startswith('train') else 1)):.0f}"
            candle = f"{rates['candle', 'train']:.0f}" if ours == "train f32" else "–"
        found = {m: r for m, r in modes.items() if m.startswith(kind)}
        best = [
            max((r for m, r in found.items() if m.endswith("compiled") == c), default=None)
            for c in (False, True)
        ]
        beside = " | ".join("not measured" if b is None else f"{b:.4g}" for b in best)
        ratios = [
            mine[arch, ours] / max(r for m, r in theirs.items() if m.startswith(kind))
            for mine, theirs in turns
            if any(m.startswith(kind) for m in theirs)
        ]
        print(f"| {ours} | {rate:.4g} | {roofline} | {candle} | {beside} | {spread(ratios)} |")
    for mode, rate in modes.items():
        print(f"\nPyTorch {mode}: {rate:.4g} images/s", end="")
    print("\n")


def main():
    parser = argparse.ArgumentParser(description="measure the CPU engine against PyTorch")
    parser.add_argument("--torch", help="Python interpreter with PyTorch")
    parser.add_argument(
        "--threads", type=int, default=2, help="threads of PyTorch [default: 2]; ours uses all cores"
    )
    parser.add_argument("--turns", type=int, default=2, help="number of turns of each side [default: 2]")
    parser.add_argument(
        "--networks",
        nargs="+",
        choices=NETWORKS,
        default=[*NETWORKS],
        help="networks whose whole steps are measured [default: all]",
    )
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--steps", action="store_true", help="measure only whole steps and inference")
    only.add_argument("--convolutions", action="store_true", help="measure only single convolutions")
    args = parser.parse_args()

    def take_turns(filter, flags, script, *theirs):
        """The results of both sides in each turn, and the medians of each side."""
        peer = [args.torch, script, "--threads", str(args.threads), *theirs]
        turns = [(ours(filter, *flags), pytorch(*peer) if args.torch else {}) for _ in range(args.turns)]
        # A slow mode of PyTorch may be left out in one turn and not in another.
        return turns, *(
            {
                key: statistics.median(t[side][key] for t in turns if key in t[side])
                for key in {key: None for t in turns for key in t[side]}
            }
            for side in (0, 1)
        )

    if not args.steps:
        # Short turns, so that both sides are measured within the same minute.
        pace = ["--warm-up-time", "0.2", "--measurement-time", "0.5"]
        turns, rates, _ = take_turns("peak|conv", pace, "bench_conv.py", "--seconds", "0.3")
        convolutions(rates, turns)
    if not args.convolutions:
        for arch in args.networks:
            side, batch = NETWORKS[arch]
            filter = f"^{arch}/" + ("|peak|candle" if arch == "resnet32" else "")
            theirs = f"--compile --arch {arch} --side {side} --batch-size {batch} --rounds 2"
            turns, rates, modes = take_turns(filter, [], "bench_step.py", *theirs.split())
            steps(arch, batch, rates, modes, turns)


if __name__ == "__main__":
    main()
