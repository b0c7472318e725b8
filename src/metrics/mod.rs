//! The metrics of a classifier, computed from its logits on a labelled split.
//!
//! These are pure functions: no files, no networks. Accuracies (top-1, top-5, per class, many/medium/few) are
//! in **percent**, as papers print them; macro-F1 and ECE are fractions in 0–1, as defined by scikit-learn
//! and Guo et al.; NLL is in nats.

mod calibration;
mod confusion;

use calibration::Calibration;
use serde::{Deserialize, Serialize};

pub use calibration::{Bin, ECE_BINS};
pub use confusion::{Cell, Confusion, FEW, MANY};

/// All metrics that `eval` reports for a split.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// Images in the split.
    pub images: usize,
    /// Percent of images whose label has the largest logit.
    pub top1: f64,
    /// Percent of images whose label is among the five largest logits (among all of them if there are fewer
    /// classes).
    pub top5: f64,
    /// Recall of each class, percent; `None` for a class without images in the split.
    pub per_class: Vec<Option<f64>>,
    /// Mean recall, percent, of the classes with more than [`MANY`] training images; `None` if there are
    /// none.
    pub many: Option<f64>,
    /// Mean recall, percent, of the classes with [`FEW`] to [`MANY`] training images; `None` if there are
    /// none.
    pub medium: Option<f64>,
    /// Mean recall, percent, of the classes with fewer than [`FEW`] training images; `None` if there are
    /// none.
    pub few: Option<f64>,
    /// Mean of the classes' recalls, percent; equals scikit-learn's `balanced_accuracy_score`.
    pub balanced_accuracy: f64,
    /// The smallest recall of a class, percent.
    pub worst_class: f64,
    /// Harmonic mean of the classes' recalls, percent; 0 if any class has recall 0.
    pub harmonic_mean: f64,
    /// Geometric mean of the classes' recalls, percent; 0 if any class has recall 0.
    pub geometric_mean: f64,
    /// Unweighted mean of the classes' F1, 0–1; equals scikit-learn's
    /// `f1_score(average="macro", zero_division=0)`.
    pub macro_f1: f64,
    /// Mean negative log-likelihood of the labels, nats.
    pub nll: f64,
    /// Expected calibration error, 0–1, over [`ECE_BINS`] equal-width bins of confidence.
    pub ece: f64,
    /// These bins, from the lowest to the highest confidence, as shown in a reliability diagram.
    pub reliability: Vec<Bin>,
    /// Counts by true and predicted class. They are not serialised with the numbers, because their format
    /// depends on the number of classes.
    #[serde(skip)]
    pub confusion: Confusion,
}

/// The reasons why logits cannot be evaluated.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum Error {
    /// There are no images or no classes.
    #[error("there is nothing to evaluate: {images} images, {classes} classes")]
    Empty {
        /// Number of labels.
        images: usize,
        /// Length of `cls_num_list`.
        classes: usize,
    },
    /// The logits are not an (images, classes) matrix.
    #[error("{found} logits for {images} images of {classes} classes")]
    Shape {
        /// Number of logits.
        found: usize,
        /// Number of labels.
        images: usize,
        /// Number of classes.
        classes: usize,
    },
    /// A logit is NaN or infinite.
    #[error(
        "image {image} has a logit of {value} for class {class} because the training diverged; use another \
         checkpoint"
    )]
    NotFinite {
        /// Row.
        image: usize,
        /// Column.
        class: usize,
        /// The value: NaN, inf or -inf.
        value: f32,
    },
    /// A label is not one of the classes.
    #[error(
        "image {image} has label {label}, but there are {classes} classes; the weights are not for this data \
         set"
    )]
    Label {
        /// Row.
        image: usize,
        /// The label.
        label: u32,
        /// Number of classes.
        classes: usize,
    },
}

/// Computes the metrics of logits (N, C), row-major, from labels (N) and the number of training images of
/// each class (C).
///
/// # Errors
/// Returns an error if sizes do not match, if a label is not a class, or if a logit is not finite.
pub fn evaluate(logits: &[f32], labels: &[u32], cls_num_list: &[usize]) -> Result<Metrics, Error> {
    let classes = cls_num_list.len();
    let predicted = predictions(logits, labels.len(), classes)?;
    for (image, &label) in labels.iter().enumerate() {
        if label as usize >= classes {
            return Err(Error::Label { image, label, classes });
        }
    }
    let confusion = Confusion::count(labels, &predicted, classes);
    let per_class = confusion::recalls(&confusion);
    let [many, medium, few] = confusion::shots(&per_class, cls_num_list);
    let balanced_accuracy = confusion::balanced_accuracy(&per_class);
    let [worst_class, harmonic_mean, geometric_mean] = confusion::low_means(&per_class);
    let Calibration { nll, ece, bins } = calibration::calibration(logits, labels, &predicted, classes);
    let hits = |k| {
        let rows = logits.chunks_exact(classes).zip(labels);
        rows.filter(|(row, label)| rank(row, **label as usize) < k).count()
    };
    let percent = |n: usize| 100.0 * n as f64 / labels.len() as f64;
    Ok(Metrics {
        images: labels.len(),
        top1: percent(hits(1)),
        top5: percent(hits(5)),
        per_class,
        many,
        medium,
        few,
        balanced_accuracy,
        worst_class,
        harmonic_mean,
        geometric_mean,
        macro_f1: confusion::macro_f1(&confusion),
        nll,
        ece,
        reliability: bins,
        confusion,
    })
}

