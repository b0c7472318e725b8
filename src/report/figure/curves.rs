//! Training curves: loss and test accuracy by epoch, with one line per method. With several runs, the line is
//! their mean, inside a band from the smallest to the largest value.
//!
//! Each loss function has a panel of its own, because their values are not comparable: LDAM's loss is
//! computed on logits that are thirty times as large.

use serde_json::Value;

use super::axis::{Axes, Mark, legend, margin, ticks};
use super::palette::method;
use super::svg::{MUTED, Svg, TEXT};
use super::{Error, Manifest, methods, path_of};
use crate::manifest;
use crate::report::experiment::Experiment;
use crate::report::title;

/// The fields of the log that are drawn, with their axis titles.
const FIELDS: [(&str, &str); 2] = [("loss", "training loss"), ("test_top1", "test accuracy (%)")];

/// One run: the values by epoch of each field.
type Run = [Vec<f64>; 2];

/// A panel with one field of some groups of runs.
struct Panel {
    field: usize,
    groups: Vec<usize>,
    /// The loss function, if there are panels for several.
    of: String,
}

pub(super) fn draw(found: &[&Manifest], of: &[&Experiment], page: f64) -> Result<String, Error> {
    let groups = methods(of, "curves")?;
    let mut runs: Vec<Vec<Run>> = Vec::new();
    for g in &groups {
        runs.push(g.members.iter().map(|&i| read(found[i])).collect::<Result<_, _>>()?);
    }
    let panels = panels(&groups.iter().map(|g| loss(found[g.members[0]])).collect::<Vec<_>>());
    let epochs = runs.iter().flatten().map(|r| r[0].len()).max().unwrap_or(1);
    let range = |panel: &Panel| {
        let values = panel.groups.iter().flat_map(|&n| &runs[n]).flat_map(|r| &r[panel.field]);
        let (lo, hi) =
            values.fold((f64::INFINITY, f64::NEG_INFINITY), |(lo, hi), v| (lo.min(*v), hi.max(*v)));
        limits(panel.field, lo, hi)
    };
    let ticks_of = |panel: &Panel| ticks(range(panel).0, range(panel).1, 6);
    let left = panels.iter().map(|p| margin(&ticks_of(p))).fold(0.0, f64::max);

    let mut svg = Svg::new(page);
    let names: Vec<_> = groups.iter().map(|g| g.label.as_str()).collect();
    let entries: Vec<_> =
        names.iter().enumerate().map(|(n, name)| (Mark::Line(method(n).0, method(n).1), *name)).collect();
    let mut y = 6.0 + legend(&mut svg, left, 0.0, page - left, &entries);
    let xs = if epochs > 1 { (1.0, epochs as f64) } else { (0.5, 1.5) };
    let milestones = milestones(found);
    let mut labelled = f64::NEG_INFINITY;
    for (number, panel) in panels.iter().enumerate() {
        // The axis title is drawn to the left of the numbers of all panels.
        let named = if panel.of.is_empty() { 0.0 } else { 8.0 };
        let axes = Axes { x: left, y: y + 5.0 + named, w: page - left - 6.0, h: 78.0, xs, ys: range(panel) };
        axes.left(&mut svg, &ticks_of(panel), "");
        svg.text(6.0, axes.y + axes.h / 2.0, FIELDS[panel.field].1, TEXT.middle().turned(-90.0));
        for fall in milestones.chunk_by(|a, b| a == b).filter(|all| all[0] > 1.0 && all[0] < xs.1) {
            let m = fall[0];
            let (x, bottom) = axes.at(m, axes.ys.0);
            svg.line((x, axes.y), (x, bottom), MUTED, 0.5, "1 1.5");
            // Milestones that are close together share a label.
            if number == 0 && x - labelled > 26.0 {
                let factor = 10_u64.saturating_pow(fall.len() as u32);
                svg.text(x, axes.y - 2.0, &format!("lr ÷ {factor}"), TEXT.small().middle().fill(MUTED));
                labelled = x;
            }
        }
        for &n in &panel.groups {
            lines(&mut svg, &axes, &runs[n], panel.field, n);
        }
        // The name goes above the panel and, in the first one, above the labels of the learning rate.
        let base = axes.y - if number == 0 { 9.5 } else { 2.5 };
        if named > 0.0 {
            svg.text(axes.x, base, &panel.of, TEXT.small());
        }
        y = axes.y + axes.h;
        if number + 1 == panels.len() {
            let mut whole = ticks(xs.0, xs.1, 7);
            whole.retain(|e| e.fract() == 0.0);
            axes.bottom(&mut svg, &whole, "epoch");
        }
    }
    Ok(svg.finish(y + 21.0, &format!("Training loss and test accuracy by epoch: {}", names.join(", "))))
}

