//! The page of a report: tables, figures, settings and lineage in one self-contained HTML file.
//!
//! Like the tables, the page is made from manifests. Its bytes depend on its inputs alone: it contains no
//! dates and no paths.

mod figures;
mod lineage;
mod mistakes;
mod settings;
mod tables;

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use serde_json::Value;

use super::Error;
use super::column::Column;
use super::experiment::{Experiment, disambiguated, order, representatives};
use super::figure::experiments;
use super::figure::text::{BOLD, REGULAR};
use super::published::Published;
use super::record::Record;
use super::series::EVALUATION;
use super::settings::words;
use super::{plural, table};
use crate::manifest::{Input, Kind, Manifest};

const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("sort.js");

/// The manifests that a page is made from, each one once.
pub struct Sources<'a> {
    /// Evaluations: the report's inputs with their manifests.
    pub metrics: Vec<(Input, &'a Manifest)>,
    /// Checkpoints, for training curves.
    pub checkpoints: Vec<(Input, &'a Manifest)>,
    /// Embeddings with a projection, for the t-SNE figure.
    pub embeddings: Vec<(Input, &'a Manifest)>,
    /// Data sets, for their class counts.
    pub datasets: Vec<(Input, &'a Manifest)>,
}

impl<'a> Sources<'a> {
    /// Sorts manifests by kind.
    ///
    /// # Errors
    /// Returns an error if there is no evaluation among them.
    pub fn of(found: Vec<(Input, &'a Manifest)>) -> Result<Sources<'a>, Error> {
        let n = found.len();
        let of = |kind| found.iter().filter(|(_, m)| m.kind == kind).cloned().collect::<Vec<_>>();
        let all = Sources {
            metrics: of(Kind::Metrics),
            checkpoints: of(Kind::Checkpoint),
            embeddings: of(Kind::Embedding),
            datasets: of(Kind::Dataset),
        };
        if all.metrics.is_empty() {
            let why = format!(
                "none of the {n} manifests is an evaluation; add metrics manifests, which eval makes"
            );
            return Err(Error::Inputs { kind: "html", why });
        }
        Ok(all)
    }
}

/// Returns the roles of the outputs that the page opens.
pub fn roles(m: &Manifest) -> &'static [&'static str] {
    match m.kind {
        Kind::Checkpoint => &["log"],
        Kind::Embedding => &["features"],
        Kind::Metrics => &["confusion"],
        // For the pictures of wrong predictions and their file names.
        Kind::Dataset => &["train", "val", "test", "files"],
        Kind::Report => &[],
    }
}

/// Writes the page, with published values beside those of its evaluations.
///
/// # Errors
/// Returns an error if the evaluations do not belong together, or if files of checkpoints and embeddings are
/// missing or damaged.
pub fn write(sources: &Sources, title: &str, published: &Published) -> Result<String, Error> {
    // All experiments of the page are told apart together, so that runs have the same names in all parts.
    let read = |found: &[(Input, &Manifest)]| -> Result<Vec<Experiment>, Error> {
        experiments(&found.iter().map(|(_, m)| *m).collect::<Vec<_>>())
    };
    let [metrics, checkpoints, embeddings] =
        [read(&sources.metrics)?, read(&sources.checkpoints)?, read(&sources.embeddings)?];
    let all: Vec<&Experiment> = metrics.iter().chain(&checkpoints).chain(&embeddings).collect();
    let mut told = disambiguated(&all).into_iter();
    let mut records = sources.metrics.iter().map(|(i, m)| Record::of(m, i)).collect::<Result<Vec<_>, _>>()?;
    for (record, of) in records.iter_mut().zip(&mut told) {
        record.of = of;
    }
    let [checkpoints, embeddings]: [Vec<Experiment>; 2] =
        [&checkpoints, &embeddings].map(|found| told.by_ref().take(found.len()).collect());
    let tables = table::tables(&records, published);
    let given: Vec<(&Manifest, &Experiment)> =
        sources.metrics.iter().zip(&records).map(|((_, m), r)| (*m, &r.of)).collect();
    // Outside the tables, too, each run counts once.
    let one_each = representatives(&records.iter().map(|r| &r.of).collect::<Vec<_>>());
    let shown: Vec<usize> = (0..records.len()).filter(|&i| one_each[i] == i).collect();
    let metrics: Vec<&(Input, &Manifest)> = shown.iter().map(|&i| &sources.metrics[i]).collect();
    let records: Vec<Record> = shown.iter().map(|&i| records[i].clone()).collect();
    let manifests: Vec<&Manifest> = metrics.iter().map(|(_, m)| *m).collect();
    let of: Vec<&Experiment> = records.iter().map(|r| &r.of).collect();
    let lineage = lineage::Lineage::of(sources, &metrics, &records);
    let mistakes = mistakes::section(sources, &metrics, &records)?;
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                link rel="icon" href="data:,";
                title { (title) }
                style { (font(400, REGULAR)) (font(700, BOLD)) (PreEscaped(STYLE)) }
            }
            body {
                main {
                    (intro(title, &records, &tables, mistakes.is_some()))
                    @for (n, t) in tables.iter().enumerate() { (tables::section(t, n, published)) }
                    (figures::section(sources, &manifests, &records, &given, &checkpoints, &embeddings)?)
                    @if let Some(mistakes) = mistakes { (mistakes) }
                    (settings::section(&manifests, &of))
                    (lineage.section(&records))
                }
                script { (PreEscaped(SCRIPT)) }
            }
        }
    };
    Ok(page.into_string() + "\n")
}

/// Returns the indices of the records by training set, then in the order of the methods in the tables, with
/// the last epoch of a run before its best one.
fn in_order(records: &[Record]) -> Vec<usize> {
    let rank = |i: usize| {
        let Record { of, content, .. } = &records[i];
        (&of.column, order(&of.method), run(of), of.which == "best", content)
    };
    let mut all: Vec<usize> = (0..records.len()).collect();
    all.sort_by_cached_key(|&i| rank(i));
    all
}

/// What tells trainings apart on the page: training set, method and options, settings, seed and device.
type Run<'a> = (&'a Column, &'a str, &'a str, Vec<String>, Option<u64>, Option<&'a str>);

/// Returns the training that was evaluated, and the settings of the evaluation. How the best epoch was
/// selected is in neither.
fn run(of: &Experiment) -> (Run<'_>, Vec<String>) {
    let settings = of.settings.iter().filter(|(name, _)| *name != "select");
    let (evaluation, training): (Vec<_>, Vec<_>) =
        settings.partition(|(name, _)| EVALUATION.contains(&name.as_str()));
    let in_words = |settings: Vec<(&String, &Value)>| -> Vec<String> {
        settings.into_iter().map(|(name, v)| words(name, v)).collect()
    };
    let (method, options) = (of.method.as_str(), of.options.as_str());
    let training = in_words(training);
    ((&of.column, method, options, training, of.seed, of.computed_by.as_deref()), in_words(evaluation))
}

/// Returns a font as a rule of the style sheet.
fn font(weight: u32, data: &[u8]) -> PreEscaped<String> {
    PreEscaped(format!(
        "@font-face {{ font-family: Arimo; font-weight: {weight}; src: url(data:font/ttf;base64,{}); }}\n",
        STANDARD.encode(data)
    ))
}

/// Returns a table that is as wide as it needs to be and whose heads can be clicked to sort its rows.
fn sortable(heads: &[&str], rows: Markup) -> Markup {
    html! {
        div.scroll {
            table.text.sort {
                thead { tr { @for (n, head) in heads.iter().enumerate() { th data-c=(n) { (head) } } } }
                tbody { (rows) }
            }
        }
    }
}

fn intro(title: &str, records: &[Record], tables: &[table::Table], has_mistakes: bool) -> Markup {
    // Several runs with one seed and device differ only in their weights, and so do the last and the best
    // epoch of one run. Weights are therefore counted per epoch, and the maximum is taken.
    let mut runs: BTreeMap<_, BTreeMap<&str, BTreeSet<&str>>> = BTreeMap::new();
    for Record { of, .. } in records {
        let (training, _) = run(of);
        runs.entry(training).or_default().entry(&of.which).or_default().insert(&of.weights);
    }
    let runs: usize = runs.values().filter_map(|epochs| epochs.values().map(BTreeSet::len).max()).sum();
    let sets: BTreeSet<_> = records.iter().map(|r| &r.of.column).collect();
    html! {
        header {
            h1 { (title) }
            p {
                (plural(records.len(), "evaluation")) " of " (plural(runs, "run")) " on "
                (plural(sets.len(), "training set"))
                ". Every number can be traced, hash by hash, to the data that it comes from ("
                a href="#lineage" { "lineage" }
                "); the same evaluations give the same page, byte for byte."
            }
            nav {
                @for (n, t) in tables.iter().enumerate() { a href={ "#table-" (n) } { (t.name()) } " " }
                a href="#figures" { "Figures" } " "
                @if has_mistakes { a href="#mistakes" { "Mistakes" } " " }
                a href="#settings" { "Settings" } " "
                a href="#lineage" { "Lineage" }
            }
        }
    }
}
