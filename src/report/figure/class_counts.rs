//! Training images of each class. A single data set with few classes is drawn as labelled bars. Many classes
//! or several data sets are drawn as steps on a logarithmic scale, on which the exponential profile is a
//! straight line.

use std::collections::BTreeSet;

use super::axis::{Axes, Mark, labels, legend, margin, slanted, ticks, whole, widest};
use super::palette::method;
use super::svg::{GRID, INK, SMALL, Style, Svg, TEXT};
use super::text::{CAP, width};
use super::{Classes, Error, MOST, Manifest, NAMED, axis, foreign, path_of};
use crate::manifest::Input;
use crate::report::column::{Column, column_of};
use crate::report::experiment::images_of;
use crate::report::series::number_equals;

pub(super) fn draw(found: &[&Manifest], page: f64) -> Result<String, Error> {
    let mut sets = found.iter().map(|m| of_dataset(m)).collect::<Result<Vec<_>, _>>()?;
    sets.sort_by(in_order);
    sets.dedup_by(|a, b| in_order(a, b).is_eq());
    if sets.len() > MOST {
        let why = format!("shows at most {MOST} data sets, but {} were given", sets.len());
        return Err(Error::Inputs { kind: "class-counts", why });
    }
    Ok(draw_sets(&sets, page))
}

/// Draws the training sets of those evaluations that record their class counts, and the given data sets. Each
/// profile is drawn once, and each drawing shows one data set.
///
/// # Errors
/// Returns an error if a data set lacks its class counts.
pub(in crate::report) fn of_evaluations(
    evaluations: &[&Manifest],
    datasets: &[&Manifest],
    page: f64,
) -> Result<Vec<String>, Error> {
    let mut sets = datasets.iter().map(|m| of_dataset(m)).collect::<Result<Vec<_>, _>>()?;
    for m in evaluations {
        let trained = m.input("checkpoint").and_then(|c| c.inputs.iter().find(|i| i.role == "dataset"));
        let evaluated = m.input("dataset");
        // An evaluation's class counts are those of the data set it was evaluated on, which are the training
        // counts only if the two are the same data set.
        if let (Some(t), Some(e), Ok(classes)) = (trained, evaluated, Classes::of(&[m]))
            && t.key == e.key
        {
            // For features, use the data set of the images.
            let images = images_of(t);
            sets.push(Set { column: column_of(images).ok_or_else(|| foreign(m, LACKS))?, classes });
        }
    }
    sets.sort_by(in_order);
    sets.dedup_by(|a, b| in_order(a, b).is_eq());
    let same = |a: &Set, b: &Set| a.column.dataset == b.column.dataset;
    sets.chunk_by(same).flat_map(|of| of.chunks(MOST)).map(|sets| Ok(draw_sets(sets, page))).collect()
}

/// A training set.
struct Set {
    column: Column,
    classes: Classes,
}

const LACKS: &str = "params lack dataset, imb_type or imb_ratio";

fn in_order(a: &Set, b: &Set) -> std::cmp::Ordering {
    (&a.column, &a.classes.counts).cmp(&(&b.column, &b.classes.counts))
}

fn of_dataset(m: &Manifest) -> Result<Set, Error> {
    let of =
        Input { params: m.params.clone(), facts: m.facts(), ..Input::new("", path_of(m), String::new()) };
    let classes = Classes::of(&[m])?;
    Ok(Set { column: column_of(&of).ok_or_else(|| foreign(m, LACKS))?, classes })
}

fn label(Set { column, classes }: &Set) -> String {
    let total = classes.counts.iter().sum::<u64>() as f64;
    format!("{}, {}: {} images", column.title(), column.heading(), whole(total))
}

/// The title of the axis of the counts.
const COUNTS_TITLE: &str = "training images";