/// Returns the percentage of images whose label has the largest logit, from logits (N, C), row-major, and labels
/// (N).
pub fn top1(logits: &[f32], labels: &[u32], classes: usize) -> f64 {
    let rows = logits.chunks_exact(classes).zip(labels);
    let right = rows.filter(|(z, label)| argmax(z) == **label as usize).count();
    100.0 * right as f64 / labels.len() as f64
}

/// Returns the class of each row's largest logit; the lowest class wins ties, as with numpy's and PyTorch's
/// `argmax`.
///
/// # Errors
/// Returns an error if the logits are not an (images, classes) matrix or are not finite.
pub fn predictions(logits: &[f32], images: usize, classes: usize) -> Result<Vec<usize>, Error> {
    if images == 0 || classes == 0 {
        return Err(Error::Empty { images, classes });
    }
    if logits.len() != images * classes {
        return Err(Error::Shape { found: logits.len(), images, classes });
    }
    if let Some(at) = logits.iter().position(|v| !v.is_finite()) {
        return Err(Error::NotFinite { image: at / classes, class: at % classes, value: logits[at] });
    }
    Ok(logits.chunks_exact(classes).map(argmax).collect())
}

/// A wrong prediction.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mistake {
    /// Row of the image.
    pub row: usize,
    /// The true class.
    pub label: usize,
    /// The predicted class.
    pub prediction: usize,
    /// Probability of the predicted class.
    pub probability: f64,
}

/// Returns at most `most` wrong predictions, those of the highest probability first; ties are ordered by row.
/// The input must be valid for [`evaluate`].
pub fn mistakes(logits: &[f32], labels: &[u32], classes: usize, most: usize) -> Vec<Mistake> {
    let rows = logits.chunks_exact(classes).zip(labels).enumerate();
    let wrong = rows.filter_map(|(row, (logits, &label))| {
        let (label, prediction) = (label as usize, argmax(logits));
        let probability = || softmax(logits)[prediction];
        (label != prediction).then(|| Mistake { row, label, prediction, probability: probability() })
    });
    let mut all: Vec<Mistake> = wrong.collect();
    all.sort_by(|a, b| b.probability.total_cmp(&a.probability).then(a.row.cmp(&b.row)));
    all.truncate(most);
    all
}

/// Returns the probabilities of logits, in f64.
pub fn softmax(logits: &[f32]) -> Vec<f64> {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let shares: Vec<f64> = logits.iter().map(|z| (f64::from(*z) - f64::from(most)).exp()).collect();
    let total: f64 = shares.iter().sum();
    shares.into_iter().map(|share| share / total).collect()
}

/// Returns how many classes precede `label` if logits are sorted in descending order, ties by class.
fn rank(row: &[f32], label: usize) -> usize {
    let own = row[label];
    row.iter().enumerate().filter(|&(k, &v)| v > own || (v == own && k < label)).count()
}

