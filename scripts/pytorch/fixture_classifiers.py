"""The fixture `classifiers.json` for classifiers on features: SGD by PyTorch in float64, and the papers' formulas.

Trained for three steps on batches with Mixup's two labels and their coefficients, with momentum and weight decay: a
linear classifier, a cosine classifier (30 times the cosine), LWS (Kang et al.: a learnt scale of each logit, with
fixed weights and biases) and label-aware smoothing (Zhong et al.). Computed directly: tau-norm (w / |w|^tau, without
bias), the nearest class mean by squared distance and by cosine, logit adjustment (z - tau ln pi) and kNN."""

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.neighbors import NearestNeighbors

CLASSES, FEATURES, BATCH, STEPS = 37, 13, 7, 3
LR, MOMENTUM, DECAY = 0.3, 0.9, 0.01


def rounded(values):
    return np.asarray(values, np.float32).astype(float).round(7).tolist()


def make():
    torch.set_default_dtype(torch.float64)
    rng = np.random.default_rng(0)
    draw = lambda *shape: torch.tensor(np.float32(rng.normal(size=shape)).astype(float).round(4))
    weight, bias = draw(CLASSES, FEATURES), draw(CLASSES)
    batches = []
    for _ in range(STEPS):
        labels = [rng.integers(0, CLASSES, BATCH) for _ in range(2)]
        share = rng.uniform(0, 1, BATCH).round(3)
        batches.append((draw(BATCH, FEATURES), *labels, share / BATCH, (1 - share) / BATCH))
    out = {
        "weight": weight.tolist(),
        "bias": bias.tolist(),
        "lr": LR,
        "momentum": MOMENTUM,
        "weight_decay": DECAY,
    }
    out["batches"] = []
    for x, a, b, ca, cb in batches:
        batch = {
            "x": x.tolist(),
            "a": a.tolist(),
            "b": b.tolist(),
            "coef_a": rounded(ca),
            "coef_b": rounded(cb),
        }
        out["batches"].append(batch)
    # Label-aware smoothing as in MiSLAS's code: the smoothed part is the mean over all classes.
    class_counts = np.array([500 - 13 * k for k in range(CLASSES)])
    rise = np.sin(
        (class_counts - class_counts.min()) * np.pi / (2 * (class_counts.max() - class_counts.min()))
    )
    smooth = torch.tensor(0.1 + (0.4 - 0.1) * rise)
    out["class_counts"] = class_counts.tolist()
    for kind in ("linear", "cosine", "lws", "las"):
        w, c, s = weight.clone(), bias.clone(), torch.ones(CLASSES)
        trained = {"linear": [w, c], "cosine": [w], "lws": [s], "las": [w, c]}[kind]
        for p in trained:
            p.requires_grad_()
        sgd = torch.optim.SGD(trained, lr=LR, momentum=MOMENTUM, weight_decay=DECAY)
        losses = []
        for x, a, b, ca, cb in batches:
            z = 30 * F.normalize(x) @ F.normalize(w).T if kind == "cosine" else s * (x @ w.T + c)
            log_p = z.log_softmax(1)
            rows = torch.arange(BATCH)
            share = smooth if kind == "las" else torch.zeros(CLASSES)
            of = lambda label: (1 - share[label]) * log_p[rows, label] + share[label] * log_p.mean(1)
            loss = -(torch.tensor(ca) * of(a) + torch.tensor(cb) * of(b)).sum()
            sgd.zero_grad()
            loss.backward()
            sgd.step()
            losses.append(loss.item())
        scale = s.detach() if kind == "lws" else torch.ones(CLASSES)
        result = {"weight": rounded(scale[:, None] * w.detach()), "bias": rounded(scale * c.detach())}
        out[kind] = {"losses": losses} | result
    w = weight.numpy()
    out["tau_norm"] = {
        str(tau): rounded(w / np.linalg.norm(w, axis=1, keepdims=True) ** tau) for tau in (0.0, 0.7, 1.0)
    }
    x, labels = np.concatenate([b[0].numpy() for b in batches]), np.arange(STEPS * BATCH) % 5
    means = np.stack([x[labels == k].mean(0) for k in range(5)])
    # -|f - mu|^2 without the term |f|^2, which is the same for all classes.
    nearest = -((x[:, None] - means[None]) ** 2).sum(2) + (x**2).sum(1, keepdims=True)
    of_length_one = lambda rows: rows / np.linalg.norm(rows, axis=1, keepdims=True)
    cosine = 30 * of_length_one(x) @ of_length_one(means).T
    out["ncm"], out["ncm_cosine"] = rounded(nearest), rounded(cosine)
    counts = np.array([500, 200, 50, 10, 3])
    out["counts"] = counts.tolist()
    out["adjusted"] = {str(tau): rounded(nearest - tau * np.log(counts / counts.sum())) for tau in (0.5, 1.0)}
    out["knn"] = neighbours(5)
    torch.set_default_dtype(torch.float32)
    return out


def neighbours(k):
    """Votes of the k nearest by scikit-learn, with weights exp(cosine / 0.07), and one of cosine -1 per class."""
    rng = np.random.default_rng(1)
    labels = np.arange(40) % 4
    train, x = (rng.normal(size=(n, FEATURES)).round(4) for n in (len(labels), 30))
    distances, found = NearestNeighbors(n_neighbors=k, metric="cosine").fit(train).kneighbors(x)
    votes = np.full((len(x), 4), np.exp(-1 / 0.07))
    for row, distance, neighbour in zip(votes, distances, found):
        np.add.at(row, labels[neighbour], np.exp((1 - distance) / 0.07))
    return {
        "train": train.ravel().tolist(),
        "labels": labels.tolist(),
        "x": x.ravel().tolist(),
        "logits": rounded(np.log(votes).ravel()),
    }
