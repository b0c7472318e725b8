//! The confusion matrix of one method: for each true class, the percentage of its images predicted as each
//! class, averaged over runs.
//!
//! With few classes, the numbers are written in the cells. With many, colours follow the square root of the
//! share, because otherwise everything but the diagonal would be white, and the edges show class indices.
//! With more classes than a page can resolve there is no figure.

use std::collections::BTreeMap;
use std::fmt::Write;

use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

use super::axis::{LONGEST, heading, slanted, ticks, widest};
use super::palette::blues;
use super::svg::{GRID, INK, SMALL, Svg, TEXT, num};
use super::text::{fit_all, width};
use super::{Classes, Error, Manifest, NAMED, foreign, list, path_of};
use crate::metrics::Cell;
use crate::report::experiment::Experiment;
use crate::report::series::{count, series};

/// The most classes for which the numbers are written in the cells.
const NUMBERS: usize = 12;

/// The most classes drawn; with more, a cell would be smaller than a printer's dot.
pub(in crate::report) const MOST_CLASSES: usize = 1000;

/// Number of colour steps between 0 and 1.
const STEPS: f64 = 50.0;

pub(super) fn draw(found: &[&Manifest], of: &[&Experiment], page: f64) -> Result<String, Error> {
    let groups = series(of);
    if groups.len() != 1 {
        let short = |label: &str| match label.char_indices().nth(40) {
            Some((end, _)) => format!("{}…", &label[..end]),
            None => label.to_owned(),
        };
        let mut labels: Vec<String> = groups.iter().map(|g| short(&g.label)).collect();
        if labels.len() > 4 {
            labels.splice(3.., ["…".into()]);
        }
        let why = format!(
            "shows one method, but these are {} ({}); give the evaluations of one, with any number of seeds",
            groups.len(),
            labels.join(", ")
        );
        return Err(Error::Inputs { kind: "confusion", why });
    }
    let found: Vec<&Manifest> = groups[0].members.iter().map(|&i| found[i]).collect();
    let Classes { names, .. } = Classes::of(&found)?;
    let n = names.len();
    if n > MOST_CLASSES {
        let why = format!(
            "{n} classes cannot be told apart in one matrix, which shows at most {MOST_CLASSES}; --kind per-class \
             shows groups of them"
        );
        return Err(Error::Inputs { kind: "confusion", why });
    }
    let share = shares(&found, n)?;

    let (few, named) = (n <= NUMBERS, n <= NAMED);
    let widest = widest(names.iter().map(String::as_str));
    let left = if named { 11.0 + widest + 3.0 } else { 25.0 };
    let side = page - left - 3.0;
    let cell = side / n as f64;
    let mut svg = Svg::new(page);
    let count = count(&groups[0].members.iter().map(|&i| of[i].seed).collect::<Vec<_>>());
    let mean = match count.parse() {
        Ok(1) => String::new(),
        Ok::<usize, _>(seeds) => format!(", mean of {seeds} seeds"),
        Err(_) => format!(", mean of {count}"),
    };
    let top = 11.0 + heading(&mut svg, left, 7.5, side, &format!("{}{mean}", groups[0].label));
    let mut bottom = top + side;
    if few {
        numbers(&mut svg, (left, top, cell), &share);
    } else {
        cells(&mut svg, (left, top, cell), &share);
    }
    svg.frame(left, top, side, side);
    if named {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let middle = |k: usize| cell * (k as f64 + 0.5);
        for (k, name) in fit_all(&names, |_| LONGEST).iter().enumerate() {
            svg.text(left - 3.0, top + middle(k) + 2.2, name, TEXT.small().end());
        }
        let ends: Vec<_> = (0..n).map(|k| (left + middle(k) + 3.0, bottom + 6.0)).collect();
        slanted(&mut svg, &ends, &names);
    }
    for k in ticks(0.0, (n - 1) as f64, 6).into_iter().filter(|_| !named) {
        let middle = cell * (k + 0.5);
        svg.text(left - 3.0, top + middle + 2.2, &k.to_string(), TEXT.small().end());
        svg.text(left + middle, bottom + 7.5, &k.to_string(), TEXT.small().middle());
    }
    bottom += if named { 0.72 * widest + 6.0 } else { 9.0 };
    let of = if named { "" } else { " (index)" };
    svg.text(7.0, top + side / 2.0, &format!("true class{of}"), TEXT.middle().turned(-90.0));
    svg.text(left + side / 2.0, bottom + 8.0, &format!("predicted class{of}"), TEXT.middle());
    bottom += 13.0;
    bar(&mut svg, left, bottom, side, few);
    let height = bottom + if few { 10.0 } else { 17.0 };
    Ok(svg.finish(height, &format!("Confusion matrix of {}", groups[0].label)))
}

