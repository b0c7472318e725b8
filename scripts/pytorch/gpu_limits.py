"""Measures the limits of a GPU: copy bandwidth and the rate of large bf16 matrix products. Prints one JSON line.

python scripts/pytorch/gpu_limits.py --device 0
"""

import argparse
import json
import statistics

import torch


def seconds(f, repeats=20):
    """The median time of a call in seconds, by events on the GPU."""
    for _ in range(3):
        f()
    times = []
    for _ in range(repeats):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        f()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) * 1e-3)
    return statistics.median(times)


def main():
    parser = argparse.ArgumentParser(description="measure a GPU's copy bandwidth and bf16 rate")
    parser.add_argument("--device", type=int, default=0)
    torch.cuda.set_device(parser.parse_args().device)
    source = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    copy = 2 * source.numel() / seconds(lambda: target.copy_(source))
    n = 8192
    a, b = (torch.randn(n, n, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    gemm = 2 * n**3 / seconds(lambda: a @ b)
    print(
        json.dumps(
            {"device": torch.cuda.get_device_name(), "copy_bytes_per_s": copy, "bf16_flop_per_s": gemm}
        )
    )


if __name__ == "__main__":
    main()
