"""A plain PyTorch counterpart of `train`: the same data, network, recipe and methods, but different random numbers.

    python scripts/pytorch/train.py data/cifar10-exp-100-… --method remix --epochs 10 > curve.jsonl

Prints one JSON line per epoch on stdout. It writes no checkpoints and cannot resume; its purpose is a curve to compare
with ours. Crops and flips are computed on whole batches, so that no data loader slows it down.
"""

import argparse
import json
import math
import time

import numpy as np
import torch
import torch.nn.functional as F
from fixture_losses import criterion
from fixture_methods import rand_bbox
from resnet_s import BLOCKS, resnet_s
from shards import normalise, read_manifest, read_split, read_stats

RECIPES = {"seed": (150, 225), "paper": (150, 250)}
BETA, ALPHA, KAPPA, TAU = 0.9999, 1.0, 3.0, 0.5
MIXES = ("mixup", "remix-cutmix", "remix-manifold", "remix", "cutmix", "manifold-mixup")
LOSSES = {
    "focal": {"gamma": 2.0}, "balanced-softmax": {}, "logit-adjustment": {"la_tau": 1.0}, "ldam": {"margin": 0.5}
}  # fmt: skip
RULES = ("rs", "rw", "drs", "drw")
PAD = 4


def augment(padded, picked, size, rng):
    """Random crops and flips of the picked images. `padded`: (N, H+8, W+8, C) u8, with a border of zeros."""
    n = len(picked)
    rows = torch.randint(2 * PAD + 1, (n, 1), generator=rng) + torch.arange(size)
    cols = torch.randint(2 * PAD + 1, (n, 1), generator=rng) + torch.arange(size)
    flip = torch.rand(n, 1, generator=rng) < 0.5
    cols = torch.where(flip, cols.flip(1), cols)
    return padded[picked[:, None, None], rows[:, :, None], cols[:, None, :]]


def effective_weights(counts):
    """Class weights (1 - β) / (1 - β^n), normalised to mean 1."""
    ws = (1 - BETA) / (1 - BETA**counts)
    return ws * len(ws) / ws.sum()


def remix_lambda(n_a, n_b, lam):
    """λ_y of each pair of a batch."""
    lam_y = torch.full_like(n_a, lam)
    lam_y[(n_a >= KAPPA * n_b) & (lam < TAU)] = 0.0
    lam_y[(KAPPA * n_a <= n_b) & (1 - lam < TAU)] = 1.0
    return lam_y


@torch.no_grad()
def accuracy(model, images, labels, stats, device):
    """Top-1 in percent."""
    model.eval()
    hits = 0
    for xs, ys in zip(images.split(500), labels.split(500)):
        hits += (model(normalise(xs, stats, device)).argmax(1).cpu() == ys).sum().item()
    return 100 * hits / len(labels)


def parts(method):
    """`remix-ldam-drw` → mix, loss and rule; absent ones are erm, ce and empty. None if the method is unknown."""
    rest = "" if method == "erm" else method
    found = []
    for names, none in ((MIXES, "erm"), (LOSSES, "ce"), (RULES, "")):
        name = next((n for n in names if rest == n or rest.startswith(f"{n}-")), None)
        found.append(name or none)
        rest = rest[len(name) + 1 :] if name else rest
    return None if rest else found


def parse():
    parser = argparse.ArgumentParser(description="train a CIFAR ResNet on a data set of mk-imbalance")
    parser.add_argument("dataset", help="manifest of the data set, or its directory")
    parser.add_argument("--arch", choices=BLOCKS, default="resnet32")
    parser.add_argument("--method", default="remix", help="method as for train, such as remix-ldam-drw")
    parser.add_argument("--epochs", type=int, default=300)
    parser.add_argument("--recipe", choices=RECIPES, default="seed")
    parser.add_argument("--rw-norm", choices=["batch-size", "weight-sum"], default="weight-sum")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--bf16", action="store_true", help="autocast to bfloat16")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    found = parts(args.method)
    if not found:
        parser.error(f"--method {args.method}: give erm, or a mix, a loss and a rule of train, joined by -")
    return args, *found


