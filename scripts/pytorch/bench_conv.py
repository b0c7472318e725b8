"""Times PyTorch's 3x3 convolutions at the widths of a ResNet-18, channels last, batch 128: GFLOP/s, the fastest of some runs.

    python scripts/pytorch/bench_conv.py --threads 2
"""

import argparse
import time

import torch
import torch.nn.functional as F

SIZES = [(32, 64, 64, 1), (16, 128, 128, 1), (8, 256, 256, 1), (8, 256, 512, 2), (4, 512, 512, 1)]


def fastest(run, repeats):
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def main():
    parser = argparse.ArgumentParser(description="time PyTorch's convolutions")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads [default: 2]")
    parser.add_argument("--precision", choices=["f32", "bf16"], default="f32", help="[default: f32]")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=6, help="timed runs [default: 6]")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    dtype = torch.bfloat16 if args.precision == "bf16" else torch.float32
    for side, cin, cout, stride in SIZES:
        image = torch.randn(args.batch_size, cin, side, side, dtype=dtype)
        x = image.contiguous(memory_format=torch.channels_last).requires_grad_()
        w = torch.randn(cout, cin, 3, 3, dtype=dtype).contiguous(memory_format=torch.channels_last).requires_grad_()
        y = F.conv2d(x, w, stride=stride, padding=1)
        g = torch.randn_like(y)
        flops = 2 * 9 * cin * y.numel()
        with torch.no_grad():
            forward = fastest(lambda: F.conv2d(x, w, stride=stride, padding=1), args.repeats)
        backward = fastest(lambda: torch.autograd.grad(y, (x, w), g, retain_graph=True), args.repeats)
        name = f"{cin}-{cout}@{side}/{stride}"
        print(f"{name}: forward {flops / forward / 1e9:.0f}, backward {2 * flops / backward / 1e9:.0f} GFLOP/s")


if __name__ == "__main__":
    main()
