//! Tests the head against PyTorch's autograd (`tests/fixtures/losses.json`), and against the scalar reference
//! of the loss and its finite differences.

use super::*;
use crate::methods::choice::Kind;
use crate::methods::loss::{self, LossKind, reference};
use crate::rng::{Purpose, stream, uniform};

const BATCH: usize = 11;
const LEN: usize = 19;
const CLASSES: usize = 5;

fn random(len: usize, seed: u64) -> Vec<f32> {
    let mut rng = stream(seed, Purpose::Init, 0, 0);
    (0..len).map(|_| (2.0 * uniform(&mut rng) - 1.0) as f32).collect()
}

fn filled(shape: &[usize], values: &[f32]) -> Tensor {
    let t = zeros(shape).expect("a tensor");
    write(&t, |t| t.copy_from_slice(values)).expect("written");
    t
}

fn logits_f64(features: &[f64], linear: &[f64], normalised: bool) -> Vec<f64> {
    let (w, b) = linear.split_at(CLASSES * LEN);
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let logit = |f: &[f64], k: usize| {
        let w = &w[k * LEN..(k + 1) * LEN];
        match normalised {
            true => f64::from(SCALE) * dot(f, w) / (dot(f, f) * dot(w, w)).sqrt(),
            false => dot(f, w) + b[k],
        }
    };
    features.chunks_exact(LEN).flat_map(|f| (0..CLASSES).map(move |k| logit(f, k))).collect()
}

#[derive(serde::Deserialize)]
struct Fixture {
    cls_num_list: Vec<usize>,
    features: Vec<Vec<f32>>,
    weight: Vec<Vec<f32>>,
    bias: Vec<f32>,
    labels_a: Vec<u32>,
    labels_b: Vec<u32>,
    coef_a: Vec<f32>,
    coef_b: Vec<f32>,
    losses: Vec<Truth>,
}

#[derive(serde::Deserialize)]
struct Truth {
    params: loss::Loss,
    loss: f64,
    logits: Vec<Vec<f64>>,
    d_features: Vec<Vec<f64>>,
    d_weight: Vec<Vec<f64>>,
    /// Empty for LDAM, whose classifier has no bias.
    #[serde(default)]
    d_bias: Vec<f64>,
}

#[test]
fn every_loss_matches_pytorch() {
    let text = include_str!("../../../../tests/fixtures/losses.json");
    let fixture: Fixture = serde_json::from_str(text).expect("the fixture has this form");
    let (n, linear) = (fixture.features.len(), [fixture.weight.concat(), fixture.bias].concat());
    let features = filled(&[n, LEN], &fixture.features.concat());
    let targets = Targets {
        label_a: &fixture.labels_a,
        label_b: &fixture.labels_b,
        coef_a: &fixture.coef_a,
        coef_b: &fixture.coef_b,
    };
    // Losses for features alone are compared in `classifiers.json`.
    let has = |name: &str| fixture.losses.iter().any(|truth| truth.params.name() == name);
    let all = LossKind::ALL.iter().filter(|kind| !kind.on_features).map(|kind| kind.entry().name);
    let missing: Vec<&str> = all.filter(|name| !has(name)).collect();
    assert!(missing.is_empty(), "the fixture lacks {}", missing.join(", "));
    for truth in fixture.losses {
        let criterion = truth.params.criterion(&fixture.cls_num_list);
        let (scalar, _) = reference(&criterion, &truth.logits.concat(), &targets);
        assert!((scalar / truth.loss - 1.0).abs() < 1e-6, "{:?}: {scalar} {}", truth.params, truth.loss);

        let head = Head::new(n, LEN, CLASSES).expect("a head");
        let d_linear = zeros(&[linear.len()]).expect("a tensor");
        let found = head
            .step(&features, &filled(&[linear.len()], &linear), &criterion, targets, &d_linear)
            .expect("a step");
        assert!(
            (found.loss / truth.loss - 1.0).abs() < 1e-6,
            "{:?}: {} {}",
            truth.params,
            found.loss,
            truth.loss
        );
        let d_bias = if truth.d_bias.is_empty() { vec![0.0; CLASSES] } else { truth.d_bias };
        let pairs = [
            ("logits", &head.logits, truth.logits.concat()),
            ("features", &head.d_features, truth.d_features.concat()),
            ("linear", &d_linear, [truth.d_weight.concat(), d_bias].concat()),
        ];
        for (name, found, truth_of) in pairs {
            let most = truth_of.iter().fold(0f64, |m, x| m.max(x.abs()));
            for (at, (found, truth_of)) in read(found).expect("values").iter().zip(&truth_of).enumerate() {
                let error = (f64::from(*found) - truth_of).abs() / most;
                assert!(error < 3e-6, "{:?} {name} {at}: {found} {truth_of}", truth.params);
            }
        }
    }
}

