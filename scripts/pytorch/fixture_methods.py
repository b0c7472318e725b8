"""The fixture `methods.json`: plain scalar transcriptions of the methods' formulas, in float64.

- `remix`: rows [n_i, n_j, λ, κ, τ, λ_y] (Chou et al. 2020, arXiv 2007.03943). Every λ, κ and τ is a multiple of 2^-20,
  so f32 and f64 take the same branch, also if the two sides of a comparison are equal. If both cases hold (κ = 1,
  n_i = n_j, τ > 1/2), the first one counts, in the order of the paper.
- `remix_loss`: a batch of pairs (a, b) with one λ; for each pair `lambda_y`, and under `none` (w = 1) and `rw` (w =
  class weights of `cls_num_list`) `per_sample` = λ_y w_a CE(z, a) + (1 - λ_y) w_b CE(z, b) and `weights` = λ_y w_a +
  (1 - λ_y) w_b. The loss of the batch is the sum of `per_sample` divided by the batch size, or by the sum of
  `weights` under weight-sum normalisation.
- `counts`: the data sets by name, each with its `cls_num_list` and, computed from it: `rw`, the class weights
  (1 - β) / (1 - β^n), β = 0.9999 (Cui et al. 2019), normalised to mean 1; `rs`, the probability of drawing each class
  if an image of class k has the weight (1 - β) / (1 - β^n_k); `rs_inverse`, the same with the weight 1 / n_k; `ldam`,
  the margins ∝ n^(-1/4), the largest of which is 0.5 (Cao et al. 2019).
- `cutmix`: rows [λ, [H, W, row, column], [top, bottom, left, right]]: the rectangle that the CutMix paper's code
  (Yun et al. 2019, `rand_bbox`) cuts around a centre, from the first row and column to those after the last.
- `schedule`: for each recipe and number of epochs E the 1-based `milestones` floor(m E / 300 + 1/2), each of which
  divides the rate by ten from there on, and the rate `lr` of every epoch.

1 - β^n cancels for small n, so compare `rw` and `rs` with a relative tolerance of 1e-9.
"""

import math
import random

BETA = 0.9999
RECIPES = {"seed": (150, 225), "paper": (150, 250)}


def remix(n_i, n_j, lam, kappa, tau):
    if n_i >= kappa * n_j and lam < tau:
        return 0.0
    if kappa * n_i <= n_j and 1 - lam < tau:
        return 1.0
    return lam


def remix_rows():
    pairs = [(1, 1), (100, 100), (2, 1), (1, 2), (3, 1), (1, 3), (3, 2), (2, 3), (5000, 50), (50, 5000)]
    pairs += [(150, 50), (149, 50), (151, 50), (50, 150), (50, 149), (50, 151), (5000, 1), (1, 5000)]
    step = 2.0**-20
    lambdas = [0.0, step, 0.25, 0.5 - step, 0.5, 0.5 + step, 0.75, 1.0 - step, 1.0]
    grid = [(l, k, t) for l in lambdas for k in (1.0, 1.5, 3.0) for t in (0.0, 0.25, 0.5, 0.75, 1.0)]
    return [[*pair, *point, remix(*pair, *point)] for pair in pairs for point in grid]


def rand_bbox(lam, height, width, row, col):
    """As in https://github.com/clovaai/CutMix-PyTorch, except that the centre is given."""
    cut_rat = math.sqrt(1.0 - lam)
    cut_w, cut_h = int(width * cut_rat), int(height * cut_rat)
    clip = lambda x, most: min(max(x, 0), most)
    rows = clip(row - cut_h // 2, height), clip(row + cut_h // 2, height)
    return [*rows, clip(col - cut_w // 2, width), clip(col + cut_w // 2, width)]


def cutmix_rows():
    rng = random.Random(0)
    rows = []
    for height, width in [(32, 32), (32, 32), (32, 32), (8, 12), (64, 36)]:
        for lam in [k / 64 for k in range(65)]:
            at = [height, width, rng.randrange(height), rng.randrange(width)]
            rows.append([lam, at, rand_bbox(lam, *at)])
    return rows


def cls_num_list(classes, imb_type, ratio):
    largest, f = {10: 5000, 100: 500}[classes], 1 / ratio
    if imb_type == "exp":
        return [int(largest * f ** (k / (classes - 1))) for k in range(classes)]
    return [largest] * (classes // 2) + [int(largest * f)] * (classes // 2)


def effective(n):
    return (1 - BETA) / (1 - BETA**n)


def rw(counts):
    ws = [effective(n) for n in counts]
    return [w * len(ws) / sum(ws) for w in ws]


def drawn(counts, weights):
    mass = [n * w for n, w in zip(counts, weights)]
    return [m / sum(mass) for m in mass]


def ldam(counts):
    ms = [n**-0.25 for n in counts]
    return [m * 0.5 / max(ms) for m in ms]


def of_counts(counts):
    return {
        "cls_num_list": counts,
        "rw": rw(counts),
        "rs": drawn(counts, [effective(n) for n in counts]),
        "rs_inverse": drawn(counts, [1 / n for n in counts]),
        "ldam": ldam(counts),
    }


def schedule(recipe, epochs):
    milestones = [math.floor(m * epochs / 300 + 0.5) for m in RECIPES[recipe]]
    passed = [sum(epoch >= m for m in milestones) for epoch in range(1, epochs + 1)]
    lr = [(0.1, 0.01, 0.001)[p] for p in passed]
    return {"recipe": recipe, "epochs": epochs, "milestones": milestones, "lr": lr}


def cross_entropy(zs, label):
    top = max(zs)
    return math.log(sum(math.exp(z - top) for z in zs)) + top - zs[label]


def remix_loss(lam, kappa=3.0, tau=0.5):
    rng = random.Random(0)
    counts = [500, 166, 55, 18, 6]
    n = 24
    # Multiples of 1/256: exact in f32.
    logits = [[rng.randrange(-1024, 1025) / 256 for _ in counts] for _ in range(n)]
    a = [rng.randrange(len(counts)) for _ in range(n)]
    b = [rng.randrange(len(counts)) for _ in range(n)]
    lambda_y = [remix(counts[i], counts[j], lam, kappa, tau) for i, j in zip(a, b)]
    out = {"cls_num_list": counts, "lambda": lam, "kappa": kappa, "tau": tau, "logits": logits}
    out |= {"labels_a": a, "labels_b": b, "lambda_y": lambda_y}
    for rule, w in [("none", [1.0] * len(counts)), ("rw", rw(counts))]:
        pairs = list(zip(logits, a, b, lambda_y))
        out[rule] = {
            "per_sample": [
                y * w[i] * cross_entropy(z, i) + (1 - y) * w[j] * cross_entropy(z, j) for z, i, j, y in pairs
            ],
            "weights": [y * w[i] + (1 - y) * w[j] for _, i, j, y in pairs],
        }
    return out


def make():
    sets = [(c, t, r) for c in (10, 100) for t in ("exp", "step") for r in (100, 10)]
    return {
        "remix": remix_rows(),
        "cutmix": cutmix_rows(),
        "remix_loss": [remix_loss(lam) for lam in (0.25, 0.5, 0.8125)],
        "counts": {f"cifar{c}/{t}/{r}": of_counts(cls_num_list(c, t, r)) for c, t, r in sets},
        "schedule": [schedule(recipe, e) for recipe in RECIPES for e in (300, 200, 20, 10)],
    }
