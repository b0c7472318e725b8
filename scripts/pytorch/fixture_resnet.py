"""The fixture `resnet32.safetensors`: a ResNet-32 on one batch, computed in float64 and stored rounded to F32.

**Weights and input are not stored, because they follow from their names.** Value number i (row-major, in PyTorch's
layout) of the tensor `name` is computed in 64-bit wrapping arithmetic:

    fnv1a64(name): h = 0xcbf29ce484222325; for each byte b of the name: h = (h xor b) * 0x100000001b3
    mix(x):        x += 0x9e3779b97f4a7c15                              (splitmix64)
                   x = (x xor (x >> 30)) * 0xbf58476d1ce4e5b9
                   x = (x xor (x >> 27)) * 0x94d049bb133111eb
                   x xor (x >> 31)
    u(name, i)   = (mix(fnv1a64(name) + i) >> 40) * 2^-24               in [0, 1), exact in f32

and then, with each operation rounded to f32 in the order written:

    conv and linear `.weight`   (2*u - 1) * bound, bound = f32(sqrt(6 / fan_in)), the square root in f64;
                                fan_in = 9 * C_in of a convolution, 64 of the linear layer
    bn `.weight`                0.25 + 0.5*u
    bn `.bias`                  u - 0.5 of every `bn2`, 0.5 + u of every `bn1`
    `linear.bias`               (u - 0.5) * 0.25
    bn `.running_mean`          (u - 0.5) * 0.5
    bn `.running_var`           2 + 4*u
    `pixels` (8, 3, 32, 32)     (2*u - 1) * 2          (the input)

With these biases few ReLUs have an input near zero, and with the name `pixels` (of 27 names tried, one of three such)
none has one within 2e-6 of zero in the first step. So rounding changes no sign, and f32 can be tested with tight
tolerances. With the obvious choice (bn weight 0.5 + u, bias u - 0.5) PyTorch's own f32 is 7e-4 (contiguous) to 1e-2
(channels_last) off the true gradient. `KNOWN` below has a few values, to check other implementations of the formula.

**Stored**, as F32 unless stated otherwise: `labels_a`, `labels_b` (8) I64; `coef_a`, `coef_b` (8), multiples of 1/1024;
`features` (8, 64) and `eval_logits` (8, 10), in eval mode with the running statistics above; `logits` (8, 10) in train
mode; `loss` (), the sum over samples of coef_a * CE(z, a) + coef_b * CE(z, b) in train mode; `grad.<name>` of every
parameter; `after3.<name>` of every parameter and running statistic after three SGD steps on this batch, with lr 0.1,
momentum 0.9 (PyTorch's form: v = g at first, then v = m*v + g; p -= lr*v) and weight decay 2e-4 on all parameters.
Running statistics have PyTorch's momentum 0.1 and the unbiased variance. They are first updated in the first of the
three steps; the pass in eval mode before it changes nothing.

**`manifold.json`** has the loss and the gradients of the first step if the output of stage 1 or 2 is mixed with `PARTNER`
and `LAMBDA` (Manifold Mixup): of each gradient its length and its product with the vector u(probe, i) - 1/2.
"""

import math
import sys

import numpy as np
import torch
import torch.nn.functional as F
from resnet_s import resnet_s

# Samples with both labels, only the first, only the second, none, the same label twice, a large weight, a small one,
# and again only the first.
LABELS_A = [3, 0, 7, 9, 5, 1, 8, 2]
LABELS_B = [6, 4, 1, 0, 5, 9, 3, 2]
COEF_A = [c / 1024 for c in (5, 8, 0, 0, 3, 14, 1, 8)]
COEF_B = [c / 1024 for c in (3, 0, 8, 0, 5, 7, 2, 0)]

# PARTNER is a permutation with a fixed point. LAMBDA includes 1 (only the sample itself) and 0 (only its partner).
PARTNER = [2, 0, 1, 3, 7, 4, 5, 6]
LAMBDA = [k / 16 for k in (4, 16, 8, 12, 0, 10, 5, 14)]

# (name, i): the value as a C99 hexadecimal float, exact.
KNOWN = {
    ("conv1.weight", 0): "0x1.5c22cc0000000p-5",  # 0.04249706119298935
    ("layer3.4.conv2.weight", 36863): "-0x1.87569a0000000p-5",  # -0.04777078703045845
    ("layer1.0.bn1.weight", 1): "0x1.4a2e360000000p-2",  # 0.3224419057369232
    ("layer2.3.bn2.bias", 31): "0x1.e13ef00000000p-4",  # 0.11749166250228882
    ("bn1.running_var", 2): "0x1.2d97ec0000000p+1",  # 2.356198787689209
    ("bn1.running_mean", 3): "0x1.70c37c0000000p-3",  # 0.18006035685539246
    ("linear.weight", 639): "0x1.8168920000000p-3",  # 0.18818773329257965
    ("linear.bias", 9): "0x1.47bc600000000p-7",  # 0.010001704096794128
    ("pixels", 24575): "0x1.76ec080000000p+0",  # 1.4645390510559082
}


def fnv1a64(name):
    h = 0xCBF29CE484222325
    for b in name.encode():
        h = (h ^ b) * 0x100000001B3 % 2**64
    return h


def uniform(name, shape):
    """u(name, i) for i in 0..n, as f32 in the given shape."""
    start = np.uint64((fnv1a64(name) + 0x9E3779B97F4A7C15) % 2**64)
    x = np.arange(math.prod(shape), dtype=np.uint64) + start
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return ((x >> np.uint64(40)).astype(np.float32) * np.float32(2**-24)).reshape(shape)


