//! Metrics of counts alone: the confusion matrix, recalls, many/medium/few, macro-F1.

/// Classes with more training images than this are many-shot (Liu et al., arXiv 1904.05160; Kang et al.,
/// arXiv 1910.09217).
pub const MANY: usize = 100;

/// Classes with fewer training images than this are few-shot.
pub const FEW: usize = 20;

/// Numbers of images of each class that were predicted as each class. Only pairs that occur are stored: with
/// 8,142 classes a full matrix would take 530 MB.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Confusion {
    /// Number of classes.
    pub classes: usize,
    /// The pairs that occur, by true class and then by predicted class.
    pub cells: Vec<Cell>,
}

/// A non-zero entry of a confusion matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cell {
    /// The true class.
    pub label: usize,
    /// The predicted class.
    pub predicted: usize,
    /// Number of images.
    pub count: u64,
}

impl Confusion {
    /// Counts pairs of true and predicted classes, both below `classes`.
    pub fn count(labels: &[u32], predicted: &[usize], classes: usize) -> Confusion {
        let mut pairs: Vec<(usize, usize)> =
            labels.iter().zip(predicted).map(|(&label, &guess)| (label as usize, guess)).collect();
        pairs.sort_unstable();
        let cell = |same: &[(usize, usize)]| Cell {
            label: same[0].0,
            predicted: same[0].1,
            count: same.len() as u64,
        };
        Confusion { classes, cells: pairs.chunk_by(|a, b| a == b).map(cell).collect() }
    }

    /// Returns the full matrix, (true class, predicted class).
    pub fn matrix(&self) -> Vec<Vec<u64>> {
        let mut counts = vec![vec![0; self.classes]; self.classes];
        for cell in &self.cells {
            counts[cell.label][cell.predicted] = cell.count;
        }
        counts
    }

    /// Returns for each class the number of its images, of images that are predicted as it, and of both.
    fn marginals(&self) -> Vec<Marginal> {
        let mut all = vec![Marginal::default(); self.classes];
        for cell in &self.cells {
            all[cell.label].actual += cell.count;
            all[cell.predicted].guessed += cell.count;
            if cell.label == cell.predicted {
                all[cell.label].right += cell.count;
            }
        }
        all
    }
}

/// The row and column sums of a class, and its diagonal entry.
#[derive(Clone, Copy, Default)]
struct Marginal {
    actual: u64,
    guessed: u64,
    right: u64,
}

/// Returns the recall of each class, percent.
pub(super) fn recalls(confusion: &Confusion) -> Vec<Option<f64>> {
    let recall = |m: Marginal| (m.actual > 0).then(|| 100.0 * m.right as f64 / m.actual as f64);
    confusion.marginals().into_iter().map(recall).collect()
}

/// Returns the mean recall of the many-, medium- and few-shot classes that have images, as `shot_acc` in the
/// code of Liu et al. does.
pub(super) fn shots(per_class: &[Option<f64>], cls_num_list: &[usize]) -> [Option<f64>; 3] {
    let mut groups = [const { Vec::new() }; 3];
    for (recall, &n) in per_class.iter().zip(cls_num_list) {
        let group = match n {
            n if n > MANY => 0,
            n if n < FEW => 2,
            _ => 1,
        };
        groups[group].extend(*recall);
    }
    groups.map(|g| (!g.is_empty()).then(|| g.iter().sum::<f64>() / g.len() as f64))
}

/// Returns the mean recall, in percent, over the classes that have images.
pub(super) fn balanced_accuracy(per_class: &[Option<f64>]) -> f64 {
    let recalls = || per_class.iter().flatten();
    recalls().sum::<f64>() / recalls().count() as f64
}

/// Returns the smallest recall, and the harmonic and the geometric mean of the recalls, over the classes that
/// have images. A class with recall 0 makes all three 0.
pub(super) fn low_means(per_class: &[Option<f64>]) -> [f64; 3] {
    let recalls: Vec<f64> = per_class.iter().flatten().copied().collect();
    let (n, worst) = (recalls.len() as f64, recalls.iter().copied().fold(f64::INFINITY, f64::min));
    if worst <= 0.0 {
        return [0.0; 3];
    }
    let harmonic = n / recalls.iter().map(|r| 1.0 / r).sum::<f64>();
    let geometric = (recalls.iter().map(|r| r.ln()).sum::<f64>() / n).exp();
    [worst, harmonic, geometric]
}

