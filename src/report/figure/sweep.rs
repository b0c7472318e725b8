//! Accuracy by the value of a flag, from `eval --sweep` or from evaluations of the runs of `train --sweep`:
//! for all images, and averaged over the classes with many, medium and few training images; mean over runs.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::axis::{Axes, Mark, heading, legend, margin, ticks};
use super::palette::method;
use super::svg::{MUTED, SMALL, Svg, TEXT};
use super::text::width;
use super::{Error, Manifest, foreign, path_of};
use crate::manifest::Object;
use crate::manifest::compare::flatten;
use crate::report::experiment::{Experiment, order, representatives};
use crate::report::series::series;
use crate::report::settings::{departs, words};
use crate::report::title;

/// The metrics that are drawn, with their names in the legend.
const LINES: [(&str, &str); 4] = [("top1", "all"), ("many", "many"), ("medium", "medium"), ("few", "few")];

/// The text at the value that is best on the validation split.
const BEST: &str = "best on val";

/// Settings that follow from the number of epochs, so that they may differ with it.
const OF_EPOCHS: [&str; 2] = ["milestones", "recipe"];

/// Accuracy by the value of a flag.
struct Sweep {
    /// The split that was evaluated.
    split: String,
    flag: String,
    values: Vec<f64>,
    /// The accuracies by value, for each of [`LINES`]; empty if there are no such classes.
    lines: [Vec<f64>; LINES.len()],
    best: Option<f64>,
}

pub(super) fn draw(found: &[&Manifest], of: &[&Experiment], page: f64) -> Result<String, Error> {
    let (title, sweep) = combined(found, of)?;
    Ok(paint(&title, &sweep, page))
}

/// Draws all sweeps among evaluations of one training set and epoch, and returns each with its flag: those of
/// `eval --sweep`, and those of the runs of one method and classifier that differ in one number. (Runs with
/// only two values of it were hardly meant as a sweep.)
pub(in crate::report) fn all(found: &[(&Manifest, &Experiment)], page: f64) -> Vec<(String, String)> {
    let mut groups: BTreeMap<_, (Vec<&Manifest>, Vec<&Experiment>)> = BTreeMap::new();
    for &(m, e) in found {
        let is_swept = m.metrics.contains_key("sweep");
        let alike = if is_swept {
            json!([m.params.get("sweep"), e.options, e.settings])
        } else {
            let (_, mut others) = params(m);
            others.retain(|name, _| !OF_EPOCHS.contains(&name.as_str()));
            json!([others, of_evaluation(e), split(m) == "train"])
        };
        let key = (order(&e.method), &e.method, is_swept, alike.to_string());
        let (manifests, of) = groups.entry(key).or_default();
        manifests.push(m);
        of.push(e);
    }
    let drawn = groups.into_iter().filter_map(|((_, _, is_swept, _), (found, of))| {
        let (title, sweep) = combined(&found, &of).ok()?;
        let is_meant = is_swept || sweep.values.len() > 2;
        is_meant.then(|| (sweep.flag.clone(), paint(&title, &sweep, page)))
    });
    drawn.collect()
}

/// Returns the sweep that evaluations make up together, with its title.
fn combined(found: &[&Manifest], of: &[&Experiment]) -> Result<(String, Sweep), Error> {
    let (label, sweep) = match found.iter().any(|m| m.metrics.contains_key("sweep")) {
        true => in_evaluations(found, of)?,
        false => across_evaluations(found, of)?,
    };
    let column = &of[0].column;
    Ok((format!("{label}, {}, {}", column.title(), column.heading()), sweep))
}

/// Returns the split that was evaluated.
fn split(m: &Manifest) -> &str {
    m.params.get("split").and_then(Value::as_str).unwrap_or("test")
}

/// Returns the settings of an evaluation, other than its split, that runs of one sweep share.
fn of_evaluation(e: &Experiment) -> [Option<&Value>; 2] {
    ["evaluated on", "test_prior"].map(|name| e.settings.get(name))
}

