//! Runs that differ in the seed alone, put together, and short names that tell such groups apart in a legend.

use std::collections::{BTreeMap, BTreeSet};

use super::experiment::{Experiment, order, told_apart};
use super::markdown::heading;
use super::settings::words;
use super::title;

/// The runs of one method in one setting.
#[derive(Debug, PartialEq)]
pub(super) struct Series {
    /// The method, and what else differs between the groups: `Remix`, `Remix (tau 0.3, step 10)`.
    pub label: String,
    /// Indices of its runs, by seed.
    pub members: Vec<usize>,
}

/// Groups experiments, in the order of the tables, whatever order they come in.
pub(super) fn series(all: &[&Experiment]) -> Vec<Series> {
    let all = told_apart(all);
    let mut groups: BTreeMap<_, Vec<usize>> = BTreeMap::new();
    for (i, e) in all.iter().enumerate() {
        let settings: Vec<String> = e.settings.iter().map(|(name, v)| words(name, v)).collect();
        let place = (order(&e.method), &e.method, &e.column, &e.which, &e.options, settings);
        groups.entry(place).or_default().push(i);
    }
    let columns: BTreeSet<_> = all.iter().map(|e| &e.column).collect();
    let epochs: BTreeSet<_> = all.iter().map(|e| &e.which).collect();
    let names: BTreeSet<&String> = all.iter().flat_map(|e| e.settings.keys()).collect();
    let differs = |name: &&String| all.iter().any(|e| e.settings.get(*name) != all[0].settings.get(*name));
    let differing: Vec<&String> = names.into_iter().filter(differs).collect();

    let group = |mut members: Vec<usize>| {
        members.sort_by_key(|&i| all[i].seed);
        let e = &all[members[0]];
        let mut parts: Vec<String> =
            e.options.split(',').filter(|o| !o.is_empty()).map(|o| o.replace('=', " ")).collect();
        parts.extend(differing.iter().filter_map(|name| Some(words(name, e.settings.get(*name)?))));
        if columns.len() > 1 {
            parts.push(heading(&e.column));
        }
        if epochs.len() > 1 {
            parts.push(format!("{} epoch", e.which));
        }
        let mut label = title(&e.method);
        if !parts.is_empty() {
            label += &format!(" ({})", parts.join(", "));
        }
        Series { label, members }
    };
    groups.into_values().map(group).collect()
}

/// Mean, and the sample standard deviation of two or more (n − 1).
pub(super) fn mean_std(values: &[f64]) -> (f64, Option<f64>) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
    (mean, (values.len() > 1).then(|| (squares / (n - 1.0)).sqrt()))
}

#[cfg(test)]
mod tests {
    use super::super::experiment::Column;
    use super::*;

    fn experiment(method: &str, options: &str, ratio: &str, seed: u64, epochs: u64) -> Experiment {
        let column =
            Column { dataset: "cifar10".into(), imb_type: "exp".into(), imb_ratio: ratio.to_owned() };
        let settings = [("epochs".to_owned(), epochs.into())].into_iter().collect();
        let (method, options) = (method.to_owned(), options.to_owned());
        Experiment { column, which: "last".into(), method, options, settings, seed: Some(seed), images: None }
    }

    #[test]
    fn seeds_join_and_labels_say_only_what_differs() {
        let all = [
            experiment("remix", "", "100", 1, 300),
            experiment("erm", "", "100", 0, 300),
            experiment("remix", "", "100", 0, 300),
            experiment("remix", "tau=0.3", "100", 0, 300),
        ];
        let found = series(&all.iter().collect::<Vec<_>>());
        let wanted = [("ERM", vec![1]), ("Remix", vec![2, 0]), ("Remix (tau 0.3)", vec![3])];
        assert_eq!(found, wanted.map(|(label, members)| Series { label: label.into(), members }));
        let all = [experiment("remix", "", "100", 0, 300), experiment("remix", "", "10", 0, 10)];
        let labels: Vec<_> = series(&all.iter().collect::<Vec<_>>()).into_iter().map(|s| s.label).collect();
        assert_eq!(labels, ["Remix (300 epochs, exp 100)", "Remix (10 epochs, exp 10)"]);
    }
}