fn draw_sets(sets: &[Set], page: f64) -> String {
    let n = sets.iter().map(|s| s.classes.len()).max().unwrap_or(1);
    let most = sets.iter().flat_map(|s| &s.classes.counts).copied().max().unwrap_or(1).max(1) as f64;
    let mut title: Vec<String> = sets.iter().map(label).collect();
    number_equals(title.iter_mut().collect());

    let mut svg = Svg::new(page);
    let has_bars = sets.len() == 1 && n <= 12;
    let scale = if has_bars { ticks(0.0, most, 6) } else { decades(most) };
    let left = if has_bars {
        margin(&scale)
    } else {
        width(&whole(*scale.last().unwrap_or(&1.0)), SMALL, false).ceil() + 14.0
    };
    let entries: Vec<_> =
        title.iter().enumerate().map(|(i, t)| (Mark::Line(method(i).0, method(i).1), t.as_str())).collect();
    let mut top = 2.0;
    if sets.len() == 1 {
        top += 18.0 + axis::heading(&mut svg, left, 7.5, page - left, &title[0]);
    } else {
        top += legend(&mut svg, left, 0.0, page - left, &entries) + 5.0;
    }
    let ys = if has_bars { (0.0, most) } else { (0.0, most.log10().max(0.3)) };
    let axes = Axes { x: left, y: top, w: page - left - 7.0, h: 100.0, xs: (0.0, n as f64), ys };
    if has_bars {
        bars(&mut svg, &axes, &scale, &sets[0].classes.counts);
    } else {
        steps(&mut svg, &axes, &scale, sets);
    }
    let base = axes.y + axes.h;
    svg.line((axes.x, base), (axes.x + axes.w, base), INK, 0.5, "");
    let bottom = class_axis(&mut svg, &axes, sets);
    svg.finish(bottom + 4.0, &format!("Training images of each class: {}", title.join("; ")))
}

/// Draws a bar for each class of a data set, with its count above it.
fn bars(svg: &mut Svg, axes: &Axes, scale: &[f64], counts: &[u64]) {
    axes.left(svg, scale, COUNTS_TITLE);
    for (k, &count) in counts.iter().enumerate() {
        let (from, y) = axes.at(k as f64 + 0.1, count as f64);
        let (to, base) = axes.at(k as f64 + 0.9, 0.0);
        svg.rect(from, y, to - from, base - y, method(0).0);
        let style = Style { halo: true, ..TEXT.small().middle() };
        svg.text((from + to) / 2.0, y - 2.0, &whole(count as f64), style);
    }
}

/// Draws the counts of each data set as steps on a logarithmic scale.
fn steps(svg: &mut Svg, axes: &Axes, scale: &[f64], sets: &[Set]) {
    for &v in scale {
        let (x, y) = axes.at(0.0, v.log10());
        svg.line((x, y), (x + axes.w, y), GRID, 0.5, "");
        svg.text(x - 2.5, y + SMALL * CAP / 2.0, &whole(v), TEXT.small().end());
    }
    svg.text(6.0, axes.y + axes.h / 2.0, COUNTS_TITLE, TEXT.middle().turned(-90.0));
    for (i, Set { classes, .. }) in sets.iter().enumerate() {
        let edge = |(k, &count): (usize, &u64)| {
            let y = (count.max(1) as f64).log10();
            [axes.at(k as f64, y), axes.at(k as f64 + 1.0, y)]
        };
        let steps: Vec<_> = classes.counts.iter().enumerate().flat_map(edge).collect();
        svg.path(&steps, method(i).0, 1.2, method(i).1);
    }
}

/// Draws the names of the classes or, if they are too many or differ between the data sets, their indices,
/// and the title of the axis. Returns the baseline of the title.
fn class_axis(svg: &mut Svg, axes: &Axes, sets: &[Set]) -> f64 {
    let base = axes.y + axes.h;
    let names: BTreeSet<&Vec<String>> = sets.iter().map(|s| &s.classes.names).collect();
    let shown = names.first().filter(|all| names.len() == 1 && all.len() <= NAMED);
    let bottom = match shown {
        Some(all) => {
            let widest = widest(all.iter().map(String::as_str));
            let end = |k: usize| (axes.at(k as f64 + 0.5, 0.0).0 + 2.5, base + 6.0);
            let all: Vec<&str> = all.iter().map(String::as_str).collect();
            slanted(svg, &(0..all.len()).map(end).collect::<Vec<_>>(), &all);
            base + 0.72 * widest + 14.0
        }
        None => {
            let at = ticks(axes.xs.0, axes.xs.1, 6);
            for (v, label) in at.iter().zip(labels(&at)) {
                let (x, _) = axes.at(*v, 0.0);
                svg.text(x, base + 8.0, &label, TEXT.small().middle());
            }
            base + 17.0
        }
    };
    let title = if shown.is_some() { "class" } else { "class (index)" };
    svg.text(axes.x + axes.w / 2.0, bottom, title, TEXT.middle());
    bottom
}

/// Returns 1, 10, … and the largest count, unless it is too close to the power of ten below it.
fn decades(most: f64) -> Vec<f64> {
    let mut all: Vec<f64> = (0..=most.log10().floor() as i32).map(|p| 10f64.powi(p)).collect();
    if all.last().is_some_and(|last| most > 2.0 * last) {
        all.push(most);
    }
    all
}