/// Returns the limits of the axis of a field whose values are between `lo` and `hi`: somewhat more, but no
/// accuracies below 0 or above 100, and no negative losses.
fn limits(field: usize, lo: f64, hi: f64) -> (f64, f64) {
    let (least, most) = [(0.005, f64::INFINITY), (0.5, 100.0)][field];
    let pad = ((hi - lo) * 0.04).max(hi.abs() * 0.02).max(least);
    ((lo - pad).max(lo.min(0.0)), (hi + pad).min(hi.max(most)))
}

/// Returns a panel for each loss function of the groups, and one for the accuracy of all groups.
fn panels(losses: &[String]) -> Vec<Panel> {
    let mut panels: Vec<Panel> = Vec::new();
    for (n, loss) in losses.iter().enumerate() {
        match panels.iter_mut().find(|p| p.of == *loss) {
            Some(panel) => panel.groups.push(n),
            None => panels.push(Panel { field: 0, groups: vec![n], of: loss.clone() }),
        }
    }
    if let [only] = &mut panels[..] {
        only.of.clear();
    }
    panels.push(Panel { field: 1, groups: (0..losses.len()).collect(), of: String::new() });
    panels
}

/// Names the function whose mean is logged: the loss, and whether weighted losses are divided by the number
/// of images, which gives other values than dividing by the sum of the weights.
fn loss(m: &Manifest) -> String {
    let said = |part: &str, name: &str| m.params.get(part).and_then(|p| p.get(name)).and_then(Value::as_str);
    let name = match said("loss", "name") {
        None | Some("ce") => "cross-entropy".into(),
        Some(name) => title(name),
    };
    match said("rule", "rw_norm") {
        Some("batch-size") => format!("{name}, weighted, divided by batch size"),
        _ => name,
    }
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

/// Returns the epochs at which the learning rate drops, if all runs agree.
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
            run[field].push(v.ok_or_else(|| Error::Unfit { path: path_of(m), why: why() })?);
        }
    }
    if run[0].is_empty() {
        let why = format!("{} is empty; train again", path.display());
        return Err(Error::Unfit { path: path_of(m), why });
    }
    Ok(run)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_of_constant_values_have_sensible_limits() {
        assert_eq!(limits(1, 0.0, 0.0), (0.0, 0.5));
        assert_eq!(limits(1, 10.0, 10.0), (9.5, 10.5));
        assert_eq!(limits(1, 100.0, 100.0), (98.0, 100.0));
        assert_eq!(limits(1, 0.0, 100.0), (0.0, 100.0));
        assert_eq!(limits(1, 20.0, 70.0), (18.0, 72.0));
        assert_eq!(limits(0, 0.0, 0.0), (0.0, 0.005));
        assert_eq!(limits(0, 1.0, 3.5), (0.9, 3.6));
    }

    #[test]
    fn each_loss_function_has_a_panel() {
        let panels = |losses: &[&str]| -> Vec<(usize, Vec<usize>, String)> {
            let losses: Vec<String> = losses.iter().map(|l| (*l).to_owned()).collect();
            panels(&losses).into_iter().map(|p| (p.field, p.groups, p.of)).collect()
        };
        assert_eq!(panels(&["a", "a"]), [(0, vec![0, 1], "".into()), (1, vec![0, 1], "".into())]);
        let three = [(0, vec![0, 2], "a".into()), (0, vec![1], "LDAM".into()), (1, vec![0, 1, 2], "".into())];
        assert_eq!(panels(&["a", "LDAM", "a"]), three);
    }
}
