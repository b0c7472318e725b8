//! The figures of a page: whatever can be drawn of what it was given.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::Sources;
use crate::manifest::{Input, Manifest};
use crate::report::Error;
use crate::report::experiment::{Column, Experiment, PROJECTION, representatives};
use crate::report::figure::svg::escape;
use crate::report::figure::{Kind, class_counts, confusion};
use crate::report::markdown::heading;
use crate::report::record::Record;
use crate::report::series::series;
use crate::report::settings::words;
use crate::report::table::dataset_title;

/// Points; a column of a paper.
const WIDTH: f64 = 3.3 * 72.0;

/// The most methods in one figure; more are spread over several.
const MOST: usize = 6;

/// The section. `metrics` are the manifests of the records; the other experiments are those of the sources.
pub(super) fn write(
    sources: &Sources,
    metrics: &[&Manifest],
    records: &[Record],
    checkpoints: &[Experiment],
    embeddings: &[Experiment],
) -> Result<String, Error> {
    let mut text = String::from("<section id=\"figures\">\n<h2>Figures</h2>\n");
    let all: Vec<&Manifest> = sources.datasets.iter().map(|(_, m)| *m).collect();
    let counts = class_counts::of_evaluations(metrics, &all, WIDTH)?;
    if !counts.is_empty() {
        let shown: String = counts.iter().map(|svg| figure(svg, "Training images of each class.")).collect();
        text += &format!("<div class=\"figures\">\n{shown}</div>\n");
    }
    let curves = by_column(&sources.checkpoints, checkpoints);
    let maps = by_column(&sources.embeddings, embeddings);

    // The last epoch, for it was not chosen on the test images; another one only where that is missing.
    // Class counts belong to the key: a validation split takes images away.
    let mut columns: BTreeMap<(&Column, String), Vec<usize>> = BTreeMap::new();
    for (i, r) in records.iter().enumerate() {
        let counts = metrics[i].metrics.get("cls_num_list").map_or(String::new(), |c| c.to_string());
        columns.entry((&r.of.column, counts)).or_default().push(i);
    }
    for column in curves.keys().chain(maps.keys()).copied() {
        if !columns.keys().any(|(c, _)| *c == column) {
            columns.insert((column, String::new()), vec![]);
        }
    }
    let mut drawn = BTreeSet::new();
    for ((column, _), indices) in columns {
        // What is not of the evaluations stands with the first of them.
        let first = drawn.insert(column);
        let which =
            ["last", "best", "file"].into_iter().find(|w| indices.iter().any(|&i| records[i].of.which == *w));
        let chosen: Vec<usize> =
            indices.into_iter().filter(|&i| Some(records[i].of.which.as_str()) == which).collect();
        let mut shown = String::new();
        for part in parts(&chosen, |i| &records[i].of) {
            let found: Vec<&Manifest> = part.iter().map(|&i| metrics[i]).collect();
            let of: Vec<&Experiment> = part.iter().map(|&i| &records[i].of).collect();
            for (kind, field, caption) in [
                (
                    Kind::PerClass,
                    "per_class",
                    "Accuracy of each class, a bar a method; lines are standard deviations over seeds.",
                ),
                (
                    Kind::Reliability,
                    "reliability",
                    "Accuracy of the images of equal confidence; on the dashed line confidence is right.",
                ),
            ] {
                if found
                    .iter()
                    .all(|m| m.metrics.contains_key(field) && m.metrics.contains_key("class_names"))
                {
                    shown += &figure(&kind.draw_as(&found, &of, WIDTH)?, caption);
                }
            }
        }
        if let Some(found) = curves.get(column).filter(|_| first) {
            for part in parts(&(0..found.len()).collect::<Vec<_>>(), |i| found[i].1) {
                let (part, of): (Vec<&Manifest>, Vec<_>) = part.iter().map(|&i| found[i]).unzip();
                let caption = "Training loss and test accuracy; with several runs their mean and range.";
                shown += &figure(&Kind::Curves.draw_as(&part, &of, WIDTH)?, caption);
            }
        }
        if let Some(found) = maps.get(column).filter(|_| first) {
            let of: Vec<&Experiment> = found.iter().map(|(_, of)| *of).collect();
            let one_each = representatives(&of);
            let mut found: Vec<_> =
                (0..found.len()).filter(|&i| one_each[i] == i).map(|i| found[i]).collect();
            found.sort_by_key(|(_, of)| projection(of));
            for part in
                found.chunk_by(|a, b| projection(a.1) == projection(b.1)).flat_map(|same| same.chunks(2))
            {
                let by = projection(part[0].1);
                let caption = format!(
                    "The features of the test images, one projection a model ({by}), by true class and by prediction."
                );
                let (part, of): (Vec<&Manifest>, Vec<_>) = part.iter().copied().unzip();
                shown += &figure(&Kind::Figure1.draw_as(&part, &of, WIDTH)?, &caption);
            }
        }
        let of: Vec<&Experiment> = chosen.iter().map(|&i| &records[i].of).collect();
        for group in series(&of) {
            let found: Vec<&Manifest> = group.members.iter().map(|&i| metrics[chosen[i]]).collect();
            let of: Vec<&Experiment> = group.members.iter().map(|&i| &records[chosen[i]].of).collect();
            if found.iter().all(|m| has_confusion(m)) {
                shown += &figure(
                    &Kind::Confusion.draw_as(&found, &of, WIDTH)?,
                    &format!("Confusion matrix of {}.", group.label),
                );
            }
        }
        if let Some(n) = chosen.iter().map(|&i| classes(metrics[i])).find(|n| *n > confusion::MOST_CLASSES) {
            shown += &format!(
                "<p>No confusion matrix is drawn of {n} classes: its cells would be smaller than a dot.</p>\n"
            );
        }
        if !shown.is_empty() {
            let epoch = which.filter(|w| *w == "best").map_or("", |_| ", best epoch");
            text += &format!(
                "<h3>{}, {}{epoch}</h3>\n<div class=\"figures\">\n{shown}</div>\n",
                escape(dataset_title(&column.dataset)),
                escape(&heading(column))
            );
        }
    }
    Ok(text + "</section>\n")
}

