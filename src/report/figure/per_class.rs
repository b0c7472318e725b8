//! Accuracy of each class, with one bar per method, below the number of its training images. Many classes are
//! shown in groups of neighbours, from the most to the fewest images.

use serde_json::Value;

use super::axis::{Axes, Mark, legend, margin, slanted, ticks, whole, widest};
use super::palette::method;
use super::svg::{INK, MUTED, Svg, TEXT};
use super::{Classes, Error, Manifest, foreign, list, methods};
use crate::report::experiment::Experiment;
use crate::report::series::mean_std;

/// The most classes that get bars of their own.
const EACH: usize = 12;

/// The number of groups if there are more classes.
const GROUPS: usize = 10;

/// Neighbouring classes that share a bar; with few classes, a single class.
struct Slot {
    name: String,
    classes: Vec<usize>,
}

/// The mean and the standard deviation over runs of the accuracy in a slot; `None` if it has no test images.
type Bar = Option<(f64, Option<f64>)>;

pub(super) fn draw(found: &[&Manifest], of: &[&Experiment], page: f64) -> Result<String, Error> {
    let groups = methods(of, "per-class")?;
    let classes = Classes::of(found)?;
    let slots = slots(&classes);
    let mut bars: Vec<Vec<Bar>> = vec![Vec::new(); slots.len()];
    for g in &groups {
        let mut runs = Vec::new();
        for &i in &g.members {
            runs.push(recalls(found[i], classes.len())?);
        }
        for (slot, bars) in slots.iter().zip(&mut bars) {
            bars.push(bar(slot, &runs));
        }
    }

    let ys = ticks(0.0, 100.0, 6);
    let left = margin(&ys);
    let mut svg = Svg::new(page);
    let names: Vec<_> = groups.iter().map(|g| g.label.as_str()).collect();
    let entries: Vec<_> =
        names.iter().enumerate().map(|(n, name)| (Mark::Square(method(n).0), *name)).collect();
    let mut y = 2.0 + legend(&mut svg, left, 0.0, page - left, &entries);

    let xs = (0.0, slots.len() as f64);
    let counts = Axes { x: left, y: y + 9.0, w: page - left - 2.0, h: 24.0, xs, ys: (0.0, 1.0) };
    count_strip(&mut svg, &counts, &slots, &classes.counts);
    y = counts.y + counts.h + 7.0;

    let axes = Axes { x: left, y, w: counts.w, h: 88.0, xs, ys: (0.0, 100.0) };
    let split = |m: &Manifest| m.params.get("split").and_then(Value::as_str).unwrap_or("test").to_owned();
    let of = split(found[0]);
    // If the splits differ, the legend says which bars belong to which split.
    let what =
        if found.iter().all(|m| split(m) == of) { of + " accuracy (%)" } else { "accuracy (%)".into() };
    axes.left(&mut svg, &ys, &what);
    let each = 0.84 / groups.len() as f64;
    for (s, bars) in bars.iter().enumerate() {
        for (n, bar) in bars.iter().enumerate() {
            let Some((mean, std)) = bar else { continue };
            let x = s as f64 + 0.08 + each * n as f64;
            let (from, top) = axes.at(x, *mean);
            let (to, base) = axes.at(x + each, 0.0);
            svg.rect(from, top, (to - from) * 0.94, base - top, method(n).0);
            if let Some(std) = std {
                let middle = (from + to) / 2.0;
                let (_, high) = axes.at(x, (mean + std).min(100.0));
                let (_, low) = axes.at(x, (mean - std).max(0.0));
                svg.line((middle, high), (middle, low), INK, 0.6, "");
            }
        }
    }
    let base = axes.y + axes.h;
    svg.line((axes.x, base), (axes.x + axes.w, base), INK, 0.5, "");
    let widest = widest(slots.iter().map(|s| s.name.as_str()));
    let end = |s: usize| (axes.at(s as f64 + 0.5, 0.0).0 + 2.5, base + 6.0);
    let names_of: Vec<&str> = slots.iter().map(|s| s.name.as_str()).collect();
    slanted(&mut svg, &(0..slots.len()).map(end).collect::<Vec<_>>(), &names_of);
    let bottom = base + 0.72 * widest + 14.0;
    let axis =
        if classes.len() <= EACH { "class" } else { "classes, from the most to the fewest training images" };
    svg.text(axes.x + axes.w / 2.0, bottom, axis, TEXT.middle());
    Ok(svg.finish(bottom + 4.0, &format!("Accuracy of each class by method: {}", names.join(", "))))
}

