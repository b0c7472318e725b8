//! `eval --adjust`: corrects the logits by the classes' shares before they are evaluated, with one value of τ
//! or with many.

use std::fs;
use std::path::Path;
use std::str::FromStr;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde_json::{Value, json};

use crate::cli::checkpoints::Subject;
use crate::cli::sweep::{Range, Sweep};
use crate::manifest::{Input, Kind, Object, key, object};
use crate::methods::adjust::{adjusted, offsets};
use crate::metrics::{self, Metrics};

/// Flags of the correction.
#[derive(Args, Clone, Debug)]
#[group(id = "adjust-flags")]
pub struct Flags {
    /// Post-hoc logit adjustment: subtract TAU·ln(n_k/N) from the logit of each class k, to which n_k of the
    /// N training images belong
    ///
    /// 1 suits a test set in which all classes are equally likely. auto chooses the value among 0, 0.05, …, 3
    /// that is best on the validation split.
    #[arg(long, value_name = "TAU|auto", allow_hyphen_values = true)]
    pub adjust: Option<Tau>,

    /// Class distribution of the test images that the adjustment assumes: uniform, train (that of the
    /// training images), or a file with one number per line for each class [default: uniform]
    ///
    /// Implies --adjust 1 unless --adjust or --sweep is given. With train or a file, metrics.prior_top1 is
    /// the accuracy to expect under this distribution.
    #[arg(long, value_name = "PRIOR|FILE")]
    pub test_prior: Option<String>,

    /// Evaluate with a range of values of --adjust, such as adjust=0:2:0.1; metrics.sweep has the accuracies,
    /// which `report figure --kind sweep` draws, and the value that is best on the validation split, if there
    /// is one
    #[arg(long, value_name = "FLAG=FIRST:LAST:STEP", value_parser = Sweep::parser("adjust=0:2:0.1"))]
    pub sweep: Option<Sweep>,
}

/// How strongly logits are adjusted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Tau {
    /// By the factor that is best on the validation split.
    Auto,
    /// By this factor.
    Fixed(f64),
}

impl FromStr for Tau {
    type Err = String;

    fn from_str(text: &str) -> Result<Tau, String> {
        if text == "auto" {
            return Ok(Tau::Auto);
        }
        // The sum turns -0 into 0, so that the key does not depend on it.
        let value = text.parse().ok().map(|v: f64| v + 0.0);
        let value = value.filter(|v| v.is_finite() && v.abs() <= 100.0);
        value.map(Tau::Fixed).ok_or_else(|| "expected auto or a number from -100 to 100, such as 1".into())
    }
}

/// The values that `auto` chooses from.
const AUTO: Range = Range { first: 0.0, last: 3.0, step: 0.05 };

/// Logits (N, C) of the images of a split, and their labels (N).
type Images<'a> = (&'a [f32], &'a [u32]);

/// The correction that is asked for, checked.
pub struct Adjust {
    tau: Option<Tau>,
    sweep: Option<Range>,
    /// The classes' shares of the test images; `None` if they are equally likely.
    prior: Option<Vec<f64>>,
    /// The name of the prior in params.
    prior_name: Option<String>,
    /// Inputs that affect the result: the validation images, and the file of the prior.
    inputs: Vec<Input>,
}

