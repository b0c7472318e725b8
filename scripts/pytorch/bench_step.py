"""Times PyTorch's training step and inference of ResNets, for comparison with our engine.

    python scripts/pytorch/bench_step.py --threads 2             # CPU
    python scripts/pytorch/bench_step.py --device cuda --compile # GPU, also torch.compile with CUDA graphs
    python scripts/pytorch/bench_step.py --device cuda --graph   # GPU, also the eager step recorded as one CUDA graph
    python scripts/pytorch/bench_step.py --device cuda --loop    # also with the reference code's loss, sample by sample

A step consists of forward, cross-entropy, backward, and SGD with momentum and weight decay, on a batch that is already
on the device. Modes take turns, so that a change in the speed of the machine affects all of them. Prints one JSON
line for each mode (median, quartiles and fastest of all repeats; on a busy machine only the fastest is meaningful),
then one that names the fastest mode of each precision for training and for inference. Modes that need longer than
--limit for one run are left out, such as bf16 on a processor without instructions for it.
"""

import argparse
import json
import statistics
import time

import torch
import torch.nn.functional as F
from fixture_zoo import NETWORKS
from resnet_s import BLOCKS, resnet_s


class Mode:
    """One way to run the network; `once()` runs it once."""

    def __init__(self, args, train, bf16, channels_last, compiled=False, loop=False, graph=False):
        self.name = "-".join([
            "train" if train else "eval",
            "bf16" if bf16 else "f32",
            "channels_last" if channels_last else "contiguous",
            *["compiled"] * compiled,
            *["loop"] * loop,
            *["graph"] * graph,
        ])  # fmt: skip
        self.train, self.bf16, self.device, self.graph = train, bf16, args.device, graph
        self.compiled = compiled
        layout = torch.channels_last if channels_last else torch.contiguous_format
        torch.manual_seed(0)
        model = NETWORKS[args.arch]() if args.arch in NETWORKS else resnet_s(args.arch)
        self.model = model.to(args.device, memory_format=layout).train(train)
        shape = args.batch_size, 3, args.side, args.side
        self.xs = torch.randn(shape, device=args.device).contiguous(memory_format=layout)
        self.ys = torch.randint(10, (args.batch_size,), device=args.device)
        self.sgd = torch.optim.SGD(self.model.parameters(), 0.1, momentum=0.9, weight_decay=2e-4, fused=True)
        # Freezing folds batch norm into the convolutions, as our inference does.
        how = {"triton.cudagraphs": args.device == "cuda", "freezing": not train}
        self.run = torch.compile(self.loss, options=how) if compiled else self.loss
        if loop:
            self.run = self.loss_by_sample
        self.replay = self.record(args.warmup) if graph else None
        self.seconds = []

    def record(self, warmup):
        """Records the whole step as a CUDA graph, as in PyTorch's notes on CUDA semantics; returns what replays it."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(warmup):
                self.step()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # The gradients are allocated anew, so that they are in the memory of the graph.
        self.sgd.zero_grad(set_to_none=True)
        with torch.cuda.graph(graph):
            self.run().backward()
            self.sgd.step()
        return graph.replay

    def loss_by_sample(self):
        """Remix's loss as in the reference code: a Python loop over the batch."""
        logits, total, n = self.model(self.xs), 0.0, len(self.xs)
        for i in range(n):
            share = 0.25 if i % 2 else 0.75
            total += share * F.cross_entropy(logits[i : i + 1], self.ys[i : i + 1])
            total += (1 - share) * F.cross_entropy(logits[i : i + 1], self.ys[n - 1 - i : n - i])
        return total / n

    def loss(self):
        # A weight is cast only once per step, so autocast's cache is useless; while recording it must be off.
        with torch.autocast(self.device, torch.bfloat16, enabled=self.bf16, cache_enabled=not self.graph):
            logits = self.model(self.xs)
        return F.cross_entropy(logits.float(), self.ys) if self.train else logits

    def once(self):
        if self.replay:
            return self.replay()
        if not self.train:
            with torch.no_grad():
                return self.run()
        return self.step()

    def step(self):
        self.sgd.zero_grad(set_to_none=True)
        self.run().backward()
        return self.sgd.step()

    def warm_up(self, runs, limit):
        """Runs the mode without timing it; returns whether no run took longer than `limit` seconds. The first run of a
        compiled mode may, because it compiles."""
        for n in range(runs):
            start = time.perf_counter()
            self.once()
            synchronize(self.device)
            if time.perf_counter() - start > limit and (n > 0 or not self.compiled):
                return False
        return True

    def time(self, repeats):
        for _ in range(repeats):
            synchronize(self.device)
            start = time.perf_counter()
            self.once()
            synchronize(self.device)
            self.seconds.append(time.perf_counter() - start)


