#!/usr/bin/env python3
"""Measures the speed of `train --classifier linear` (cRT) on features, against PyTorch with the tensors in memory.

    python scripts/pytorch/bench_classifier.py target/release/train --images 115846 --features 2048 --classes 1000

The features are random, and the network is a ResNet-50 with random weights. Both sides take turns; each turn is
--epochs epochs of SGD with momentum and weight decay, on batches in which all classes are equally probable. PyTorch
has all tensors in memory, and takes a batch by indexing; --loader also times the form of published code, a DataLoader
over a data set of single rows. Needs PyTorch, torchvision, safetensors, blake3 and the program time."""

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import blake3
import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file


def canonical(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def hash_of(file):
    return blake3.blake3(max_threads=blake3.blake3.AUTO).update_mmap(file).hexdigest()


def manifest(kind, params, inputs, outputs, metrics):
    content = [{"role": i["role"], "blake3": i["blake3"]} for i in inputs]
    key = canonical({"kind": kind, "semantics": 2, "params": params, "inputs": content})
    key = blake3.blake3(key.encode()).hexdigest()
    head = {"schema": "remix.manifest/1", "kind": kind, "key": key, "semantics": 2, "params": params}
    return head | {"inputs": inputs, "outputs": outputs, "metrics": metrics, "run": {}}


def fabricate(root, args):
    """An embedding of random features, with labels in long-tailed classes."""
    import torchvision

    if args.features != 2048:
        raise SystemExit("--features 2048 is the width of a ResNet-50")
    arch, weights = "resnet50", torchvision.models.resnet50(num_classes=args.classes).state_dict()
    save_file(weights, root / "network.safetensors")
    rng = np.random.default_rng(0)
    # At least one image of each class, the others by an exponential profile.
    share = 0.994 ** np.arange(args.classes)
    labels = np.concatenate(
        [np.arange(args.classes), rng.choice(args.classes, args.images - args.classes, p=share / share.sum())]
    )
    outputs = []
    for split, n, y in (("train", args.images, labels), ("test", 1000, rng.integers(0, args.classes, 1000))):
        name = f"{split}-features.safetensors"
        x, y = (
            torch.from_numpy(rng.random((n, args.features), dtype=np.float32)),
            torch.from_numpy(y.astype(np.int64)),
        )
        file = root / name
        save_file({"features": x, "labels": y, "source_index": torch.arange(n).to(torch.uint32)}, file)
        size = os.path.getsize(file)
        outputs.append({"role": split, "path": name, "bytes": size, "blake3": hash_of(file), "rows": n})
    counts = np.bincount(labels, minlength=args.classes).tolist()
    network = {
        "role": "checkpoint",
        "path": "network.safetensors",
        "blake3": hash_of(root / "network.safetensors"),
    }
    params = {"splits": ["train", "test"], "cls_num_list": counts, "which": "file", "arch": arch}
    metrics = {
        "classes": args.classes,
        "class_names": [str(k) for k in range(args.classes)],
        "cls_num_list": counts,
    }
    metrics |= {"mean": [0.5] * 3, "std": [0.2] * 3, "feature_len": args.features}
    (root / "manifest.json").write_text(
        json.dumps(manifest("embedding", params, [network], outputs, metrics))
    )
    return torch.from_numpy(labels)


def pytorch(x, labels, args, loader):
    """Seconds that the epochs take in PyTorch."""
    torch.manual_seed(0)
    model = torch.nn.Linear(args.features, args.classes)
    sgd = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=2e-4)
    weights = (1.0 / torch.bincount(labels, minlength=args.classes))[labels].double()
    started = time.perf_counter()
    for _ in range(args.epochs):
        order = torch.multinomial(weights, len(labels), replacement=True)
        if loader:
            data = torch.utils.data.Subset(torch.utils.data.TensorDataset(x, labels), order.tolist())
            batches = torch.utils.data.DataLoader(data, batch_size=args.batch_size, num_workers=0)
        else:
            batches = ((x[i], labels[i]) for i in order.split(args.batch_size))
        for features, targets in batches:
            loss = F.cross_entropy(model(features), targets)
            sgd.zero_grad()
            loss.backward()
            sgd.step()
    return time.perf_counter() - started


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("train", type=Path, help="the program train")
    parser.add_argument("--images", type=int, default=115_846)
    parser.add_argument("--features", type=int, default=2048)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--loader", action="store_true", help="also time a DataLoader over single rows")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR", "/tmp")) as scratch:
        root = Path(scratch)
        labels = fabricate(root, args)
        x = load_file(root / "train-features.safetensors")["features"].clone()
        ours, theirs, loaders, memory = [], [], [], 0
        for turn in range(args.turns):
            command = [args.train, root, "-q", "--classifier", "linear", "--rule", "rs", "--rs", "inverse"]
            command += ["--epochs", str(args.epochs), "--batch-size", str(args.batch_size)]
            command += ["--seed", str(turn), "--out", root / f"run-{turn}"]
            # Started by time(1), because the peak memory of a direct child would include that of this process.
            command = ["time", "-f", "%M", "-o", root / "memory", *command]
            subprocess.run(
                command, stdout=subprocess.DEVNULL, env=os.environ | {"REMIX_CACHE_DIR": scratch}, check=True
            )
            memory = max(memory, int((root / "memory").read_text()) * 1024)
            log = (root / f"run-{turn}/log.jsonl").read_text().splitlines()
            ours.append(sum(args.images / json.loads(line)["images_per_second"] for line in log))
            theirs.append(pytorch(x, labels, args, False))
            if args.loader:
                loaders.append(pytorch(x, labels, args, True))
        size = os.path.getsize(root / "train-features.safetensors")
    print(
        f"cRT on {args.images} x {args.features} features, {args.classes} classes, batches of {args.batch_size},",
        end=" ",
    )
    print(f"seconds for {args.epochs} epochs (medians of {args.turns} turns):")
    print(f"train {statistics.median(ours):.1f}, PyTorch in memory {statistics.median(theirs):.1f}, ", end="")
    ratios = [b / a for a, b in zip(ours, theirs)]
    print(f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})", end="")
    if loaders:
        print(f", by a DataLoader {statistics.median(loaders):.1f}", end="")
    print(f"; memory of ours at most {memory / size:.2f} times the file of features")


if __name__ == "__main__":
    main()