impl Adjust {
    /// Returns the correction that the flags ask for, or `None` if they ask for none.
    ///
    /// # Errors
    /// Returns an error if the prior is invalid, if there is no validation split to choose on, or if a class
    /// has no training images.
    pub fn of(flags: &Flags, subject: &Subject, split: &str) -> Result<Option<Adjust>> {
        let Flags { adjust, test_prior, sweep } = flags;
        if adjust.is_none() && test_prior.is_none() && sweep.is_none() {
            return Ok(None);
        }
        if let Some(Sweep { flag, .. }) = sweep.as_ref().filter(|s| s.flag != "adjust") {
            bail!("--sweep {flag}: eval can only sweep adjust, as in --sweep adjust=0:2:0.1");
        }
        if !subject.has_own_counts {
            bail!(
                "--adjust: needs the class counts that {} was trained on, but --data is another data set; \
                 omit either",
                subject.name
            );
        }
        let counts = &subject.info.cls_num_list;
        if let Some(class) = counts.iter().position(|&n| n == 0) {
            bail!(
                "--adjust: class {:?} has no training images, so its logit cannot be adjusted",
                subject.info.class_names[class]
            );
        }
        let tau = adjust.or((test_prior.is_some() && sweep.is_none()).then_some(Tau::Fixed(1.0)));
        let mut inputs = vec![];
        let has_val = subject.images("val") > 0;
        match tau {
            Some(Tau::Auto) if !has_val => bail!(
                "--adjust auto: chooses the value on the validation split, but the data set has none; give a \
                 value, or make a validation split with {}",
                if subject.dataset.kind == Kind::Embedding {
                    "embed --splits train,val,test"
                } else {
                    "mk-imbalance --val-fraction"
                }
            ),
            Some(Tau::Auto) if split == "val" => {
                bail!(
                    "--adjust auto: chooses the value on the validation split; evaluate another split, or \
                     give a value"
                )
            }
            Some(Tau::Auto) => inputs.push(subject.splits("selection", &["val"])?),
            _ if sweep.is_some() && has_val => inputs.push(subject.splits("selection", &["val"])?),
            _ => {}
        }
        let all = counts.iter().sum::<usize>() as f64;
        let (prior, prior_name) = match test_prior.as_deref() {
            None | Some("uniform") => (None, None),
            Some("train") => (Some(counts.iter().map(|&n| n as f64 / all).collect()), Some("train".into())),
            Some(file) => {
                let path = Path::new(file);
                let told = || format!("--test-prior {file}");
                let why = "is neither uniform nor train, and cannot be read as a file";
                let text = fs::read_to_string(path).context(why).with_context(told)?;
                let prior = prior(&text, counts.len()).with_context(told)?;
                let input = Input::of_content("test-prior", path, text.as_bytes())?;
                let name = format!("file {}", key::short(&input.blake3));
                inputs.push(input);
                (Some(prior), Some(name))
            }
        };
        Ok(Some(Adjust { tau, sweep: sweep.as_ref().map(|s| s.range), prior, prior_name, inputs }))
    }

    /// Adds the params and inputs that can change the result.
    pub fn add(&self, params: &mut Object, inputs: &mut Vec<Input>) {
        match self.tau {
            None => {}
            Some(Tau::Auto) => {
                params.insert("adjust".into(), "auto".into());
            }
            Some(Tau::Fixed(tau)) => {
                params.insert("adjust".into(), json!(tau));
            }
        }
        if let Some(name) = &self.prior_name {
            params.insert("test_prior".into(), name.as_str().into());
        }
        if let Some(range) = self.sweep {
            let Range { first, last, step } = range;
            let mut sweep = json!({"adjust": [first, last, step]});
            // Earlier versions rounded to the decimals of the step alone, also the first value.
            let decimals = (6.0 - step.log10()).ceil().clamp(0.0, 300.0) as usize;
            let values = range.values();
            if values.iter().any(|value| format!("{value:.decimals$}").parse::<f64>() != Ok(*value)) {
                sweep["values"] = json!(values);
            }
            params.insert("sweep".into(), sweep);
        }
        inputs.extend(self.inputs.iter().cloned());
    }

    /// Returns the suffix for directory names.
    pub fn name(&self) -> String {
        match (self.tau, self.sweep) {
            (Some(Tau::Auto), _) => "-adjust-auto".into(),
            (Some(Tau::Fixed(tau)), _) => format!("-adjust-{tau}"),
            (None, Some(_)) => "-sweep".into(),
            (None, None) => String::new(),
        }
    }

    /// Returns whether the validation images are needed.
    pub fn needs_val(&self) -> bool {
        self.inputs.iter().any(|input| input.role == "selection")
    }

