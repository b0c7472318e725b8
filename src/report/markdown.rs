//! Human-readable tables, as GitHub Markdown.

use std::collections::BTreeSet;

use super::published::{Published, missing_in_words};
use super::record::OTHERS;
use super::settings::standard_in_words;
use super::table::{Cell, Part, Row, Table};
use super::{one_line, signed, title, two};

/// Returns all tables with their notes, one below the other.
pub fn write(tables: &[Table], published: &Published) -> String {
    tables.iter().map(|t| one(t, published)).collect::<Vec<_>>().join("\n")
}

fn one(t: &Table, published: &Published) -> String {
    let mut head = vec!["Method".to_owned()];
    for (k, c) in t.columns.iter().enumerate() {
        head.push(escape(&c.heading()));
        head.extend(t.parts(k).into_iter().map(|part| part.title().to_owned()));
    }
    let mut text = format!("## {}\n\nTop-1 accuracy in percent: {}.", escape(&t.title()), t.statistics());
    if let Some(common) = common(t) {
        text += &format!(" {}", escape(&common));
    }
    text += "\n\n";
    text += &line(&head);
    text += &format!("|:--|{}\n", "--:|".repeat(head.len() - 1));
    for row in &t.rows {
        let mut fields = vec![name(row)];
        for (k, cell) in row.cells.iter().enumerate() {
            fields.push(reproduced(cell));
            fields.extend(t.parts(k).into_iter().map(|part| match part {
                Part::Paper => paper(cell),
                Part::Difference => signed(cell.difference()),
                Part::Report => two(cell.starting_report),
            }));
        }
        text += &line(&fields);
    }
    for (k, column) in t.columns.iter().enumerate() {
        text += &others(t, k, &escape(&column.heading()));
    }
    text += "\n";
    for note in notes(t, published) {
        text += &format!("- {}\n", escape(&note));
    }
    text
}

/// Returns a table of the metrics other than top-1 on one training set, if there are any.
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

/// Formats the n-th other metric of a cell: `0.716 ± 0.004`.
pub(super) fn other(cell: &Cell, n: usize) -> Option<String> {
    let digits = OTHERS[n].decimals;
    let (mean, std) = cell.other(n)?;
    let std = std.map_or(String::new(), |s| format!(" ± {s:.digits$}"));
    Some(format!("{mean:.digits$}{std}"))
}

/// Returns a row's method, followed by its variant in brackets, as plain text.
pub(super) fn row_name(row: &Row) -> String {
    match row.variant.as_str() {
        "" => title(&row.method),
        variant => format!("{} ({variant})", title(&row.method)),
    }
}

fn name(row: &Row) -> String {
    escape(&row_name(row))
}

/// Returns the sentence above a table on what all its rows share, as plain text.
pub(super) fn common(t: &Table) -> Option<String> {
    (!t.common.is_empty()).then(|| format!("All rows: {}.", t.common.join(", ")))
}

/// Escapes text for a line or a table cell of Markdown. Names come from outside: they must not end a cell,
/// become HTML, a picture or a formula, or hide a link's target.
fn escape(text: &str) -> String {
    let text = one_line(text);
    let mut out = String::new();
    let mut before = ' ';
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        let after = rest.clone().next().unwrap_or(' ');
        match c {
            '&' => out += "&amp;",
            // "> 100" is not a tag and, within a line, not a quotation.
            '<' if after != ' ' => out += "&lt;",
            '\\' | '`' | '*' | '|' | '$' | '~' => out.extend(['\\', c]),
            // Within a word an underscore is not emphasis.
            '_' if !(before.is_alphanumeric() && after.is_alphanumeric()) => out += "\\_",
            ']' if "([:".contains(after) => out += "\\]",
            '!' if after == '[' => out += "\\!",
            c => out.push(c),
        }
        before = c;
    }
    out
}

fn line(fields: &[String]) -> String {
    format!("| {} |\n", fields.join(" | "))
}

/// Formats a reproduced value: `75.12 ± 0.31 (3)`, `75.12 (1)` or `—`.
fn reproduced(cell: &Cell) -> String {
    match (cell.mean(), cell.std()) {
        (Some(mean), Some(std)) => format!("{mean:.2} ± {std:.2} ({})", cell.count()),
        (Some(mean), None) => format!("{mean:.2} ({})", cell.count()),
        (None, _) => "—".into(),
    }
}

/// Returns a published value with its marks, as plain text.
pub(super) fn paper(cell: &Cell) -> String {
    format!("{}{}", two(cell.paper.map(|p| p.value)), marks(cell))
}

