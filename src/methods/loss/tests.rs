use super::*;

const TARGETS: Targets<'static> = Targets {
    label_a: &[0, 2, 1],
    label_b: &[1, 2, 0],
    coef_a: &[0.25, 0.5, 0.0],
    coef_b: &[0.125, 0.25, 0.75],
};
const LOGITS: [f64; 9] = [0.5, -1.0, 2.0, 0.0, 0.0, 0.0, 3.0, -2.0, 0.25];
const COUNTS: [usize; 3] = [100, 20, 5];

/// Every loss for whole networks with its default options, and two with other options.
fn all() -> Vec<Loss> {
    let usual = LossKind::ALL.iter().filter(|kind| !kind.on_features).map(|kind| Loss::new(kind));
    let focal = Loss::new(&FOCAL).with("gamma", 0.5);
    usual.chain([focal, Loss::new(&LOGIT_ADJUSTMENT).with("la_tau", 1.5)]).collect()
}

#[test]
fn values_match_those_computed_by_hand() {
    // With equal logits, every cross-entropy is ln 3.
    let t = Targets { label_a: &[2], label_b: &[0], coef_a: &[0.5], coef_b: &[0.25] };
    let (loss, gradient) = reference(&Criterion::cross_entropy(3), &[7.0; 3], &t);
    assert!((loss - 0.75 * 3f64.ln()).abs() < 1e-15);
    let expected = [0.25 - 0.25, 0.25, 0.25 - 0.5];
    assert!(gradient.iter().zip(expected).all(|(g, e)| (g - e).abs() < 1e-15), "{gradient:?}");
    // p = 1/3 for each class, so the focal loss is (2/3)² of the cross-entropy.
    let (focal, _) = reference(&Loss::new(&FOCAL).criterion(&COUNTS), &[7.0; 3], &t);
    assert!((focal - loss * 4.0 / 9.0).abs() < 1e-7);
    // With balanced softmax the classes are then as likely as they are frequent.
    let (balanced, _) = reference(&Loss::new(&BALANCED_SOFTMAX).criterion(&COUNTS), &[7.0; 3], &t);
    assert!((balanced + 0.5 * (5f64 / 125.0).ln() + 0.25 * (100f64 / 125.0).ln()).abs() < 1e-7);
}

#[test]
fn gradients_match_finite_differences() {
    for loss in all() {
        let criterion = loss.criterion(&COUNTS);
        let (_, gradient) = reference(&criterion, &LOGITS, &TARGETS);
        for (i, g) in gradient.iter().enumerate() {
            let at = |d: f64| {
                let mut z = LOGITS;
                z[i] += d;
                reference(&criterion, &z, &TARGETS).0
            };
            let difference = (at(1e-5) - at(-1e-5)) / 2e-5;
            assert!((g - difference).abs() < 1e-8, "{loss:?} {i}: {g} {difference}");
        }
    }
}

#[test]
fn huge_logits_do_not_overflow() {
    let t = Targets { label_a: &[0], label_b: &[1], coef_a: &[1.0], coef_b: &[0.0] };
    let (loss, gradient) = reference(&Criterion::cross_entropy(3), &[-4000.0, 4000.0, 0.0], &t);
    assert_eq!(loss, 8000.0);
    assert_eq!(gradient, [-1.0, 1.0, 0.0]);
    let (right, flat) = reference(&Loss::new(&FOCAL).criterion(&COUNTS), &[4000.0, 0.0, 0.0], &t);
    assert_eq!((right, flat), (0.0, vec![0.0; 3]), "what is certain has no focal loss");
}

#[test]
fn special_cases_agree() {
    let of = |loss: Loss| loss.criterion(&COUNTS);
    assert_eq!(of(Loss::new(&BALANCED_SOFTMAX)), of(Loss::new(&LOGIT_ADJUSTMENT)));
    for nothing in [Loss::new(&FOCAL).with("gamma", 0.0), Loss::new(&LOGIT_ADJUSTMENT).with("la_tau", 0.0)] {
        assert_eq!(of(nothing), Criterion::cross_entropy(3));
    }
    let vs = |gamma, tau| of(Loss::new(&VS).with("vs_gamma", gamma).with("vs_tau", tau));
    assert_eq!(vs(0.0, 1.5).offsets, of(Loss::new(&LOGIT_ADJUSTMENT).with("la_tau", 1.5)).offsets);
    assert_eq!(vs(0.0, 1.5).scales, [1.0; 3]);
    // (20 / 100)^0.5 and (5 / 100)^0.5.
    let half = [1.0, 0.2f32.sqrt(), 0.05f32.sqrt()];
    assert_eq!(of(Loss::new(&CDT).with("cdt_gamma", 0.5)).scales, half);
    assert_eq!(vs(0.5, 0.0).scales, half);
    let ldam = of(Loss::new(&LDAM));
    assert!(
        ldam.classifier == ClassifierKind::Cosine
            && ldam.has_margins()
            && !of(Loss::new(&BALANCED_SOFTMAX)).has_margins()
    );
    assert_eq!(ldam.margins[2], 15.0, "30 · 0.5 for the rarest");
    assert!((ldam.margins[0] - 15.0 * 0.05f32.powf(0.25)).abs() < 1e-5);
}

#[test]
fn json_is_tagged_by_name() {
    let text = r#"{"name":"logit-adjustment","la_tau":1.0}"#;
    assert_eq!(serde_json::to_string(&Loss::new(&LOGIT_ADJUSTMENT)).expect("JSON"), text);
    for loss in all() {
        let text = serde_json::to_string(&loss).expect("JSON");
        assert_eq!(serde_json::from_str::<Loss>(&text).expect("a loss"), loss);
    }
    assert_eq!(serde_json::to_string(&Loss::new(&CE)).expect("JSON"), r#"{"name":"ce"}"#);
}