    /// Corrects logits, and adds to the numbers what was corrected and how. `val` is the validation split, if
    /// it is needed.
    ///
    /// # Errors
    /// Returns an error if the logits cannot be evaluated.
    pub fn apply(
        &self,
        logits: Vec<f32>,
        labels: &[u32],
        counts: &[usize],
        val: Option<Images>,
        numbers: &mut Object,
    ) -> Result<Vec<f32>> {
        if let Some((_, labels)) = val {
            warn_of_absent_classes(labels, counts.len());
        }
        if let Some(range) = self.sweep {
            let sweep = self.swept(range, (&logits, labels), counts, val)?;
            numbers.insert("sweep".into(), Value::Object(sweep));
        }
        let tau = match self.tau {
            None => return Ok(logits),
            Some(Tau::Fixed(tau)) => tau,
            Some(Tau::Auto) => {
                let val = val.context("there is a validation split")?;
                let score = |tau: f64| -> Result<(f64, f64)> { Ok((tau, self.score(val, tau, counts)?)) };
                let scores = AUTO.values().into_iter().map(score).collect::<Result<Vec<_>>>()?;
                best(&scores).context("there are values to choose from")?
            }
        };
        numbers.insert("adjust".into(), json!(tau));
        let before = metrics::evaluate(&logits, labels, counts)?;
        numbers.insert("unadjusted".into(), Value::Object(numbers_of(&before)));
        let logits = self.adjusted(&logits, tau, counts);
        if self.prior.is_some() {
            let after = metrics::evaluate(&logits, labels, counts)?;
            numbers.insert("prior_top1".into(), json!(self.expected(&after)));
        }
        Ok(logits)
    }

    /// Evaluates images with each value of a range, and chooses the one that is best on the validation split.
    fn swept(&self, range: Range, images: Images, counts: &[usize], val: Option<Images>) -> Result<Object> {
        let (mut rows, mut scores) = (vec![], vec![]);
        for tau in range.values() {
            let found = self.evaluated(images, tau, counts)?;
            let mut row = numbers_of(&found);
            if self.prior.is_some() {
                row.insert("prior_top1".into(), json!(self.expected(&found)));
            }
            row.insert("value".into(), json!(tau));
            if let Some(val) = val {
                let score = self.score(val, tau, counts)?;
                row.insert("val_score".into(), json!(score));
                scores.push((tau, score));
            }
            rows.push(Value::Object(row));
        }
        let mut sweep = Object::new();
        sweep.insert("flag".into(), "adjust".into());
        sweep.insert("rows".into(), rows.into());
        if let Some(tau) = best(&scores) {
            sweep.insert("best_on_val".into(), json!(tau));
        }
        Ok(sweep)
    }

    fn adjusted(&self, logits: &[f32], tau: f64, counts: &[usize]) -> Vec<f32> {
        adjusted(logits, &offsets(tau, counts, self.prior.as_deref()))
    }

    fn evaluated(&self, (logits, labels): Images, tau: f64, counts: &[usize]) -> Result<Metrics> {
        Ok(metrics::evaluate(&self.adjusted(logits, tau, counts), labels, counts)?)
    }

    /// Returns the number by which a value is chosen, which is to be high.
    fn score(&self, val: Images, tau: f64, counts: &[usize]) -> Result<f64> {
        Ok(self.expected(&self.evaluated(val, tau, counts)?))
    }

    /// Returns the accuracy to expect if the classes are as frequent as the prior says.
    fn expected(&self, m: &Metrics) -> f64 {
        let share = |k: usize| self.prior.as_ref().map_or(1.0, |prior| prior[k]);
        let found: Vec<(f64, f64)> =
            m.per_class.iter().enumerate().filter_map(|(k, r)| Some((share(k), (*r)?))).collect();
        let total: f64 = found.iter().map(|(share, _)| share).sum();
        found.iter().map(|(share, recall)| share * recall).sum::<f64>() / total
    }
}

