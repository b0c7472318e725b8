use super::*;
use crate::rng::{Purpose, stream};

fn remix(kappa: f64, tau: f64) -> Mix {
    Mix::new(&REMIX).with("kappa", kappa).with("tau", tau)
}

/// A mix that draws λ for each pair.
fn each(kind: &'static MixKind, alpha: f64) -> Mix {
    Mix::new(kind).with("alpha", alpha).with_word("lambda_per", "sample")
}

/// 1 − λ is ¾ in f32 here, but less in f64.
#[test]
fn lambda_is_compared_with_tau_in_f64() {
    assert_eq!(remix(3.0, 0.75).lambda_y(0.25f32.next_up(), 1, 3), 1.0);
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
