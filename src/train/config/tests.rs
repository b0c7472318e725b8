//! Tests of the configuration: its pinned form, and the values that it refuses.

use super::*;
use crate::manifest::{Manifest, key};
use crate::methods::loss::{FOCAL, LDAM, LOGIT_ADJUSTMENT, VS};
use crate::methods::mix::{CMO, CUTMIX};
use crate::methods::presets::preset;
use crate::methods::rule::DRW;
use serde_json::Value;

fn config(name: &str) -> Config {
    Config::new(preset(name).expect("a preset"))
}

#[test]
fn params_round_trip() {
    for name in crate::methods::presets::names() {
        let c = config(&name);
        c.validate().expect("the defaults are sound");
        assert_eq!(serde_json::from_value::<Config>(Value::Object(c.params())).expect("a config"), c);
    }
}

#[test]
fn params_are_pinned() {
    // A change here changes the keys of all checkpoints.
    let text = Value::Object(config("remix-drw").params()).to_string();
    let expected = r#"{"arch":"resnet32","mix":{"name":"remix","alpha":1.0,"kappa":3.0,"tau":0.5,"#
        .to_owned()
        + r#""lambda_per":"batch"},"loss":{"name":"ce"},"rule":{"name":"drw","beta":0.9999,"#
        + r#""rw_norm":"weight-sum"},"epochs":300,"batch_size":128,"lr":0.1,"momentum":0.9,"#
        + r#""weight_decay":0.0002,"#
        + r#""recipe":"seed","milestones":[150,225],"warmup":0,"seed":0,"precision":"f32","augment":"crop-flip","#
        + r#""mean":[0.4914,0.4822,0.4465],"std":[0.2023,0.1994,0.201]}"#;
    assert_eq!(text, expected);
}

/// The keys of existing results stay the same: params that were read from a manifest of version 1 are written
/// as they were, and give its key.
#[test]
fn keys_are_pinned() {
    let text = include_str!("../../../docs/results/runs/cifar100-exp-100_remix-rw_s0/manifest.json");
    let mut m: Manifest = serde_json::from_str(text).expect("a manifest");
    let read: Config = serde_json::from_value(Value::Object(m.params.clone())).expect("a config");
    assert_eq!(read.params(), m.params);
    assert_eq!(m.key, "f5266769f9bcfc7e06a8fdf2096d301ac741012465979bc5d80d39295bb5939f");
    assert_eq!(key::key(m.kind, 1, &read.params(), &m.inputs), m.key);
    m.semantics = super::super::SEMANTICS;
    let now = key::key(m.kind, m.semantics, &read.params(), &m.inputs);
    assert_eq!(now, "84a3f964152c453d589f892a5a873d5349fd27b8aab77deae304bc6e2533fb49");
}

#[test]
fn invalid_values_are_refused_with_the_name_of_their_flag() {
    type Change<'a> = (&'a str, &'a dyn Fn(&mut Config));
    let cases: &[Change] = &[
        ("epochs", &|c| c.epochs = 0),
        ("batch-size", &|c| c.batch_size = 0),
        ("batch-size", &|c| c.batch_size = 1 << 40),
        ("lr", &|c| c.lr = 0.0),
        ("lr", &|c| c.lr = -0.1),
        ("lr", &|c| c.lr = f64::NAN),
        ("lr", &|c| c.lr = 1e300),
        ("lr", &|c| c.lr = 1e-40),
        ("momentum", &|c| c.momentum = 1.0),
        ("momentum", &|c| c.momentum = 0.999_999_99),
        ("momentum", &|c| c.momentum = f64::NAN),
        ("weight-decay", &|c| c.weight_decay = -1e-4),
        ("weight-decay", &|c| c.weight_decay = -0.0),
        ("weight-decay", &|c| c.weight_decay = f64::INFINITY),
        ("weight-decay", &|c| c.weight_decay = 1e39),
        ("milestones", &|c| c.milestones = vec![0, 10]),
        ("milestones", &|c| c.milestones = vec![20, 10]),
        ("milestones", &|c| c.milestones = vec![]),
        ("milestones", &|c| c.milestones = vec![301]),
        ("warmup", &|c| c.warmup = 300),
        ("crop-padding", &|c| c.crop_padding = Some(65)),
        ("color-jitter", &|c| c.color_jitter = Some([0.4, 1.1, 0.4])),
        ("color-jitter", &|c| c.color_jitter = Some([0.4, f64::NAN, 0.4])),
        ("color-jitter", &|c| c.color_jitter = Some([0.4, -0.0, 0.4])),
        ("rand-augment", &|c| c.rand_augment = Some([0, 9])),
        ("rand-augment", &|c| c.rand_augment = Some([2, 31])),
        ("alpha", &|c| c.mix = c.mix.with("alpha", 0.0)),
        ("alpha", &|c| c.mix = c.mix.with("alpha", f64::NAN)),
        ("kappa", &|c| c.mix = c.mix.with("kappa", 0.99)),
        ("kappa", &|c| c.mix = c.mix.with("kappa", f64::INFINITY)),
        ("tau", &|c| c.mix = c.mix.with("tau", 1.01)),
        ("tau", &|c| c.mix = c.mix.with("tau", -0.5)),
        ("tau", &|c| c.mix = c.mix.with("tau", f64::NAN)),
        ("tau", &|c| c.mix = c.mix.with("tau", -0.0)),
        ("mix-prob", &|c| c.mix = Mix::new(&CMO).with("mix_prob", 1.5)),
        ("vs-gamma", &|c| c.loss = Loss::new(&VS).with("vs_gamma", -1.0)),
        ("alpha", &|c| c.mix = Mix::new(&CUTMIX).with("alpha", -1.0)),
        ("gamma", &|c| c.loss = Loss::new(&FOCAL).with("gamma", -0.1)),
        ("gamma", &|c| c.loss = Loss::new(&FOCAL).with("gamma", f64::INFINITY)),
        ("la-tau", &|c| c.loss = Loss::new(&LOGIT_ADJUSTMENT).with("la_tau", f64::NAN)),
        ("margin", &|c| c.loss = Loss::new(&LDAM).with("margin", 2.1)),
        ("beta", &|c| c.rule = Rule::new(&DRW).with("beta", 1.0)),
        ("beta", &|c| c.rule = Rule::new(&DRW).with("beta", f64::NAN)),
    ];
    for (n, (flag, change)) in cases.iter().enumerate() {
        let mut c = config("remix-drw");
        change(&mut c);
        let text = c.validate().expect_err("absurd").to_string();
        assert!(text.starts_with(&format!("--{flag} ")), "case {n}: {text}");
    }
    // Without a deferred rule, a constant learning rate is allowed.
    let mut c = config("remix-rw");
    c.milestones = vec![];
    c.validate().expect("sound");
}
