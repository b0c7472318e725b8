//! The figures of a page: everything that can be drawn from its manifests.

use std::collections::{BTreeMap, BTreeSet};

use maud::{Markup, PreEscaped, html};
use serde_json::Value;

use super::Sources;
use crate::manifest::{Input, Manifest};
use crate::report::Error;
use crate::report::column::Column;
use crate::report::experiment::{Experiment, representatives};
use crate::report::figure::{Kind, class_counts, confusion, sweep};
use crate::report::record::Record;
use crate::report::series::series;
use crate::report::settings::{PROJECTION, words};

/// Width of a figure in points: one column of a paper.
const WIDTH: f64 = 3.3 * 72.0;

/// The most methods in one figure; more are spread over several.
const MOST: usize = 6;

/// Returns the section. `metrics` are the manifests of the records; `given` are all evaluations, also several
/// of the same weights; `checkpoints` and `embeddings` are the experiments of the corresponding sources.
pub(super) fn section(
    sources: &Sources,
    metrics: &[&Manifest],
    records: &[Record],
    given: &[(&Manifest, &Experiment)],
    checkpoints: &[Experiment],
    embeddings: &[Experiment],
) -> Result<Markup, Error> {
    let datasets: Vec<&Manifest> = sources.datasets.iter().map(|(_, m)| *m).collect();
    let counts = class_counts::of_evaluations(metrics, &datasets, WIDTH)?;
    let counts: Vec<Markup> =
        counts.iter().map(|svg| figure(svg, "Training images of each class.")).collect();
    let curves = by_column(&sources.checkpoints, checkpoints);
    let maps = by_column(&sources.embeddings, embeddings);

    // Class counts are part of the key, because a validation split takes images away.
    let counts_of = |m: &Manifest| m.metrics.get("cls_num_list").map_or(String::new(), Value::to_string);
    let mut columns: BTreeMap<(&Column, String), Vec<usize>> = BTreeMap::new();
    for (i, r) in records.iter().enumerate() {
        columns.entry((&r.of.column, counts_of(metrics[i]))).or_default().push(i);
    }
    for column in curves.keys().chain(maps.keys()).copied() {
        if !columns.keys().any(|(c, _)| *c == column) {
            columns.insert((column, String::new()), vec![]);
        }
    }
    let mut drawn = BTreeSet::new();
    let mut parts = vec![];
    for ((column, of_classes), indices) in columns {
        // Show the last epoch, because it was not chosen on the test images; show another one only if it is
        // missing.
        let which =
            ["last", "best", "file"].into_iter().find(|w| indices.iter().any(|&i| records[i].of.which == *w));
        let chosen: Vec<(&Manifest, &Experiment)> = indices
            .into_iter()
            .filter(|&i| Some(records[i].of.which.as_str()) == which)
            .map(|i| (metrics[i], &records[i].of))
            .collect();
        // For a caption: bare weights are of an unknown epoch.
        let epoch = which.filter(|w| *w != "file").map_or(String::new(), |w| format!(" after the {w} epoch"));
        let mut shown = by_class_and_confidence(&chosen, &epoch)?;
        // Figures that are not drawn from evaluations go with the first group of the column.
        if drawn.insert(column) {
            shown.extend(curves.get(column).map_or(Ok(vec![]), |found| training_curves(found))?);
            shown.extend(maps.get(column).map_or(Ok(vec![]), |found| projections(found))?);
        }
        let is_here = |m: &Manifest, of: &Experiment| {
            of.column == *column && Some(of.which.as_str()) == which && counts_of(m) == of_classes
        };
        let here: Vec<_> = given.iter().copied().filter(|(m, of)| is_here(m, of)).collect();
        shown.extend(sweeps(&here, &epoch));
        shown.extend(confusion_matrices(&chosen, &epoch)?);
        if !shown.is_empty() {
            parts.push(html! {
                h3 { (column.title()) ", " (column.heading()) }
                div.figures { @for figure in shown { (figure) } }
            });
        }
    }
    Ok(html! {
        section id="figures" {
            h2 { "Figures" }
            @if !counts.is_empty() { div.figures { @for figure in counts { (figure) } } }
            @for part in parts { (part) }
        }
    })
}

/// Draws accuracy by class and reliability diagrams, with at most [`MOST`] methods per figure.
fn by_class_and_confidence(chosen: &[(&Manifest, &Experiment)], epoch: &str) -> Result<Vec<Markup>, Error> {
    let mut shown = vec![];
    for (found, of) in parts(chosen) {
        let lines = match series(&of).iter().any(|group| group.members.len() > 1) {
            true => "; lines show standard deviations over seeds",
            false => "",
        };
        let per_class = format!("Accuracy of each class{epoch}, with a bar for each method{lines}.");
        let reliability =
            format!("Accuracy by confidence{epoch}; on the dashed line, accuracy equals confidence.");
        let kinds =
            [(Kind::PerClass, "per_class", per_class), (Kind::Reliability, "reliability", reliability)];
        for (kind, field, caption) in kinds {
            let has = |m: &&Manifest| m.metrics.contains_key(field) && m.metrics.contains_key("class_names");
            if found.iter().all(has) {
                shown.push(figure(&kind.draw_as(&found, &of, WIDTH)?, &caption));
            }
        }
    }
    Ok(shown)
}

