use serde_json::Value;

use super::*;
use crate::methods::adjust::{adjusted, offsets};
use crate::methods::classifier::{means, nearest, tau_normed};
use crate::methods::loss::{CE, LAS, Loss as Function};
use crate::simd::{Isa, for_each_isa, forced};

const FEATURES: usize = 13;

fn floats(v: &Value) -> Vec<f32> {
    match v {
        Value::Array(all) => all.iter().flat_map(floats).collect(),
        v => vec![v.as_f64().expect("a number") as f32],
    }
}

fn truth() -> Value {
    serde_json::from_str(include_str!("../../../../tests/fixtures/classifiers.json")).expect("JSON")
}

fn near(what: &str, found: &[f32], truth: &[f32], most: f32) {
    assert_eq!(found.len(), truth.len(), "{what}");
    let off = found.iter().zip(truth).map(|(a, b)| (a - b).abs() / b.abs().max(1.0)).fold(0.0, f32::max);
    assert!(off <= most, "{what}: {off}");
}

/// Returns a batch of the fixture: features, labels and coefficients.
fn batch(v: &Value) -> (Vec<f32>, [Vec<u32>; 2], [Vec<f32>; 2]) {
    let labels = |name: &str| floats(&v[name]).into_iter().map(|l| l as u32).collect();
    (floats(&v["x"]), ["a", "b"].map(labels), ["coef_a", "coef_b"].map(|name| floats(&v[name])))
}

/// Runs the three steps of the fixture. Returns the classifier after them, and their losses.
fn steps(truth: &Value, name: &str) -> (Linear, Vec<f64>) {
    let kind = if name == "cosine" { ClassifierKind::Cosine } else { ClassifierKind::Linear };
    let flat = [floats(&truth["weight"]), floats(&truth["bias"])].concat();
    let linear = Linear::new(&flat, FEATURES, kind);
    let mut linear = match name {
        "lws" => linear.scaled(None),
        _ => linear.with_velocity(&vec![0.0; flat.len()]),
    };
    let number = |name: &str| truth[name].as_f64().expect("a number") as f32;
    let rates = Rates {
        lr: number("lr"),
        momentum: number("momentum"),
        weight_decay: number("weight_decay"),
        nesterov: false,
    };
    let counts: Vec<usize> = floats(&truth["class_counts"]).into_iter().map(|n| n as usize).collect();
    let loss = match name {
        "las" => Function::new(&LAS).with("smooth_head", 0.4).with("smooth_tail", 0.1),
        _ => Function::new(&CE),
    };
    let criterion = Criterion { classifier: kind, ..loss.criterion(&counts) };
    let step = |v: &Value| {
        let (x, [label_a, label_b], [coef_a, coef_b]) = batch(v);
        let targets = Targets { label_a: &label_a, label_b: &label_b, coef_a: &coef_a, coef_b: &coef_b };
        let x: Vec<&[f32]> = x.chunks_exact(FEATURES).collect();
        linear.step(&x, targets, &criterion, rates).loss
    };
    let losses = truth["batches"].as_array().expect("batches").iter().map(step).collect();
    (linear, losses)
}

/// Compares with PyTorch's SGD in f64, computed by `scripts/pytorch/fixture_classifiers.py`.
#[test]
fn steps_match_pytorch() {
    let truth = truth();
    for_each_isa(|isa| {
        for name in ["linear", "cosine", "lws", "las"] {
            let (linear, losses) = steps(&truth, name);
            let what = format!("{name} by {}", isa.name());
            let losses: Vec<f32> = losses.into_iter().map(|l| l as f32).collect();
            near(&what, &losses, &floats(&truth[name]["losses"]), 1e-5);
            let mut expected = floats(&truth[name]["weight"]);
            let own = linear.flat();
            // A cosine classifier has no bias.
            if name == "cosine" {
                near(&what, &own[..expected.len()], &expected, 1e-5);
                continue;
            }
            expected.extend(floats(&truth[name]["bias"]));
            near(&what, &own, &expected, 1e-5);
        }
    });
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    let truth = truth();
    for name in ["linear", "cosine", "lws"] {
        let [one, four] = [1, 4].map(|threads| {
            forced(Isa::get(), threads, || {
                let (linear, losses) = steps(&truth, name);
                (linear.flat(), linear.state(), losses)
            })
        });
        assert!(one == four, "{name}");
    }
}

