//! The tables of accuracies, as HTML, and what in them differs from the published values by more than two
//! standard errors.

use std::collections::BTreeSet;

use super::lineage::row;
use crate::report::figure::svg::escape;
use crate::report::markdown::{common, heading, notes, other, paper, row_name};
use crate::report::record::OTHERS;
use crate::report::table::{Cell, Part, Table};
use crate::report::{signed, two};

/// A section with one table; `n` is its number on the page.
pub(super) fn write(t: &Table, n: usize) -> String {
    let seeds = common_seeds(t);
    let what = match seeds {
        Some(1) => ", of one seed".into(),
        Some(n) => format!(": mean ± sample standard deviation over {n} seeds"),
        None if t.cells().all(Cell::is_one_run_a_seed) => {
            ": mean ± sample standard deviation over n seeds".into()
        }
        None => ": mean ± sample standard deviation over n runs".into(),
    };
    let of = match t.split.as_deref() {
        Some("val") => "on the validation images",
        Some("train") => "on the training images",
        Some(_) => "on the test images",
        None => "on the split that a row names, else on the test images,",
    };
    let mut text = format!(
        "<section id=\"table-{n}\">\n<h2>{}</h2>\n<p>Top-1 accuracy {of} in percent{what}. Each links to its \
         lineage.{}</p>\n<div class=\"scroll\"><table class=\"sort\">\n<thead>\n\
         <tr><th rowspan=\"2\" data-c=\"0\">Method</th>",
        escape(&t.title()),
        common(t).map_or(String::new(), |common| format!(" {}", escape(&common)))
    );
    for (c, column) in t.columns.iter().enumerate() {
        let width = 1 + t.parts(c).len();
        text += &format!("<th class=\"first\" colspan=\"{width}\">{}</th>", escape(&heading(column)));
    }
    text += "</tr>\n<tr>";
    let mut place = 1;
    for c in 0..t.columns.len() {
        text += &format!("<th class=\"first\" data-c=\"{place}\">reproduced</th>");
        place += 1;
        for part in t.parts(c) {
            text += &format!("<th data-c=\"{place}\">{}</th>", part.title());
            place += 1;
        }
    }
    text += "</tr>\n</thead>\n<tbody>\n";
    for row in &t.rows {
        text += &format!("<tr><td>{}</td>", escape(&row_name(row)));
        for (c, cell) in row.cells.iter().enumerate() {
            text += &reproduced(cell, seeds.is_none());
            for part in t.parts(c) {
                text += &match part {
                    Part::Paper => number(cell.paper.map(|p| p.value), &paper(cell), ""),
                    Part::Difference => {
                        let far = if is_far(cell) { " class=\"far\"" } else { "" };
                        number(cell.difference(), &signed(cell.difference()), far)
                    }
                    Part::Report => number(cell.starting_report, &two(cell.starting_report), ""),
                };
            }
        }
        text += "</tr>\n";
    }
    text += "</tbody>\n</table></div>\n";
    if t.has(Part::Paper) {
        text += &differences(t);
    }
    for c in 0..t.columns.len() {
        text += &others(t, c);
    }
    text += "<ul class=\"note\">\n";
    for note in notes(t) {
        text += &format!("<li>{}</li>\n", escape(&note));
    }
    text + "</ul>\n</section>\n"
}

/// The numbers beside top-1 of one training set, if there are any.
fn others(t: &Table, column: usize) -> String {
    let numbers = t.others(column);
    if numbers.is_empty() {
        return String::new();
    }
    let mut text = format!(
        "<h3>{}: by class frequency, and calibration</h3>\n<div class=\"scroll\"><table class=\"sort\">\n<thead><tr><th data-c=\"0\">Method</th>",
        escape(&heading(&t.columns[column]))
    );
    for (i, &n) in numbers.iter().enumerate() {
        text += &format!("<th data-c=\"{}\">{}</th>", i + 1, OTHERS[n].title);
    }
    text += "</tr></thead>\n<tbody>\n";
    for row in t.rows.iter().filter(|r| !r.cells[column].values.is_empty()) {
        text += &format!("<tr><td>{}</td>", escape(&row_name(row)));
        for &n in &numbers {
            let cell = &row.cells[column];
            text += &number(cell.other(n).map(|(mean, _)| mean), &other(cell, n).unwrap_or("—".into()), "");
        }
        text += "</tr>\n";
    }
    text + "</tbody>\n</table></div>\n"
}

fn number(value: Option<f64>, text: &str, class: &str) -> String {
    let value = value.map_or(String::new(), |v| format!(" data-v=\"{v:.4}\""));
    format!("<td{class}{value}>{}</td>", escape(&text.replace('-', "−")))
}

/// The number of seeds, if all cells that have any have as many, each of one run.
fn common_seeds(t: &Table) -> Option<usize> {
    let mut all = t.cells().filter(|c| !c.values.is_empty());
    let first = all.next()?.values.len();
    let alike = |c: &Cell| c.values.len() == first && c.is_one_run_a_seed();
    t.cells().filter(|c| !c.values.is_empty()).all(alike).then_some(first)
}

