//! What follows from counts alone: the confusion matrix, recalls, many/medium/few, macro-F1.

/// Classes with more training images than this are many-shot (Liu et al., arXiv 1904.05160; Kang et al., arXiv 1910.09217).
pub const MANY: usize = 100;

/// Classes with fewer training images than this are few-shot.
pub const FEW: usize = 20;

/// Counts, (true class, predicted class).
pub(super) fn confusion(labels: &[u32], predicted: &[usize], classes: usize) -> Vec<Vec<u64>> {
    let mut counts = vec![vec![0; classes]; classes];
    for (&label, &guess) in labels.iter().zip(predicted) {
        counts[label as usize][guess] += 1;
    }
    counts
}

/// Recall of each class, percent.
pub(super) fn recalls(confusion: &[Vec<u64>]) -> Vec<Option<f64>> {
    let recall = |(k, row): (usize, &Vec<u64>)| {
        let all: u64 = row.iter().sum();
        (all > 0).then(|| 100.0 * row[k] as f64 / all as f64)
    };
    confusion.iter().enumerate().map(recall).collect()
}

/// Mean recall of the many-, medium- and few-shot classes that have images, as `shot_acc` of Liu et al.'s code.
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

/// Mean F1 over the classes that are true or predicted somewhere (scikit-learn's choice of labels); a class that is
/// never right has F1 = 0, which is what `zero_division=0` makes of 0/0.
pub(super) fn macro_f1(confusion: &[Vec<u64>]) -> f64 {
    let mut sum = 0.0;
    let mut seen = 0u32;
    for (k, row) in confusion.iter().enumerate() {
        let actual: u64 = row.iter().sum();
        let guessed: u64 = confusion.iter().map(|r| r[k]).sum();
        if actual + guessed > 0 {
            // F1 = 2 TP / (2 TP + FP + FN)
            sum += 2.0 * row[k] as f64 / (actual + guessed) as f64;
            seen += 1;
        }
    }
    sum / f64::from(seen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_thresholds_are_those_of_the_literature() {
        // Recall of a class is its count here, so each group's mean says which classes are in it.
        let counts = [101, 100, 20, 19];
        let recalls = counts.map(|n| Some(n as f64));
        assert_eq!(shots(&recalls, &counts), [Some(101.0), Some(60.0), Some(19.0)]);
    }

    #[test]
    fn f1_leaves_out_classes_that_never_occur() {
        // sklearn.metrics.f1_score([0, 0], [0, 0], average="macro") == 1.0, whatever classes exist elsewhere.
        assert_eq!(macro_f1(&confusion(&[0, 0], &[0, 0], 3)), 1.0);
        // f1_score([0, 0], [0, 2], average="macro", zero_division=0) == 0.3333333333333333
        assert_eq!(macro_f1(&confusion(&[0, 0], &[0, 2], 3)), 2.0 / 3.0 / 2.0);
    }
}
