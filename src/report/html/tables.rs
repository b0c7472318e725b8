//! The tables of accuracies, as HTML, and what in them differs from the published values by more than chance.

use super::lineage::Lineage;
use crate::report::figure::svg::escape;
use crate::report::markdown::{heading, notes};
use crate::report::table::{Cell, Row, Table};
use crate::report::{signed, title, two};

/// A section with one table; `n` is its number on the page.
pub(super) fn write(t: &Table, n: usize, lineage: &Lineage) -> String {
    // Columns that nothing was run for are left out: this page is about what was.
    let columns: Vec<usize> =
        (0..t.columns.len()).filter(|&c| t.rows.iter().any(|r| !r.cells[c].values.is_empty())).collect();
    let mut parts = vec!["reproduced"];
    if t.has_paper() {
        parts.extend(["paper", "Δ"]);
    }
    let report = columns.iter().any(|&c| t.rows.iter().any(|r| r.cells[c].starting_report.is_some()));
    if report {
        parts.push("report");
    }
    let seeds = common_seeds(t);
    let what = match seeds {
        Some(1) => ", of one seed".into(),
        Some(n) => format!(": mean ± sample standard deviation over {n} seeds"),
        None => ": mean ± sample standard deviation over n seeds".into(),
    };
    let mut text = format!(
        "<section id=\"table-{n}\">\n<h2>{}</h2>\n<p>Top-1 accuracy on the test images in percent{what}. Each links to its \
         lineage.</p>\n<div class=\"scroll\"><table class=\"sort\">\n<thead>\n\
         <tr><th rowspan=\"2\" data-c=\"0\">Method</th>",
        escape(&t.title())
    );
    for &c in &columns {
        text += &format!(
            "<th class=\"first\" colspan=\"{}\">{}</th>",
            parts.len(),
            escape(&heading(&t.columns[c]))
        );
    }
    text += "</tr>\n<tr>";
    let mut place = 1;
    for _ in &columns {
        for (i, part) in parts.iter().enumerate() {
            let first = if i == 0 { " class=\"first\"" } else { "" };
            text += &format!("<th{first} data-c=\"{place}\">{part}</th>");
            place += 1;
        }
    }
    text += "</tr>\n</thead>\n<tbody>\n";
    for row in &t.rows {
        text += &format!("<tr><td>{}</td>", escape(&name(row)));
        for &c in &columns {
            let cell = &row.cells[c];
            text += &reproduced(cell, seeds.is_none(), lineage);
            if t.has_paper() {
                let dagger = cell.paper.filter(|(_, source)| *source == "ldam").map_or("", |_| "†");
                text += &number(cell.paper.map(|p| p.0), &(two(cell.paper.map(|p| p.0)) + dagger), "");
                let far = if is_far(row, cell) { " class=\"far\"" } else { "" };
                text += &number(cell.difference(), &signed(cell.difference()), far);
            }
            if report {
                text += &number(cell.starting_report, &two(cell.starting_report), "");
            }
        }
        text += "</tr>\n";
    }
    text += "</tbody>\n</table></div>\n";
    if t.has_paper() {
        text += &differences(t, &columns);
    }
    text += "<ul class=\"note\">\n";
    let missing = |c: &usize| t.rows.iter().any(|r| r.cells[*c].values.is_empty());
    let gaps = columns.iter().any(missing);
    for note in notes(t).into_iter().filter(|n| gaps || !n.starts_with('—')) {
        text += &format!("<li>{}</li>\n", escape(&note));
    }
    text + "</ul>\n</section>\n"
}

fn name(row: &Row) -> String {
    match row.variant.as_str() {
        "" => title(&row.method),
        variant => format!("{} ({variant})", title(&row.method)),
    }
}

fn number(value: Option<f64>, text: &str, class: &str) -> String {
    let value = value.map_or(String::new(), |v| format!(" data-v=\"{v:.4}\""));
    format!("<td{class}{value}>{}</td>", escape(&text.replace('-', "−")))
}

