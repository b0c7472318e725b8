//! Methods by name: `remix-ldam-drw` is the mix `remix`, the loss `ldam` and the rule `drw`, each with the
//! options of its paper.
//!
//! A name consists of the parts joined by `-`, without those that do nothing (`none`, `ce`); it is `erm` if
//! no part is left.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::choice::{Entry, Kind};
use super::loss::{Loss, LossKind};
use super::mix::{Mix, MixKind};
use super::rule::{Rule, RuleKind};
use crate::manifest::{Object, object};

/// A training method: three independent choices.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Method {
    /// How images and labels are mixed.
    pub mix: Mix,
    /// The loss of a label.
    pub loss: Loss,
    /// How class imbalance is counteracted.
    pub rule: Rule,
}

/// The parts of a method, as named in its params.
const PARTS: [&str; 3] = ["mix", "loss", "rule"];

/// The error for a name that no preset has.
#[derive(Debug, thiserror::Error)]
#[error("--method {name}: {}", explained(.name, .nearest))]
pub struct Unknown {
    name: String,
    nearest: Option<String>,
}

/// Describes the parts of names, for messages.
pub fn listed() -> String {
    let [mixes, losses, rules] = parts().map(|part| {
        let names = part.into_iter().map(|entry| entry.name).filter(|name| !is_nothing(name));
        names.collect::<Vec<_>>().join(", ")
    });
    format!(
        "a mix ({mixes}), a loss ({losses}) and a rule ({rules}), each optional, in this order, joined by -"
    )
}

/// Returns the mixes, losses and rules that names are made of.
fn parts() -> [Vec<&'static Entry>; 3] {
    fn of<K: Kind>(all: impl Iterator<Item = &'static K>) -> Vec<&'static Entry> {
        all.map(K::entry).collect()
    }
    [of(MixKind::ALL.iter().copied()), of(losses()), of(RuleKind::ALL.iter().copied())]
}

/// Returns why a name is that of no method, and what to do.
fn explained(name: &str, nearest: &Option<String>) -> String {
    let name = name.to_lowercase();
    let has = |part: &str| name.split('-').any(|word| word == part);
    let on_features = LossKind::ALL.iter().copied().filter(|kind| kind.on_features);
    let [mixes, ..] = parts();
    match on_features.map(|kind| kind.entry().name).find(|loss| has(loss)) {
        Some(loss) => {
            let has_mix = mixes.iter().any(|mix| !is_nothing(mix.name) && has(mix.name));
            let without = if has_mix { ", which have no mix" } else { "" };
            format!("{loss} is only for classifiers on features{without}: --classifier linear --loss {loss}")
        }
        None => format!("no such method{}; a method is erm, or {}", hint(nearest), listed()),
    }
}

/// Returns the losses for whole networks.
fn losses() -> impl Iterator<Item = &'static LossKind> {
    LossKind::ALL.iter().copied().filter(|kind| !kind.on_features)
}

/// Returns whether a part is left out of names.
fn is_nothing(part: &str) -> bool {
    ["none", "ce"].contains(&part)
}

fn hint(nearest: &Option<String>) -> String {
    nearest.as_ref().map_or(String::new(), |n| format!(" (did you mean {n}?)"))
}

/// Returns all presets with their names: every mix with every loss and every rule, from simple to complex.
fn all() -> impl Iterator<Item = (String, Method)> {
    let with_losses = |mix| losses().map(move |loss| (mix, Loss::new(loss)));
    let with_rules = |(mix, loss)| {
        RuleKind::ALL.iter().copied().map(move |rule| Method { mix, loss, rule: Rule::new(rule) })
    };
    let mixes = MixKind::ALL.iter().copied().map(Mix::new);
    mixes.flat_map(with_losses).flat_map(with_rules).map(|m| (m.name(), m))
}

/// Returns the names of all presets.
pub fn names() -> impl Iterator<Item = String> {
    all().map(|(name, _)| name)
}

