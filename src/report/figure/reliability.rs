//! Reliability diagram (Guo et al., arXiv 1706.04599): accuracy by confidence, and the share of the images at
//! each confidence. The runs of a method are pooled.

use serde_json::Value;

use super::axis::{Axes, Mark, legend, margin, ticks};
use super::palette::method;
use super::svg::{MUTED, Svg, TEXT};
use super::{Error, Manifest, foreign, list, methods, path_of};
use crate::report::experiment::Experiment;
use crate::report::series::mean_std;

/// Sums over the images of a bin.
#[derive(Clone, Copy, Default)]
struct Bin {
    images: f64,
    confidence: f64,
    right: f64,
}

pub(super) fn draw(found: &[&Manifest], of: &[&Experiment], page: f64) -> Result<String, Error> {
    let groups = methods(of, "reliability")?;
    let (mut names, mut all) = (Vec::new(), Vec::new());
    for g in &groups {
        let (sum, eces) = pooled(&g.members.iter().map(|&i| found[i]).collect::<Vec<_>>())?;
        names.push(match mean_std(&eces) {
            (mean, Some(std)) => format!("{} (ECE {mean:.3} ± {std:.3})", g.label),
            (mean, None) => format!("{} (ECE {mean:.3})", g.label),
        });
        all.push(sum);
    }

    let ys = ticks(0.0, 1.0, 6);
    let left = margin(&ys);
    let mut svg = Svg::new(page);
    let entries: Vec<_> = names
        .iter()
        .enumerate()
        .map(|(n, name)| (Mark::Line(method(n).0, method(n).1), name.as_str()))
        .collect();
    let y = 6.0 + legend(&mut svg, left, 0.0, page - left, &entries);
    let axes = Axes { x: left, y, w: page - left - 6.0, h: 128.0, xs: (0.0, 1.0), ys: (0.0, 1.0) };
    axes.left(&mut svg, &ys, "accuracy");
    svg.line(axes.at(0.0, 0.0), axes.at(1.0, 1.0), MUTED, 0.6, "2 1.5");
    for (n, bins) in all.iter().enumerate() {
        let (colour, dash) = method(n);
        let total: f64 = bins.iter().map(|b| b.images).sum();
        let filled = bins.iter().filter(|b| b.images > 0.0);
        let points: Vec<_> = filled
            .map(|b| (axes.at(b.confidence / b.images, b.right / b.images), b.images / total))
            .collect();
        svg.path(&points.iter().map(|p| p.0).collect::<Vec<_>>(), colour, 1.1, dash);
        for ((x, y), share) in points {
            // The area of a dot grows with the number of images behind it.
            svg.dot(x, y, 0.9 + 3.0 * share.sqrt(), colour);
        }
    }
    let most = all.iter().flat_map(|bins| {
        let total: f64 = bins.iter().map(|b| b.images).sum();
        bins.iter().map(move |b| 100.0 * b.images / total)
    });
    let most = most.fold(1.0, f64::max);
    let below = Axes { y: y + axes.h + 9.0, h: 30.0, ys: (0.0, most), ..axes };
    below.left(&mut svg, &ticks(0.0, most, 3), "");
    svg.text(6.0, below.y + below.h / 2.0, "images (%)", TEXT.middle().turned(-90.0));
    for (n, bins) in all.iter().enumerate() {
        let total: f64 = bins.iter().map(|b| b.images).sum();
        let edge = |b: usize| b as f64 / bins.len() as f64;
        let mut steps = vec![below.at(0.0, 0.0)];
        for (b, bin) in bins.iter().enumerate() {
            let v = 100.0 * bin.images / total;
            steps.extend([below.at(edge(b), v), below.at(edge(b + 1), v)]);
        }
        steps.push(below.at(1.0, 0.0));
        svg.path(&steps, method(n).0, 1.0, method(n).1);
    }
    below.bottom(&mut svg, &ys, "confidence");
    let height = below.y + below.h + 21.0;
    Ok(svg.finish(height, &format!("Reliability diagram: {}", names.join(", "))))
}

/// Adds up the bins of a method's runs, and returns the calibration error of each run.
fn pooled(runs: &[&Manifest]) -> Result<(Vec<Bin>, Vec<f64>), Error> {
    let (mut sum, mut eces) = (Vec::new(), Vec::new());
    for (n, m) in runs.iter().enumerate() {
        let (bins, ece) = read(m)?;
        if n == 0 {
            sum = vec![Bin::default(); bins.len()];
        }
        if bins.len() != sum.len() {
            let first = path_of(runs[0]);
            let (own, others) = (bins.len(), sum.len());
            let why =
                format!("metrics.reliability has {own} bins, but that of {} has {others}", first.display());
            return Err(foreign(m, &why));
        }
        for (s, b) in sum.iter_mut().zip(bins) {
            *s = Bin {
                images: s.images + b.images,
                confidence: s.confidence + b.confidence,
                right: s.right + b.right,
            };
        }
        eces.push(ece);
    }
    Ok((sum, eces))
}

fn read(m: &Manifest) -> Result<(Vec<Bin>, f64), Error> {
    let bin = |v: &Value| {
        let number = |name| v.get(name).and_then(Value::as_f64);
        let images = number("images")?;
        let (confidence, accuracy) = (number("confidence").unwrap_or(0.0), number("accuracy").unwrap_or(0.0));
        Some(Bin { images, confidence: confidence * images, right: accuracy * images })
    };
    let bins = list(m, "reliability", bin).filter(|b| b.iter().any(|b| b.images > 0.0));
    let bins =
        bins.ok_or_else(|| foreign(m, "metrics.reliability is missing (older versions did not write it)"))?;
    let ece =
        m.metrics.get("ece").and_then(Value::as_f64).ok_or_else(|| foreign(m, "metrics.ece is missing"))?;
    Ok((bins, ece))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::evaluation;
    use super::*;

    #[test]
    fn runs_with_different_bins_are_not_pooled() {
        let run = |bins: usize| {
            let bin = json!({"images": 2, "confidence": 0.75, "accuracy": 0.5});
            evaluation(json!({"reliability": vec![bin; bins], "ece": 0.25}))
        };
        let (two, three) = (run(2), run(3));
        let (sum, eces) = pooled(&[&two, &two]).expect("they have the same bins");
        let sums: Vec<_> = sum.iter().map(|b| [b.images, b.confidence, b.right]).collect();
        assert_eq!((sums, eces), (vec![[4.0, 3.0, 2.0]; 2], vec![0.25; 2]));
        for runs in [[&two, &three], [&three, &two]] {
            let e = pooled(&runs).err().expect("they have different bins").to_string();
            assert!(e.contains(" bins, but that of ") && e.ends_with("; make it again with eval"), "{e}");
        }
    }
}
