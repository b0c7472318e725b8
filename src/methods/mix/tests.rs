use super::*;
use crate::rng::{Purpose, stream};

fn remix(kappa: f64, tau: f64) -> Mix {
    Mix::new(&REMIX).with("kappa", kappa).with("tau", tau)
}

/// A mix that draws λ for each pair.
fn each(kind: &'static MixKind, alpha: f64) -> Mix {
    Mix::new(kind).with("alpha", alpha).with_word("lambda_per", "sample")
}

/// The paper's cases, one after the other, in the order of the text.
fn transcription(lambda: f64, n_i: f64, n_j: f64, kappa: f64, tau: f64) -> f64 {
    let mut lambda_y = lambda;
    let mut decided = false;
    if n_i / n_j >= kappa && lambda < tau {
        lambda_y = 0.0;
        decided = true;
    }
    if !decided && n_i / n_j <= 1.0 / kappa && 1.0 - lambda < tau {
        lambda_y = 1.0;
    }
    lambda_y
}

#[test]
fn lambda_y_follows_the_paper_on_every_boundary() {
    // Powers of two make the quotients in the transcription exact, so that equality is tested exactly.
    let counts = [1, 2, 4, 8, 64, 512, 4096, 4097, 4095];
    let lambdas =
        [0.0f32, 1e-30, 0.125, 0.25, 0.25f32.next_down(), 0.25f32.next_up(), 0.5, 0.5f32.next_down()]
            .into_iter()
            .chain([0.5f32.next_up(), 0.75, 0.75f32.next_up(), 0.75f32.next_down(), 1.0f32.next_down(), 1.0]);
    let mut seen = [0u32; 3];
    for lambda in lambdas {
        for (n_i, n_j) in counts.iter().flat_map(|&i| counts.iter().map(move |&j| (i, j))) {
            for kappa in [1.0, 2.0, 4.0, 8.0] {
                for tau in [0.0, 0.25, 0.5, 0.75, 1.0] {
                    let got = remix(kappa, tau).lambda_y(lambda, n_i, n_j);
                    let want = transcription(f64::from(lambda), n_i as f64, n_j as f64, kappa, tau);
                    assert_eq!(f64::from(got), want, "λ {lambda} n {n_i} {n_j} κ {kappa} τ {tau}");
                    seen[if got == lambda { 2 } else { got as usize }] += 1;
                }
            }
        }
    }
    assert!(seen.iter().all(|&n| n > 500), "every case is met: {seen:?}");
}

#[test]
fn swapping_the_pair_swaps_the_labels() {
    let m = remix(3.0, 0.5);
    for step in 0..2000u16 {
        let lambda = f32::from(step) / 2048.0;
        for (n_i, n_j) in [(5000, 50), (300, 100), (100, 300), (299, 100), (100, 100)] {
            let there = m.lambda_y(lambda, n_i, n_j);
            let back = m.lambda_y(1.0 - lambda, n_j, n_i);
            assert_eq!(there, 1.0 - back, "λ {lambda} n {n_i} {n_j}");
        }
    }
}

#[test]
fn uniform_lambda_has_the_moments_of_its_beta() {
    for (alpha, variance) in [(1.0, 1.0 / 12.0), (0.2, 1.0 / (4.0 * 1.4)), (4.0, 1.0 / 36.0), (0.001, 0.2495)]
    {
        let m = each(&MIXUP, alpha);
        let draws = m.draw(&mut stream(1, Purpose::Lambda, 1, 0), 20_000, [32, 32]).0;
        assert!(draws.iter().all(|l| (0.0..=1.0).contains(l)), "α {alpha}");
        let mean = draws.iter().map(|&l| f64::from(l)).sum::<f64>() / 20_000.0;
        let var = draws.iter().map(|&l| (f64::from(l) - 0.5).powi(2)).sum::<f64>() / 20_000.0;
        // Five standard errors of the mean; the relative error of the variance is below 1.5 %.
        assert!((mean - 0.5).abs() < 5.0 * (variance / 20_000.0f64).sqrt(), "α {alpha}: mean {mean}");
        assert!((var / variance - 1.0).abs() < 0.05, "α {alpha}: variance {var}, {variance} expected");
    }
}

#[test]
fn lambda_per_batch_is_the_first_draw_of_lambda_per_sample() {
    let rng = || stream(9, Purpose::Lambda, 2, 3);
    let one = Mix::new(&MIXUP).draw(&mut rng(), 8, [32, 32]).0;
    let (each, _) = each(&MIXUP, 1.0).draw(&mut rng(), 8, [32, 32]);
    assert!(one.iter().all(|l| *l == one[0]));
    assert_eq!(one[0], each[0]);
    assert!(each.windows(2).all(|w| w[0] != w[1]));
}

