//! The figure of the reproduction report: the images in each model's feature space, coloured once by true
//! class and once by prediction.
//!
//! A model is a column of two panels that share one projection; a single model has them side by side. The
//! points of a panel are drawn in eight rounds with one path per class each, so that 40,000 points stay under
//! a megabyte and no class covers all others. A number marks where each class is densest.

use std::fmt::Write;

use safetensors::{Dtype, SafeTensors};

use super::axis::{HEADING, Mark, legend};
use super::palette::{MAX_CLASSES, class, viridis};
use super::svg::{INK, SIZE, Style, Svg, TEXT, num};
use super::text::{fit, wrap};
use super::{Error, Manifest, foreign, list, path_of};
use crate::report::experiment::Experiment;
use crate::report::series::{apart, series};

/// The most models side by side.
const MOST: usize = 4;

/// Units of a panel's coordinates per point (1/72 inch).
const UNITS: f64 = 10.0;

/// Rounds of drawing, each with every eighth point.
const ROUNDS: usize = 8;

struct Model {
    title: String,
    /// In the unit square, with y pointing up.
    points: Vec<(f64, f64)>,
    labels: Vec<usize>,
    predictions: Vec<usize>,
}

impl Model {
    fn percent_correct(&self) -> f64 {
        let right = self.labels.iter().zip(&self.predictions).filter(|(label, found)| label == found).count();
        100.0 * right as f64 / self.labels.len() as f64
    }
}

pub(super) fn draw(found: &[&Manifest], of: &[&Experiment], width: f64) -> Result<String, Error> {
    let names = class_names(found)?;
    let groups = series(of);
    let n: usize = groups.iter().map(|g| g.members.len()).sum();
    if n > MOST {
        let why =
            format!("shows at most {MOST} embeddings, such as those of mixup and remix, but {n} were given");
        return Err(Error::Inputs { kind: "tsne", why });
    }
    let mut models = Vec::new();
    for group in groups {
        let runs: Vec<&Experiment> = group.members.iter().map(|&i| of[i]).collect();
        for (&i, run) in group.members.iter().zip(apart(&runs)) {
            let run = if run.is_empty() { run } else { format!(", {run}") };
            models.push(read(found[i], format!("{}{run}", group.label), names.len())?);
        }
    }
    let axis = axis_name(found[0]);

    let mut svg = Svg::new(width);
    let (left, gap) = (9.0, 4.0);
    let single = models.len() == 1;
    let (columns, rows) = if single { (2, 1) } else { (models.len(), 2) };
    let side = (width - 0.5 - left - gap * (columns - 1) as f64) / columns as f64;
    // The last part of the title tells a panel from the one below it, so a long title is wrapped rather than
    // cut.
    let title = |m: usize, n: usize| {
        let letter = char::from(b'a' + (if single { n } else { n * columns + m }) as u8);
        let by = ["true class", "predicted"][n];
        let mut lines = wrap(&format!("({letter}) {}, {by}", models[m].title), SIZE, true, side);
        lines.extend((n == 1).then(|| format!("{:.1} % correct", models[m].percent_correct())));
        lines
    };
    let lines = (0..models.len()).flat_map(|m| [title(m, 0).len(), title(m, 1).len()]).max().unwrap_or(1);
    let head = 11.0 + HEADING * (lines - 1) as f64;
    let bottom = rows as f64 * (head + side + 4.0) - 4.0;
    for (m, model) in models.iter().enumerate() {
        for (n, classes) in [&model.labels, &model.predictions].into_iter().enumerate() {
            let (c, r) = if single { (n, 0) } else { (m, n) };
            let (x, y) = (left + (side + gap) * c as f64, head + (side + head + 4.0) * r as f64);
            let lines = title(m, n);
            for (l, line) in lines.iter().enumerate() {
                svg.text(x, y - 3.0 - HEADING * (lines.len() - 1 - l) as f64, line, TEXT.bold());
            }
            svg.frame(x, y, side, side);
            panel(&mut svg, (x, y, side), &model.points, classes, names.len());
            if c == 0 {
                svg.text(6.0, y + side / 2.0, &format!("{axis} 2"), TEXT.small().middle().turned(-90.0));
            }
            if r + 1 == rows {
                svg.text(x + side / 2.0, bottom + 7.5, &format!("{axis} 1"), TEXT.small().middle());
            }
        }
    }
    let below = bottom + 11.0;
    let height = below + key(&mut svg, below, width, &names);
    let all: Vec<_> = models.iter().map(|m| m.title.as_str()).collect();
    Ok(svg.finish(height + 2.0, &format!("{axis} of the features of {}", all.join(" and "))))
}