/// Draws coloured cells with a line around each and its number inside.
fn numbers(svg: &mut Svg, (left, top, cell): (f64, f64, f64), share: &[Vec<f64>]) {
    let n = share.len();
    for (t, row) in share.iter().enumerate() {
        for (p, v) in row.iter().enumerate() {
            let (x, y) = (left + cell * p as f64, top + cell * t as f64);
            svg.rect(x, y, cell, cell, &blues(v / 100.0));
            if *v >= 0.5 {
                // Fixed colours, because the background is the cell, not the page.
                let fill = if *v > 55.0 { "#fefefe" } else { "#111111" };
                let style = TEXT.small().middle().fill(fill);
                svg.text(x + cell / 2.0, y + cell / 2.0 + 2.2, &format!("{v:.0}"), style);
            }
        }
    }
    let side = cell * n as f64;
    for i in 1..n {
        let at = cell * i as f64;
        svg.line((left + at, top), (left + at, top + side), GRID, 0.3, "");
        svg.line((left, top + at), (left + side, top + at), GRID, 0.3, "");
    }
}

/// Draws coloured cells with one path per colour, so that a drawing of 10,000 cells stays small.
fn cells(svg: &mut Svg, (left, top, cell): (f64, f64, f64), share: &[Vec<f64>]) {
    let mut paths: BTreeMap<u32, String> = BTreeMap::new();
    for (t, row) in share.iter().enumerate() {
        for (p, v) in row.iter().enumerate() {
            let step = ((v / 100.0).sqrt() * STEPS).round() as u32;
            write!(paths.entry(step).or_default(), "M{p} {t}h1v1h-1z").expect("a string takes everything");
        }
    }
    let side = num(cell * share.len() as f64);
    let (x, y) = (num(left), num(top));
    // The background of the cells that are 0, which are most of them.
    svg.raw(format_args!(
        "<rect x=\"{x}\" y=\"{y}\" width=\"{side}\" height=\"{side}\" fill=\"{}\"/>",
        blues(0.0)
    ));
    // `crispEdges` avoids seams between neighbouring cells.
    svg.raw(format_args!(
        "<g transform=\"translate({x} {y}) scale({cell:.5})\" shape-rendering=\"crispEdges\">"
    ));
    for (step, d) in paths.iter().filter(|(step, _)| **step > 0) {
        svg.raw(format_args!("<path d=\"{d}\" fill=\"{}\"/>", blues(f64::from(*step) / STEPS)));
    }
    svg.raw(format_args!("</g>"));
}

