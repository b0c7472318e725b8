//! The settings of the runs: those that all share are listed once, those that differ by method are in a
//! table.

use std::collections::{BTreeMap, BTreeSet};

use maud::{Markup, html};
use serde_json::Value;

use super::sortable;
use crate::manifest::Manifest;
use crate::manifest::compare::flatten;
use crate::report::experiment::Experiment;
use crate::report::series::series_anywhere;

/// Settings that the tables already show, in their columns or by being separate tables.
const IN_THE_TABLES: [&str; 4] = ["data dataset", "data imb_type", "data imb_ratio", "eval which"];

/// Returns the section; `of` are the experiments of the manifests.
pub(super) fn section(manifests: &[&Manifest], of: &[&Experiment]) -> Markup {
    let all: Vec<BTreeMap<String, Value>> = manifests.iter().map(|m| settings(m)).collect();
    let names: BTreeSet<&String> = all.iter().flat_map(BTreeMap::keys).collect();
    let (common, mut differing): (Vec<&String>, Vec<&String>) =
        names.into_iter().partition(|n| all.iter().all(|s| s.get(*n) == all[0].get(*n)));
    differing.retain(|name| !IN_THE_TABLES.contains(&name.as_str()));
    html! {
        section id="settings" {
            h2 { "Settings" }
            p {
                "Every parameter that can change a result, as recorded in the manifests. Training sets and epochs are \
                 in the tables, class counts in the figures."
            }
            h3 { "Shared by all runs" }
            div.scroll {
                table.text {
                    tbody {
                        @for name in common { tr { td { (name) } td { code { (show(&all[0][name])) } } } }
                    }
                }
            }
            @if !differing.is_empty() {
                h3 { "By method" }
                (by_method(&all, &differing, of))
            }
        }
    }
}

/// Returns a table with a row per method and the settings in which the runs differ.
fn by_method(all: &[BTreeMap<String, Value>], differing: &[&String], of: &[&Experiment]) -> Markup {
    let rows = html! {
        @for group in series_anywhere(of) {
            tr {
                td { (group.label) }
                td { (seeds(group.members.iter().map(|&i| of[i]))) }
                @for name in differing {
                    td { (values(group.members.iter().map(|&i| all[i].get(*name)))) }
                }
            }
        }
    };
    let heads: Vec<&str> =
        ["Runs", "seeds"].into_iter().chain(differing.iter().map(|s| s.as_str())).collect();
    sortable(&heads, rows)
}

fn seeds<'a>(of: impl Iterator<Item = &'a Experiment>) -> String {
    let seeds: BTreeSet<u64> = of.filter_map(|e| e.seed).collect();
    seeds.iter().map(u64::to_string).collect::<Vec<_>>().join(", ")
}

/// Returns the values that a setting has in the runs of a row.
fn values<'a>(of: impl Iterator<Item = Option<&'a Value>>) -> String {
    let all: BTreeSet<String> = of.map(|value| value.map_or("—".into(), show)).collect();
    all.into_iter().collect::<Vec<_>>().join("; ")
}

/// Returns the settings of the training, its data set and the evaluation, without the seed, which only tells
/// runs with the same settings apart.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::column::Column;
    use crate::report::experiment::tests::experiment;

    #[test]
    fn row_states_the_settings_of_all_its_runs() {
        let mut step = experiment();
        step.column = Column { imb_type: "step".into(), ..experiment().column };
        step.settings.insert("minority_fraction".into(), 0.1.into());
        let name = "data minority_fraction".to_owned();
        let all = [BTreeMap::new(), [(name.clone(), 0.1.into())].into_iter().collect()];
        let table = by_method(&all, &[&name], &[&experiment(), &step]).into_string();
        assert!(table.contains("<td>Remix</td><td>0</td><td>0.1; —</td>"), "{table}");
    }
}
