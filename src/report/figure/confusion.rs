//! The confusion matrix of one method: of each true class, the percentage that is taken for each class; mean over seeds.

use serde_json::Value;

use super::palette::blues;
use super::svg::{GRID, SMALL, Svg, TEXT, num};
use super::text::{fit, width};
use super::{Classes, Error, Manifest, class_label, foreign, grouped, list};

/// Up to so many classes the numbers stand in the cells.
const NUMBERS: usize = 12;

pub(super) fn draw(found: &[&Manifest], page: f64) -> Result<String, Error> {
    let groups = grouped(found)?;
    if groups.len() != 1 {
        let labels: Vec<_> = groups.iter().map(|g| g.label.as_str()).collect();
        let why = format!(
            "shows one method, these are {} ({}); give the evaluations of one, of any number of seeds",
            groups.len(),
            labels.join(", ")
        );
        return Err(Error::Inputs { kind: "confusion", why });
    }
    let Classes { names, .. } = Classes::of(found)?;
    let share = shares(found, names.len())?;
    let n = names.len();

    let label = |k: usize| class_label(k, &names);
    let widest = (0..n).filter_map(label).map(|l| width(l, SMALL, false)).fold(0.0, f64::max).min(60.0);
    let left = 11.0 + widest + 3.0;
    let side = page - left - 3.0;
    let cell = side / n as f64;
    let top = 11.0;
    let mut svg = Svg::new(page);
    let seeds = found.len();
    let of = if seeds > 1 { format!(", mean of {seeds} seeds") } else { String::new() };
    svg.text(left, 7.5, &fit(&format!("{}{of}", groups[0].label), 7.0, true, side), TEXT.bold());
    for (t, row) in share.iter().enumerate() {
        let y = top + cell * t as f64;
        for (p, v) in row.iter().enumerate() {
            let x = left + cell * p as f64;
            let overlap = if n > NUMBERS { 0.15 } else { 0.0 };
            svg.rect(x, y, cell + overlap, cell + overlap, &blues(v / 100.0));
            if n <= NUMBERS && *v >= 0.5 {
                // Colours of their own: the ground is the cell, not the page.
                let fill = if *v > 55.0 { "#fefefe" } else { "#111111" };
                let style = TEXT.small().middle().fill(fill);
                svg.text(x + cell / 2.0, y + cell / 2.0 + 2.2, &format!("{v:.0}"), style);
            }
        }
        if let Some(name) = label(t) {
            let middle = y + cell / 2.0 + 2.2;
            svg.text(left - 3.0, middle, &fit(name, SMALL, false, 60.0), TEXT.small().end());
        }
    }
    if n <= NUMBERS {
        for i in 1..n {
            let at = cell * i as f64;
            svg.line((left + at, top), (left + at, top + side), GRID, 0.3, "");
            svg.line((left, top + at), (left + side, top + at), GRID, 0.3, "");
        }
    }
    svg.frame(left, top, side, side);
    let mut bottom = top + side;
    if label(0).is_some() {
        for (p, name) in names.iter().enumerate() {
            let x = left + cell * (p as f64 + 0.5) + 3.0;
            svg.text(x, bottom + 6.0, &fit(name, SMALL, false, 60.0), TEXT.small().end().turned(-45.0));
        }
        bottom += 0.72 * widest + 6.0;
    }
    svg.text(7.0, top + side / 2.0, "true class", TEXT.middle().turned(-90.0));
    svg.text(left + side / 2.0, bottom + 8.0, "predicted class", TEXT.middle());
    bottom += 13.0;
    bar(&mut svg, left, bottom, side);
    Ok(svg.finish(bottom + 10.0, &format!("Confusion matrix of {}", groups[0].label)))
}

/// What the colours mean.
fn bar(svg: &mut Svg, left: f64, y: f64, room: f64) {
    let text = "% of the true class: 0";
    let start = left + width(text, SMALL, false) + 3.0;
    let long = room - (start - left) - 16.0;
    svg.text(left, y + 6.0, text, TEXT.small());
    for i in 0..50 {
        let x = start + long * f64::from(i) / 50.0;
        svg.rect(x, y + 1.0, long / 50.0 + 0.15, 5.5, &blues(f64::from(i) / 49.0));
    }
    svg.raw(format_args!(
        "<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"5.5\" fill=\"none\" stroke=\"#d8d8d8\" stroke-width=\".5\"/>",
        num(start),
        num(y + 1.0),
        num(long)
    ));
    svg.text(start + long + 3.0, y + 6.0, "100", TEXT.small());
}

/// Percent of each true class, the mean over manifests; a class without images has none.
fn shares(found: &[&Manifest], n: usize) -> Result<Vec<Vec<f64>>, Error> {
    let mut sum = vec![vec![0.0; n]; n];
    for m in found {
        let row = |v: &Value| -> Option<Vec<u64>> { v.as_array()?.iter().map(Value::as_u64).collect() };
        let counts = list(m, "confusion", row).filter(|c| c.len() == n && c.iter().all(|r| r.len() == n));
        let counts = counts.ok_or_else(|| foreign(m, "metrics.confusion is no matrix of its classes"))?;
        for (into, row) in sum.iter_mut().zip(&counts) {
            let all = row.iter().sum::<u64>().max(1);
            for (into, v) in into.iter_mut().zip(row) {
                *into += 100.0 * *v as f64 / all as f64 / found.len() as f64;
            }
        }
    }
    Ok(sum)
}