/// Tests whole tiles, part of a tile, several panels, and more rows than are computed at a time.
#[test]
fn logits_match_plain_loops_at_odd_sizes() {
    for_each_isa(|isa| {
        for (n, classes, features) in
            [(1, 1, 1), (25, 37, 13), (600, 70, 29), (12, 32, 6), (14, 33, 100), (9, 5, 200)]
        {
            let value = |at: usize, by: usize| ((at * by) % 23) as f32 * 0.125 - 1.0;
            let flat: Vec<f32> = (0..classes * (features + 1)).map(|at| value(at, 7)).collect();
            let x: Vec<f32> = (0..n * features).map(|at| value(at, 11)).collect();
            let linear = Linear::new(&flat, features, ClassifierKind::Linear);
            assert!(linear.flat() == flat);
            let logits = linear.logits(&x);
            for (row, x) in x.chunks_exact(features).enumerate() {
                for k in 0..classes {
                    let product: f32 =
                        flat[k * features..][..features].iter().zip(x).map(|(w, x)| w * x).sum();
                    let off = (logits[row * classes + k] - product - flat[classes * features + k]).abs();
                    assert!(off < 1e-4, "{} {n}×{features}, {classes} classes: {off}", isa.name());
                }
            }
        }
    });
}

/// Tests widths beyond the number of columns that are written at a time.
#[test]
fn steps_with_many_features_match_plain_loops() {
    let (n, classes) = (17, 5);
    let value = |at: usize, by: usize| ((at * by) % 29) as f32 * 0.0625 - 0.875;
    let rates = Rates { lr: 0.5, momentum: 0.0, weight_decay: 0.0, nesterov: false };
    let labels: Vec<u32> = (0..n as u32).map(|i| i % 5).collect();
    let (all, none) = (vec![1.0 / n as f32; n], vec![0.0; n]);
    let targets = Targets { label_a: &labels, label_b: &labels, coef_a: &all, coef_b: &none };
    for features in [65, 97, 200] {
        let x: Vec<f32> = (0..n * features).map(|at| value(at, 11)).collect();
        let flat: Vec<f32> = (0..classes * (features + 1)).map(|at| value(at, 7) * 0.1).collect();
        let mut expected = flat.clone();
        for (x, label) in x.chunks_exact(features).zip(&labels) {
            let z = |k: usize| {
                let products = flat[k * features..][..features].iter().zip(x).map(|(w, x)| f64::from(w * x));
                products.sum::<f64>() + f64::from(flat[classes * features + k])
            };
            let sum: f64 = (0..classes).map(|k| z(k).exp()).sum();
            for k in 0..classes {
                let d = (z(k).exp() / sum - f64::from(u8::from(k == *label as usize))) / n as f64;
                let step = |x: f32| (0.5 * d * f64::from(x)) as f32;
                x.iter().enumerate().for_each(|(f, x)| expected[k * features + f] -= step(*x));
                expected[classes * features + k] -= step(1.0);
            }
        }
        for_each_isa(|isa| {
            let linear = Linear::new(&flat, features, ClassifierKind::Linear);
            let mut linear = linear.with_velocity(&vec![0.0; flat.len()]);
            let rows: Vec<&[f32]> = x.chunks_exact(features).collect();
            linear.step(&rows, targets, &Criterion::cross_entropy(classes), rates);
            near(&format!("{features} by {}", isa.name()), &linear.flat(), &expected, 1e-5);
        });
    }
}

#[test]
fn tau_norm_class_means_and_logit_adjustment_match_the_fixture() {
    let truth = truth();
    let weight = floats(&truth["weight"]);
    for tau in ["0.0", "0.7", "1.0"] {
        let found = tau_normed(&weight, FEATURES, tau.parse().expect("a number"));
        near(tau, &found, &floats(&truth["tau_norm"][tau]), 1e-6);
    }
    let x: Vec<f32> =
        truth["batches"].as_array().expect("batches").iter().flat_map(|b| floats(&b["x"])).collect();
    let rows = x.chunks_exact(FEATURES).zip((0..5).cycle());
    let means = means(rows, 5, FEATURES);
    let logits = |weight: Vec<f32>, bias: Vec<f32>, kind| {
        let flat = [weight, bias].concat();
        Linear::new(&flat, FEATURES, kind).logits(&x)
    };
    let (weight, bias) = nearest(&means, FEATURES);
    let ncm = logits(weight, bias, ClassifierKind::Linear);
    // Compare up to a constant that all classes of a row share.
    let from_first =
        |z: &[f32]| z.chunks_exact(5).flat_map(|z| z.iter().map(|x| x - z[0])).collect::<Vec<f32>>();
    near("the nearest mean", &from_first(&ncm), &from_first(&floats(&truth["ncm"])), 1e-5);
    let weight = means.iter().map(|m| *m as f32).collect();
    let cosine = logits(weight, vec![0.0; 5], ClassifierKind::Cosine);
    near("the mean of the largest cosine", &cosine, &floats(&truth["ncm_cosine"]), 1e-5);
    let counts: Vec<usize> = floats(&truth["counts"]).into_iter().map(|n| n as usize).collect();
    for tau in ["0.5", "1.0"] {
        let found = adjusted(&floats(&truth["ncm"]), &offsets(tau.parse().expect("a number"), &counts, None));
        near("logit adjustment", &found, &floats(&truth["adjusted"][tau]), 1e-5);
    }
}
