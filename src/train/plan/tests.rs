//! Tests of the plan: purity, Mixup as Remix at τ = 0, coefficients, sampling, invalid labels.

use std::collections::HashSet;

use proptest::prelude::*;

use super::*;
use crate::methods::choice::{Choice, Domain, Kind, MethodOption, Setting};
use crate::methods::loss::LossKind;
use crate::methods::mix::{CUTMIX, MIXUP, Mix, MixKind, REMIX, REMIX_CUTMIX};
use crate::methods::presets::{names, preset};
use crate::methods::rule::RuleKind;

const COUNTS: [usize; 4] = [200, 60, 19, 5];

fn labels() -> Vec<u32> {
    (0u32..).zip(COUNTS).flat_map(|(k, n)| std::iter::repeat_n(k, n)).collect()
}

fn config(name: &str) -> Config {
    let mut c = Config::new(preset(name).expect("a preset"));
    (c.batch_size, c.seed) = (32, 7);
    c
}

fn plan(c: &Config) -> Plan {
    Plan::new(c, &labels(), [32, 32, 3], &COUNTS).expect("a plan")
}

#[test]
fn a_step_depends_only_on_its_epoch_and_number() {
    for name in names() {
        let (one, other) = (plan(&config(&name)), plan(&config(&name)));
        for epoch in [224, 1, 300] {
            let there: Vec<Step> = (0..one.epoch(epoch).steps()).map(|i| one.epoch(epoch).step(i)).collect();
            let back = other.epoch(epoch);
            for i in (0..back.steps()).rev() {
                assert_eq!(back.step(i), there[i], "{name} epoch {epoch} step {i}");
            }
        }
        assert_ne!(one.epoch(1).step(0).samples, one.epoch(2).step(0).samples);
        assert_ne!(
            one.epoch(1).step(0).samples,
            plan(&Config { seed: 8, ..config(&name) }).epoch(1).step(0).samples
        );
    }
}

#[test]
fn every_epoch_has_every_image_once_and_keeps_the_last_batch() {
    for name in ["erm", "rw", "remix-drs"] {
        let plan = plan(&config(name));
        let epoch = plan.epoch(3);
        assert_eq!(epoch.steps(), 9);
        let steps: Vec<Step> = (0..9).map(|i| epoch.step(i)).collect();
        assert_eq!(steps[8].samples.len(), 284 - 8 * 32);
        let seen: HashSet<u32> = steps.iter().flat_map(|s| s.samples.iter().map(|s| s.index)).collect();
        assert_eq!(seen.len(), 284);
    }
}

/// An option that nothing reads would be in the key and in `--help`, and do nothing.
#[test]
fn every_option_changes_the_batches_or_the_loss() {
    /// Returns copies of a choice with another value of an option, as far as it allows them.
    fn others<K: Kind>(choice: Choice<K>, option: &MethodOption) -> Vec<Choice<K>> {
        let candidates = match option.domain {
            Domain::Number { .. } => [0.0, 0.3, 0.7, 1.5, 3.5, 10.0].map(Setting::Number).to_vec(),
            Domain::OneOf(_, words) => words.iter().map(|&(word, _)| Setting::Word(word)).collect(),
        };
        let changed = candidates.into_iter().filter_map(|value| choice.try_with(option.name, value));
        changed.filter(|other| other.fault().is_none() && *other != choice).collect()
    }
    /// Returns all that training takes from a method.
    fn effect(c: &Config) -> String {
        let plan = plan(c);
        let of_epoch = |epoch: u32| {
            let epoch = plan.epoch(epoch);
            let steps: Vec<Step> = (0..epoch.steps()).map(|i| epoch.step(i)).collect();
            format!("{steps:?} {:?}", epoch.weights)
        };
        format!("{} {} {:?}", of_epoch(1), of_epoch(300), c.loss.criterion(&COUNTS))
    }
    fn check<K: Kind>(of: fn(&mut Config) -> &mut Choice<K>) {
        for kind in K::ALL {
            for option in kind.entry().options {
                let mut c = config("remix-rw");
                *of(&mut c) = Choice::new(*kind);
                let mut before = c.clone();
                if let Some((other, word)) = option.only_with {
                    *of(&mut before) = of(&mut before).with_word(other, word);
                }
                let usual = effect(&before);
                let changed = others(*of(&mut before), option).into_iter().any(|other| {
                    let mut c = before.clone();
                    *of(&mut c) = other;
                    effect(&c) != usual
                });
                assert!(changed, "{} {}: {} changes nothing", K::PART, kind.entry().name, option.name);
            }
        }
    }
    check::<MixKind>(|c| &mut c.mix);
    check::<LossKind>(|c| &mut c.loss);
    check::<RuleKind>(|c| &mut c.rule);
}

