//! Tests the methods against `tests/fixtures/methods.json`, which was made by plain Python
//! (`scripts/pytorch`): λ_y, class weights and probabilities, learning rates, and the loss of whole mixed and
//! re-weighted batches.

use serde::Deserialize;

use super::*;
use crate::methods::loss::{Criterion, LDAM, Loss, Targets, reference};
use crate::methods::mix::REMIX;
use crate::methods::rule::{RS, RW, Resample, Rule};
use crate::train::schedule::{self, Origin};

#[derive(Deserialize)]
struct Fixture {
    /// n_i, n_j, λ, κ, τ, λ_y.
    remix: Vec<(usize, usize, f32, f64, f64, f32)>,
    /// λ; height, width, row and column of the centre; top, bottom, left, right.
    cutmix: Vec<(f32, [usize; 4], [u32; 4])>,
    remix_loss: Vec<Batch>,
    counts: std::collections::BTreeMap<String, Classes>,
    schedule: Vec<Schedule>,
}

#[derive(Deserialize)]
struct Classes {
    cls_num_list: Vec<usize>,
    rw: Vec<f64>,
    rs: Vec<f64>,
    rs_inverse: Vec<f64>,
    ldam: Vec<f64>,
}

#[derive(Deserialize)]
struct Schedule {
    recipe: Origin,
    epochs: u32,
    milestones: Vec<u32>,
    lr: Vec<f64>,
}

#[derive(Deserialize)]
struct Batch {
    cls_num_list: Vec<usize>,
    lambda: f32,
    kappa: f64,
    tau: f64,
    logits: Vec<Vec<f64>>,
    labels_a: Vec<u32>,
    labels_b: Vec<u32>,
    lambda_y: Vec<f32>,
    none: Losses,
    rw: Losses,
}

/// Each sample's λ_y·w·CE sum, and the weight λ_y·w_a + (1−λ_y)·w_b that a weighted mean divides by.
#[derive(Deserialize)]
struct Losses {
    per_sample: Vec<f64>,
    weights: Vec<f64>,
}

fn fixture() -> Fixture {
    let text = include_str!("../../../tests/fixtures/methods.json");
    serde_json::from_str(text).expect("the fixture has this form")
}

fn remix(kappa: f64, tau: f64) -> Mix {
    Mix::new(&REMIX).with("kappa", kappa).with("tau", tau)
}

fn close(a: &[f64], b: &[f64], what: &str) {
    assert_eq!(a.len(), b.len(), "{what}");
    for (a, b) in a.iter().zip(b) {
        assert!((a - b).abs() <= 1e-9 * b.abs(), "{what}: {a}, {b} expected");
    }
}

#[test]
fn lambda_y() {
    let rows = fixture().remix;
    assert!(rows.len() > 2000);
    for (n_i, n_j, lambda, kappa, tau, expected) in rows {
        let got = remix(kappa, tau).lambda_y(lambda, n_i, n_j);
        assert_eq!(got.to_bits(), expected.to_bits(), "n {n_i} {n_j} λ {lambda} κ {kappa} τ {tau}");
    }
}

#[test]
fn patches() {
    let rows = fixture().cutmix;
    assert!(rows.len() > 300);
    for (lambda, [height, width, row, col], [top, bottom, left, right]) in rows {
        let found = Patch::around(lambda, [row, col], [height, width]);
        assert_eq!(found, Patch { top, bottom, left, right }, "λ {lambda} {height}×{width} at {row}, {col}");
    }
}

#[test]
fn class_weights_and_probabilities() {
    let effective = Rule::new(&RS).resample().expect("RS re-samples");
    let rw = Rule::new(&RW).reweight().expect("RW re-weights");
    for (name, c) in fixture().counts {
        close(&rw.weights(&c.cls_num_list), &c.rw, &name);
        close(&effective.probabilities(&c.cls_num_list), &c.rs, &name);
        close(&Resample::Inverse.probabilities(&c.cls_num_list), &c.rs_inverse, &name);
        let margins = Loss::new(&LDAM).criterion(&c.cls_num_list).margins;
        for (found, truth) in margins.iter().zip(&c.ldam) {
            assert!((f64::from(*found) / 30.0 / truth - 1.0).abs() < 1e-7, "{name}: {found} {truth}");
        }
    }
}

#[test]
fn learning_rates() {
    for s in fixture().schedule {
        assert_eq!(s.recipe.milestones(s.epochs), s.milestones, "{:?} {}", s.recipe, s.epochs);
        let got: Vec<f32> = (1..=s.epochs).map(|e| schedule::lr(0.1, &s.milestones, 0, e)).collect();
        let expected: Vec<f32> = s.lr.iter().map(|&lr| lr as f32).collect();
        assert_eq!(got, expected, "{:?} {}", s.recipe, s.epochs);
    }
}

#[test]
fn losses_of_whole_batches() {
    for batch in fixture().remix_loss {
        let (n, classes) = (batch.logits.len(), batch.cls_num_list.len());
        let mix = remix(batch.kappa, batch.tau);
        let weights = Rule::new(&RW).reweight().expect("RW re-weights").weights(&batch.cls_num_list);
        for s in 0..n {
            let count = |label: u32| batch.cls_num_list[label as usize];
            let (n_i, n_j) = (count(batch.labels_a[s]), count(batch.labels_b[s]));
            assert_eq!(mix.lambda_y(batch.lambda, n_i, n_j), batch.lambda_y[s]);
        }
        let (none, rw) = (batch.none.per_sample.iter().sum::<f64>(), batch.rw.per_sample.iter().sum::<f64>());
        let cases = [
            (None, none / n as f64),
            (Some((weights.clone(), RwNorm::BatchSize)), rw / n as f64),
            (Some((weights, RwNorm::WeightSum)), rw / batch.rw.weights.iter().sum::<f64>()),
        ];
        for (weights, expected) in cases {
            let (counts, lambda) = (&batch.cls_num_list, vec![batch.lambda; n]);
            let (label_a, label_b) = (&batch.labels_a[..], &batch.labels_b[..]);
            let (coef_a, coef_b) = coefficients(&mix, counts, weights.as_ref(), &lambda, label_a, label_b);
            let targets = Targets { label_a, label_b, coef_a: &coef_a, coef_b: &coef_b };
            let (loss, _) = reference(&Criterion::cross_entropy(classes), &batch.logits.concat(), &targets);
            // The coefficients are f32, exact to one part in 10⁷ each.
            assert!((loss / expected - 1.0).abs() < 1e-7, "{weights:?}: {loss}, {expected} expected");
        }
        assert!(batch.none.weights.iter().all(|&w| (w - 1.0).abs() < 1e-12));
    }
}
