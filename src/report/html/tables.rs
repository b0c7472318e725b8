//! The tables of accuracies as HTML, with a list of the values that differ from the published ones by more
//! than two standard errors.

use std::collections::BTreeSet;

use maud::{Markup, html};

use super::lineage::row;
use crate::report::markdown::{common, notes, other, paper, row_name};
use crate::report::published::Published;
use crate::report::record::OTHERS;
use crate::report::series::mean_std;
use crate::report::table::{Cell, Part, Table};
use crate::report::{signed, two};

/// Returns a section with one table; `n` is the table's index on the page.
pub(super) fn section(t: &Table, n: usize, published: &Published) -> Markup {
    let seeds = common_seeds(t);
    html! {
        section id={ "table-" (n) } {
            h2 { (t.title()) }
            p {
                (what_it_shows(t, seeds)) " Each value links to its lineage."
                @if let Some(common) = common(t) { " " (common) }
            }
            div.scroll {
                table.sort {
                    thead { (heads(t)) }
                    tbody {
                        @for row in &t.rows {
                            tr {
                                td { (row_name(row)) }
                                @for (c, cell) in row.cells.iter().enumerate() {
                                    (reproduced(cell, seeds.is_none()))
                                    @for part in t.parts(c) { (beside(cell, part)) }
                                }
                            }
                        }
                    }
                }
            }
            @if t.has(Part::Paper) { (differences(t)) }
            @for c in 0..t.columns.len() { (others(t, c)) }
            ul.note { @for note in notes(t, published) { li { (note) } } }
        }
    }
}

/// Describes which accuracy the table shows and over how many runs.
fn what_it_shows(t: &Table, seeds: Option<usize>) -> String {
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
        None => "on the split that a row names, or otherwise on the test images,",
    };
    format!("Top-1 accuracy {of} in percent{what}.")
}

/// Returns two header rows: the training sets, and the parts of each. Rows can be sorted by the columns with
/// a number.
fn heads(t: &Table) -> Markup {
    let parts = (0..t.columns.len()).flat_map(|c| {
        let beside = t.parts(c).into_iter().map(|part| (None, part.title()));
        std::iter::once((Some("first"), "reproduced")).chain(beside)
    });
    html! {
        tr {
            th rowspan="2" data-c="0" { "Method" }
            @for (c, column) in t.columns.iter().enumerate() {
                th.first colspan=(1 + t.parts(c).len()) { (column.heading()) }
            }
        }
        tr { @for (n, (class, title)) in parts.enumerate() { th class=[class] data-c=(n + 1) { (title) } } }
    }
}

/// Returns a cell that belongs to the reproduced value to its left.
fn beside(cell: &Cell, part: Part) -> Markup {
    match part {
        Part::Paper => number(cell.paper.map(|p| p.value), &paper(cell), false),
        Part::Difference => number(cell.difference(), &signed(cell.difference()), is_far(cell)),
        Part::Report => number(cell.starting_report, &two(cell.starting_report), false),
    }
}

