"""Times PyTorch's 3x3 convolutions of a ResNet-32 and a ResNet-18, channels last: one JSON line each, a median.

python scripts/pytorch/bench_conv.py --threads 2
"""

import argparse
import json
import statistics
import time

import torch
import torch.nn.functional as F

SIZES = [
    (32, 16, 16, 1),
    (32, 16, 32, 2),
    (16, 32, 32, 1),
    (16, 32, 64, 2),
    (8, 64, 64, 1),
    (32, 64, 64, 1),
    (16, 128, 128, 1),
    (8, 256, 256, 1),
    (8, 256, 512, 2),
    (4, 512, 512, 1),
]


def median(run, seconds):
    """The median time of a run in seconds, after one that is not counted."""
    run()
    times, end = [], time.perf_counter() + seconds
    while not times or time.perf_counter() < end:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main():
    parser = argparse.ArgumentParser(description="time PyTorch's convolutions")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads [default: 2]")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--seconds", type=float, default=1.0, help="seconds of each measurement [default: 1]")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for precision, dtype in (("f32", torch.float32), ("bf16", torch.bfloat16)):
        for side, cin, cout, stride in SIZES:
            image = torch.randn(args.batch_size, cin, side, side, dtype=dtype)
            x = image.contiguous(memory_format=torch.channels_last).requires_grad_()
            w = (
                torch.randn(cout, cin, 3, 3, dtype=dtype)
                .contiguous(memory_format=torch.channels_last)
                .requires_grad_()
            )
            y = F.conv2d(x, w, stride=stride, padding=1)
            g = torch.randn_like(y)
            flops = 2 * 9 * cin * y.numel()
            with torch.no_grad():
                forward = median(lambda: F.conv2d(x, w, stride=stride, padding=1), args.seconds)
            backward = median(lambda: torch.autograd.grad(y, (x, w), g, retain_graph=True), args.seconds)
            for kind, rate in (("forward", flops / forward), ("backward", 2 * flops / backward)):
                line = {
                    "mode": f"conv-{precision} {kind} {cin}-{cout}@{side}/{stride}",
                    "flop_per_second": round(rate),
                }
                print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
