#!/usr/bin/env python3
"""Measures the t-SNE of `embed` against scikit-learn and openTSNE, and prints the result as Markdown.

    python scripts/bench-tsne.py CHECKPOINT --embed target/release/embed

CHECKPOINT is the manifest or the directory of a checkpoint. The programs take turns, so that a change in the speed of
the machine affects all of them. All map the same features with perplexity 30, and otherwise their own defaults, on
the same number of threads. The wall time is that of the map alone, without computing the features:
`run.projection_seconds` of ours, `fit` of the others. The processor time is that of the same calls over all threads
(of ours: of the whole command, including reading and hashing the features). This script computes the KL divergence of
every map with one function, in float64 over all pairs and with one P, from exact nearest neighbours (3 times the
perplexity) by scikit-learn and a bisection of its own.

Needs numpy, scipy, scikit-learn, openTSNE and safetensors.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

PERPLEXITY = 30


def affinities(x):
    """The joint distribution P over pairs, as a sparse matrix (van der Maaten 2014), from exact neighbours."""
    import numpy as np
    from scipy.sparse import csr_matrix
    from sklearn.neighbors import NearestNeighbors

    n, k = len(x), 3 * PERPLEXITY
    distance, index = NearestNeighbors(n_neighbors=k + 1, algorithm="brute").fit(x).kneighbors(x)
    squared, neighbour = np.empty((n, k)), np.empty((n, k), int)
    for i in range(n):
        others = index[i] != i
        squared[i], neighbour[i] = distance[i][others][:k] ** 2, index[i][others][:k]
    squared -= squared.min(axis=1, keepdims=True)
    low, high = np.zeros(n), np.full(n, np.inf)
    beta = 1 / squared.mean(axis=1)
    for _ in range(200):
        p = np.exp(-squared * beta[:, None])
        total = p.sum(axis=1)
        entropy = beta * (p * squared).sum(axis=1) / total + np.log(total)
        above = entropy > np.log(PERPLEXITY)
        low, high = np.where(above, beta, low), np.where(above, high, beta)
        beta = np.where(np.isinf(high), 2 * beta, (low + np.where(np.isinf(high), low, high)) / 2)
    p /= total[:, None]
    p = csr_matrix((p.ravel(), neighbour.ravel(), np.arange(0, n * k + 1, k)), shape=(n, n))
    p = (p + p.T).tocoo()
    p.data /= p.data.sum()
    return p


def divergence(p, y):
    """KL(P || Q) in nats, over all pairs."""
    import numpy as np

    y = np.asarray(y, dtype=np.float64)
    z = -len(y)
    for block in np.array_split(y, 50):
        z += (1 / (1 + ((block[:, None] - y[None]) ** 2).sum(axis=2))).sum()
    used = p.data > 0
    delta = y[p.row[used]] - y[p.col[used]]
    q = 1 / (1 + (delta**2).sum(axis=1)) / z
    return float((p.data[used] * np.log(p.data[used] / q)).sum())


def ours(args, directory):
    """Makes a map with embed, whose features exist already; returns seconds, processor seconds and the map."""
    from safetensors.numpy import load_file

    command = [args.embed, args.checkpoint, "--threads", str(args.threads), "--out", directory, "-q"]
    command += ["--project", "tsne", "--perplexity", str(PERPLEXITY)]
    subprocess.run(command[:-4] + ["--project", "pca"], check=True, stdout=subprocess.DEVNULL)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    busy = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    manifest = json.loads(out.stdout)
    tensors = load_file(Path(manifest["path"]).parent / "features.safetensors")
    return manifest["run"]["projection_seconds"], busy, tensors["projection"]


def timed(fit, x):
    """The same for a function from features to a map."""
    started, busy = time.perf_counter(), time.process_time()
    y = fit(x)
    return time.perf_counter() - started, time.process_time() - busy, y


def peers(threads):
    """The programs to compare with; only the perplexity, the number of threads and the seed are set."""
    import openTSNE
    from sklearn.manifold import TSNE

    def sklearn(x):
        return TSNE(perplexity=PERPLEXITY, n_jobs=threads, random_state=0).fit_transform(x)

    def open_tsne(method):
        settings = {"perplexity": PERPLEXITY, "n_jobs": threads, "random_state": 0}
        return lambda x: openTSNE.TSNE(**settings, negative_gradient_method=method).fit(x)

    return {
        "scikit-learn, Barnes-Hut": sklearn,
        "openTSNE, FIt-SNE": open_tsne("fft"),
        "openTSNE, Barnes-Hut": open_tsne("bh"),
    }


def main():
    parser = argparse.ArgumentParser(
        description="measure the t-SNE of embed against scikit-learn and openTSNE"
    )
    parser.add_argument("checkpoint", help="manifest or directory of a checkpoint")
    embed = Path(os.environ.get("CARGO_TARGET_DIR", "target")) / "release/embed"
    parser.add_argument("--embed", default=embed, help="the program embed [default: %(default)s]")
    parser.add_argument(
        "--threads", type=int, default=os.cpu_count(), help="threads of each program [default: all]"
    )
    parser.add_argument(
        "--turns", type=int, default=2, help="number of turns of each program [default: %(default)s]"
    )
    args = parser.parse_args()
    # Set before numpy and its libraries start their threads.
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(args.threads)
    from safetensors.numpy import load_file

    with tempfile.TemporaryDirectory() as directory:
        mine = "remix embed, exact"
        found = {mine: [ours(args, f"{directory}/0")]}
        x = load_file(f"{directory}/0/features.safetensors")["features"]
        p = affinities(x)
        for turn in range(args.turns):
            if turn > 0:
                found[mine].append(ours(args, f"{directory}/{turn}"))
            for name, fit in peers(args.threads).items():
                found.setdefault(name, []).append(timed(fit, x))

    median = {
        name: [statistics.median(run[i] for run in runs) for i in (0, 1)] for name, runs in found.items()
    }
    print(
        f"{x.shape[0]} × {x.shape[1]}, perplexity {PERPLEXITY}, {args.threads} threads, median of {args.turns}.\n"
    )
    print(
        "| program | seconds | × ours | processor seconds | × ours | KL divergence |\n|:--|--:|--:|--:|--:|--:|"
    )
    for name, runs in found.items():
        (wall, busy), (own_wall, own_busy) = median[name], median[mine]
        kl = statistics.median(divergence(p, run[2]) for run in runs)
        print(
            f"| {name} | {wall:.1f} | {wall / own_wall:.1f} | {busy:.1f} | {busy / own_busy:.1f} | {kl:.4f} |"
        )


if __name__ == "__main__":
    main()