/// Draws the names of the classes beside their colours.
fn key(svg: &mut Svg, y: f64, width: f64, names: &[String]) -> f64 {
    let n = names.len();
    if n <= MAX_CLASSES {
        let colours: Vec<String> = (0..n).map(|k| class(k, n)).collect();
        let entries: Vec<_> = names
            .iter()
            .enumerate()
            .map(|(k, name)| (Mark::Numbered(&colours[k], k), name.as_str()))
            .collect();
        return legend(svg, 4.0, y, width - 8.0, &entries);
    }
    let bar = (width * 0.5, width * 0.25);
    for step in 0..64 {
        let t = f64::from(step) / 63.0;
        svg.rect(bar.1 + bar.0 * f64::from(step) / 64.0, y + 2.0, bar.0 / 64.0 + 0.2, 5.0, &viridis(t));
    }
    let end = |k: usize| fit(&format!("{k} {}", names[k]), bar.1 - 6.0);
    svg.text(bar.1 - 3.0, y + 7.0, &end(0), TEXT.small().end());
    svg.text(bar.1 + bar.0 + 3.0, y + 7.0, &end(n - 1), TEXT.small());
    10.0
}

fn panel(svg: &mut Svg, (x, y, side): (f64, f64, f64), points: &[(f64, f64)], classes: &[usize], n: usize) {
    let pad = 3.0;
    let inner = side - 2.0 * pad;
    // Dots cover about a fifth of the panel, however many there are.
    let dot = (0.62 * side / (points.len() as f64).sqrt()).clamp(0.6, 2.5);
    let position = |&(px, py): &(f64, f64)| {
        let to = |v: f64| ((pad + inner * v) * UNITS).round() as i64;
        (to(px), to(1.0 - py))
    };
    svg.raw(format_args!(
        "<g transform=\"translate({} {}) scale({})\" fill=\"none\" stroke-linecap=\"round\" stroke-width=\"{}\">",
        num(x),
        num(y),
        num(1.0 / UNITS),
        num(dot * UNITS)
    ));
    for round in 0..ROUNDS {
        let mut order: Vec<usize> = (round..points.len()).step_by(ROUNDS).collect();
        // The sort is stable, so the points of a class keep their order.
        order.sort_by_key(|&i| classes[i]);
        for same in order.chunk_by(|&a, &b| classes[a] == classes[b]) {
            let mut d = String::new();
            let mut last = (0, 0);
            for &i in same {
                let (px, py) = position(&points[i]);
                let (dx, dy) = (px - last.0, py - last.1);
                // A line of zero length with round ends is a disc.
                let comma = if dy < 0 { "" } else { " " };
                write!(d, "m{dx}{comma}{dy}h0").expect("a string takes everything");
                last = (px, py);
            }
            svg.raw(format_args!("<path d=\"{d}\" stroke=\"{}\"/>", class(classes[same[0]], n)));
        }
    }
    svg.raw(format_args!("</g>"));
    if n <= MAX_CLASSES {
        let style = Style { halo: true, fill: INK, ..TEXT.bold().middle() };
        for (k, (px, py)) in centres(points, classes, n, 9.0 / inner) {
            svg.text(x + pad + inner * px, y + pad + inner * (1.0 - py) + 2.5, &k.to_string(), style);
        }
    }
}