/// The number of seeds, if all cells that have any have as many.
fn common_seeds(t: &Table) -> Option<usize> {
    let mut all = t.cells().map(|c| c.values.len()).filter(|n| *n > 0);
    let first = all.next()?;
    all.all(|n| n == first).then_some(first)
}

/// A cell of ours, with its number of seeds where that has to be told.
fn reproduced(cell: &Cell, tell: bool, lineage: &Lineage) -> String {
    let (Some(mean), Some(first)) = (cell.mean(), cell.values.first()) else {
        return "<td class=\"first\">—</td>".into();
    };
    let std = cell.std().map_or(String::new(), |s| format!(" ± {s:.2}"));
    let seeds = if tell { format!(" <small>n = {}</small>", cell.values.len()) } else { String::new() };
    let row = lineage.row(&first.key);
    format!("<td class=\"first\" data-v=\"{mean:.4}\"><a href=\"#{row}\">{mean:.2}{std}</a>{seeds}</td>")
}

/// The difference from the published value in standard errors of our mean, where there are two seeds or more.
fn standard_errors(cell: &Cell) -> Option<f64> {
    let error = cell.std()? / (cell.values.len() as f64).sqrt();
    Some(cell.difference()?.abs() / error.max(f64::MIN_POSITIVE))
}

/// Whether a row is of the published setting; the two recipes differ in one milestone.
fn is_published_setting(row: &Row) -> bool {
    ["", "recipe paper"].contains(&row.variant.as_str())
}

fn is_far(row: &Row, cell: &Cell) -> bool {
    is_published_setting(row) && standard_errors(cell).is_some_and(|e| e > 2.0)
}

/// The differences of more than two standard errors, by name.
fn differences(t: &Table, columns: &[usize]) -> String {
    let cells = || t.rows.iter().flat_map(|r| columns.iter().map(move |&c| (r, &t.columns[c], &r.cells[c])));
    let count = |keep: &dyn Fn(&Row, &Cell) -> bool| cells().filter(|(r, _, c)| keep(r, c)).count();
    let judged = count(&|r, c| is_published_setting(r) && standard_errors(c).is_some());
    let single = count(&|r, c| is_published_setting(r) && c.difference().is_some() && c.std().is_none());
    let other = count(&|r, c| !is_published_setting(r) && c.difference().is_some());
    let far: Vec<_> = cells().filter(|(r, _, c)| is_far(r, c)).collect();
    let mut text =
        String::from("<h3>Differences from the published values of more than two standard errors</h3>\n<p>");
    text += &match (judged, far.len()) {
        (0, _) => "No cell can be judged.".to_owned(),
        (judged, 0) => format!("None of the {judged} cells that can be judged."),
        (judged, far) => format!("{far} of the {judged} cells that can be judged."),
    };
    if single > 0 {
        text += &format!(" Of one seed, and so without a standard error: {single}.");
    }
    if other > 0 {
        text += &format!(" In other settings than the published: {other}.");
    }
    if judged > 0 {
        text += " The standard error is that of our mean, s/√n; how far the published means scatter is not known.";
    }
    text += "</p>\n";
    if !far.is_empty() {
        text += "<ul>\n";
    }
    for (row, column, cell) in &far {
        let (Some(mean), Some(std), Some(d), Some(e), Some((paper, _))) =
            (cell.mean(), cell.std(), cell.difference(), standard_errors(cell), cell.paper)
        else {
            continue;
        };
        let n = cell.values.len();
        let side = if d < 0.0 { "below" } else { "above" };
        let errors = if e < 1000.0 { format!("{e:.1}") } else { "over 1000".into() };
        text += &format!(
            "<li><b>{}</b>, {}: {mean:.2} ± {std:.2} (n = {n}) is {:.2} {side} {paper:.2}: {errors} standard errors.</li>\n",
            escape(&name(row)),
            escape(&heading(column)),
            d.abs()
        );
    }
    if !far.is_empty() {
        text += "</ul>\n";
    }
    text
}
