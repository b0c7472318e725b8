//! Where every number comes from: evaluation → weights → training data → official files, each by its hashes.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::Sources;
use crate::manifest::{Input, Manifest, key};
use crate::report::figure::svg::escape;
use crate::report::markdown::heading;
use crate::report::record::Record;
use crate::report::settings::options;
use crate::report::table::dataset_title;
use crate::report::title;

/// Everything that the page's numbers come from, each thing once.
pub(super) struct Lineage<'a> {
    /// By place in the chain, then by id.
    nodes: BTreeMap<(usize, String), &'a Input>,
    /// The evaluations in the order of the section, by their places among the records.
    evaluations: Vec<(usize, &'a Input)>,
}

/// Roles in the order of the section.
const ROLES: [&str; 4] = ["metrics", "embedding", "checkpoint", "dataset"];

impl<'a> Lineage<'a> {
    /// Collects the inputs of the page and their inputs. The records are those of `metrics`, in their order.
    pub fn of(sources: &'a Sources, metrics: &[&'a (Input, &Manifest)], records: &[Record]) -> Lineage<'a> {
        let mut lineage = Lineage { nodes: BTreeMap::new(), evaluations: Vec::new() };
        let others = [&sources.checkpoints, &sources.embeddings, &sources.datasets];
        let mut order: Vec<usize> = (0..records.len()).collect();
        let place = |i: usize| {
            let of = &records[i].of;
            (
                &of.column,
                super::super::experiment::order(&of.method),
                &of.method,
                &of.options,
                of.seed,
                &of.computed_by,
                &of.which,
            )
        };
        order.sort_by(|&a, &b| place(a).cmp(&place(b)).then(records[a].content.cmp(&records[b].content)));
        lineage.evaluations = order.iter().map(|&i| (i, &metrics[i].0)).collect();
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

    /// The section: a line an evaluation, then everything by its hashes.
    pub fn write(&self, records: &[Record]) -> String {
        let mut text = String::from(
            "<section id=\"lineage\">\n<h2>Lineage</h2>\n<p>A key names a result before it is made: the blake3 of its kind, \
             parameters and the contents of its inputs. A content hash is that of the files used, or of an evaluation's \
             numbers. <code>--verify</code> of each tool reads the files again and compares.</p>\n\
             <h3>Numbers</h3>\n<div class=\"scroll\"><table class=\"text sort\"><thead><tr>",
        );
        let heads = [
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
        for (i, head) in heads.iter().enumerate() {
            text += &format!("<th data-c=\"{i}\">{head}</th>");
        }
        text += "</tr></thead><tbody>\n";
        for (i, input) in &self.evaluations {
            text += &line(&records[*i], input);
        }
        text += "</tbody></table></div>\n";
        let heads = ["Evaluations", "Embeddings", "Checkpoints", "Data sets", "Files"];
        let mut last = usize::MAX;
        for ((rank, id), input) in &self.nodes {
            if *rank != last {
                text += &format!("<h3>{}</h3>\n", heads[*rank]);
                last = *rank;
            }
            text += &node(id, input);
        }
        text + "</section>\n"
    }
}

/// The anchor of an evaluation's line, from the hash of its content.
pub(super) fn row(content: &str) -> String {
    format!("n-{}", key::short(content))
}

fn line(r: &Record, input: &Input) -> String {
    let mut method = title(&r.of.method);
    let options: Vec<String> = options(&r.of).collect();
    if !options.is_empty() {
        method += &format!(" ({})", options.join(", "));
    }
    let data = format!("{}, {}", dataset_title(&r.of.column.dataset), heading(&r.of.column));
    let seed = r.of.seed.map_or("—".into(), |s| s.to_string());
    let mut text = format!(
        "<tr id=\"{}\"><td>{}</td><td>{}</td><td>{}</td><td>{seed}</td><td>{}</td><td>{:.2}</td><td>{}</td>",
        row(&r.content),
        escape(&method),
        escape(&data),
        escape(&r.of.which),
        escape(r.of.computed_by.as_deref().unwrap_or("—")),
        r.top1,
        link(input)
    );
    let checkpoint = input.inputs.iter().find(|i| i.role == "checkpoint");
    let dataset = checkpoint.and_then(|c| c.inputs.iter().find(|i| i.role == "dataset"));
    for step in [checkpoint, dataset] {
        text += &format!("<td>{}</td>", step.map_or("—".into(), link));
    }
    let files = dataset.map(|d| d.inputs.iter().map(link).collect::<Vec<_>>()).unwrap_or_default();
    let files = match files.as_slice() {
        [] => "none (made by a program)".to_owned(),
        [first, rest @ ..] => {
            first.clone() + &if rest.is_empty() { String::new() } else { format!(" + {}", rest.len()) }
        }
    };
    text + &format!("<td>{files}</td></tr>\n")
}

/// What tells a node from all others: the same file in another role, or the same key with other files, is
/// another one.
fn id(input: &Input) -> String {
    let of = json!([input.role, input.key, input.blake3]).to_string();
    format!("h-{}", key::short(blake3::hash(of.as_bytes()).to_hex().as_str()))
}

fn link(input: &Input) -> String {
    format!("<a href=\"#{}\"><code>{}</code></a>", id(input), escape(key::short(&input.blake3)))
}

fn node(id: &str, input: &Input) -> String {
    let name = match input.key {
        Some(_) => input.role.clone(),
        None => input.path.file_name().map_or(input.role.clone(), |n| n.to_string_lossy().into_owned()),
    };
    let mut text = format!(
        "<div class=\"node\" id=\"{id}\"><b>{}</b> content <code>{}</code>",
        escape(&name),
        escape(&input.blake3)
    );
    if let Some(key) = &input.key {
        text += &format!("<br>key <code>{}</code>", escape(key));
    }
    if !input.params.is_empty() {
        let params = Value::Object(input.params.clone());
        text += &format!(
            "<br>parameters <code>{}</code>",
            escape(&key::canonical(&params).replace(",\"", ", \""))
        );
    }
    if !input.facts.is_empty() {
        let facts = Value::Object(input.facts.clone());
        text += &format!("<br>facts <code>{}</code>", escape(&key::canonical(&facts).replace(",\"", ", \"")));
    }
    if !input.inputs.is_empty() {
        let from: Vec<String> =
            input.inputs.iter().map(|i| format!("{} {}", escape(&i.role), link(i))).collect();
        text += &format!("<br>made from {}", from.join(", "));
    }
    text + "</div>\n"
}
