//! Tables as GitHub Markdown, for people.

use super::experiment::Column;
use super::settings::standard_in_words;
use super::table::{Cell, Table};
use super::{published, signed, title, two};

/// All tables, one below the other, with their notes.
pub fn write(tables: &[Table]) -> String {
    tables.iter().map(one).collect::<Vec<_>>().join("\n")
}

fn one(t: &Table) -> String {
    let mut head = vec!["Method".to_owned()];
    for c in &t.columns {
        head.push(heading(c));
        if t.has_paper() {
            head.extend(["paper".into(), "Δ".into()]);
        }
        if t.has_starting_report() {
            head.push("report".into());
        }
    }
    let mut text = format!("## {}\n\n", t.title());
    text += "Top-1 accuracy in percent: mean ± standard deviation over seeds (number of seeds).\n\n";
    text += &line(&head);
    text += &format!("|:--|{}\n", "--:|".repeat(head.len() - 1));
    for row in &t.rows {
        let mut name = title(&row.method);
        if !row.variant.is_empty() {
            name += &format!(" ({})", row.variant);
        }
        let mut fields = vec![name.replace('|', "\\|")];
        for cell in &row.cells {
            fields.push(reproduced(cell));
            if t.has_paper() {
                fields.push(paper(cell));
                fields.push(signed(cell.difference()));
            }
            if t.has_starting_report() {
                fields.push(two(cell.starting_report));
            }
        }
        text += &line(&fields);
    }
    text += "\n";
    for note in notes(t) {
        text += &format!("- {note}\n");
    }
    text
}

fn line(fields: &[String]) -> String {
    format!("| {} |\n", fields.join(" | "))
}

/// `exp 100`; a balanced set has no ratio to tell.
pub(super) fn heading(c: &Column) -> String {
    match c.imb_type.as_str() {
        "none" => "balanced".into(),
        imb_type => format!("{imb_type} {}", c.imb_ratio),
    }
}

/// `75.12 ± 0.31 (3)`, `75.12 (1)` or `—`.
fn reproduced(cell: &Cell) -> String {
    match (cell.mean(), cell.std()) {
        (Some(mean), Some(std)) => format!("{mean:.2} ± {std:.2} ({})", cell.values.len()),
        (Some(mean), None) => format!("{mean:.2} ({})", cell.values.len()),
        (None, _) => "—".into(),
    }
}

fn paper(cell: &Cell) -> String {
    let mark = cell.paper.filter(|(_, source)| *source == "ldam").map_or("", |_| "†");
    format!("{}{mark}", two(cell.paper.map(|(value, _)| value)))
}

/// What a reader must know to use the table; plain text.
pub(super) fn notes(t: &Table) -> Vec<String> {
    let mut notes = Vec::new();
    if t.has_paper() {
        notes.push(format!("paper: {}. Δ is reproduced − paper.", published::source("paper")));
    }
    if t.cells().any(|c| c.paper.is_some_and(|(_, source)| source == "ldam")) {
        notes.push(format!("†: {}.", published::source("ldam")));
    }
    if t.has_starting_report() {
        notes.push(format!("report: {}.", published::source("seed")));
    }
    let wrong = |r: &super::table::Row| ["remix-rs", "remix-rw"].contains(&r.method.as_str());
    if t.has_starting_report() && t.rows.iter().any(wrong) {
        notes.push(
            "The starting report's Remix-RS and Remix-RW are plain Remix: its sampler never reached the loader, and its \
             class weights cancelled. Those reproduced here are the real ones."
                .into(),
        );
    }
    let suffix = "what departs from that, or from the method's usual options, stands in brackets";
    notes.push(format!("Setting: {}; {suffix}.", standard_in_words()));
    if !t.common.is_empty() {
        notes.push(format!("All rows: {}.", t.common.join(", ")));
    }
    if t.cells().any(|c| c.values.is_empty()) {
        notes.push("—: not there.".into());
    }
    notes
}