def main():
    args, mix, loss_name, rule = parse()
    torch.set_num_threads(args.threads)
    torch.backends.cudnn.benchmark = True
    torch.manual_seed(args.seed)
    rng = torch.Generator().manual_seed(args.seed)
    beta = np.random.RandomState(args.seed)

    manifest, directory = read_manifest(args.dataset)
    if manifest["metrics"].get("crop"):
        raise SystemExit(f"{directory}: has larger images, to be cropped at random; make it without --resize")
    stats = read_stats(manifest)
    images, labels = read_split(manifest, directory, "train")
    test_images, test_labels = read_split(manifest, directory, "test")
    classes, size = int(test_labels.max()) + 1, images.shape[1]
    counts = torch.bincount(labels, minlength=classes).double()
    if rule and counts.min() == 0:
        raise SystemExit(f"{directory}: class {counts.argmin()} has no images; use a method without a rule")
    padded = F.pad(images, (0, 0, PAD, PAD, PAD, PAD))
    weights = effective_weights(counts)
    device, n = args.device, len(labels)

    loss_of = criterion({"name": loss_name, **LOSSES.get(loss_name, {})}, [int(n) for n in counts])
    model = resnet_s(args.arch, classes, use_norm=loss_name == "ldam").to(
        device, memory_format=torch.channels_last
    )
    sgd = torch.optim.SGD(model.parameters(), args.lr, momentum=0.9, weight_decay=2e-4, fused=True)
    milestones = [math.floor(m * args.epochs / 300 + 0.5) for m in RECIPES[args.recipe]]

    for epoch in range(1, args.epochs + 1):
        started = time.perf_counter()
        lr = args.lr / 10 ** sum(epoch >= m for m in milestones)
        sgd.param_groups[0]["lr"] = lr
        deferred = epoch >= milestones[-1]
        resample = rule == "rs" or (rule == "drs" and deferred)
        reweight = rule == "rw" or (rule == "drw" and deferred)
        w = weights.float().to(device) if reweight else torch.ones(classes, device=device)
        if resample:
            order = torch.multinomial(weights[labels], n, replacement=True, generator=rng)
        else:
            order = torch.randperm(n, generator=rng)

        model.train()
        total = hits = torch.zeros((), device=device)
        for picked in order.split(args.batch_size):
            xs = normalise(augment(padded, picked, size, rng), stats, device)
            a = labels[picked].to(device)
            b, lam_y, hidden = a, torch.ones(len(a), device=device), None
            if mix != "erm":
                lam = float(beta.beta(ALPHA, ALPHA))
                perm = torch.randperm(len(a), generator=rng)
                b = a[perm]
                if "cutmix" in mix:
                    top, bottom, left, right = rand_bbox(lam, size, size, *beta.randint(size, size=2))
                    # xs[perm] is a copy, because it is indexed by a tensor.
                    xs[:, :, top:bottom, left:right] = xs[perm][:, :, top:bottom, left:right]
                    lam = 1 - (bottom - top) * (right - left) / size**2
                else:
                    blend = lambda ys: lam * ys + (1 - lam) * ys[perm]  # noqa: B023
                    mix_point = int(beta.randint(3)) if "manifold" in mix else 0
                    xs, hidden = (xs, (mix_point, blend)) if mix_point else (blend(xs), None)
                lam_y = lam_y * lam
                if mix.startswith("remix"):
                    per_label = counts.float().to(device)
                    lam_y = remix_lambda(per_label[a], per_label[b], lam_y[0].item())
            with torch.autocast(device, torch.bfloat16, enabled=args.bf16):
                logits = model(xs, hidden)
            logits = logits.float()
            coef_a, coef_b = lam_y * w[a], (1 - lam_y) * w[b]
            loss_a, loss_b = loss_of(logits, a), loss_of(logits, b)
            norm = len(a) if args.rw_norm == "batch-size" else (coef_a + coef_b).sum()
            loss = (coef_a * loss_a + coef_b * loss_b).sum() / norm
            sgd.zero_grad(set_to_none=True)
            loss.backward()
            sgd.step()
            best = logits.argmax(1)
            total = total + loss.detach() * len(a)
            hits = hits + (lam_y * (best == a) + (1 - lam_y) * (best == b)).sum()
        loss, hits = total.item() / n, hits.item()
        if not math.isfinite(loss):
            raise SystemExit(f"epoch {epoch}: the loss is {loss}; lower --lr")
        seconds = time.perf_counter() - started
        print(json.dumps({
            "epoch": epoch, "lr": lr, "loss": round(loss, 6), "train_top1": round(100 * hits / n, 3),
            "test_top1": round(accuracy(model, test_images, test_labels, stats, device), 3),
            "images_per_second": round(n / seconds, 1),
        }), flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