/// Finds where each class is densest, in the unit square: the fullest of 20 × 20 cells, counting its
/// neighbours. Positions closer than `apart` are pushed apart.
fn centres(points: &[(f64, f64)], classes: &[usize], n: usize, apart: f64) -> Vec<(usize, (f64, f64))> {
    const CELLS: usize = 20;
    let cell = |v: f64| ((v * CELLS as f64) as usize).min(CELLS - 1);
    let mut found = Vec::new();
    for k in 0..n {
        let mut counts = [[0u32; CELLS + 2]; CELLS + 2];
        for (p, _) in points.iter().zip(classes).filter(|(_, c)| **c == k) {
            counts[cell(p.0) + 1][cell(p.1) + 1] += 1;
        }
        let around = |i: usize, j: usize| -> u32 {
            (i - 1..=i + 1)
                .flat_map(|a| (j - 1..=j + 1).map(move |b| (a, b)))
                .map(|(a, b)| counts[a][b])
                .sum()
        };
        let cells = (1..=CELLS).flat_map(|i| (1..=CELLS).map(move |j| (i, j)));
        // On a tie, the first cell wins.
        let best = cells.fold(
            (0, (0, 0)),
            |best, (i, j)| if around(i, j) > best.0 { (around(i, j), (i, j)) } else { best },
        );
        if best.0 > 0 {
            let (i, j) = best.1;
            let near: Vec<_> = points
                .iter()
                .zip(classes)
                .filter(|(p, c)| **c == k && cell(p.0).abs_diff(i - 1) < 2 && cell(p.1).abs_diff(j - 1) < 2)
                .map(|(p, _)| *p)
                .collect();
            let sum = near.iter().fold((0.0, 0.0), |s, p| (s.0 + p.0, s.1 + p.1));
            found.push((k, (sum.0 / near.len() as f64, sum.1 / near.len() as f64)));
        }
    }
    for _ in 0..60 {
        for a in 0..found.len() {
            for b in 0..a {
                let (p, q): ((f64, f64), (f64, f64)) = (found[a].1, found[b].1);
                let (dx, dy) = (p.0 - q.0, p.1 - q.1);
                let far = dx.hypot(dy).max(1e-6);
                if far < apart {
                    let push = (apart - far) / 2.0 / far;
                    // Coinciding positions are moved apart vertically.
                    let (dx, dy) = if far > 1e-5 { (dx, dy) } else { (0.0, far) };
                    let moved = |p: (f64, f64), s: f64| {
                        ((p.0 + s * dx * push).clamp(0.02, 0.98), (p.1 + s * dy * push).clamp(0.02, 0.98))
                    };
                    (found[a].1, found[b].1) = (moved(p, 1.0), moved(q, -1.0));
                }
            }
        }
    }
    found
}

fn class_names(found: &[&Manifest]) -> Result<Vec<String>, Error> {
    let mut all: Option<Vec<String>> = None;
    for m in found {
        let names = list(m, "class_names", |v| v.as_str().map(str::to_owned)).filter(|n| n.len() > 1);
        let names =
            names.ok_or_else(|| foreign(m, "metrics.class_names does not name at least two classes"))?;
        if all.get_or_insert_with(|| names.clone()) != &names {
            let why =
                "its classes differ from those of the embeddings before it; draw one data set per figure"
                    .into();
            return Err(Error::Unfit { path: path_of(m), why });
        }
    }
    all.ok_or_else(|| Error::Inputs { kind: "tsne", why: "nothing to draw".into() })
}

/// Returns the name of the projection.
fn axis_name(m: &Manifest) -> &'static str {
    let method = m.params.get("project").and_then(|p| p["method"].as_str());
    if method == Some("pca") { "PCA" } else { "t-SNE" }
}