/// Draws the colour bar; colours follow the share if `linear`, and its square root otherwise.
fn bar(svg: &mut Svg, left: f64, y: f64, room: f64, linear: bool) {
    let text = if linear { "% of the true class: 0" } else { "% of the true class:" };
    let start = left + width(text, SMALL, false) + if linear { 3.0 } else { 6.0 };
    let long = room - (start - left) - if linear { 16.0 } else { 8.0 };
    svg.text(left, y + 6.0, text, TEXT.small());
    svg.raw(format_args!("<g shape-rendering=\"crispEdges\">"));
    for i in 0..=STEPS as u32 {
        // Each rectangle extends to the end and is partly covered by the next, so that rounding leaves no
        // gaps.
        let part = f64::from(i) / (STEPS + 1.0);
        svg.rect(start + long * part, y + 1.0, long * (1.0 - part), 5.5, &blues(f64::from(i) / STEPS));
    }
    svg.raw(format_args!("</g>"));
    svg.frame(start, y + 1.0, long, 5.5);
    if linear {
        svg.text(start + long + 3.0, y + 6.0, "100", TEXT.small());
        return;
    }
    for v in [0.0, 1.0, 5.0, 20.0, 50.0, 100.0] {
        let x = start + long * (v / 100.0f64).sqrt();
        svg.line((x, y + 6.5), (x, y + 8.0), INK, 0.5, "");
        svg.text(x, y + 14.0, &v.to_string(), TEXT.small().middle());
    }
}

/// Returns the percentages of each true class, averaged over manifests; a class without images has none.
fn shares(found: &[&Manifest], n: usize) -> Result<Vec<Vec<f64>>, Error> {
    let mut sum = vec![vec![0.0; n]; n];
    for m in found {
        let cells = counts(m, n)?;
        let mut all = vec![0u64; n];
        for c in &cells {
            all[c.label] = all[c.label].saturating_add(c.count);
        }
        for c in &cells {
            sum[c.label][c.predicted] += 100.0 * c.count as f64 / all[c.label] as f64 / found.len() as f64;
        }
    }
    Ok(sum)
}

/// Returns the non-zero counts of an evaluation with `n` classes, from the manifest or, with many classes,
/// from its file.
fn counts(m: &Manifest, n: usize) -> Result<Vec<Cell>, Error> {
    if m.outputs_of("confusion").next().is_some() {
        return read(m, n);
    }
    let row = |v: &Value| -> Option<Vec<u64>> { v.as_array()?.iter().map(Value::as_u64).collect() };
    let rows = list(m, "confusion", row).filter(|c| c.len() == n && c.iter().all(|r| r.len() == n));
    let rows =
        rows.ok_or_else(|| foreign(m, "metrics.confusion is not a square matrix with a row for each class"))?;
    let cells = rows.iter().enumerate().flat_map(|(label, row)| {
        row.iter().enumerate().map(move |(predicted, &count)| Cell { label, predicted, count })
    });
    Ok(cells.filter(|c| c.count > 0).collect())
}

/// Reads the counts from the file that `eval` writes when there are many classes.
fn read(m: &Manifest, n: usize) -> Result<Vec<Cell>, Error> {
    let path = m.checked("confusion")?.swap_remove(0);
    let bytes = std::fs::read(&path).map_err(crate::manifest::Error::io(&path))?;
    let bad = || Error::Unfit {
        path: path_of(m),
        why: format!("{} does not hold valid counts of its classes; make it again with eval", path.display()),
    };
    let file = SafeTensors::deserialize(&bytes).map_err(|_| bad())?;
    let tensor = |name: &str, dtype: Dtype| {
        file.tensor(name).ok().filter(|t| t.dtype() == dtype && t.shape().len() == 1).ok_or_else(bad)
    };
    let classes = |name: &str| -> Result<Vec<usize>, Error> {
        let words = tensor(name, Dtype::I64)?;
        let class = |w: &[u8; 8]| usize::try_from(i64::from_le_bytes(*w)).ok().filter(|&k| k < n);
        words.data().as_chunks().0.iter().map(class).collect::<Option<_>>().ok_or_else(bad)
    };
    let (labels, predicted) = (classes("true")?, classes("predicted")?);
    let counts = tensor("count", Dtype::U32)?;
    let counts: Vec<u32> = counts.data().as_chunks().0.iter().map(|w| u32::from_le_bytes(*w)).collect();
    if [predicted.len(), counts.len()] != [labels.len(); 2] || counts.contains(&0) {
        return Err(bad());
    }
    let cells = labels.into_iter().zip(predicted).zip(counts);
    Ok(cells.map(|((label, predicted), count)| Cell { label, predicted, count: count.into() }).collect())
}