fn fail(why: String) -> Error {
    Error::Inputs { kind: "sweep", why }
}

/// Averages the results of `eval --sweep` over the runs of a method.
fn in_evaluations(found: &[&Manifest], of: &[&Experiment]) -> Result<(String, Sweep), Error> {
    let groups = series(of);
    if groups.len() != 1 {
        return Err(fail(format!(
            "shows one method, but these are {}; give the evaluations of one",
            groups.len()
        )));
    }
    let sweeps = groups[0].members.iter().map(|&i| read(found[i])).collect::<Result<Vec<_>, _>>()?;
    let Sweep { flag, values, best, .. } = &sweeps[0];
    if sweeps.iter().any(|s| s.flag != *flag || s.values != *values) {
        return Err(fail(
            "the evaluations swept different values; give evaluations of the same sweep".into(),
        ));
    }
    let lines = std::array::from_fn(|line| {
        let all: Vec<_> = sweeps.iter().map(|s| &s.lines[line]).filter(|l| !l.is_empty()).collect();
        let at = |n: usize| mean(all.iter().map(|l| l[n]));
        if all.is_empty() { vec![] } else { (0..values.len()).map(at).collect() }
    });
    let best = best.filter(|best| sweeps.iter().all(|s| s.best == Some(*best)));
    let split = sweeps[0].split.clone();
    let sweep = Sweep { split, flag: flag.clone(), values: values.clone(), lines, best };
    Ok((groups[0].label.clone(), sweep))
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let all: Vec<f64> = values.collect();
    all.iter().sum::<f64>() / all.len() as f64
}