/// Returns the names that begin with `start`, for completion, up to the next part: after a complete name
/// those with one part more, otherwise those with the fewest parts.
pub fn completions(start: &str) -> Vec<String> {
    let parts = |m: &Method| {
        m.params().values().filter(|p| p["name"].as_str().is_some_and(|n| !is_nothing(n))).count()
    };
    let matching: Vec<(String, usize)> =
        all().filter(|(name, _)| name.starts_with(start)).map(|(name, m)| (name, parts(&m))).collect();
    let whole = preset(start).ok().map(|m| 1 + parts(&m));
    let fewest = matching.iter().map(|(_, parts)| *parts).min().unwrap_or(0).max(1);
    let most = whole.unwrap_or(fewest);
    let names: Vec<String> = matching.into_iter().filter(|(_, n)| *n <= most).map(|(name, _)| name).collect();
    // After remix, offer remix-cutmix and remix-drw; remix-cutmix-drw follows later.
    let is_later = |name: &String| {
        let before = |other: &&String| *other != start && name.starts_with(&format!("{other}-"));
        whole.is_some() && names.iter().any(|other| before(&other))
    };
    names.iter().filter(|name| !is_later(name)).cloned().collect()
}

/// Returns the method with a name.
///
/// # Errors
/// Returns [`Unknown`], which lists the names and suggests the nearest one.
pub fn preset(name: &str) -> Result<Method, Unknown> {
    all().find(|(n, _)| n == name).map(|(_, m)| m).ok_or_else(|| {
        let near = || names().map(|n| (distance(&n, name), n)).min();
        // Short names are always near to some name, so the distance is also limited by the length.
        let near = || near().filter(|(d, _)| *d <= 3 && 2 * d < name.len()).map(|(_, n)| n);
        Unknown { name: name.to_owned(), nearest: rewritten(name).or_else(near) }
    })
}

/// Returns the part that a name begins with, and whether it is a mix, a loss or a rule. If several match, it
/// is the longest, because remix-cutmix is not remix and cutmix.
fn first_part(name: &str) -> Option<(usize, &'static Entry)> {
    let is_first = |entry: &Entry| {
        name.strip_prefix(entry.name).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    };
    let known =
        parts().into_iter().enumerate().flat_map(|(part, all)| all.into_iter().map(move |e| (part, e)));
    known.filter(|(_, entry)| is_first(entry)).max_by_key(|(_, entry)| entry.name.len())
}

/// Removes the leading part from a name.
fn without<'a>(name: &'a str, part: &str) -> &'a str {
    let rest = &name[part.len()..];
    rest.strip_prefix('-').unwrap_or(rest)
}

/// Returns the name that was meant by parts with capitals, in another order, or combined with `erm`, `ce` or
/// `none`, if each kind of part occurs at most once.
fn rewritten(name: &str) -> Option<String> {
    let name = name.to_lowercase().replace(['_', ' ', '+'], "-");
    let (mut rest, mut found) = (&name[..], [const { None }; 3]);
    while !rest.is_empty() {
        let part = match first_part(rest) {
            Some((_, entry)) if is_nothing(entry.name) => entry.name,
            Some((part, entry)) if found[part].is_none() => {
                found[part] = Some(entry.name);
                entry.name
            }
            Some(_) => return None,
            None if rest == "erm" || rest.starts_with("erm-") => "erm",
            None => return None,
        };
        rest = without(rest, part);
    }
    let parts: Vec<&str> = found.into_iter().flatten().collect();
    Some(if parts.is_empty() { "erm".into() } else { parts.join("-") })
}

/// Returns the name of a method as printed in papers: `remix-drw` is Remix-DRW. Parts that are not in the
/// table are unchanged.
pub fn title(name: &str) -> String {
    let (mut rest, mut titles) = (name, vec![]);
    while !rest.is_empty() {
        let (part, title) = match first_part(rest) {
            Some((_, entry)) if !is_nothing(entry.name) => (entry.name, entry.title),
            _ => {
                let part = rest.split('-').next().unwrap_or(rest);
                (part, if part == "erm" { "ERM" } else { part })
            }
        };
        titles.push(title);
        rest = without(rest, part);
    }
    titles.join("-")
}

impl Method {
    /// Returns the name of the preset with the same parts, whatever the options.
    pub fn name(&self) -> String {
        base_name(&self.params())
    }

    /// Returns the parts as stored in a checkpoint's `params`.
    pub fn params(&self) -> Object {
        object(self)
    }
}

