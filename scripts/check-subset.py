#!/usr/bin/env python3
"""Compares data sets of mk-imbalance with the reference procedure, image by image.

    scripts/check-subset.py CIFAR_DIR MANIFEST...

CIFAR_DIR contains the unpacked python form (cifar-10-batches-py, cifar-100-python). For each manifest the subset is
drawn again as by IMBALANCECIFAR10 of the LDAM-DRW code (numpy.random.seed, one shuffle per class), and the images,
labels and source indices of the train, val and test shards are compared in order. Exits with 1 at the first
difference. Needs numpy, and uses no code of this project."""

import json
import pathlib
import pickle
import struct
import sys

import numpy as np

FILES = {
    "cifar10": ("cifar-10-batches-py", [f"data_batch_{n}" for n in range(1, 6)], "test_batch", "labels"),
    "cifar100": ("cifar-100-python", ["train"], "test", "fine_labels"),
}


def official(root, dataset):
    """Images (N, H, W, C) and labels of the training and the test set."""
    directory, train, test, key = FILES[dataset]

    def load(names):
        images, labels = [], []
        for name in names:
            # Give it the official files only: unpickling can execute code in a file.
            entry = pickle.loads((root / directory / name).read_bytes(), encoding="latin1")
            images.append(entry["data"])
            labels += entry[key]
        return np.vstack(images).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), np.array(labels)

    return load(train), load([test])


def shards(manifest, path, role):
    """Images, labels and source indices of a split, read by code of its own."""
    parts = {"images": [], "labels": [], "source_index": []}
    kinds = {"U8": np.uint8, "I64": np.dtype("<i8"), "U32": np.dtype("<u4")}
    for output in (o for o in manifest["outputs"] if o["role"] == role):
        data = (path.parent / output["path"]).read_bytes()
        (size,) = struct.unpack("<Q", data[:8])
        for name, t in json.loads(data[8 : 8 + size]).items():
            begin, end = t["data_offsets"]
            body = data[8 + size + begin : 8 + size + end]
            parts[name].append(np.frombuffer(body, kinds[t["dtype"]]).reshape(t["shape"]))
    return [np.concatenate(parts[name]) if parts[name] else None for name in parts]


def subset(labels, params):
    """Indices of the train and val splits."""
    classes = int(labels.max()) + 1
    each = len(labels) // classes
    held = int(each * params["val_fraction"] + 0.5)
    img_max = float(each - held)
    kind = params["imb_type"]
    factor = 1 / params["imb_ratio"] if kind != "none" else 1
    if kind == "exp":
        counts = [int(img_max * factor ** (k / (classes - 1.0))) for k in range(classes)]
    elif kind == "step":
        assert params["minority_fraction"] == 0.5, "the reference knows only halves"
        counts = [int(img_max)] * (classes // 2) + [int(img_max * factor)] * (classes // 2)
    else:
        counts = [int(img_max)] * classes
    np.random.seed(params.get("rand_number", 0))
    train, val = [], []
    for k, n in enumerate(counts):
        idx = np.where(labels == k)[0]
        np.random.shuffle(idx)
        train.append(idx[:n])
        val.append(idx[each - held :])
    train, val = np.concatenate(train), np.concatenate(val)
    return np.sort(train) if kind == "none" else train, val, counts


def main(root, *paths):
    root = pathlib.Path(root)
    cache = {}
    for path in map(pathlib.Path, paths):
        manifest = json.loads(path.read_text())
        params, metrics = manifest["params"], manifest["metrics"]
        dataset = params["dataset"]
        if dataset not in cache:
            cache[dataset] = official(root, dataset)
        (x, y), (x_test, y_test) = cache[dataset]
        train, val, counts = subset(y, params)
        assert metrics["cls_num_list"] == counts, f"{path}: cls_num_list"
        for role, idx, pixels, labels in (
            ("train", train, x, y),
            ("val", val, x, y),
            ("test", np.arange(len(y_test)), x_test, y_test),
        ):
            images, found, index = shards(manifest, path, role)
            if images is None:
                assert len(idx) == 0, f"{path}: {role} is missing"
                continue
            assert np.array_equal(index, idx), f"{path}: {role}: source_index"
            assert np.array_equal(found, labels[idx]), f"{path}: {role}: labels"
            assert np.array_equal(images, pixels[idx]), f"{path}: {role}: images"
        scaled = x[train].reshape(-1, 3) / 255.0
        assert np.allclose(scaled.mean(0), metrics["mean"], rtol=0, atol=1e-9), f"{path}: mean"
        assert np.allclose(scaled.std(0), metrics["std"], rtol=0, atol=1e-9), f"{path}: std"
        print(
            f"{path}: {dataset} {params['imb_type']} {params.get('imb_ratio', '')}: {len(train)} train, {len(val)} val equal"
        )


if len(sys.argv) < 3:
    sys.exit(__doc__)
try:
    main(*sys.argv[1:])
except AssertionError as e:
    sys.exit(f"check-subset: {e} differs from the reference")