/// Returns the first index of the largest value.
pub fn argmax(values: &[f32]) -> usize {
    let mut best = 0;
    for (i, v) in values.iter().enumerate() {
        if *v > values[best] {
            best = i;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn most_confident_mistakes_come_first() {
        let logits = [0.0, 2.0, 5.0, 0.0, 0.0, 1.0, 0.0, 2.0];
        let found = mistakes(&logits, &[0, 0, 0, 0], 2, 2);
        // 1/(1 + e⁻²) twice, and 1/(1 + e⁻¹).
        let rows: Vec<(usize, usize)> = found.iter().map(|m| (m.row, m.prediction)).collect();
        assert_eq!(rows, [(0, 1), (3, 1)]);
        assert!((found[0].probability - 0.880_797_077_977_882_4).abs() < 1e-12);
        assert_eq!(mistakes(&logits, &[1, 0, 1, 1], 2, 50), []);
    }

    #[test]
    fn equal_logits_go_to_the_lowest_class() {
        // numpy: np.argmax([1, 3, 3, 0]) == 1
        assert_eq!(argmax(&[1.0, 3.0, 3.0, 0.0]), 1);
        assert_eq!([0, 1, 2, 3].map(|l| rank(&[1.0, 3.0, 3.0, 0.0], l)), [2, 0, 1, 3]);
    }

    #[test]
    fn metrics_match_an_example_by_hand() {
        // Labels 0, 0, 1, 2; predictions 0, 1, 1, 0.
        let logits = [2.0, 0.0, 0.0, 0.0, 2.0, 0.0, 0.0, 2.0, 0.0, 2.0, 0.0, 0.0];
        let m = evaluate(&logits, &[0, 0, 1, 2], &[101, 20, 19]).expect("metrics");
        assert_eq!((m.top1, m.top5), (50.0, 100.0));
        assert_eq!(top1(&logits, &[0, 0, 1, 2], 3), 50.0);
        assert_eq!(m.per_class, [Some(50.0), Some(100.0), Some(0.0)]);
        assert_eq!([m.many, m.medium, m.few], [Some(50.0), Some(100.0), Some(0.0)]);
        assert_eq!(m.confusion.matrix(), [[1, 1, 0], [0, 1, 0], [1, 0, 0]]);
        // F1: 2·1/(2+2) = 1/2, 2·1/(2+1) = 2/3, 0.
        assert!((m.macro_f1 - (0.5 + 2.0 / 3.0) / 3.0).abs() < 1e-15, "{}", m.macro_f1);
        // Two labels have logit 2 and two zeros next to them, two have a zero next to a 2.
        let sum = 2f64.exp() + 2.0;
        assert!((m.nll - (sum.ln() - 1.0)).abs() < 1e-15, "{}", m.nll);
        // All confidences are e²/(e²+2) = 0.787, in one bin; half of the images are right.
        let bin = &m.reliability[11];
        assert_eq!((bin.images, bin.accuracy), (4, Some(0.5)));
        assert!((m.ece - (2f64.exp() / sum - 0.5)).abs() < 1e-15, "{}", m.ece);
    }

    /// The fixture that `scripts/pytorch/fixture_metrics.py` computed; accuracies are fractions there.
    #[derive(Deserialize)]
    struct Truth {
        logits: Vec<Vec<f32>>,
        labels: Vec<u32>,
        top1: f64,
        top5: f64,
        per_class: Vec<Option<f64>>,
        macro_f1: f64,
        nll: f64,
        ece: f64,
        confusion: Vec<Vec<u64>>,
        shots: Vec<Shots>,
    }

    /// The means over the many-, medium- and few-shot classes of a list of class sizes.
    #[derive(Deserialize)]
    struct Shots {
        cls_num_list: Vec<usize>,
        many: Option<f64>,
        medium: Option<f64>,
        few: Option<f64>,
    }

    #[test]
    fn metrics_match_scikit_learn() {
        let text = include_str!("../../tests/fixtures/metrics.json");
        let truth: Truth = serde_json::from_str(text).expect("JSON");
        let (logits, labels) = (truth.logits.concat(), truth.labels);
        assert_eq!((logits.len(), labels.len()), (2000, 200));
        let close =
            |name: &str, found: Option<f64>, expected: Option<f64>, scale: f64| match (found, expected) {
                (None, None) => {}
                (Some(f), Some(e)) => assert!((f - scale * e).abs() < 1e-9, "{name}: {f}, not {}", scale * e),
                other => panic!("{name}: {other:?}"),
            };
        assert_eq!(truth.shots.len(), 4);
        for shot in &truth.shots {
            let m = evaluate(&logits, &labels, &shot.cls_num_list).expect("metrics");
            close("many", m.many, shot.many, 100.0);
            close("medium", m.medium, shot.medium, 100.0);
            close("few", m.few, shot.few, 100.0);
            close("top1", Some(m.top1), Some(truth.top1), 100.0);
            close("top5", Some(m.top5), Some(truth.top5), 100.0);
            close("macro_f1", Some(m.macro_f1), Some(truth.macro_f1), 1.0);
            close("nll", Some(m.nll), Some(truth.nll), 1.0);
            close("ece", Some(m.ece), Some(truth.ece), 1.0);
            assert_eq!(m.per_class.len(), truth.per_class.len());
            for (found, expected) in m.per_class.iter().zip(&truth.per_class) {
                close("per_class", *found, *expected, 100.0);
            }
            assert_eq!(m.confusion.matrix(), truth.confusion);
        }
    }

    #[test]
    fn groups_without_classes_and_classes_without_images_are_null() {
        let m = evaluate(&[1.0, 0.0], &[0], &[100, 21]).expect("metrics");
        assert_eq!(m.per_class, [Some(100.0), None]);
        assert_eq!([m.many, m.medium, m.few], [None, Some(100.0), None]);
    }

    #[test]
    fn bad_logits_are_errors() {
        let of = |logits: &[f32], labels: &[u32]| evaluate(logits, labels, &[1, 1]).expect_err("bad");
        assert_eq!(of(&[], &[]), Error::Empty { images: 0, classes: 2 });
        assert_eq!(of(&[1.0], &[0]), Error::Shape { found: 1, images: 1, classes: 2 });
        assert_eq!(of(&[1.0, 0.0], &[2]), Error::Label { image: 0, label: 2, classes: 2 });
        let nan = of(&[1.0, 0.0, 0.0, f32::NAN], &[0, 0]);
        assert!(matches!(nan, Error::NotFinite { image: 1, class: 1, value } if value.is_nan()), "{nan}");
        let inf = of(&[f32::INFINITY, 0.0], &[0]);
        assert!(matches!(inf, Error::NotFinite { image: 0, class: 0, .. }), "{inf}");
    }
}