/// Draws the training image counts above the bars.
fn count_strip(svg: &mut Svg, axes: &Axes, slots: &[Slot], counts: &[u64]) {
    let of = |s: &Slot| s.classes.iter().map(|&k| counts[k]).sum::<u64>() as f64 / s.classes.len() as f64;
    let most = slots.iter().map(of).fold(1.0, f64::max);
    let scaled = Axes { ys: (0.0, most), ..*axes };
    for (i, slot) in slots.iter().enumerate() {
        let (from, top) = scaled.at(i as f64 + 0.08, of(slot));
        let (to, base) = scaled.at(i as f64 + 0.92, 0.0);
        svg.rect(from, top, to - from, base - top, "#a3a3a3");
        let label = whole(of(slot));
        svg.text((from + to) / 2.0, top - 2.0, &label, TEXT.small().middle().fill(MUTED));
    }
    let (x, y) = (axes.x - margin(&ticks(0.0, 100.0, 6)) + 6.0, axes.y + axes.h / 2.0 - 2.0);
    svg.text(x, y, "images", TEXT.middle().turned(-90.0));
}

/// Returns one slot per class, or ten slots of neighbours by number of images.
fn slots(classes: &Classes) -> Vec<Slot> {
    let n = classes.len();
    if n <= EACH {
        return (0..n).map(|k| Slot { name: classes.names[k].clone(), classes: vec![k] }).collect();
    }
    let mut order: Vec<usize> = (0..n).collect();
    // The sort is stable, so equal counts stay ordered by label.
    order.sort_by_key(|&k| std::cmp::Reverse(classes.counts[k]));
    let edge = |g: usize| g * n / GROUPS;
    (0..GROUPS)
        .map(|g| {
            let classes = order[edge(g)..edge(g + 1)].to_vec();
            Slot { name: format!("{}–{}", edge(g) + 1, edge(g + 1)), classes }
        })
        .collect()
}

/// Returns the bar of a slot: each run counts with its mean over those classes that have test images.
fn bar(slot: &Slot, runs: &[Vec<Option<f64>>]) -> Bar {
    let of = |run: &Vec<Option<f64>>| {
        let all: Vec<f64> = slot.classes.iter().filter_map(|&k| run[k]).collect();
        (!all.is_empty()).then(|| all.iter().sum::<f64>() / all.len() as f64)
    };
    let means: Vec<f64> = runs.iter().filter_map(of).collect();
    (!means.is_empty()).then(|| mean_std(&means))
}

/// Reads the accuracy of each class; `None` for a class without test images.
fn recalls(m: &Manifest, n: usize) -> Result<Vec<Option<f64>>, Error> {
    let found = list(m, "per_class", |v| if v.is_null() { Some(None) } else { v.as_f64().map(Some) });
    found
        .filter(|f| f.len() == n)
        .ok_or_else(|| foreign(m, "metrics.per_class does not have one number for each class"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::evaluation;
    use super::*;
    use crate::report::experiment::tests::experiment;

    #[test]
    fn classes_without_test_images_are_in_no_mean() {
        let slot = |classes: &[usize]| Slot { name: String::new(), classes: classes.to_vec() };
        let runs = [vec![Some(80.0), None, None], vec![Some(60.0), Some(40.0), None]];
        assert_eq!(bar(&slot(&[0, 1, 2]), &runs[..1]), Some((80.0, None)));
        assert_eq!(bar(&slot(&[0, 1, 2]), &runs[1..]), Some((50.0, None)));
        assert_eq!(bar(&slot(&[1]), &runs), Some((40.0, None)), "one run has images of the class");
        assert_eq!(bar(&slot(&[2]), &runs), None);
    }

    #[test]
    fn a_class_without_test_images_has_no_bar() {
        let bars = |recalls: Value| {
            let m = evaluation(json!({
                "class_names": ["a", "b", "c"], "cls_num_list": [9, 6, 3], "per_class": recalls,
            }));
            let svg = draw(&[&m], &[&experiment()], 237.6).expect("a figure");
            svg.matches(&format!("fill=\"{}\"", method(0).0)).count()
        };
        // The legend has a square of the same colour.
        assert_eq!(bars(json!([90.0, 0.0, 50.0])), 4);
        assert_eq!(bars(json!([90.0, null, 50.0])), 3);
    }
}