/// Returns the mean F1 over the classes that occur as a label or a prediction (as scikit-learn chooses the
/// labels). A class that is never right has F1 = 0, which is also what `zero_division=0` substitutes for 0/0.
pub(super) fn macro_f1(confusion: &Confusion) -> f64 {
    let mut sum = 0.0;
    let mut seen = 0u32;
    for Marginal { actual, guessed, right } in confusion.marginals() {
        if actual + guessed > 0 {
            // F1 = 2 TP / (2 TP + FP + FN)
            sum += 2.0 * right as f64 / (actual + guessed) as f64;
            seen += 1;
        }
    }
    sum / f64::from(seen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shot_thresholds_match_the_literature() {
        // The recall of a class equals its count here, so each group's mean shows which classes are in it.
        let counts = [101, 100, 20, 19];
        let recalls = counts.map(|n| Some(n as f64));
        assert_eq!(shots(&recalls, &counts), [Some(101.0), Some(60.0), Some(19.0)]);
    }

    #[test]
    fn low_means_match_python() {
        // statistics.harmonic_mean([90, 40, 25]) and geometric_mean.
        let [worst, harmonic, geometric] = low_means(&[Some(90.0), None, Some(40.0), Some(25.0)]);
        assert_eq!(worst, 25.0);
        assert!((harmonic - 39.416_058_394_160_58).abs() < 1e-9, "{harmonic}");
        assert!((geometric - 44.814_047_465_571_65).abs() < 1e-9, "{geometric}");
        assert_eq!(low_means(&[Some(90.0), Some(0.0)]), [0.0; 3]);
    }

    #[test]
    fn each_class_counts_the_same_in_balanced_accuracy() {
        // 100 * sklearn.metrics.balanced_accuracy_score([0, 0, 0, 0, 2], [0, 0, 0, 2, 2]) == 87.5
        let confusion = Confusion::count(&[0, 0, 0, 0, 2], &[0, 0, 0, 2, 2], 3);
        assert_eq!(balanced_accuracy(&recalls(&confusion)), 87.5);
    }

    #[test]
    fn f1_leaves_out_classes_that_never_occur() {
        // sklearn.metrics.f1_score([0, 0], [0, 0], average="macro") == 1.0, whatever classes exist elsewhere.
        assert_eq!(macro_f1(&Confusion::count(&[0, 0], &[0, 0], 3)), 1.0);
        // f1_score([0, 0], [0, 2], average="macro", zero_division=0) == 0.3333333333333333
        assert_eq!(macro_f1(&Confusion::count(&[0, 0], &[0, 2], 3)), 2.0 / 3.0 / 2.0);
    }

    #[test]
    fn thousands_of_classes_are_stored_sparsely() {
        let classes = 8142;
        let labels: Vec<u32> = (0..24_426).map(|i| i % 8142).collect();
        // In each class two images are right, and one is taken for the class before it.
        let predicted: Vec<usize> =
            (0..24_426usize).map(|i| (i % classes).saturating_sub(i / 16_284)).collect();
        let found = Confusion::count(&labels, &predicted, classes);
        assert_eq!(found.cells.len(), 2 * classes - 1, "class 0 has none before it");
        assert!(found.cells.is_sorted_by_key(|c| (c.label, c.predicted)));
        assert_eq!(found.cells[1], Cell { label: 1, predicted: 0, count: 1 });
        assert_eq!(found.cells[2], Cell { label: 1, predicted: 1, count: 2 });
        assert_eq!(recalls(&found)[..2], [Some(100.0), Some(200.0 / 3.0)]);
        // F1 = 2·2/(3+3), except for class 0, 2·3/(3+4), and the last one, for which no other class is
        // mistaken: 2·2/(3+2).
        let expected = (6.0 / 7.0 + 8140.0 * 2.0 / 3.0 + 4.0 / 5.0) / 8142.0;
        assert!((macro_f1(&found) - expected).abs() < 1e-12, "{}", macro_f1(&found));
    }
}
