"""The fixture `losses.json`: the losses and their gradients by PyTorch in float64, in the form of their authors' code.

`features` (N, 19), `weight` (5, 19), `bias` (5), `labels_a`, `labels_b`, `coef_a`, `coef_b` (N) and `cls_num_list` are
one batch; all values are exact in f32. `losses` has for each loss its `params`, in the form of `train`; `loss`, the sum
over samples of coef_a * l(a) + coef_b * l(b); `logits` as `embed` writes them; and the gradients `d_features`,
`d_weight` and `d_bias` (not for LDAM).

- focal: `(1 - p)^gamma * CE` (Lin et al. 2017), as in the code of LDAM-DRW
- balanced-softmax: `logits + log(counts)` (Ren et al. 2020)
- logit-adjustment: `logits + tau * log(counts / counts.sum())` (Menon et al. 2021)
- vs: `logits * (counts / counts.max()) ** gamma + tau * log(counts / counts.sum())` (Kini et al. 2021)
- cdt: `logits * (counts / counts.max()) ** gamma` (Ye et al. 2020)
- ldam: `LDAMLoss` on `NormedLinear` (Cao et al. 2019), s = 30; its logits here are 30 times the cosines
"""

import random

import torch
import torch.nn.functional as F
from fixture_methods import ldam as margins

SCALE = 30


def cross_entropy(logits, labels):
    return F.cross_entropy(logits, labels, reduction="none")


def focal(logits, labels, gamma):
    ce = cross_entropy(logits, labels)
    return (1 - torch.exp(-ce)) ** gamma * ce


def ldam(cosines, labels, margin, counts):
    ms = (torch.tensor(margins(counts), dtype=torch.float64) * margin / 0.5).to(cosines)
    chosen = F.one_hot(labels, len(counts)).bool()
    return cross_entropy(SCALE * torch.where(chosen, cosines - ms[labels][:, None], cosines), labels)


def criterion(params, counts):
    """A function from (logits or cosines, labels) to the loss of each sample, for the params of a loss."""
    ns = torch.tensor(counts, dtype=torch.float64)
    match params["name"]:
        case "ce":
            return cross_entropy
        case "focal":
            return lambda z, k: focal(z, k, params["gamma"])
        case "balanced-softmax":
            return lambda z, k: cross_entropy(z + ns.log().to(z), k)
        case "logit-adjustment":
            return lambda z, k: cross_entropy(z + params["la_tau"] * (ns / ns.sum()).log().to(z), k)
        case "vs":
            scale, shift = (ns / ns.max()) ** params["vs_gamma"], params["vs_tau"] * (ns / ns.sum()).log()
            return lambda z, k: cross_entropy(z * scale.to(z) + shift.to(z), k)
        case "cdt":
            return lambda z, k: cross_entropy(z * ((ns / ns.max()) ** params["cdt_gamma"]).to(z), k)
        case "ldam":
            return lambda z, k: ldam(z, k, params["margin"], counts)


PARAMS = [
    {"name": "ce"},
    {"name": "focal", "gamma": 2.0},
    {"name": "focal", "gamma": 0.5},
    {"name": "balanced-softmax"},
    {"name": "logit-adjustment", "la_tau": 1.5},
    {"name": "vs", "vs_gamma": 0.15, "vs_tau": 1.25},
    {"name": "cdt", "cdt_gamma": 0.3},
    {"name": "ldam", "margin": 0.5},
    {"name": "ldam", "margin": 0.25},
]


def make():
    rng = random.Random(1)
    counts, width = [500, 166, 55, 18, 6], 19
    values = lambda n, most: [rng.randrange(-most, most + 1) / 256 for _ in range(n)]
    batch = {
        "cls_num_list": counts,
        "features": [[abs(v) for v in values(width, 512)] for _ in range(8)],
        "weight": [values(width, 128) for _ in counts],
        "bias": values(len(counts), 64),
        # Samples with both labels, only the first, only the second, none, one label twice, a large weight, a small one.
        "labels_a": [3, 0, 2, 4, 1, 1, 3, 4],
        "labels_b": [1, 4, 1, 0, 1, 2, 0, 4],
        "coef_a": [c / 1024 for c in (5, 8, 0, 0, 3, 14, 1, 8)],
        "coef_b": [c / 1024 for c in (3, 0, 8, 0, 5, 7, 2, 0)],
    }
    tensor = lambda name: torch.tensor(batch[name], dtype=torch.float64)
    a, b = (torch.tensor(batch[name]) for name in ("labels_a", "labels_b"))
    losses = []
    for params in PARAMS:
        f, w, bias = (tensor(name).requires_grad_() for name in ("features", "weight", "bias"))
        if params["name"] == "ldam":
            out = F.linear(F.normalize(f), F.normalize(w))
            logits = SCALE * out
        else:
            out = logits = F.linear(f, w, bias)
        of = criterion(params, counts)
        loss = (tensor("coef_a") * of(out, a) + tensor("coef_b") * of(out, b)).sum()
        loss.backward()
        found = {"params": params, "loss": loss.item(), "logits": logits.tolist()}
        found |= {"d_features": f.grad.tolist(), "d_weight": w.grad.tolist()}
        if bias.grad is not None:
            found["d_bias"] = bias.grad.tolist()
        losses.append(found)
    return batch | {"losses": losses}
