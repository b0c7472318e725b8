//! Tables as JSON, for programs: one record per cell, unrounded, with every run behind it.

use serde_json::{Value, json};

use super::published::Published;
use super::record::{OTHERS, Record};
use super::table::Table;

/// Returns an indented object with `unit`, `sources` and `cells`.
pub fn write(tables: &[Table], published: &Published) -> String {
    let mut cells: Vec<Value> = Vec::new();
    for t in tables {
        for row in &t.rows {
            for (column, cell) in t.columns.iter().zip(&row.cells) {
                let others = OTHERS.iter().enumerate().filter_map(|(n, o)| {
                    let (mean, std) = cell.other(n)?;
                    Some((o.name.to_owned(), json!({"mean": mean, "std": std})))
                });
                let value = |v: &&Record| {
                    let of = &v.of;
                    json!({"seed": of.seed, "computed_by": of.computed_by, "semantics": of.semantics,
                        "top1": v.top1, "weights": of.weights, "metrics": v.key})
                };
                let paper = cell.paper.map(|p| {
                    json!({"value": p.value, "source": p.table.source, "table": p.table.table, "arch": p.table.arch,
                        "schedule": p.table.schedule.words(), "same_schedule": p.same_schedule, "doubt": p.table.doubt})
                });
                cells.push(json!({
                    "table": t.number,
                    "dataset": t.dataset,
                    "checkpoint": t.which,
                    "method": row.method,
                    "variant": row.departures,
                    "imb_type": column.imb_type,
                    "imb_ratio": column.imb_ratio.parse::<serde_json::Number>().ok(),
                    "n": cell.values.len(),
                    "mean": cell.mean(),
                    "std": cell.std(),
                    "values": cell.values.iter().map(value).collect::<Vec<_>>(),
                    "paper": paper,
                    "difference": cell.difference(),
                    "starting_report": cell.starting_report,
                    "others": serde_json::Map::from_iter(others),
                }));
            }
        }
    }
    let own = ["paper", "ldam", "seed"];
    let given = published.sources.keys().map(String::as_str).filter(|name| !own.contains(name));
    let sources = own.into_iter().chain(given).map(|name| (name.to_owned(), json!(published.source(name))));
    let all = json!({
        "unit": "top-1 accuracy, percent",
        "sources": serde_json::Map::from_iter(sources),
        "cells": cells,
    });
    format!("{all:#}\n")
}