#[test]
fn remix_without_tau_is_mixup_bit_for_bit() {
    for (per, rule) in [("batch", "mixup"), ("sample", "mixup-rw"), ("sample", "mixup-drs")] {
        for alpha in [1.0, 0.3] {
            let mut mixup = config(rule);
            let with = |kind| Mix::new(kind).with("alpha", alpha).with_word("lambda_per", per);
            mixup.mix = with(&MIXUP);
            let mut remix = mixup.clone();
            remix.mix = with(&REMIX).with("tau", 0.0);
            let mut paper = mixup.clone();
            paper.mix = with(&REMIX);
            let (a, b, c) = (plan(&mixup), plan(&remix), plan(&paper));
            let mut differs = false;
            for epoch in [1, 225, 226, 227] {
                let (a, b, c) = (a.epoch(epoch), b.epoch(epoch), c.epoch(epoch));
                for i in 0..a.steps() {
                    let (a, b) = (a.step(i), b.step(i));
                    let bits = |xs: &[f32]| xs.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                    assert_eq!(bits(&a.coef_a), bits(&b.coef_a));
                    assert_eq!(bits(&a.coef_b), bits(&b.coef_b));
                    assert_eq!(bits(&a.lambda), bits(&b.lambda));
                    assert_eq!(a, b);
                    differs |= c.step(i).coef_a != a.coef_a;
                }
            }
            assert!(differs, "the comparison sees Remix at work where τ is not 0");
        }
    }
}

#[test]
fn cutmix_mixes_labels_by_area_and_remix_cutmix_by_the_rule_of_remix() {
    let with =
        |kind| plan(&Config { mix: Mix::new(kind).with_word("lambda_per", "sample"), ..config("erm") });
    let (cutmix, remix) = (with(&CUTMIX), with(&REMIX_CUTMIX));
    let mut decided = 0;
    for epoch in 1..10 {
        let (c, r) = (cutmix.epoch(epoch).step(0), remix.epoch(epoch).step(0));
        assert_eq!((&c.patch, &c.lambda, &c.partner), (&r.patch, &r.lambda, &r.partner));
        for s in 0..32 {
            let share = 1.0 - c.patch[s].area() as f32 / 1024.0;
            assert_eq!((c.lambda[s], c.coef_a[s], c.coef_b[s]), (share, share / 32.0, (1.0 - share) / 32.0));
            let counts = [r.label_a[s], r.label_b[s]].map(|k| COUNTS[k as usize]);
            assert_eq!(r.coef_a[s], Mix::new(&REMIX).lambda_y(share, counts[0], counts[1]) / 32.0);
            decided += usize::from(r.coef_a[s] != c.coef_a[s]);
        }
    }
    assert!(decided > 20, "Remix is seen at work: {decided}");
    assert!(plan(&config("remix")).epoch(1).step(0).patch.iter().all(|p| p.area() == 0));
}

#[test]
fn manifold_mixup_is_mixup_at_one_of_three_mix_points() {
    let (manifold, mixup) = (plan(&config("manifold-mixup")), plan(&config("mixup")));
    let mut seen = [0; 3];
    for epoch in 1..=30 {
        for i in 0..manifold.steps() {
            let (m, x) = (manifold.epoch(epoch).step(i), mixup.epoch(epoch).step(i));
            seen[m.mix_point] += 1;
            assert_eq!(Step { mix_point: 0, ..m }, x, "but for the mix point the same numbers");
        }
    }
    // 270 draws, σ ≈ 7.7.
    assert!(seen.iter().all(|n: &u32| n.abs_diff(90) < 35), "{seen:?}");
}

#[test]
fn without_mixing_every_sample_is_its_own_partner() {
    let step = plan(&config("erm")).epoch(1).step(8);
    assert_eq!(step.partner, (0..28).collect::<Vec<_>>());
    assert_eq!(step.label_a, step.label_b);
    assert!(step.lambda.iter().all(|&l| l == 1.0) && step.coef_b.iter().all(|&c| c == 0.0));
    assert!(step.coef_a.iter().all(|&c| c == 1.0 / 28.0));
}

#[test]
fn weights_act_in_a_batch_of_one() {
    // Under a weighted mean a batch of one sample loses its weight; divided by the batch size it keeps it.
    let mut c = config("rw");
    c.batch_size = 1;
    assert_eq!(plan(&c).epoch(1).step(0).coef_a, [1.0]);
    c.rule = c.rule.with_word("rw_norm", "batch-size");
    let step = plan(&c).epoch(1).step(0);
    let weight = c.rule.reweight().expect("RW re-weights").weights(&COUNTS)[step.label_a[0] as usize];
    assert_eq!(step.coef_a, [weight as f32]);
}

