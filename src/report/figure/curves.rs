//! Training curves: loss and test accuracy by epoch, a line a method; with several seeds their mean in the band of their extremes.

use serde_json::Value;

use super::axis::{Axes, Mark, legend, margin, ticks};
use super::palette::method;
use super::svg::{MUTED, Svg, TEXT};
use super::{Error, Manifest, methods, place};
use crate::manifest;

/// What a line of the log is drawn of.
const FIELDS: [(&str, &str); 2] = [("loss", "training loss"), ("test_top1", "test accuracy (%)")];

/// One run: values by epoch for each field.
type Run = [Vec<f64>; 2];

pub(super) fn draw(found: &[&Manifest], page: f64) -> Result<String, Error> {
    let groups = methods(found, "curves")?;
    let mut runs: Vec<Vec<Run>> = Vec::new();
    for g in &groups {
        runs.push(g.members.iter().map(|&i| read(found[i])).collect::<Result<_, _>>()?);
    }
    let epochs = runs.iter().flatten().map(|r| r[0].len()).max().unwrap_or(1);
    let range = |field: usize| {
        let values = runs.iter().flatten().flat_map(|r| &r[field]);
        let (lo, hi) =
            values.fold((f64::INFINITY, f64::NEG_INFINITY), |(lo, hi), v| (lo.min(*v), hi.max(*v)));
        let pad = ((hi - lo) * 0.04).max(hi.abs() * 0.02).max(1e-6);
        (lo - pad, hi + pad)
    };
    let all_ticks = [0, 1].map(|f| ticks(range(f).0, range(f).1, 6));
    let left = all_ticks.iter().map(|t| margin(t)).fold(0.0, f64::max);

    let mut svg = Svg::new(page);
    let names: Vec<_> = groups.iter().map(|g| g.label.as_str()).collect();
    let entries: Vec<_> =
        names.iter().enumerate().map(|(n, name)| (Mark::Line(method(n).0, method(n).1), *name)).collect();
    let mut y = 6.0 + legend(&mut svg, left, 0.0, page - left, &entries);
    let xs = if epochs > 1 { (1.0, epochs as f64) } else { (0.5, 1.5) };
    let milestones = milestones(found);
    let mut labelled = f64::NEG_INFINITY;
    for field in 0..2 {
        // The title stands outside the numbers of both panels.
        let axes = Axes { x: left, y: y + 5.0, w: page - left - 6.0, h: 78.0, xs, ys: range(field) };
        axes.left(&mut svg, &all_ticks[field], "");
        svg.text(6.0, axes.y + axes.h / 2.0, FIELDS[field].1, TEXT.middle().turned(-90.0));
        for &m in milestones.iter().filter(|m| **m > 1.0 && **m < xs.1) {
            let (x, bottom) = axes.at(m, axes.ys.0);
            svg.line((x, axes.y), (x, bottom), MUTED, 0.5, "1 1.5");
            // Milestones that stand close share a label.
            if field == 0 && x - labelled > 26.0 {
                svg.text(x, axes.y - 2.0, "lr ÷ 10", TEXT.small().middle().fill(MUTED));
                labelled = x;
            }
        }
        for (n, runs) in runs.iter().enumerate() {
            lines(&mut svg, &axes, runs, field, n);
        }
        y = axes.y + axes.h;
        if field == 1 {
            let mut whole = ticks(xs.0, xs.1, 7);
            whole.retain(|e| e.fract() == 0.0);
            axes.bottom(&mut svg, &whole, "epoch");
        }
    }
    Ok(svg.finish(y + 21.0, &format!("Training loss and test accuracy by epoch: {}", names.join(", "))))
}

fn lines(svg: &mut Svg, axes: &Axes, runs: &[Run], field: usize, n: usize) {
    let (colour, dash) = method(n);
    let epochs = runs.iter().map(|r| r[field].len()).min().unwrap_or(0);
    let at = |e: usize, v: f64| axes.at((e + 1) as f64, v);
    let of = |e: usize| runs.iter().map(move |r| r[field][e]);
    let mean = |e: usize| at(e, of(e).sum::<f64>() / runs.len() as f64);
    if runs.len() > 1 {
        let upper = (0..epochs).map(|e| at(e, of(e).fold(f64::NEG_INFINITY, f64::max)));
        let lower = (0..epochs).rev().map(|e| at(e, of(e).fold(f64::INFINITY, f64::min)));
        svg.area(&upper.chain(lower).collect::<Vec<_>>(), colour, 0.18);
    }
    if epochs == 1 {
        let (x, y) = mean(0);
        svg.dot(x, y, 1.6, colour);
    }
    svg.path(&(0..epochs).map(mean).collect::<Vec<_>>(), colour, 1.1, dash);
}

/// Epochs from which the learning rate is lower, if all runs agree.
fn milestones(found: &[&Manifest]) -> Vec<f64> {
    let of = |m: &Manifest| -> Option<Vec<f64>> {
        m.params.get("milestones")?.as_array()?.iter().map(Value::as_f64).collect()
    };
    let first = found.first().and_then(|m| of(m));
    first.filter(|f| found.iter().all(|m| of(m).as_ref() == Some(f))).unwrap_or_default()
}

/// Reads a log.
fn read(m: &Manifest) -> Result<Run, Error> {
    let path = m.checked("log")?.swap_remove(0);
    let text = std::fs::read_to_string(&path).map_err(manifest::Error::io(&path))?;
    let mut run = Run::default();
    for (n, line) in text.lines().enumerate() {
        let value: Value = serde_json::from_str(line).unwrap_or_default();
        for (field, (name, _)) in FIELDS.iter().enumerate() {
            let v = value.get(*name).and_then(Value::as_f64).filter(|v| v.is_finite());
            let why = || format!("line {} of {} has no {name}; train again", n + 1, path.display());
            run[field].push(v.ok_or_else(|| Error::Unfit { path: place(m), why: why() })?);
        }
    }
    if run[0].is_empty() {
        let why = format!("{} is empty; train again", path.display());
        return Err(Error::Unfit { path: place(m), why });
    }
    Ok(run)
}