/// Combines evaluations of runs that differ in one number besides their seeds. If there are evaluations on
/// the validation split as well, the value that is best there is marked. Byte-identical runs count once.
fn across_evaluations(found: &[&Manifest], of: &[&Experiment]) -> Result<(String, Sweep), Error> {
    let one_each = representatives(of);
    let distinct = (0..of.len()).filter(|&i| one_each[i] == i);
    let (found, of): (Vec<&Manifest>, Vec<&Experiment>) = distinct.map(|i| (found[i], of[i])).unzip();
    let on_val = |m: &Manifest| split(m) == "val";
    let judged: Vec<usize> = (0..found.len()).filter(|&i| !on_val(found[i])).collect();
    let Some(&first) = judged.first() else {
        return Err(fail(
            "all evaluations are on the validation split; give those on the test split as well".into(),
        ));
    };
    let same = |i: &usize| {
        let (own, e) = (of[first], of[*i]);
        (&own.method, &own.column, &own.which) == (&e.method, &e.column, &e.which)
            && of_evaluation(own) == of_evaluation(e)
    };
    let all: Vec<usize> = (0..found.len()).collect();
    if !all.iter().all(same) {
        return Err(fail("shows one method on one data set; give the evaluations of one".into()));
    }
    if judged.iter().any(|&i| split(found[i]) != split(found[first])) {
        let why = "the evaluations are on the test and on the training split; give those on one of them";
        return Err(fail(why.into()));
    }
    let (numbers, others): (Vec<_>, Vec<_>) = found.iter().map(|m| params(m)).unzip();
    let swept = differing(&numbers, first);
    let [name] = &swept[..] else {
        let list: Vec<String> = swept.iter().map(|name| flag(name)).collect();
        return Err(fail(match list.is_empty() {
            true => "the runs do not differ in a numeric setting; give the evaluations of train --sweep, or \
                 evaluate with --sweep adjust=0:2:0.1"
                .into(),
            false => {
                format!("the runs differ in {}; give runs that differ in one setting", list.join(" and "))
            }
        }));
    };
    let follows = |other: &String| name == "epochs" && OF_EPOCHS.contains(&other.as_str());
    if let Some(other) = differing(&others, first).into_iter().find(|other| !follows(other)) {
        let why = format!(
            "the runs differ in {} and in {}; give runs that differ in one setting",
            flag(name),
            flag(&other)
        );
        return Err(fail(why));
    }
    let value = |i: usize| numbers[i].get(name).copied();
    if let Some(i) = all.iter().find(|i| value(**i).is_none()) {
        let why = format!("{} is of a run without {}; omit it", path_of(found[*i]).display(), flag(name));
        return Err(fail(why));
    }
    let mut values: Vec<f64> = judged.iter().filter_map(|&i| value(i)).collect();
    values.sort_by(f64::total_cmp);
    values.dedup();
    // The mean over the evaluations with a value, if all of them have the metric.
    let at = |is_val: bool, at: f64, number: &dyn Fn(&Object) -> Option<f64>| -> Option<f64> {
        let of_value = (0..found.len()).filter(|&i| on_val(found[i]) == is_val && value(i) == Some(at));
        let all: Vec<f64> = of_value.map(|i| number(&found[i].metrics)).collect::<Option<_>>()?;
        (!all.is_empty()).then(|| mean(all.into_iter()))
    };
    // The mean over classes, which is how `eval --adjust auto` chooses.
    let over_classes = |metrics: &Object| {
        let recalls: Vec<f64> =
            metrics.get("per_class")?.as_array()?.iter().filter_map(Value::as_f64).collect();
        (!recalls.is_empty()).then(|| mean(recalls.into_iter()))
    };
    let lines = LINES.map(|(metric, _)| {
        let line = values.iter().map(|v| at(false, *v, &|metrics: &Object| metrics.get(metric)?.as_f64()));
        line.collect::<Option<Vec<f64>>>().unwrap_or_default()
    });
    let scores: Option<Vec<(f64, f64)>> =
        values.iter().map(|v| Some((*v, at(true, *v, &over_classes)?))).collect();
    let best = scores.and_then(|all| all.into_iter().reduce(|best, s| if s.1 > best.1 { s } else { best }));
    let best = best.map(|(value, _)| value);
    let checkpoint = found[first].input("checkpoint");
    let classifier = checkpoint.and_then(|c| c.params.get("classifier")?["name"].as_str());
    let corrections = ["adjust", "test_prior"].into_iter().filter(|n| *n != name.as_str());
    let corrections = corrections.filter_map(|n| Some((n, of[first].settings.get(n)?)));
    let corrections = corrections.filter(|(n, v)| departs(n, v)).map(|(n, v)| words(n, v));
    let parts: Vec<String> = classifier.map(str::to_owned).into_iter().chain(corrections).collect();
    let mut label = title(&of[first].method);
    if !parts.is_empty() {
        label += &format!(" ({})", parts.join(", "));
    }
    let split = split(found[first]).to_owned();
    Ok((label, Sweep { split, flag: flag(name), values, lines, best }))
}

/// Returns the flag that sets a numeric param.
fn flag(name: &str) -> String {
    name.rsplit('.').next().unwrap_or(name).replace('_', "-")
}

/// Returns the names whose values differ from those of the first.
fn differing<T: PartialEq>(all: &[BTreeMap<String, T>], first: usize) -> Vec<String> {
    let names: BTreeSet<&String> = all.iter().flat_map(BTreeMap::keys).collect();
    let differs = |name: &&String| all.iter().any(|values| values.get(*name) != all[first].get(*name));
    names.into_iter().filter(differs).cloned().collect()
}