/// A projection in words, with the parameter that changes it most.
fn projection(of: &Experiment) -> String {
    let names = ["method", "perplexity"].map(|name| format!("{PROJECTION}.{name}"));
    let all: Vec<String> = names.iter().filter_map(|n| Some(words(n, of.settings.get(n)?))).collect();
    all.join(", ")
}

/// Number of classes that an evaluation names.
fn classes(m: &Manifest) -> usize {
    m.metrics.get("class_names").and_then(Value::as_array).map_or(0, Vec::len)
}

/// Whether a confusion matrix can be drawn of an evaluation: it has one, and not of too many classes.
fn has_confusion(m: &Manifest) -> bool {
    let has = m.metrics.contains_key("confusion") || m.outputs_of("confusion").next().is_some();
    has && (1..=confusion::MOST_CLASSES).contains(&classes(m))
}

fn figure(svg: &str, caption: &str) -> String {
    format!("<figure>\n{svg}<figcaption>{}</figcaption>\n</figure>\n", escape(caption))
}

/// Manifests with their experiments, by training set.
fn by_column<'a>(
    found: &[(Input, &'a Manifest)],
    of: &'a [Experiment],
) -> BTreeMap<&'a Column, Vec<(&'a Manifest, &'a Experiment)>> {
    let mut all: BTreeMap<&Column, Vec<_>> = BTreeMap::new();
    for ((_, m), of) in found.iter().zip(of) {
        all.entry(&of.column).or_default().push((*m, of));
    }
    all
}

/// Indices of experiments in parts of at most [`MOST`] methods, of one class-count list each.
fn parts<'a>(chosen: &[usize], of: impl Fn(usize) -> &'a Experiment) -> Vec<Vec<usize>> {
    let all: Vec<&Experiment> = chosen.iter().map(|&i| of(i)).collect();
    let groups = series(&all);
    groups
        .chunks(MOST)
        .map(|part| part.iter().flat_map(|g| g.members.iter().map(|&i| chosen[i])).collect())
        .collect()
}