/// Returns the marks of a published value: † from LDAM, * from a given file, ‡ of another schedule, § of a
/// setting with a doubt.
pub(super) fn marks(cell: &Cell) -> String {
    let Some(paper) = &cell.paper else { return String::new() };
    let marks = [
        ('†', paper.table.source == "ldam"),
        ('*', !["paper", "ldam"].contains(&&*paper.table.source)),
        ('‡', !paper.same_schedule && cell.mean().is_some()),
        ('§', paper.table.doubt.is_some()),
    ];
    marks.into_iter().filter(|(_, holds)| *holds).map(|(mark, _)| mark).collect()
}

/// Returns the notes that a reader needs to use the table, as plain text.
pub(super) fn notes(t: &Table, published: &Published) -> Vec<String> {
    let mut notes = Vec::new();
    let marked = |mark: char| t.cells().filter(move |c| marks(c).contains(mark)).filter_map(|c| c.paper);
    if t.has(Part::Paper) {
        let difference = " Δ is reproduced − paper, of runs with the published schedule.";
        let difference = if t.has(Part::Difference) { difference } else { "" };
        notes.push(format!("paper: {}.{difference}", published.source("paper")));
    }
    notes.extend(missing_in_words(&t.unpublished));
    if marked('†').next().is_some() {
        notes.push(format!("†: {}.", published.source("ldam")));
    }
    let given: BTreeSet<&str> = marked('*').map(|p| published.source(&p.table.source)).collect();
    notes.extend(given.into_iter().map(|source| format!("*: {source}.")));
    let schedules: BTreeSet<String> = marked('‡').map(|p| p.table.schedule.words()).collect();
    if !schedules.is_empty() {
        let schedules = schedules.into_iter().collect::<Vec<_>>().join("; ");
        notes.push(format!(
            "‡: published for a schedule other than that of these runs ({schedules}), so there is no Δ."
        ));
    }
    let doubts: BTreeSet<&str> = marked('§').filter_map(|p| p.table.doubt.as_deref()).collect();
    notes.extend(doubts.into_iter().map(|doubt| format!("§: {doubt}; there is no Δ.")));
    if t.has(Part::Report) {
        notes.push(format!("report: {}.", published.source("seed")));
    }
    let wrong = |r: &super::table::Row| ["remix-rs", "remix-rw"].contains(&r.method.as_str());
    if t.has(Part::Report) && t.rows.iter().any(wrong) {
        notes.push(
            "The reproduction report's Remix-RS and Remix-RW are plain Remix: its sampler never reached the loader, \
             and its class weights cancelled. Those reproduced here do re-sample and re-weight."
                .into(),
        );
    }
    if (0..t.columns.len()).any(|k| !t.others(k).is_empty()) {
        notes.push(
            "top-5, balanced (the mean over all classes), and many, medium and few (over classes with > 100, 20 to 100 \
             and < 20 training images) are accuracies in percent; macro-F1 and ECE (15 bins) are fractions, NLL is in nats."
                .into(),
        );
    }
    notes.push(format!(
        "Unless the table says otherwise, runs have {}. Settings and options of the method that differ from the \
         usual ones are in brackets, or above the table if all rows share them.",
        standard_in_words()
    ));
    let versions = t.versions();
    if let (2.., Some(old)) = (versions.len(), versions.get(&1)) {
        let all: usize = versions.values().sum();
        let were = if *old == 1 { "was" } else { "were" };
        notes.push(format!(
            "{old} of these {all} runs {were} trained by version 1 of train, the others by a later one. Version 2 \
             rounds the loss differently, measures accuracy on GPUs in f32, and does not lower the rate before the \
             third epoch; the methods are the same, so both share their rows."
        ));
    }
    if t.cells().any(|c| !c.is_one_run_a_seed()) {
        notes.push(
            "Runs of one seed were computed by different devices or instruction sets, or by different versions, \
             whose rounding differs; the JSON lists them."
                .into(),
        );
    }
    if t.repeated > 0.0 {
        notes.push(format!(
            "Evaluations of the same weights count once, though some differ: by up to {:.2} percentage points.",
            t.repeated
        ));
    }
    if t.cells().any(|c| c.values.is_empty()) {
        notes.push("—: no run of this method on this data was given.".into());
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::escape;

    #[test]
    fn names_cannot_become_markup() {
        for (name, wanted) in [
            ("<img src=x onerror=alert(1)>", "&lt;img src=x onerror=alert(1)>"),
            ("a\nb|c", "a b\\|c"),
            ("![x](http://y)", "\\![x\\](http://y)"),
            ("`code` *b* _i_ ~s~ $m$", "\\`code\\` \\*b\\* \\_i\\_ \\~s\\~ \\$m\\$"),
            ("a&lt;b \\|", "a&amp;lt;b \\\\\\|"),
            ("rw_norm 1, milestones [100], < 20 and > 100", "rw_norm 1, milestones [100], < 20 and > 100"),
        ] {
            assert_eq!(escape(name), wanted);
        }
    }
}