/// Returns the name of a method from the `params` of a checkpoint manifest: `remix-drw`, `remix(tau=0.3)`.
///
/// Options that differ from those of the preset follow in brackets. The name is `unknown` if a part is
/// missing from the params.
pub fn preset_name(params: &Object) -> String {
    if PARTS.iter().any(|part| params.get(*part).and_then(|p| p.get("name")).is_none()) {
        return "unknown".into();
    }
    let name = base_name(params);
    // A method of a newer version has no preset here; then all of its options are listed.
    let defaults = preset(&name).map_or_else(|_| Object::new(), |m| m.params());
    let mut options = Vec::new();
    for part in PARTS {
        let asked = params.get(part).and_then(Value::as_object).into_iter().flatten();
        for (option, value) in asked.filter(|(option, _)| *option != "name") {
            if defaults.get(part).and_then(|d| d.get(option)) != Some(value) {
                let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                options.push(format!("{option}={value}"));
            }
        }
    }
    match options.is_empty() {
        true => name,
        false => format!("{name}({})", options.join(",")),
    }
}

fn base_name(params: &Object) -> String {
    let parts: Vec<&str> = PARTS
        .iter()
        .filter_map(|part| params.get(*part)?.get("name")?.as_str())
        .filter(|name| !is_nothing(name))
        .collect();
    if parts.is_empty() { "erm".into() } else { parts.join("-") }
}