/// Returns a table of the metrics other than top-1 on one training set, if there are any.
fn others(t: &Table, column: usize) -> Markup {
    let numbers = t.others(column);
    if numbers.is_empty() {
        return html! {};
    }
    html! {
        h3 { (t.columns[column].heading()) ": by class frequency, and calibration" }
        div.scroll {
            table.sort {
                thead {
                    tr {
                        th data-c="0" { "Method" }
                        @for (i, &n) in numbers.iter().enumerate() { th data-c=(i + 1) { (OTHERS[n].title) } }
                    }
                }
                tbody {
                    @for row in t.rows.iter().filter(|r| !r.cells[column].values.is_empty()) {
                        tr {
                            td { (row_name(row)) }
                            @for &n in &numbers {
                                @let cell = &row.cells[column];
                                (number(cell.other(n).map(|(mean, _)| mean), &other(cell, n).unwrap_or("—".into()), false))
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Returns a cell with the value that rows are sorted by.
fn number(value: Option<f64>, text: &str, is_far: bool) -> Markup {
    let value = value.map(|v| format!("{v:.4}"));
    html! { td class=[is_far.then_some("far")] data-v=[value] { (text.replace('-', "−")) } }
}

/// Returns the number of seeds, if all cells that are not empty have the same number with one run each.
fn common_seeds(t: &Table) -> Option<usize> {
    let mut all = t.cells().filter(|c| !c.values.is_empty());
    let first = all.next()?.values.len();
    let alike = |c: &Cell| c.values.len() == first && c.is_one_run_a_seed();
    t.cells().filter(|c| !c.values.is_empty()).all(alike).then_some(first)
}

/// Returns a cell with a reproduced value, and with its number of runs if `tell` is set.
fn reproduced(cell: &Cell, tell: bool) -> Markup {
    let (Some(mean), Some(first)) = (cell.mean(), cell.values.first()) else {
        return html! { td.first { "—" } };
    };
    html! {
        td.first data-v=(format!("{mean:.4}")) {
            a href={ "#" (row(&first.content)) } {
                (two(Some(mean)))
                @if let Some(std) = cell.std() { " ± " (two(Some(std))) }
            }
            @if tell { " " small { "n = " (cell.count()) } }
        }
    }
}

/// Returns the difference from the published value in standard errors of our mean. There is none for fewer
/// than two independent runs, or if they all have the same accuracy, which says nothing about their scatter.
fn standard_errors(cell: &Cell) -> Option<f64> {
    let runs = cell.independent();
    let error = mean_std(&runs).1.filter(|std| *std > 1e-9)? / (runs.len() as f64).sqrt();
    Some(cell.difference()?.abs() / error)
}

fn is_far(cell: &Cell) -> bool {
    standard_errors(cell).is_some_and(|e| e > 2.0)
}

/// Returns the probability that the mean of n values from a normal distribution is off by more than two of
/// its standard errors: `P(|t| > 2)` for Student's distribution with n − 1 degrees of freedom (Abramowitz and
/// Stegun, 26.7.3 and 26.7.4).
fn by_chance(n: usize) -> f64 {
    let freedom = (n - 1) as f64;
    let angle = (2.0 / freedom.sqrt()).atan();
    let (sin, cos) = angle.sin_cos();
    let freedom_is_odd = n.is_multiple_of(2);
    let (mut term, mut sum) = if freedom_is_odd { (cos, 0.0) } else { (1.0, 0.0) };
    let mut k = if freedom_is_odd { 1 } else { 0 };
    while k + 2 < n {
        sum += term;
        term *= cos * cos * (k + 1) as f64 / (k + 2) as f64;
        k += 2;
    }
    1.0 - if freedom_is_odd { (angle + sin * sum) * std::f64::consts::FRAC_2_PI } else { sin * sum }
}

/// Lists the differences of more than two standard errors.
fn differences(t: &Table) -> Markup {
    let cells =
        || t.rows.iter().flat_map(|r| t.columns.iter().zip(&r.cells).map(move |(c, cell)| (r, c, cell)));
    let far: Vec<_> = cells().filter(|(_, _, c)| is_far(c)).collect();
    html! {
        h3 { "Differences from the published values of more than two standard errors" }
        p { (judged(&cells().map(|(_, _, cell)| cell).collect::<Vec<_>>())) }
        @if !far.is_empty() {
            ul {
                @for (row, column, cell) in far {
                    li { b { (row_name(row)) } ", " (column.heading()) ": " (difference(cell)) }
                }
            }
        }
    }
}

/// Describes how many cells can be compared with a published value, why others cannot, and how many
/// differences to expect by chance.
fn judged(cells: &[&Cell]) -> String {
    let count = |keep: &dyn Fn(&Cell) -> bool| cells.iter().filter(|c| keep(c)).count();
    let judged = count(&|c| standard_errors(c).is_some());
    let unknown = count(&|c| c.difference().is_some() && standard_errors(c).is_none());
    let schedule = count(&|c| c.mean().is_some() && c.paper.is_some() && c.difference().is_none());
    let other = count(&|c| c.mean().is_some() && c.paper.is_none());
    let mut text = match (judged, count(&is_far)) {
        (0, _) => "No cell can be judged.".to_owned(),
        (judged, 0) => format!("None of the {judged} cells that can be judged."),
        (judged, far) => format!("{far} of the {judged} cells that can be judged."),
    };
    if unknown > 0 {
        text += &format!(
            " Without a standard error, for lack of two networks with different accuracies: {unknown}."
        );
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
        text += " The standard error is that of our mean, s/√n over independent networks (runs of one seed and \
             classifiers on one network count as their mean); the scatter of the published means is not known.";
        let judged = cells.iter().filter(|c| standard_errors(c).is_some());
        let runs: BTreeSet<usize> = judged.map(|c| c.independent().len()).collect();
        let chances: Vec<String> =
            runs.iter().map(|&n| format!("{:.0} % of cells of {n} networks", 100.0 * by_chance(n))).collect();
        text += &format!(
            " By chance alone, the difference exceeds two standard errors in {}.",
            chances.join(", ")
        );
    }
    text
}

/// Describes how far a cell is from its published value:
/// `70.57 ± 0.45 (n = 3) is 1.29 below 71.86: 5.0 standard errors.`
fn difference(cell: &Cell) -> String {
    let errors = standard_errors(cell).unwrap_or_default();
    let d = cell.difference().unwrap_or_default();
    format!(
        "{} ± {} (n = {}) is {:.2} {} {}: {errors:.1} standard errors.",
        two(cell.mean()),
        two(cell.std()),
        cell.count(),
        d.abs(),
        if d < 0.0 { "below" } else { "above" },
        two(cell.paper.map(|p| p.value))
    )
}

#[cfg(test)]
mod tests {
    use super::by_chance;

    #[test]
    fn chances_follow_students_t() {
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