def synchronize(device):
    if device == "cuda":
        torch.cuda.synchronize()


def main():
    parser = argparse.ArgumentParser(description="time PyTorch's training step and inference")
    parser.add_argument("--arch", choices=[*BLOCKS, *NETWORKS], default="resnet32")
    parser.add_argument("--side", type=int, default=32, help="height and width of the images [default: 32]")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads [default: 2]")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=4, help="number of turns of each mode [default: 4]")
    parser.add_argument("--repeats", type=int, default=4, help="timed runs per turn [default: 4]")
    parser.add_argument("--warmup", type=int, default=3, help="runs before the first timed one [default: 3]")
    parser.add_argument(
        "--limit", type=float, default=30, help="leave out modes with longer runs, in seconds [default: 30]"
    )
    parser.add_argument("--compile", action="store_true", help="also time torch.compile of channels_last")
    parser.add_argument(
        "--graph",
        action="store_true",
        help="also time the channels_last training step, not compiled, as one CUDA graph",
    )
    parser.add_argument(
        "--skip-eager", action="store_true", help="time only the modes that --compile, --graph and --loop add"
    )
    parser.add_argument(
        "--loop", action="store_true", help="also time the reference code's loss, a loop over the samples"
    )
    parser.add_argument("--train", action="store_true", help="time only the training step, not inference")
    parser.add_argument("--precision", choices=["f32", "bf16"], help="time only this precision")
    args = parser.parse_args()
    if args.graph and args.device != "cuda":
        parser.error("--graph needs --device cuda")
    torch.set_num_threads(args.threads)
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False

    # train?, bf16?, channels_last?
    kinds = [(True, False, False), (True, False, True), (True, True, True)]
    kinds += [] if args.train else [(False, False, True), (False, True, True)]
    kinds = [kind for kind in kinds if args.precision in (None, "bf16" if kind[1] else "f32")]
    modes = [] if args.skip_eager else [Mode(args, *kind) for kind in kinds]
    if args.compile:
        modes += [Mode(args, *kind, compiled=True) for kind in kinds if kind[2]]
    if args.graph:
        modes += [Mode(args, *kind, graph=True) for kind in kinds if kind[0] and kind[2]]
    if args.loop:
        modes.append(Mode(args, True, False, False, loop=True))
    slow = [mode.name for mode in modes if not mode.warm_up(args.warmup, args.limit)]
    modes = [mode for mode in modes if mode.name not in slow]
    for _ in range(args.rounds):
        for mode in modes:
            mode.time(args.repeats)

    where = torch.cuda.get_device_name() if args.device == "cuda" else f"cpu, {args.threads} threads"
    rate = {}
    for mode in modes:
        low, median, high = statistics.quantiles(mode.seconds, n=4)
        rate[mode.name] = args.batch_size / median
        print(json.dumps({
            "mode": mode.name, "arch": args.arch, "batch_size": args.batch_size, "device": where,
            "torch": torch.__version__, "repeats": len(mode.seconds), "milliseconds": round(median * 1e3, 3),
            "quartiles": [round(low * 1e3, 3), round(high * 1e3, 3)],
            "fastest": round(min(mode.seconds) * 1e3, 3), "images_per_second": round(rate[mode.name], 1),
        }))  # fmt: skip
    best = {}
    for kind in ("train-f32", "train-bf16", "eval-f32", "eval-bf16"):
        name = max((n for n in rate if n.startswith(kind)), key=rate.get, default=None)
        if name is None:
            continue
        best[kind] = {"mode": name, "images_per_second": round(rate[name], 1)}
    print(json.dumps({"best": best, "left_out": slow}))


if __name__ == "__main__":
    main()