/// Returns the Levenshtein distance, in bytes.
pub(crate) fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.bytes().enumerate() {
            let change = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = change.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::methods::{loss, mix, rule};

    // Manifests contain these names: add new ones, but do not change or remove any.
    const MIXES: [&str; 8] =
        ["none", "mixup", "remix", "cutmix", "remix-cutmix", "manifold-mixup", "remix-manifold", "cmo"];
    const LOSSES: [&str; 7] = ["ce", "focal", "balanced-softmax", "logit-adjustment", "ldam", "vs", "cdt"];
    const LOSSES_ON_FEATURES: [&str; 1] = ["las"];
    const RULES: [&str; 5] = ["none", "rs", "rw", "drs", "drw"];

    #[test]
    fn names_are_pinned() {
        let [mixes, losses, rules] = parts().map(|part| part.iter().map(|e| e.name).collect::<Vec<_>>());
        assert_eq!(mixes, MIXES);
        assert_eq!(losses, LOSSES);
        assert_eq!(rules, RULES);
        let on_features = LossKind::ALL.iter().filter(|kind| kind.on_features);
        assert_eq!(on_features.map(|kind| kind.entry().name).collect::<Vec<_>>(), LOSSES_ON_FEATURES);
        let names: Vec<String> = names().collect();
        assert_eq!(names.len(), MIXES.len() * LOSSES.len() * RULES.len());
        assert_eq!(names[..7].join(" "), "erm rs rw drs drw focal focal-rs");
        for name in [
            "mixup",
            "remix-drs",
            "balanced-softmax",
            "mixup-logit-adjustment",
            "ldam-drw",
            "remix-ldam-drs",
            "remix-cutmix",
            "cutmix-rw",
            "manifold-mixup",
            "remix-manifold-drw",
        ] {
            assert!(names.iter().any(|n| n == name), "{name}");
        }
    }

    #[test]
    fn names_complete_by_parts() {
        let of = |start: &str| completions(start).join(" ");
        let [mixes, losses, rules] = parts();
        let of_remix: Vec<&str> =
            mixes.iter().map(|mix| mix.name).filter(|name| name.starts_with("remix")).collect();
        assert_eq!(of("re"), of_remix.join(" "));
        assert_eq!(of("remix-dr"), "remix-drs remix-drw");
        assert_eq!(of("remix-cu"), "remix-cutmix");
        let parts_after = rules.into_iter().chain(losses).filter(|entry| !is_nothing(entry.name));
        let after: Vec<String> = parts_after.map(|entry| format!("remix-{}", entry.name)).collect();
        assert_eq!(of("remix"), format!("remix {} {}", after.join(" "), of_remix[1..].join(" ")));
        assert_eq!(of("remix-ldam-"), "remix-ldam-rs remix-ldam-rw remix-ldam-drs remix-ldam-drw");
        let parts = parts().into_iter().flatten().filter(|entry| !is_nothing(entry.name)).count();
        assert_eq!(completions("").len(), 1 + parts, "erm, and each part alone");
        assert_eq!(of("x"), "");
    }

    #[test]
    fn names_and_methods_are_each_others_inverse() {
        for (name, method) in all() {
            assert_eq!(preset(&name).expect("a preset"), method);
            assert_eq!(preset_name(&method.params()), name);
        }
        let m = preset("remix-drw").expect("a preset");
        let parts = (Mix::new(&mix::REMIX), Loss::new(&loss::CE), Rule::new(&rule::DRW));
        assert_eq!(m, Method { mix: parts.0, loss: parts.1, rule: parts.2 });
    }

    #[test]
    fn options_that_differ_from_the_preset_are_named() {
        let mut m = preset("remix-rw").expect("a preset");
        m.mix = m.mix.with("tau", 0.3).with_word("lambda_per", "sample");
        m.rule = m.rule.with_word("rw_norm", "batch-size");
        assert_eq!(preset_name(&m.params()), "remix-rw(tau=0.3,lambda_per=sample,rw_norm=batch-size)");
        assert_eq!(m.name(), "remix-rw");
        m = preset("rs").expect("a preset");
        m.rule = m.rule.with_word("rs", "inverse");
        assert_eq!(preset_name(&m.params()), "rs(rs=inverse)");
    }

    #[test]
    fn params_of_other_versions_are_named() {
        assert_eq!(preset_name(&Object::new()), "unknown");
        let newer = json!({
            "mix": {"name": "none"},
            "loss": {"name": "seesaw", "p": 0.8},
            "rule": {"name": "drw", "beta": 0.9999, "rw_norm": "weight-sum"},
        });
        let name = preset_name(newer.as_object().expect("an object"));
        assert_eq!(name, "seesaw-drw(p=0.8,beta=0.9999,rw_norm=weight-sum)");
    }

    #[test]
    fn an_unknown_name_lists_all_and_suggests_the_nearest() {
        let text = |name| preset(name).expect_err("unknown").to_string();
        assert!(text("remix-dwr").starts_with("--method remix-dwr: no such method (did you mean remix-d"));
        // The first name of each list stands for doing nothing, and is left out.
        let [mixes, losses, rules] = [&MIXES[1..], &LOSSES[1..], &RULES[1..]].map(|names| names.join(", "));
        assert_eq!(
            text("mixp"),
            format!(
                "--method mixp: no such method (did you mean mixup?); a method is erm, or a mix ({mixes}), a \
                 loss ({losses}) and a rule ({rules}), each optional, in this order, joined by -"
            )
        );
        let no_mix = ", which have no mix";
        for (name, more) in [("las", ""), ("LAS", ""), ("mixup-las", no_mix), ("Remix-CutMix-LAS", no_mix)] {
            let on_features = format!("las is only for classifiers on features{more}");
            assert_eq!(text(name), format!("--method {name}: {on_features}: --classifier linear --loss las"));
        }
        assert!(text("las vegas").starts_with("--method las vegas: no such method; "));
        for far in ["transformer", "bs", "a-b-c"] {
            assert!(!text(far).contains("did you mean"), "{far}");
        }
        for (asked, meant) in [
            ("ERM", "erm"),
            ("LDAM", "ldam"),
            ("Remix-LDAM-DRW", "remix-ldam-drw"),
            ("drw-ldam", "ldam-drw"),
            ("ldam_remix", "remix-ldam"),
            ("erm-drw", "drw"),
            ("none-ce-none", "erm"),
            ("Remix-CutMix-Balanced Softmax", "remix-cutmix-balanced-softmax"),
            ("rs-remix-manifold", "remix-manifold-rs"),
        ] {
            assert!(text(asked).contains(&format!("did you mean {meant}?")), "{asked}: {}", text(asked));
        }
    }

    #[test]
    fn levenshtein_distances() {
        let all =
            [("", "", 0), ("abc", "", 3), ("remix", "remx", 1), ("drw", "rw", 1), ("mixup", "remix", 4)];
        for (a, b, d) in all {
            assert_eq!((distance(a, b), distance(b, a)), (d, d), "{a} {b}");
        }
    }
}