/// Draws loss and accuracy by epoch, with at most [`MOST`] methods per figure.
fn training_curves(found: &[(&Manifest, &Experiment)]) -> Result<Vec<Markup>, Error> {
    let caption = "Training loss and test accuracy; for several runs, their mean and range.";
    let draw = |(part, of): (Vec<_>, Vec<_>)| Ok(figure(&Kind::Curves.draw_as(&part, &of, WIDTH)?, caption));
    parts(found).into_iter().map(draw).collect()
}

/// Draws pairs of models with the same projection side by side.
fn projections(found: &[(&Manifest, &Experiment)]) -> Result<Vec<Markup>, Error> {
    let of: Vec<&Experiment> = found.iter().map(|(_, of)| *of).collect();
    let one_each = representatives(&of);
    let mut found: Vec<_> = (0..found.len()).filter(|&i| one_each[i] == i).map(|i| found[i]).collect();
    found.sort_by_key(|(_, of)| projection(of));
    let pairs = found.chunk_by(|a, b| projection(a.1) == projection(b.1)).flat_map(|same| same.chunks(2));
    let draw = |pair: &[(&Manifest, &Experiment)]| {
        let by = projection(pair[0].1);
        let caption = format!(
            "The features of the test images, with one projection for each model ({by}), by true class and by \
             prediction."
        );
        let (part, of): (Vec<&Manifest>, Vec<_>) = pair.iter().copied().unzip();
        Ok(figure(&Kind::Tsne.draw_as(&part, &of, WIDTH)?, &caption))
    };
    pairs.map(draw).collect()
}

/// Draws the sweeps among evaluations.
fn sweeps(found: &[(&Manifest, &Experiment)], epoch: &str) -> Vec<Markup> {
    let caption = |flag: &str| {
        format!("Accuracy{epoch} by --{flag}, of all classes and of those with many, medium and few images.")
    };
    sweep::all(found, WIDTH).iter().map(|(flag, svg)| figure(svg, &caption(flag))).collect()
}

/// Draws one matrix per method, over all its seeds.
fn confusion_matrices(chosen: &[(&Manifest, &Experiment)], epoch: &str) -> Result<Vec<Markup>, Error> {
    let of: Vec<&Experiment> = chosen.iter().map(|(_, of)| *of).collect();
    let mut shown = vec![];
    for group in series(&of) {
        let (found, of): (Vec<&Manifest>, Vec<_>) = group.members.iter().map(|&i| chosen[i]).unzip();
        if found.iter().all(|m| has_confusion(m)) {
            let caption = format!("Confusion matrix of {}{epoch}.", group.label);
            shown.push(figure(&Kind::Confusion.draw_as(&found, &of, WIDTH)?, &caption));
        }
    }
    if let Some(n) = chosen.iter().map(|(m, _)| classes(m)).find(|n| *n > confusion::MOST_CLASSES) {
        shown.push(html! {
            p { "No confusion matrix is drawn for " (n) " classes, because its cells would be smaller than a dot." }
        });
    }
    Ok(shown)
}

/// Describes a projection in words, with the parameter that changes it most.
fn projection(of: &Experiment) -> String {
    let names = ["method", "perplexity"].map(|name| format!("{PROJECTION}.{name}"));
    let all: Vec<String> = names.iter().filter_map(|n| Some(words(n, of.settings.get(n)?))).collect();
    all.join(", ")
}

/// Returns the number of classes that an evaluation names.
fn classes(m: &Manifest) -> usize {
    m.metrics.get("class_names").and_then(Value::as_array).map_or(0, Vec::len)
}

/// Returns whether an evaluation has a confusion matrix and few enough classes for it to be drawn.
fn has_confusion(m: &Manifest) -> bool {
    let has = m.metrics.contains_key("confusion") || m.outputs_of("confusion").next().is_some();
    has && (1..=confusion::MOST_CLASSES).contains(&classes(m))
}

fn figure(svg: &str, caption: &str) -> Markup {
    html! { figure { (PreEscaped(svg)) figcaption { (caption) } } }
}

/// Groups manifests and their experiments by training set.
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

/// Splits manifests and experiments into parts of at most [`MOST`] methods.
fn parts<'a>(chosen: &[(&'a Manifest, &'a Experiment)]) -> Vec<(Vec<&'a Manifest>, Vec<&'a Experiment>)> {
    let of: Vec<&Experiment> = chosen.iter().map(|(_, of)| *of).collect();
    let groups = series(&of);
    let members =
        groups.chunks(MOST).map(|part| part.iter().flat_map(|g| g.members.iter().map(|&i| chosen[i])));
    members.map(Iterator::unzip).collect()
}