#[test]
fn draws_are_pinned() {
    // A change here changes every mixed result: raise SEMANTICS of `train`.
    let draw = |alpha| {
        let m = each(&MIXUP, alpha);
        m.draw(&mut stream(0, Purpose::Lambda, 1, 0), 3, [32, 32]).0
    };
    assert_eq!(draw(1.0), [0.38086307, 0.70061684, 0.9315945]);
    assert_eq!(draw(0.2), [5.2100194e-7, 0.7582576, 0.4805201]);
}

#[test]
fn patches_match_the_papers_code() {
    // rand_bbox of clovaai/CutMix-PyTorch by hand: 32·√(1−λ) rounded down, half of it rounded down, clipped.
    let patch = |lambda, row, col| Patch::around(lambda, [row, col], [32, 32]);
    let expected = |top, bottom, left, right| Patch { top, bottom, left, right };
    assert_eq!(patch(0.75, 16, 16), expected(8, 24, 8, 24));
    assert_eq!(patch(0.75, 3, 30), expected(0, 11, 22, 32));
    assert_eq!(patch(0.5, 0, 31), expected(0, 11, 20, 32), "32·0.707 = 22.6: 22, 11");
    assert_eq!(patch(1.0, 5, 5).area(), 0);
    assert_eq!(patch(0.0, 16, 16), expected(0, 32, 0, 32));
    assert_eq!(Patch::around(0.75, [2, 5], [4, 12]), expected(1, 3, 2, 8), "images need not be square");
}

#[test]
fn lambda_is_the_share_that_a_patch_leaves() {
    let m = each(&CUTMIX, 1.0);
    let (lambdas, patches) = m.draw(&mut stream(1, Purpose::Lambda, 1, 0), 20_000, [16, 32]);
    let mut clipped = 0;
    for (&lambda, patch) in lambdas.iter().zip(&patches) {
        let inside = (0..16).flat_map(|r| (0..32).map(move |c| (r, c)));
        let inside = inside.filter(|&(r, c)| patch.contains(r, c)).count();
        assert_eq!((lambda, patch.area()), (1.0 - inside as f32 / 512.0, inside));
        clipped += usize::from(patch.top == 0 || patch.right == 32);
    }
    assert!(clipped > 5_000, "centres are anywhere: {clipped}");
    // All rows and columns are equally likely for the centre: the patch is above as often as below.
    let above = patches.iter().filter(|p| p.top + p.bottom < 16).count();
    assert!(above.abs_diff(10_000) < 1_500, "{above}");
    let (one, all) = Mix::new(&CUTMIX).draw(&mut stream(1, Purpose::Lambda, 1, 0), 8, [16, 32]);
    assert!(one.iter().all(|&l| l == lambdas[0]) && all.iter().all(|&p| p == patches[0]));
}

#[test]
fn remix_on_cutmix_has_the_patches_of_cutmix_and_the_labels_of_remix() {
    let rng = || stream(4, Purpose::Lambda, 1, 0);
    assert_eq!(
        Mix::new(&CUTMIX).draw(&mut rng(), 5, [32, 32]),
        Mix::new(&REMIX_CUTMIX).draw(&mut rng(), 5, [32, 32])
    );
    for step in 0..=64u8 {
        let lambda = f32::from(step) / 64.0;
        for (n_i, n_j) in [(5000, 50), (50, 5000), (100, 90)] {
            assert_eq!(
                Mix::new(&REMIX_CUTMIX).lambda_y(lambda, n_i, n_j),
                Mix::new(&REMIX).lambda_y(lambda, n_i, n_j)
            );
            assert_eq!(Mix::new(&CUTMIX).lambda_y(lambda, n_i, n_j), lambda);
        }
    }
}

#[test]
fn json_is_tagged_by_name() {
    let text = r#"{"name":"remix","alpha":1.0,"kappa":3.0,"tau":0.5,"lambda_per":"batch"}"#;
    assert_eq!(serde_json::to_string(&Mix::new(&REMIX)).expect("JSON"), text);
    assert_eq!(serde_json::from_str::<Mix>(text).expect("a mix"), Mix::new(&REMIX));
    assert_eq!(serde_json::to_string(&Mix::new(&NONE)).expect("JSON"), r#"{"name":"none"}"#);
    let text = r#"{"name":"cutmix","alpha":1.0,"lambda_per":"batch"}"#;
    assert_eq!(serde_json::to_string(&Mix::new(&CUTMIX)).expect("JSON"), text);
    assert!(serde_json::to_string(&Mix::new(&REMIX_CUTMIX)).expect("JSON").contains("\"remix-cutmix\""));
}