/// Returns the numbers of an evaluation that a sweep may vary, and everything else, which must be the same.
/// The numbers are those in the params of its checkpoint, except the seed and numbers that follow from
/// others, and the logit adjustment.
fn params(m: &Manifest) -> (BTreeMap<String, f64>, BTreeMap<String, Value>) {
    let (mut numbers, mut others) = (BTreeMap::new(), BTreeMap::new());
    if let Some(checkpoint) = m.input("checkpoint") {
        checkpoint.params.iter().for_each(|(name, value)| flatten(name, value, &mut others));
        numbers = others.iter().filter_map(|(name, value)| Some((name.clone(), value.as_f64()?))).collect();
        others.retain(|_, value| !value.is_number());
        // The weights of the network below a classifier differ between seeds, so they are not compared.
        others.remove("init");
        if let Some(dataset) = checkpoint.inputs.iter().find(|i| i.role == "dataset") {
            others.extend(dataset.params.iter().map(|(name, v)| (format!("dataset.{name}"), v.clone())));
        }
    }
    for name in ["seed", "rule_from"] {
        numbers.remove(name);
    }
    let adjust = m.params.get("adjust");
    numbers.insert("adjust".into(), adjust.and_then(Value::as_f64).unwrap_or(0.0));
    others.extend(adjust.filter(|v| v.is_string()).map(|v| ("adjust".to_owned(), v.clone())));
    (numbers, others)
}

fn paint(title: &str, sweep: &Sweep, page: f64) -> String {
    let Sweep { split, flag, values, lines, best } = sweep;
    let lines: Vec<(usize, &Vec<f64>)> =
        lines.iter().enumerate().filter(|(_, line)| !line.is_empty()).collect();
    let ys = ticks(0.0, 100.0, 6);
    let left = margin(&ys);
    let mut svg = Svg::new(page);
    let entries: Vec<_> =
        lines.iter().map(|(n, _)| (Mark::Line(method(*n).0, method(*n).1), LINES[*n].1)).collect();
    let mut top = 9.0 + heading(&mut svg, left, 7.5, page - left, title);
    top += legend(&mut svg, left, top, page - left, &entries) + 8.0;
    let (lo, hi) = (values[0], values[values.len() - 1]);
    let xs = if hi > lo { (lo, hi) } else { (lo - 0.5, hi + 0.5) };
    let axes = Axes { x: left, y: top, w: page - left - 6.0, h: 100.0, xs, ys: (0.0, 100.0) };
    let of_split = if split == "test" { String::new() } else { format!("{split} ") };
    axes.left(&mut svg, &ys, &format!("{of_split}accuracy (%)"));
    if let Some(best) = best {
        let (x, base) = axes.at(*best, 0.0);
        svg.line((x, axes.y), (x, base), MUTED, 0.6, "1 1.5");
        // At the first and the last value, the text would leave the axes.
        let half = width(BEST, SMALL, false) / 2.0;
        let middle = x.clamp(axes.x + half, axes.x + axes.w - half);
        svg.text(middle, axes.y - 2.0, BEST, TEXT.small().middle().fill(MUTED));
    }
    for (n, line) in &lines {
        let (colour, dash) = method(*n);
        let points: Vec<_> = values.iter().zip(*line).map(|(x, y)| axes.at(*x, *y)).collect();
        if let [(x, y)] = points[..] {
            svg.dot(x, y, 1.6, colour);
        }
        svg.path(&points, colour, 1.1, dash);
    }
    axes.bottom(&mut svg, &ticks(xs.0, xs.1, 7), &format!("--{flag}"));
    svg.finish(axes.y + axes.h + 21.0, &format!("Accuracy by --{flag}: {title}"))
}

fn read(m: &Manifest) -> Result<Sweep, Error> {
    let lacks = || foreign(m, "metrics lack a sweep; evaluate with --sweep adjust=0:2:0.1");
    let sweep = m.metrics.get("sweep").ok_or_else(lacks)?;
    let rows = sweep["rows"].as_array().filter(|rows| !rows.is_empty()).ok_or_else(lacks)?;
    let column = |name: &str| rows.iter().map(|row| row[name].as_f64()).collect::<Option<Vec<f64>>>();
    Ok(Sweep {
        split: split(m).to_owned(),
        flag: sweep["flag"].as_str().ok_or_else(lacks)?.to_owned(),
        values: column("value").ok_or_else(lacks)?,
        lines: LINES.map(|(name, _)| column(name).unwrap_or_default()),
        best: sweep.get("best_on_val").and_then(Value::as_f64),
    })
}
