//! Accuracy by the value of a flag, from `eval --sweep`: of all images, and the means of the classes with
//! many, medium and few training images; mean over runs.

use serde_json::Value;

use super::axis::{Axes, Mark, heading, legend, margin, ticks};
use super::palette::method;
use super::svg::{MUTED, Svg, TEXT};
use super::{Error, Manifest, foreign};
use crate::report::experiment::Experiment;
use crate::report::series::series;

/// Metrics, and what they are called.
const LINES: [(&str, &str); 4] = [("top1", "all"), ("many", "many"), ("medium", "medium"), ("few", "few")];

/// The sweep of a run.
struct Sweep {
    flag: String,
    values: Vec<f64>,
    /// By [`LINES`]; empty where there are no such classes.
    lines: [Vec<f64>; LINES.len()],
    best: Option<f64>,
}

pub(super) fn draw(found: &[&Manifest], of: &[&Experiment], page: f64) -> Result<String, Error> {
    let groups = series(of);
    if groups.len() != 1 {
        let why = format!("shows one method, these are {}; give the evaluations of one", groups.len());
        return Err(Error::Inputs { kind: "sweep", why });
    }
    let sweeps = groups[0].members.iter().map(|&i| read(found[i])).collect::<Result<Vec<_>, _>>()?;
    let first = &sweeps[0];
    if sweeps.iter().any(|s| s.flag != first.flag || s.values != first.values) {
        let why = "the evaluations have other values; give those of one range".into();
        return Err(Error::Inputs { kind: "sweep", why });
    }
    let mean = |line: usize| -> Vec<f64> {
        let all: Vec<_> = sweeps.iter().map(|s| &s.lines[line]).filter(|l| !l.is_empty()).collect();
        let at = |n: usize| all.iter().map(|l| l[n]).sum::<f64>() / all.len() as f64;
        if all.is_empty() { vec![] } else { (0..first.values.len()).map(at).collect() }
    };
    let lines: Vec<(usize, Vec<f64>)> =
        (0..LINES.len()).map(|n| (n, mean(n))).filter(|(_, line)| !line.is_empty()).collect();

    let ys = ticks(0.0, 100.0, 6);
    let left = margin(&ys);
    let mut svg = Svg::new(page);
    let entries: Vec<_> =
        lines.iter().map(|(n, _)| (Mark::Line(method(*n).0, method(*n).1), LINES[*n].1)).collect();
    let mut top = 9.0 + heading(&mut svg, left, 7.5, page - left, &groups[0].label);
    top += legend(&mut svg, left, top, page - left, &entries) + 8.0;
    let (lo, hi) = (first.values[0], first.values[first.values.len() - 1]);
    let xs = if hi > lo { (lo, hi) } else { (lo - 0.5, hi + 0.5) };
    let axes = Axes { x: left, y: top, w: page - left - 6.0, h: 100.0, xs, ys: (0.0, 100.0) };
    axes.left(&mut svg, &ys, "accuracy (%)");
    let best = first.best.filter(|best| sweeps.iter().all(|s| s.best == Some(*best)));
    if let Some(best) = best {
        let (x, base) = axes.at(best, 0.0);
        svg.line((x, axes.y), (x, base), MUTED, 0.6, "1 1.5");
        svg.text(x, axes.y - 2.0, "best on val", TEXT.small().middle().fill(MUTED));
    }
    for (n, line) in &lines {
        let (colour, dash) = method(*n);
        let points: Vec<_> = first.values.iter().zip(line).map(|(x, y)| axes.at(*x, *y)).collect();
        if let [(x, y)] = points[..] {
            svg.dot(x, y, 1.6, colour);
        }
        svg.path(&points, colour, 1.1, dash);
    }
    axes.bottom(&mut svg, &ticks(xs.0, xs.1, 7), &first.flag);
    let what = format!("Accuracy by {}: {}", first.flag, groups[0].label);
    Ok(svg.finish(axes.y + axes.h + 21.0, &what))
}

fn read(m: &Manifest) -> Result<Sweep, Error> {
    let lacks = || foreign(m, "metrics lack a sweep; evaluate with --sweep adjust=0:2:0.1");
    let sweep = m.metrics.get("sweep").ok_or_else(lacks)?;
    let rows = sweep["rows"].as_array().filter(|rows| !rows.is_empty()).ok_or_else(lacks)?;
    let column = |name: &str| rows.iter().map(|row| row[name].as_f64()).collect::<Option<Vec<f64>>>();
    Ok(Sweep {
        flag: sweep["flag"].as_str().ok_or_else(lacks)?.to_owned(),
        values: column("value").ok_or_else(lacks)?,
        lines: LINES.map(|(name, _)| column(name).unwrap_or_default()),
        best: sweep.get("best_on_val").and_then(Value::as_f64),
    })
}
