//! How the runs were set: what all have in common once, what differs by method in a table.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::manifest::Manifest;
use crate::report::experiment::{Experiment, flatten};
use crate::report::figure::svg::escape;
use crate::report::series::series;

/// Settings that the columns of a table and the tables themselves stand for.
const IN_THE_TABLES: [&str; 4] = ["data dataset", "data imb_type", "data imb_ratio", "eval which"];

/// The section; the experiments are those of the manifests.
pub(super) fn write(manifests: &[&Manifest], of: &[&Experiment]) -> String {
    let all: Vec<BTreeMap<String, Value>> = manifests.iter().map(|m| settings(m)).collect();
    let names: BTreeSet<&String> = all.iter().flat_map(BTreeMap::keys).collect();
    let (common, mut differing): (Vec<&String>, Vec<&String>) =
        names.into_iter().partition(|n| all.iter().all(|s| s.get(*n) == all[0].get(*n)));
    differing.retain(|name| !IN_THE_TABLES.contains(&name.as_str()));

    let mut text = String::from(
        "<section id=\"settings\">\n<h2>Settings</h2>\n<p>Every parameter that can change a result, as the manifests have it. \
         Training sets and epochs are in the tables, class counts in the figures.</p>\n<h3>Of all runs</h3>\n<div class=\"scroll\"><table class=\"text\"><tbody>\n",
    );
    for name in common {
        text += &format!(
            "<tr><td>{}</td><td><code>{}</code></td></tr>\n",
            escape(name),
            escape(&show(&all[0][name]))
        );
    }
    text += "</tbody></table></div>\n";
    if differing.is_empty() {
        return text + "</section>\n";
    }
    text += "<h3>By method</h3>\n<div class=\"scroll\"><table class=\"text sort\"><thead><tr><th data-c=\"0\">Runs</th><th data-c=\"1\">seeds</th>";
    for (i, name) in differing.iter().enumerate() {
        text += &format!("<th data-c=\"{}\">{}</th>", i + 2, escape(name));
    }
    text += "</tr></thead><tbody>\n";
    let anywhere: Vec<Experiment> = of
        .iter()
        .map(|e| Experiment {
            column: of[0].column.clone(),
            which: of[0].which.clone(),
            images: None,
            ..(*e).clone()
        })
        .collect();
    for group in series(&anywhere.iter().collect::<Vec<_>>()) {
        let seeds: BTreeSet<u64> = group.members.iter().filter_map(|&i| of[i].seed).collect();
        let seeds: Vec<String> = seeds.iter().map(u64::to_string).collect();
        text += &format!("<tr><td>{}</td><td>{}</td>", escape(&group.label), seeds.join(", "));
        for name in &differing {
            let value = all[group.members[0]].get(*name);
            text += &format!("<td>{}</td>", value.map_or("—".into(), |v| escape(&show(v))));
        }
        text += "</tr>\n";
    }
    text + "</tbody></table></div>\n</section>\n"
}

/// Settings of the training, its data set and the evaluation; not the seed, which tells runs of one setting
/// apart.
fn settings(m: &Manifest) -> BTreeMap<String, Value> {
    let mut all = BTreeMap::new();
    if let Some(checkpoint) = m.input("checkpoint") {
        for (name, value) in checkpoint.params.iter().filter(|(name, _)| *name != "seed") {
            flatten(&format!("train {name}"), value, &mut all);
        }
        for (name, value) in checkpoint.inputs.iter().filter(|i| i.role == "dataset").flat_map(|i| &i.params)
        {
            flatten(&format!("data {name}"), value, &mut all);
        }
    }
    for (name, value) in m.params.iter().filter(|(name, _)| *name != "cls_num_list" && *name != "arch") {
        flatten(&format!("eval {name}"), value, &mut all);
    }
    all
}

fn show(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string().replace(',', ", "), str::to_owned)
}