/// A cell of ours, with its number of runs where that has to be told.
fn reproduced(cell: &Cell, tell: bool) -> String {
    let (Some(mean), Some(first)) = (cell.mean(), cell.values.first()) else {
        return "<td class=\"first\">—</td>".into();
    };
    let std = cell.std().map_or(String::new(), |s| format!(" ± {s:.2}"));
    let runs = if tell { format!(" <small>n = {}</small>", cell.count()) } else { String::new() };
    let row = row(&first.content);
    format!("<td class=\"first\" data-v=\"{mean:.4}\"><a href=\"#{row}\">{mean:.2}{std}</a>{runs}</td>")
}

/// The difference from the published value in standard errors of our mean, where there are two runs or more.
fn standard_errors(cell: &Cell) -> Option<f64> {
    let error = cell.std()? / (cell.values.len() as f64).sqrt();
    Some(cell.difference()?.abs() / error.max(f64::MIN_POSITIVE))
}

fn is_far(cell: &Cell) -> bool {
    standard_errors(cell).is_some_and(|e| e > 2.0)
}

/// How often the mean of n values of a normal distribution is more than two of its standard errors off: P(|t|
/// > 2) of Student's distribution with n − 1 degrees of freedom (Abramowitz and Stegun, 26.7.3 and 26.7.4).
fn by_chance(n: usize) -> f64 {
    let freedom = (n - 1) as f64;
    let angle = (2.0 / freedom.sqrt()).atan();
    let (sin, cos) = angle.sin_cos();
    let odd = n.is_multiple_of(2);
    let (mut term, mut sum) = if odd { (cos, 0.0) } else { (1.0, 0.0) };
    let mut k = if odd { 1 } else { 0 };
    while k + 2 < n {
        sum += term;
        term *= cos * cos * (k + 1) as f64 / (k + 2) as f64;
        k += 2;
    }
    1.0 - if odd { (angle + sin * sum) * std::f64::consts::FRAC_2_PI } else { sin * sum }
}

/// The differences of more than two standard errors, by name.
fn differences(t: &Table) -> String {
    let cells =
        || t.rows.iter().flat_map(|r| t.columns.iter().zip(&r.cells).map(move |(c, cell)| (r, c, cell)));
    let count = |keep: &dyn Fn(&Cell) -> bool| cells().filter(|(_, _, c)| keep(c)).count();
    let judged = count(&|c| standard_errors(c).is_some());
    let single = count(&|c| c.difference().is_some() && c.std().is_none());
    let schedule = count(&|c| c.mean().is_some() && c.paper.is_some() && c.difference().is_none());
    let other = count(&|c| c.mean().is_some() && c.paper.is_none());
    let far: Vec<_> = cells().filter(|(_, _, c)| is_far(c)).collect();
    let mut text =
        String::from("<h3>Differences from the published values of more than two standard errors</h3>\n<p>");
    text += &match (judged, far.len()) {
        (0, _) => "No cell can be judged.".to_owned(),
        (judged, 0) => format!("None of the {judged} cells that can be judged."),
        (judged, far) => format!("{far} of the {judged} cells that can be judged."),
    };
    if single > 0 {
        text += &format!(" Cells with one run, which have no standard error: {single}.");
    }
    if schedule > 0 {
        text += &format!(
            " Not compared, because the schedule differs or the published setting is uncertain: {schedule}."
        );
    }
    if other > 0 {
        text += &format!(" Without a published value in their setting: {other}.");
    }
    if judged > 0 {
        text += " The standard error is that of our mean, s/√n; how far the published means scatter is not known.";
        let judged =
            || cells().filter(|(_, _, c)| standard_errors(c).is_some()).map(|(_, _, c)| c.values.len());
        let runs: BTreeSet<usize> = judged().collect();
        let chances: Vec<String> =
            runs.iter().map(|&n| format!("{:.0} % of cells of {n} runs", 100.0 * by_chance(n))).collect();
        text += &format!(" By chance alone it is more than two for {}.", chances.join(", "));
    }
    text += "</p>\n";
    if !far.is_empty() {
        text += "<ul>\n";
    }
    for (row, column, cell) in &far {
        let (Some(mean), Some(std), Some(d), Some(e), Some(paper)) =
            (cell.mean(), cell.std(), cell.difference(), standard_errors(cell), cell.paper)
        else {
            continue;
        };
        let (n, paper) = (cell.count(), paper.value);
        let side = if d < 0.0 { "below" } else { "above" };
        let errors = if e < 1000.0 { format!("{e:.1}") } else { "over 1000".into() };
        text += &format!(
            "<li><b>{}</b>, {}: {mean:.2} ± {std:.2} (n = {n}) is {:.2} {side} {paper:.2}: {errors} standard errors.</li>\n",
            escape(&row_name(row)),
            escape(&heading(column)),
            d.abs()
        );
    }
    if !far.is_empty() {
        text += "</ul>\n";
    }
    text
}

#[cfg(test)]
mod tests {
    use super::by_chance;

    #[test]
    fn chances_are_students() {
        // 2 * scipy.stats.t.sf(2, n - 1)
        let of = [
            0.29516723530086664,
            0.18350341907227397,
            0.13932596855884471,
            0.11611652351681556,
            0.10193947882985555,
        ];
        for (n, p) in (2..).zip(of) {
            assert!((by_chance(n) - p).abs() < 1e-8, "{n}: {} {p}", by_chance(n));
        }
    }
}
