//! Tables as GitHub Markdown, for people.

use super::experiment::Column;
use super::record::OTHERS;
use super::settings::standard_in_words;
use super::table::{Cell, Row, Table};
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
        let mut fields = vec![name(row)];
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
    for (k, column) in t.columns.iter().enumerate() {
        text += &others(t, k, &heading(column));
    }
    text += "\n";
    for note in notes(t) {
        text += &format!("- {note}\n");
    }
    text
}

/// The numbers beside top-1 of one training set, if there are any.
fn others(t: &Table, column: usize, heading: &str) -> String {
    let numbers = t.others(column);
    if numbers.is_empty() {
        return String::new();
    }
    let head: Vec<String> =
        [heading.to_owned()].into_iter().chain(numbers.iter().map(|&n| OTHERS[n].title.into())).collect();
    let mut text = format!("\n{}|:--|{}\n", line(&head), "--:|".repeat(numbers.len()));
    for row in t.rows.iter().filter(|r| !r.cells[column].values.is_empty()) {
        let number = |&n: &usize| other(&row.cells[column], n).unwrap_or("—".into());
        let fields: Vec<String> = [name(row)].into_iter().chain(numbers.iter().map(number)).collect();
        text += &line(&fields);
    }
    text
}

/// `0.716 ± 0.004`
pub(super) fn other(cell: &Cell, n: usize) -> Option<String> {
    let digits = OTHERS[n].decimals;
    let (mean, std) = cell.other(n)?;
    let std = std.map_or(String::new(), |s| format!(" ± {s:.digits$}"));
    Some(format!("{mean:.digits$}{std}"))
}

/// A row's method, and in brackets what is special about it.
fn name(row: &Row) -> String {
    let name = match row.variant.as_str() {
        "" => title(&row.method),
        variant => format!("{} ({variant})", title(&row.method)),
    };
    name.replace('|', "\\|")
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
    if (0..t.columns.len()).any(|k| !t.others(k).is_empty()) {
        notes.push(
            "top-5, and many, medium and few (the mean over classes with > 100, 20 to 100 and < 20 training images), are accuracies in percent; macro-F1 \
             and ECE (15 bins) are fractions, NLL is in nats."
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