/// Reads the projection, scaled to the unit square with its aspect ratio kept, and the classes.
fn read(m: &Manifest, title: String, classes: usize) -> Result<Model, Error> {
    let bad = |why: String| Error::Unfit { path: path_of(m), why };
    let unprojected = || bad("has no projection; make one with embed --project tsne".into());
    // With --splits, embed writes a file for each split, and projects none of them.
    if m.outputs_of("features").next().is_none() {
        return Err(unprojected());
    }
    let path = m.checked("features")?.swap_remove(0);
    let bytes = std::fs::read(&path).map_err(crate::manifest::Error::io(&path))?;
    let file = SafeTensors::deserialize(&bytes).map_err(|e| {
        bad(format!("{} is not a safetensors file ({e}); make it again with embed", path.display()))
    })?;
    let Ok(projection) = file.tensor("projection") else {
        return Err(unprojected());
    };
    let n = projection.shape().first().copied().unwrap_or(0);
    if projection.dtype() != Dtype::F32 || projection.shape() != [n, 2] || n == 0 {
        return Err(bad(format!(
            "projection is {:?} {:?}, not F32 (N, 2); make it again with embed",
            projection.dtype(),
            projection.shape()
        )));
    }
    let values = projection.data().as_chunks().0;
    let flat: Vec<f64> = values.iter().map(|word| f64::from(f32::from_le_bytes(*word))).collect();
    if let Some(i) = flat.iter().position(|v| !v.is_finite()) {
        return Err(bad(format!("projection of image {} is not finite; make it again with embed", i / 2)));
    }
    let class = |name: &str| -> Result<Vec<usize>, Error> {
        let t = file.tensor(name).ok().filter(|t| t.dtype() == Dtype::I64 && t.shape() == [n]);
        let t = t.ok_or_else(|| bad(format!("{name} is not I64 ({n}); make it again with embed")))?;
        let index = |word: &[u8; 8]| usize::try_from(i64::from_le_bytes(*word)).ok().filter(|&k| k < classes);
        t.data().as_chunks().0.iter().map(index).collect::<Option<_>>().ok_or_else(|| {
            bad(format!("{name} contains a value that is not a class; make it again with embed"))
        })
    };
    Ok(Model { title, points: unit(&flat), labels: class("labels")?, predictions: class("predictions")? })
}

/// Scales points into the unit square, centred, with their aspect ratio kept.
fn unit(flat: &[f64]) -> Vec<(f64, f64)> {
    let range = |offset: usize| {
        let values = flat.iter().skip(offset).step_by(2);
        values.fold((f64::INFINITY, f64::NEG_INFINITY), |(lo, hi), v| (lo.min(*v), hi.max(*v)))
    };
    let (xs, ys) = (range(0), range(1));
    let size = (xs.1 - xs.0).max(ys.1 - ys.0).max(f64::MIN_POSITIVE);
    let to = |v: f64, (lo, hi): (f64, f64)| 0.5 + (v - (lo + hi) / 2.0) / size;
    flat.chunks_exact(2).map(|p| (to(p[0], xs), to(p[1], ys))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_fill_the_square_and_keep_their_aspect() {
        let found = unit(&[0.0, 0.0, 4.0, 2.0, 2.0, 1.0]);
        assert_eq!(found, [(0.0, 0.25), (1.0, 0.75), (0.5, 0.5)]);
        assert_eq!(unit(&[3.0, 3.0]), [(0.5, 0.5)]);
    }

    #[test]
    fn numbers_are_in_their_clusters_and_do_not_overlap() {
        let points: Vec<_> = (0..100).map(|i| (0.2 + 0.001 * f64::from(i % 10), 0.7)).collect();
        let classes: Vec<_> = (0..100).map(|i| i % 2).collect();
        let found = centres(&points, &classes, 3, 0.1);
        assert_eq!(found.iter().map(|f| f.0).collect::<Vec<_>>(), [0, 1], "the third class has no points");
        let ((ax, ay), (bx, by)) = (found[0].1, found[1].1);
        assert!((ax - bx).hypot(ay - by) > 0.09, "{found:?}");
        assert!(found.iter().all(|(_, p)| (p.0 - 0.2).abs() < 0.1 && (p.1 - 0.7).abs() < 0.1), "{found:?}");
    }
}
