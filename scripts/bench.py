#!/usr/bin/env python3
"""Measures the CPU engine and PyTorch side by side and prints the result as Markdown.

    python3 scripts/bench.py --torch ~/torch-venv/bin/python

Criterion's benchmarks (benches/kernels.rs) and scripts/pytorch/bench_step.py take turns, so that a change of the
machine's speed hits both. Each figure is the median over the turns; a convolution's share is of the
multiply-add peak that was measured in the same turn. Without --torch only our side is measured. Standard
library only.
"""

import argparse
import json
import shutil
import statistics
import subprocess
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CRITERION = ROOT / "target/criterion"


def ours():
    """One run of criterion: {(group, name): elements per second}."""
    shutil.rmtree(CRITERION, ignore_errors=True)
    subprocess.run(["cargo", "bench", "--bench", "kernels"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    rates = {}
    for file in CRITERION.glob("**/new/benchmark.json"):
        about = json.loads(file.read_text())
        seconds = json.loads((file.parent / "estimates.json").read_text())["median"]["point_estimate"] * 1e-9
        name = about["function_id"] + (" " + about["value_str"] if about["value_str"] else "")
        rates[about["group_id"], name] = about["throughput"]["Elements"] / seconds
    return rates


def pytorch(python, threads):
    """One run of the peer: {mode: images per second}."""
    script = ROOT / "scripts/pytorch/bench_step.py"
    out = subprocess.run([python, script, "--threads", str(threads)], check=True, capture_output=True, text=True)
    lines = [json.loads(line) for line in out.stdout.splitlines()]
    return {line["mode"]: line["images_per_second"] for line in lines if "mode" in line}


def main():
    parser = argparse.ArgumentParser(description="measure the CPU engine beside PyTorch")
    parser.add_argument("--torch", help="Python interpreter that has PyTorch")
    parser.add_argument("--threads", type=int, default=2, help="threads of PyTorch [default: 2]; ours uses all cores")
    parser.add_argument("--turns", type=int, default=2, help="turns that each side takes [default: 2]")
    args = parser.parse_args()

    rates, modes = defaultdict(list), defaultdict(list)
    for _ in range(args.turns):
        for key, rate in ours().items():
            rates[key].append(rate)
        for mode, rate in (pytorch(args.torch, args.threads) if args.torch else {}).items():
            modes[mode].append(rate)

    peak = statistics.median(rates["peak", "fma"])
    print(f"Multiply-add peak: {peak / 1e9:.0f} GFLOP/s (f32).\n")
    print("| convolution | GFLOP/s | share of the peak |\n|:--|--:|--:|")
    for (group, name), found in sorted(rates.items()):
        if group == "conv":
            rate = statistics.median(found)
            print(f"| {name} | {rate / 1e9:.0f} | {100 * rate / peak:.0f} % |")
    print("\n| ResNet-32, batch 128, f32 | images/s | PyTorch's best | ratio |\n|:--|--:|--:|--:|")
    for name, kind in (("train", "train-f32"), ("infer", "eval-f32")):
        rate = statistics.median(rates["resnet32", name])
        best = max(((statistics.median(r), m) for m, r in modes.items() if m.startswith(kind)), default=None)
        beside = f"{best[0]:.0f} ({best[1]}) | {rate / best[0]:.2f}" if best else "not measured | –"
        print(f"| {name} | {rate:.0f} | {beside} |")
    for mode, found in modes.items():
        print(f"\nPyTorch {mode}: {statistics.median(found):.0f} images/s", end="")
    print()


if __name__ == "__main__":
    main()
