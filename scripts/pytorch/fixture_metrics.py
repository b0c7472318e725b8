"""The fixture `metrics.json`: the metrics of `eval`, by scikit-learn and numpy, for 200 samples of 10 classes.

Stored are `logits` (200 × 10; the shortest decimals, exact when read as f32), `labels`, and, computed from them in
float64:

- `top1`, `top5`: fractions. The prediction is the largest logit; no two logits of a sample are equal.
- `per_class`: recall of each class. `macro_f1`: mean F1 over classes, 0 for a class that is never predicted
  (class 9).
- `nll`: mean of -log softmax at the label. `confusion`: rows are true classes, columns predicted ones.
- `ece`: expected calibration error (Guo et al. 2017, eq. 3) with 15 equal bins (lo, hi] of the largest softmax
  value: the sum over bins of |bin| / n * |accuracy - mean confidence|. No confidence is within 1e-6 of the edge of a
  bin.
- `shots`: for several lists of training counts, the mean recall of the classes with `many` (> 100), `medium` (20 to
  100) and `few` (< 20) training images, as `shot_acc` of OLTR (Liu et al. 2019) and of classifier-balancing (Kang et
  al. 2020) compute it; null if a group has no class (0 in their code).
"""

import numpy as np
from sklearn.metrics import confusion_matrix, f1_score, recall_score, top_k_accuracy_score

CLASSES = 10
# Images of each class in the test set: imbalanced, so that top1 differs from the mean of per_class.
TEST = [50, 40, 30, 24, 18, 14, 10, 7, 4, 3]
TRAIN = [
    [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50],  # no few-shot class
    [500, 101, 100, 99, 50, 21, 20, 19, 5, 1],  # both sides of both thresholds
    [5000, 5000, 5000, 5000, 5000, 500, 500, 500, 500, 500],  # only many-shot classes
    [19, 18, 17, 16, 15, 14, 13, 12, 11, 10],  # only few-shot classes
]


def ece(confidence, correct, bins=15):
    edges = np.linspace(0, 1, bins + 1)
    assert np.abs(confidence[:, None] - edges).min() > 1e-6
    total = 0.0
    for lo, hi in zip(edges[:-1], edges[1:]):
        inside = (confidence > lo) & (confidence <= hi)
        if inside.any():
            total += inside.mean() * abs(correct[inside].mean() - confidence[inside].mean())
    return total


def shots(recall, train):
    train = np.array(train)
    groups = {"many": train > 100, "medium": (train >= 20) & (train <= 100), "few": train < 20}
    means = {g: float(recall[m].mean()) if m.any() else None for g, m in groups.items()}
    return {"cls_num_list": train.tolist(), **means}


def make():
    rng = np.random.RandomState(0)
    labels = rng.permutation(np.repeat(np.arange(CLASSES), TEST))
    logits = rng.normal(0, 1.5, (len(labels), CLASSES))
    logits[np.arange(len(labels)), labels] += 1.5
    logits += np.linspace(1, -1, CLASSES)  # a bias as after long-tailed training
    logits[:, 9] -= 6
    text = [[str(v) for v in row] for row in logits.astype(np.float32)]
    logits = np.array(text, dtype=np.float32)
    assert (logits == np.array(text, dtype=np.float64).astype(np.float32)).all()
    assert all(len(set(row)) == CLASSES for row in text)

    zs = logits.astype(np.float64)
    log_p = zs - zs.max(1, keepdims=True)
    log_p -= np.log(np.exp(log_p).sum(1, keepdims=True))
    predicted = zs.argmax(1)
    assert not (predicted == 9).any()
    recall = recall_score(labels, predicted, average=None, labels=range(CLASSES))
    return {
        "logits": [[float(v) for v in row] for row in text],
        "labels": labels.tolist(),
        "top1": float((predicted == labels).mean()),
        "top5": float(top_k_accuracy_score(labels, zs, k=5)),
        "per_class": recall.tolist(),
        "macro_f1": float(f1_score(labels, predicted, average="macro", zero_division=0)),
        "nll": float(-log_p[np.arange(len(labels)), labels].mean()),
        "ece": float(ece(np.exp(log_p.max(1)), predicted == labels)),
        "confusion": confusion_matrix(labels, predicted, labels=range(CLASSES)).tolist(),
        "shots": [shots(recall, train) for train in TRAIN],
    }