#[test]
fn deferred_rules_start_at_the_last_milestone() {
    for (deferred, rule) in [("remix-drs", "remix-rs"), ("remix-drw", "remix-rw")] {
        let (deferred, none, rule) = (plan(&config(deferred)), plan(&config("remix")), plan(&config(rule)));
        for epoch in [1, 150, 224] {
            assert_eq!(deferred.epoch(epoch).step(1), none.epoch(epoch).step(1));
            assert_ne!(deferred.epoch(epoch).step(1), rule.epoch(epoch).step(1));
        }
        for epoch in [225, 300] {
            assert_eq!(deferred.epoch(epoch).step(1), rule.epoch(epoch).step(1));
        }
    }
}

#[test]
fn resampled_epochs_are_balanced() {
    let mut c = config("rs");
    c.rule = c.rule.with_word("rs", "inverse");
    let plan = plan(&c);
    let labels = labels();
    let mut seen = [0u32; 4];
    for epoch in 1..=50 {
        let epoch = plan.epoch(epoch);
        assert_eq!(epoch.order.len(), 284);
        epoch.order.iter().for_each(|&i| seen[labels[i as usize] as usize] += 1);
    }
    // 14,200 draws, 3,550 expected per class, σ ≈ 52.
    assert!(seen.iter().all(|n| n.abs_diff(3550) < 260), "{seen:?}");
}

#[test]
fn all_162_crops_and_flips_are_equally_likely() {
    let config = config("erm");
    let mut counts = std::collections::HashMap::new();
    for n in 0..162u64 * 64 {
        let word = (n << 32) / (162 * 64);
        let s = augment(&config, [0; 2], 5, word as u32);
        assert!((-4..=4).contains(&s.dy) && (-4..=4).contains(&s.dx) && s.index == 5);
        *counts.entry((s.dy, s.dx, s.flip)).or_insert(0u32) += 1;
    }
    assert_eq!(counts.len(), 162);
    assert!(counts.values().all(|n| n.abs_diff(64) <= 1));
    let plain = Sample { index: 5, dy: 0, dx: 0, flip: false, ops: vec![] };
    let none = Config { augment: Augment::None, ..config.clone() };
    assert_eq!(augment(&none, [0; 2], 5, u32::MAX), plain);
    let last = Sample { index: 5, dy: 4, dx: 4, flip: true, ops: vec![] };
    assert_eq!(augment(&config, [0; 2], 5, u32::MAX), last);
}

#[test]
fn crops_of_larger_images_reach_every_edge_and_stay_inside() {
    let config = config("erm");
    // Five rows and four columns are spare: the centre leaves out two rows above and two columns to the left.
    let mut counts = std::collections::HashMap::new();
    for n in 0..60u64 * 64 {
        let s = augment(&config, [5, 4], 0, ((n << 32) / (60 * 64)) as u32);
        *counts.entry((s.dy, s.dx, s.flip)).or_insert(0u32) += 1;
    }
    assert_eq!(counts.len(), 6 * 5 * 2);
    assert!(counts.keys().all(|(dy, dx, _)| (-2..=3).contains(dy) && (-2..=2).contains(dx)));
    assert!(counts.values().all(|n| n.abs_diff(64) <= 1));
    let wide = Config { crop_padding: Some(8), ..config };
    let s = augment(&wide, [0; 2], 0, u32::MAX);
    assert_eq!((s.dy, s.dx), (8, 8));
}

#[test]
fn impossible_labels_are_refused() {
    let c = config("erm");
    let error =
        |labels: &[u32], counts: &[usize]| Plan::new(&c, labels, [32, 32, 3], counts).expect_err("refused");
    assert_eq!(error(&[0, 0, 2], &[2, 0, 1]), Error::EmptyClass { class: 1 });
    assert_eq!(error(&[0, 3], &[1, 1]), Error::Label { index: 1, label: 3, classes: 2 });
    assert_eq!(error(&[0, 1], &[1, 2]), Error::Counts { class: 1, listed: 2, found: 1 });
    assert_eq!(error(&[], &[]), Error::Size { images: 0, classes: 0 });
}

#[test]
fn steps_are_pinned() {
    // A change here changes every result: raise the semantics number of `train`.
    let s = plan(&Config { batch_size: 4, ..config("remix-rs") }).epoch(1).step(2);
    let samples: Vec<_> = s.samples.iter().map(|s| (s.index, s.dy, s.dx, s.flip)).collect();
    assert_eq!(samples, [(64, 1, -4, true), (280, -3, -2, true), (279, 0, 4, false), (18, -2, 1, false)]);
    assert_eq!((s.partner, s.lambda), (vec![0, 1, 3, 2], vec![0.47586882; 4]));
    // The last pair is (200 images, 5 images) with λ < ½: the rare class takes the label.
    assert_eq!(s.coef_a, [0.118967205, 0.118967205, 0.118967205, 0.0]);
}