#[test]
fn loss_and_gradients_match_the_reference() {
    let (features, linear) = (random(BATCH * LEN, 1), random(CLASSES * (LEN + 1), 2));
    let label_a: Vec<u32> = (0..BATCH as u32).map(|n| n % 5).collect();
    let label_b: Vec<u32> = (0..BATCH as u32).map(|n| n * 3 % 5).collect();
    let mut coef_a: Vec<f32> = random(BATCH, 3).iter().map(|x| x.abs()).collect();
    let mut coef_b: Vec<f32> = random(BATCH, 4).iter().map(|x| x.abs()).collect();
    (coef_a[3], coef_b[4]) = (0.0, 0.0);
    (coef_a[5], coef_b[5]) = (0.0, 0.0);
    let targets = Targets { label_a: &label_a, label_b: &label_b, coef_a: &coef_a, coef_b: &coef_b };

    let head = Head::new(BATCH + 3, LEN, CLASSES).expect("a head");
    let d_linear = zeros(&[CLASSES * (LEN + 1)]).expect("a tensor");
    let f = filled(&[BATCH, LEN], &features);
    let (w, counts) = (filled(&[linear.len()], &linear), [90, 40, 20, 7, 2]);
    let wide = |x: &[f32]| x.iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
    let (features, linear) = (wide(&features), wide(&linear));
    let slope = |x: &[f64], at: usize, f: &dyn Fn(&[f64]) -> f64| {
        let h = 1e-5;
        let moved = |by: f64| {
            let mut x = x.to_vec();
            x[at] += by;
            f(&x)
        };
        (moved(h) - moved(-h)) / (2.0 * h)
    };
    for asked in [&loss::LDAM, &loss::FOCAL, &loss::LOGIT_ADJUSTMENT, &loss::VS, &loss::CE] {
        let criterion = loss::Loss::new(asked).criterion(&counts);
        head.step(&f, &w, &criterion, targets, &d_linear).expect("a step");
        let loss = |features: &[f64], linear: &[f64]| {
            reference(
                &criterion,
                &logits_f64(features, linear, criterion.classifier == ClassifierKind::Cosine),
                &targets,
            )
            .0
        };
        // LDAM's logits are 30 times as steep.
        let most = if criterion.classifier == ClassifierKind::Cosine { 1e-3 } else { 1e-5 };
        for (at, &d) in read(&head.d_features).expect("values")[..BATCH * LEN].iter().enumerate() {
            let truth = slope(&features, at, &|x| loss(x, &linear));
            assert!((f64::from(d) - truth).abs() < most, "{asked:?}: feature {at}: {d} {truth}");
        }
        for (at, &d) in read(&d_linear).expect("values").iter().enumerate() {
            let truth = slope(&linear, at, &|x| loss(&features, x));
            assert!((f64::from(d) - truth).abs() < most, "{asked:?}: parameter {at}: {d} {truth}");
        }
    }
    let found = head.step(&f, &w, &Criterion::cross_entropy(CLASSES), targets, &d_linear).expect("a step");
    let truth =
        reference(&Criterion::cross_entropy(CLASSES), &logits_f64(&features, &linear, false), &targets).0;
    assert!((found.loss - truth).abs() < 1e-5, "{} {truth}", found.loss);

    let z = logits_f64(&features, &linear, false);
    let top = |n: usize| {
        let z = &z[n * CLASSES..(n + 1) * CLASSES];
        (0..CLASSES).fold(0, |best, k| if z[k] > z[best] { k } else { best }) as u32
    };
    let right: f64 = (0..BATCH)
        .map(|n| {
            let hit = |label: u32, c: f32| if label == top(n) { f64::from(c) } else { 0.0 };
            let all = f64::from(coef_a[n]) + f64::from(coef_b[n]);
            if all > 0.0 { (hit(label_a[n], coef_a[n]) + hit(label_b[n], coef_b[n])) / all } else { 0.0 }
        })
        .sum();
    assert!((found.right - right).abs() < 1e-5, "{} {right}", found.right);
}

/// A shift of all logits changes neither the loss nor its gradient, however large the logits are.
#[test]
fn equal_logits_are_equally_likely_however_large() {
    let head = Head::new(1, LEN, CLASSES).expect("a head");
    let d_linear = zeros(&[CLASSES * (LEN + 1)]).expect("a tensor");
    let targets = Targets { label_a: &[1], label_b: &[3], coef_a: &[0.75], coef_b: &[0.25] };
    for large in [1.0, 1e4, 1e12, 1e15, 1e17, 1e30] {
        let linear = [vec![0.0; CLASSES * LEN], vec![large; CLASSES]].concat();
        for of in [&loss::CE, &loss::FOCAL, &loss::LOGIT_ADJUSTMENT] {
            let criterion = loss::Loss::new(of).criterion(&[10; CLASSES]);
            let (features, linear) = (filled(&[1, LEN], &[1.0; LEN]), filled(&[linear.len()], &linear));
            let found = head.step(&features, &linear, &criterion, targets, &d_linear).expect("a step");
            let zero = vec![0.0; CLASSES];
            let (truth, gradient) = reference(&criterion, &zero, &targets);
            assert!((found.loss - truth).abs() < 1e-6, "{of:?} at {large}: {} {truth}", found.loss);
            let (wide, _) = reference(&criterion, &[large.into(); CLASSES], &targets);
            assert!((wide - truth).abs() < 1e-12, "{of:?} at {large}: {wide} {truth}");
            let d_bias = read(&d_linear).expect("values")[CLASSES * LEN..].to_vec();
            let apart = d_bias.iter().zip(&gradient).map(|(d, g)| (f64::from(*d) - g).abs());
            assert!(apart.fold(0.0, f64::max) < 1e-6, "{of:?} at {large}: {d_bias:?} {gradient:?}");
        }
    }
}