def value(name, shape):
    """The tensor `name` by the formula of the docstring, as a numpy array of f32."""
    f, u = np.float32, uniform(name, shape)
    if name == "pixels":
        return (f(2) * u - f(1)) * f(2)
    if name == "linear.bias":
        return (u - f(0.5)) * f(0.25)
    if name.endswith("running_mean"):
        return (u - f(0.5)) * f(0.5)
    if name.endswith("running_var"):
        return f(2) + f(4) * u
    if len(shape) == 1:
        if name.endswith("weight"):
            return f(0.25) + f(0.5) * u
        return u - f(0.5) if "bn2" in name else f(0.5) + u
    return (f(2) * u - f(1)) * f(math.sqrt(6 / math.prod(shape[1:])))


def network():
    """The ResNet-32 with the weights of the formula, in f32."""
    model = resnet_s("resnet32")
    state = {n: torch.from_numpy(value(n, tuple(t.shape))) for n, t in model.state_dict().items() if t.ndim}
    missing = model.load_state_dict(state, strict=False).missing_keys
    assert all(n.endswith("num_batches_tracked") for n in missing), missing
    return model


def run(dtype):
    """Everything that the fixture stores, computed in `dtype`."""
    model = network().to(dtype)
    xs = torch.from_numpy(value("pixels", (8, 3, 32, 32))).to(dtype)
    a, b = torch.tensor(LABELS_A), torch.tensor(LABELS_B)
    coef_a, coef_b = torch.tensor(COEF_A, dtype=dtype), torch.tensor(COEF_B, dtype=dtype)
    out = {}
    with torch.no_grad():
        model.eval()
        out["features"] = model.features(xs)
        out["eval_logits"] = model(xs)
    model.train()
    sgd = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=2e-4)
    for step in range(3):
        sgd.zero_grad()
        logits = model(xs)
        ce_a, ce_b = (F.cross_entropy(logits, y, reduction="none") for y in (a, b))
        loss = (coef_a * ce_a + coef_b * ce_b).sum()
        loss.backward()
        print(f"resnet32 {dtype}: step {step}: loss {loss.item():.9f}", file=sys.stderr)
        if step == 0:
            out["logits"], out["loss"] = logits.detach(), loss.detach()
            out |= {f"grad.{n}": p.grad.clone() for n, p in model.named_parameters()}
        sgd.step()
    out |= {f"after3.{n}": t.clone() for n, t in model.state_dict().items() if t.ndim}
    return out


def mixed(dtype, stage):
    """Loss and gradients of the first step if the output of a stage is mixed."""
    model = network().to(dtype).train()
    xs = torch.from_numpy(value("pixels", (8, 3, 32, 32))).to(dtype)
    lam = torch.tensor(LAMBDA, dtype=dtype)[:, None, None, None]
    logits = model(xs, (stage, lambda ys: lam * ys + (1 - lam) * ys[PARTNER]))
    loss = torch.zeros((), dtype=dtype)
    for labels, coef in ((LABELS_A, COEF_A), (LABELS_B, COEF_B)):
        ce = F.cross_entropy(logits, torch.tensor(labels), reduction="none")
        loss = loss + (torch.tensor(coef, dtype=dtype) * ce).sum()
    loss.backward()
    grads = {}
    for name, p in model.named_parameters():
        probe = torch.from_numpy(uniform("probe", (p.numel(),))).double() - 0.5
        grads[name] = [p.grad.double().norm().item(), (p.grad.double().flatten() @ probe).item()]
    return {"stage": stage, "loss": loss.item(), "gradients": grads}


def manifold():
    """The content of `manifold.json`. Prints on stderr how far PyTorch's own f32 is from it."""
    stages = []
    for stage in (1, 2):
        truth, single = (mixed(dtype, stage) for dtype in (torch.float64, torch.float32))
        worst = max(
            (max(abs(x - y) for x, y in zip(single["gradients"][n], g)) / g[0], n)
            for n, g in truth["gradients"].items()
        )
        print(
            f"manifold {stage}: f32 from float64: {worst[0]:.1e} of a gradient ({worst[1]})", file=sys.stderr
        )
        stages.append(truth)
    return {"partner": PARTNER, "lambda": LAMBDA, "stages": stages}


def relative(x, truth):
    """The relative error of a whole tensor: its distance from the truth over the length of the truth."""
    return ((x.double() - truth).norm() / truth.norm()).item()


def make():
    """The tensors of the fixture. Prints on stderr how far PyTorch's own f32 is from them."""
    for (name, i), hexadecimal in KNOWN.items():
        shape = (8, 3, 32, 32) if name == "pixels" else tuple(network().state_dict()[name].shape)
        assert float(value(name, shape).flat[i]).hex() == hexadecimal, (name, i)
    truth, single = run(torch.float64), run(torch.float32)
    for prefix in ("features", "eval_logits", "logits", "loss", "grad.", "after3."):
        names = [n for n in truth if n.startswith(prefix)]
        rel = max(relative(single[n], truth[n]) for n in names)
        worst = max(((single[n].double() - truth[n]).abs().max().item(), n) for n in names)
        size = max(truth[n].abs().max().item() for n in names)
        print(
            f"resnet32 {prefix}: f32 from float64: relative {rel:.1e}, absolute {worst[0]:.1e} "
            f"({worst[1]}); largest value {size:.3g}",
            file=sys.stderr,
        )
    stored = {n: t.float().contiguous() for n, t in truth.items()}
    stored["labels_a"], stored["labels_b"] = torch.tensor(LABELS_A), torch.tensor(LABELS_B)
    stored["coef_a"], stored["coef_b"] = torch.tensor(COEF_A), torch.tensor(COEF_B)
    return stored