#[test]
fn cmo_appends_partners_of_all_classes_to_the_batch() {
    let mut c = config("cmo");
    let half = plan(&c);
    let mixed = |plan: &Plan, epoch: u32| {
        let epoch = plan.epoch(epoch);
        (0..epoch.steps()).filter(|i| epoch.step(*i).samples.len() > plan.images(*i)).count()
    };
    let (all, found) = (30 * half.steps(), (1..=30).map(|epoch| mixed(&half, epoch)).sum::<usize>());
    assert!(found.abs_diff(all / 2) < all / 8, "{found} of {all} batches are mixed");
    c.mix = c.mix.with("mix_prob", 1.0).with_word("lambda_per", "sample");
    let (plan, labels) = (plan(&c), labels());
    let mut classes = [0u32; 4];
    for epoch in 1..=30 {
        let epoch = plan.epoch(epoch);
        for i in 0..epoch.steps() {
            let (s, n) = (epoch.step(i), plan.images(i));
            assert_eq!(s.samples.len(), 2 * n);
            for k in 0..n {
                assert_eq!(s.partner[k] as usize, n + k);
                assert_eq!(s.label_a[k], labels[s.samples[k].index as usize]);
                assert_eq!(s.label_b[k], labels[s.samples[n + k].index as usize]);
                assert_eq!(s.lambda[k], 1.0 - s.patch[k].area() as f32 / 1024.0);
                assert!((s.coef_a[k] - s.lambda[k] / n as f32).abs() < 1e-7, "labels go by the areas");
                classes[s.label_b[k] as usize] += 1;
            }
        }
    }
    let total: u32 = classes.iter().sum();
    assert!(
        classes.iter().all(|n| n.abs_diff(total / 4) < total / 25),
        "as often as each other: {classes:?}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 64, ..ProptestConfig::default() })]

    /// The coefficients of a batch form a weighted mean: they sum to 1 or, for RW divided by the batch size,
    /// to the mean weight.
    #[test]
    fn coefficients_sum_to_one(
        method: proptest::sample::Index,
        batch_size in 1usize..70,
        seed: u64,
        epoch in 1u32..=300,
        tau in 0.0..=1.0f64,
        kappa in 1.0..8.0f64,
        alpha in 0.05..5.0f64,
        by_batch_size: bool,
    ) {
        let name = names().nth(method.index(names().count())).expect("one of the names");
        let mut c = Config { batch_size, seed, ..config(&name) };
        for (name, value) in [("alpha", alpha), ("kappa", kappa), ("tau", tau)] {
            c.mix = c.mix.try_with(name, Setting::Number(value)).unwrap_or(c.mix);
        }
        c.mix = c.mix.try_with("lambda_per", Setting::Word("sample")).unwrap_or(c.mix);
        if by_batch_size {
            c.rule = c.rule.try_with("rw_norm", Setting::Word("batch-size")).unwrap_or(c.rule);
        }
        c.validate().expect("sound");
        let plan = plan(&c);
        let epoch = plan.epoch(epoch);
        let weights = epoch.weights.map_or(vec![1.0; 4], |(w, _)| w.clone());
        for i in 0..epoch.steps() {
            let s = epoch.step(i);
            let n = plan.images(i);
            prop_assert!(s.coef_a.iter().chain(&s.coef_b).all(|&c| c >= 0.0));
            let mut partners = s.partner.clone();
            partners.sort_unstable();
            let first = s.samples.len() - n;
            prop_assert!(first == 0 || first == n && c.mix.kind.partner != Partner::OfBatch);
            prop_assert_eq!(partners, (first as u32..).take(n).collect::<Vec<_>>());
            // With the weights divided out, the coefficients of each sample's two labels sum to its whole
            // share.
            let sum: f64 = s.coef_a.iter().chain(&s.coef_b).map(|&c| f64::from(c)).sum();
            let shares: Vec<f64> = (0..n)
                .map(|k| {
                    f64::from(s.coef_a[k]) / weights[s.label_a[k] as usize]
                        + f64::from(s.coef_b[k]) / weights[s.label_b[k] as usize]
                })
                .collect();
            prop_assert!(shares.iter().all(|x| (x / shares[0] - 1.0).abs() < 1e-5), "{:?}", shares);
            let expected = match epoch.weights {
                Some((_, RwNorm::BatchSize)) => sum,
                _ => 1.0,
            };
            prop_assert!((sum - expected).abs() < 1e-5, "{}", sum);
            if let Some((_, RwNorm::BatchSize)) = epoch.weights {
                prop_assert!((shares[0] * n as f64 - 1.0).abs() < 1e-5);
            }
        }
    }
}
