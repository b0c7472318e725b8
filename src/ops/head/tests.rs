//! The head against the loss's scalar reference and against finite differences of it.

use super::*;
use crate::methods::loss::cross_entropy;
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
    write(&t, |t| {
        t.copy_from_slice(values);
        Ok(())
    })
    .expect("written");
    t
}

fn logits_f64(features: &[f64], linear: &[f64]) -> Vec<f64> {
    let (w, b) = linear.split_at(CLASSES * LEN);
    let dot = |f: &[f64], k: usize| f.iter().zip(&w[k * LEN..]).map(|(f, w)| f * w).sum::<f64>();
    features.chunks_exact(LEN).flat_map(|f| (0..CLASSES).map(move |k| dot(f, k) + b[k])).collect()
}

#[test]
fn loss_and_gradients_are_the_references() {
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
    let found = head.step(&f, &filled(&[linear.len()], &linear), targets, &d_linear).expect("a step");

    let wide = |x: &[f32]| x.iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
    let loss =
        |features: &[f64], linear: &[f64]| cross_entropy(&logits_f64(features, linear), CLASSES, &targets).0;
    let (features, linear) = (wide(&features), wide(&linear));
    let truth = loss(&features, &linear);
    assert!((found.loss - truth).abs() < 1e-5, "{} {truth}", found.loss);

    let slope = |x: &[f64], at: usize, f: &dyn Fn(&[f64]) -> f64| {
        let h = 1e-5;
        let moved = |by: f64| {
            let mut x = x.to_vec();
            x[at] += by;
            f(&x)
        };
        (moved(h) - moved(-h)) / (2.0 * h)
    };
    for (at, &d) in read(&head.d_features).expect("values")[..BATCH * LEN].iter().enumerate() {
        let truth = slope(&features, at, &|x| loss(x, &linear));
        assert!((f64::from(d) - truth).abs() < 1e-5, "feature {at}: {d} {truth}");
    }
    for (at, &d) in read(&d_linear).expect("values").iter().enumerate() {
        let truth = slope(&linear, at, &|x| loss(&features, x));
        assert!((f64::from(d) - truth).abs() < 1e-5, "parameter {at}: {d} {truth}");
    }

    let z = logits_f64(&features, &linear);
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

#[test]
fn ties_go_to_the_first() {
    assert_eq!(argmax(&[1.0, 3.0, 3.0]), 1);
}