fn warn_of_absent_classes(labels: &[u32], classes: usize) {
    let absent = (0..classes).filter(|k| !labels.contains(&(*k as u32))).count();
    if absent > 0 {
        log::warn!(
            "{absent} of {classes} classes have no validation images, so the best value is chosen without them"
        );
    }
}

/// Returns the value with the highest score; of equal scores, the first one's.
fn best(scores: &[(f64, f64)]) -> Option<f64> {
    let best = scores.iter().copied().reduce(|best, s| if s.1 > best.1 { s } else { best });
    best.map(|(value, _)| value)
}

/// Returns the numbers that corrections change most, by their names in `metrics`.
fn numbers_of(m: &Metrics) -> Object {
    object(json!({
        "top1": m.top1, "many": m.many, "medium": m.medium, "few": m.few, "worst_class": m.worst_class,
        "harmonic_mean": m.harmonic_mean, "nll": m.nll, "ece": m.ece,
    }))
}

/// Returns the shares of the classes in the text of a file: one number per line, in any unit.
fn prior(text: &str, classes: usize) -> Result<Vec<f64>> {
    let number = |(n, line): (usize, &str)| -> Result<f64> {
        let value = line.trim().parse().ok().filter(|v: &f64| v.is_finite() && *v > 0.0);
        value.with_context(|| format!("line {} is not a positive number", n + 1))
    };
    let all = text.trim_end().lines().enumerate().map(number).collect::<Result<Vec<f64>>>()?;
    ensure!(all.len() == classes, "has {} numbers, but there are {classes} classes", all.len());
    let total: f64 = all.iter().sum();
    Ok(all.into_iter().map(|v| v / total).collect())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::eval;

    #[test]
    fn tau_is_a_number_or_auto() {
        assert_eq!("auto".parse(), Ok(Tau::Auto));
        assert_eq!("-0.5".parse(), Ok(Tau::Fixed(-0.5)));
        let text = |tau: &str| format!("{:?}", tau.parse::<Tau>());
        assert_eq!(text("-0"), text("0"), "they are the same key");
        for bad in ["", "x", "nan", "inf", "1e3"] {
            assert!(bad.parse::<Tau>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_example_of_a_sweep_is_one_that_eval_takes() {
        let sweep = |text| eval::Flags::try_parse_from(["eval", "--sweep", text]);
        let text = sweep("adjust=0:1").expect_err("it has no step").to_string();
        assert!(text.contains("such as adjust=0:2:0.1") && sweep("adjust=0:2:0.1").is_ok(), "{text}");
    }

    #[test]
    fn the_first_of_the_best_values_is_chosen() {
        assert_eq!(best(&[(0.0, 1.0), (0.5, 3.0), (1.0, 3.0), (1.5, 2.0)]), Some(0.5));
        assert_eq!(best(&[]), None);
    }

    #[test]
    fn sweeps_and_auto_choose_the_same_value() {
        let adjust = |tau, sweep| Adjust { tau, sweep, prior: None, prior_name: None, inputs: vec![] };
        // Two classes with 90 and 10 training images; the second image is right only after a correction.
        let (logits, labels, counts) = (vec![2.0, 0.0, 1.0, 0.0], [0, 1], [90, 10]);
        let val = Some((&logits[..], &labels[..]));
        let apply = |adjust: Adjust| {
            let mut numbers = Object::new();
            adjust.apply(logits.clone(), &labels, &counts, val, &mut numbers).expect("sound logits");
            numbers
        };
        let auto = apply(adjust(Some(Tau::Auto), None));
        let sweep = apply(adjust(None, Some(AUTO)));
        assert_eq!(auto["adjust"], json!(0.5));
        assert_eq!(sweep["sweep"]["best_on_val"], auto["adjust"]);
        let rows = sweep["sweep"]["rows"].as_array().expect("rows");
        assert_eq!([&rows[0]["val_score"], &rows[10]["val_score"]], [&json!(50.0), &json!(100.0)]);
    }
}
