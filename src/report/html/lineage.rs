//! The origin of every number: evaluation → weights → training data → official files, each with its hashes.

use std::collections::BTreeMap;

use maud::{Markup, html};
use serde_json::{Value, json};

use super::{Sources, in_order, sortable};
use crate::manifest::{Input, Manifest, Object, key};
use crate::report::record::Record;
use crate::report::telling::{always, options};
use crate::report::title;

/// Everything that the page's numbers come from, each item once.
pub(super) struct Lineage<'a> {
    /// The inputs, by the rank of their role, then by id.
    nodes: BTreeMap<(usize, String), &'a Input>,
    /// The evaluations in display order, with the indices of their records.
    evaluations: Vec<(usize, &'a Input)>,
}

/// Roles in display order.
const ROLES: [&str; 4] = ["metrics", "embedding", "checkpoint", "dataset"];

impl<'a> Lineage<'a> {
    /// Collects the inputs of the page and, recursively, their inputs. `records` are in the order of
    /// `metrics`.
    pub fn of(sources: &'a Sources, metrics: &[&'a (Input, &Manifest)], records: &[Record]) -> Lineage<'a> {
        let mut lineage = Lineage { nodes: BTreeMap::new(), evaluations: Vec::new() };
        let others = [&sources.checkpoints, &sources.embeddings, &sources.datasets];
        lineage.evaluations = in_order(records).into_iter().map(|i| (i, &metrics[i].0)).collect();
        for (input, _) in sources.metrics.iter().chain(others.into_iter().flatten()) {
            lineage.add(input);
        }
        lineage
    }

    fn add(&mut self, input: &'a Input) {
        let rank = ROLES.iter().position(|r| *r == input.role).unwrap_or(ROLES.len());
        if self.nodes.insert((rank, id(input)), input).is_none() {
            input.inputs.iter().for_each(|i| self.add(i));
        }
    }

    /// Returns the section: a table with a row per evaluation, then every input with its hashes.
    pub fn section(&self, records: &[Record]) -> Markup {
        let of_rank = |rank| self.nodes.iter().filter(move |((r, _), _)| *r == rank);
        let kinds = ["Evaluations", "Embeddings", "Checkpoints", "Data sets", "Files"];
        html! {
            section id="lineage" {
                h2 { "Lineage" }
                p {
                    "A key identifies a result before it is computed: it is the blake3 hash of the result's kind, its \
                     parameters and the contents of its inputs. A content hash is that of the files used, or of an \
                     evaluation's numbers. With "
                    code { "--verify" } ", each tool reads the files again and compares their hashes."
                }
                h3 { "Numbers" }
                (sortable(&HEADS, html! { @for (i, input) in &self.evaluations { (line(&records[*i], input)) } }))
                @for (rank, kind) in kinds.iter().enumerate() {
                    @if of_rank(rank).next().is_some() { h3 { (kind) } }
                    @for ((_, id), input) in of_rank(rank) { (node(id, input)) }
                }
            }
        }
    }
}

/// Headings of the table of numbers.
const HEADS: [&str; 10] = [
    "Method",
    "data",
    "epoch",
    "seed",
    "computed by",
    "top-1",
    "evaluation",
    "weights",
    "training data",
    "files",
];

/// Returns the anchor of an evaluation's row, from the hash of its content.
pub(super) fn row(content: &str) -> String {
    format!("n-{}", key::short(content))
}

fn line(r: &Record, input: &Input) -> Markup {
    let mut method = title(&r.of.method);
    let parts: Vec<String> = options(&r.of).chain(always(&r.of)).collect();
    if !parts.is_empty() {
        method += &format!(" ({})", parts.join(", "));
    }
    let checkpoint = input.inputs.iter().find(|i| i.role == "checkpoint");
    let dataset = checkpoint.and_then(|c| c.inputs.iter().find(|i| i.role == "dataset"));
    let files = dataset.map_or(&[][..], |d| &d.inputs);
    html! {
        tr id=(row(&r.content)) {
            td { (method) }
            td { (r.of.column.title()) ", " (r.of.column.heading()) }
            td { (r.of.which) }
            td { (r.of.seed.map_or("—".into(), |s| s.to_string())) }
            td { (r.of.computed_by.as_deref().unwrap_or("—")) }
            td { (format!("{:.2}", r.top1)) }
            td { (link(input)) }
            @for step in [checkpoint, dataset] {
                td { @if let Some(step) = step { (link(step)) } @else { "—" } }
            }
            td {
                @match files {
                    [] => { "none" }
                    [first] => { (link(first)) }
                    [first, rest @ ..] => { (link(first)) " + " (rest.len()) }
                }
            }
        }
    }
}

/// Returns the anchor of an input. The same file in another role, or the same key with other files, is a
/// different input.
fn id(input: &Input) -> String {
    let of = json!([input.role, input.key, input.blake3]).to_string();
    format!("h-{}", key::short(blake3::hash(of.as_bytes()).to_hex().as_str()))
}

fn link(input: &Input) -> Markup {
    html! { a href={ "#" (id(input)) } { code { (key::short(&input.blake3)) } } }
}

fn node(id: &str, input: &Input) -> Markup {
    let name = match input.key {
        Some(_) => input.role.clone(),
        None => input.path.file_name().map_or(input.role.clone(), |n| n.to_string_lossy().into_owned()),
    };
    // Add spaces so that the lines can break.
    let json = |of: &Object| key::canonical(&Value::Object(of.clone())).replace(",\"", ", \"");
    html! {
        div.node id=(id) {
            b { (name) } " content " code { (input.blake3) }
            @if let Some(key) = &input.key { br; "key " code { (key) } }
            @if !input.params.is_empty() { br; "parameters " code { (json(&input.params)) } }
            @if !input.facts.is_empty() { br; "facts " code { (json(&input.facts)) } }
            @for (n, of) in input.inputs.iter().enumerate() {
                @if n == 0 { br; "made from " } @else { ", " }
                (of.role) " " (link(of))
            }
        }
    }
}
