//! Groups of runs that differ only in the seed or in what computed them, with short names that tell the
//! groups apart in a legend.

use std::collections::{BTreeMap, BTreeSet};

use super::experiment::{Experiment, disambiguated, order, representatives};
use super::settings::{ALWAYS, departs, standard, words};
use super::telling::options;
use super::{one_line, plural, title};
use crate::manifest::key;

/// Settings that have no default value where runs differ in them: a run has either a recipe, or milestones and
/// perhaps the first epoch of a rule that were chosen for it.
const SCHEDULE: [&str; 3] = ["recipe", "milestones", "rule_from"];

/// Settings of the evaluation.
pub(super) const EVALUATION: [&str; 4] = ["split", "adjust", "test_prior", "evaluated on"];

/// Settings that only some data sets have: those with a step profile, those of which something is drawn, image
/// files without a test split of their own, and the synthetic set.
const OF_SOME_DATASETS: [&str; 6] =
    ["minority_fraction", "rand_number", "test_fraction", "split_seed", "train_per_class", "test_per_class"];

/// The runs of one method in one setting.
#[derive(Debug, PartialEq)]
pub(super) struct Series {
    /// The method, the settings that differ between groups, and those in [`ALWAYS`]: `Remix`,
    /// `Remix (tau 0.3, step 10)`, `ERM (NCM)`.
    pub label: String,
    /// Indices of the runs, by seed.
    pub members: Vec<usize>,
}

/// Groups experiments; the groups are in the order of the tables (by method, and with fewer departures from the
/// usual settings first), regardless of the order of the experiments.
/// Byte-identical runs count once.
pub(super) fn series(all: &[&Experiment]) -> Vec<Series> {
    grouped(all, true)
}

/// Groups experiments like [`series`], but regardless of training set and epoch, which the labels do not state.
pub(super) fn series_anywhere(all: &[&Experiment]) -> Vec<Series> {
    grouped(all, false)
}

fn grouped(all: &[&Experiment], by_place: bool) -> Vec<Series> {
    let all = disambiguated(all);
    let one_each = representatives(&all.iter().collect::<Vec<_>>());
    let runs: Vec<(usize, &Experiment)> =
        all.iter().enumerate().filter(|(i, _)| one_each[*i] == *i).collect();
    let known = Known::of(&all, &runs);
    let told = told(&known, &runs);
    let settings =
        |e: &Experiment| -> Vec<String> { told.iter().filter_map(|n| known.value(e, n)).collect() };

    let mut groups: BTreeMap<_, Vec<usize>> = BTreeMap::new();
    for &(i, e) in &runs {
        let departures = options(e).count() + told.iter().filter(|name| departs_in(e, name)).count();
        // A classifier on imported features may have no setting that tells it from one on a network's features.
        let place = by_place.then_some((&e.column, &e.which, !is_training(e)));
        let key = (order(&e.method), &e.method, place, departures, &e.options, settings(e));
        groups.entry(key).or_default().push(i);
    }
    let place = Place::of(if by_place { &all } else { &[] });
    let group = |mut members: Vec<usize>| {
        let run = |i: usize| (all[i].seed, &all[i].computed_by, &all[i].weights);
        members.sort_by(|&a, &b| run(a).cmp(&run(b)));
        let e = &all[members[0]];
        let parts: Vec<String> = options(e).chain(settings(e)).chain(place.parts(e)).collect();
        let mut label = title(&e.method);
        if !parts.is_empty() {
            label += &format!(" ({})", parts.join(", "));
        }
        Series { label: one_line(&label), members }
    };
    let mut groups: Vec<Series> = groups.into_values().map(group).collect();
    number_equals(groups.iter_mut().map(|g| &mut g.label).collect());
    groups
}

/// Returns whether a run is a training: a classifier on imported features states no epochs.
fn is_training(e: &Experiment) -> bool {
    e.settings.contains_key("epochs")
}

/// Returns whether a run states a setting that departs from the usual one.
fn departs_in(e: &Experiment, name: &str) -> bool {
    e.settings.get(name).is_some_and(|value| departs(name, value))
}

/// Returns the settings that labels state: those in which runs differ, and those in [`ALWAYS`]. What is not known of a
/// run differs from nothing: its method or its data set tells it from the others.
fn told<'a>(known: &Known<'a>, runs: &[(usize, &Experiment)]) -> Vec<&'a str> {
    let differs = |name: &str| {
        let runs = runs.iter().filter(|(_, e)| known.has(e, name));
        runs.map(|(_, e)| known.value(e, name)).collect::<BTreeSet<_>>().len() > 1
    };
    let is_always_told = |name: &str| ALWAYS.contains(&name) && runs.iter().any(|(_, e)| departs_in(e, name));
    known.names.iter().copied().filter(|name| is_always_told(name) || differs(name)).collect()
}

/// What is known of the settings of some runs, beyond what each run states.
struct Known<'a> {
    /// All settings that a run states.
    names: BTreeSet<&'a str>,
    /// The settings of data sets, each with what determines whether a data set has it.
    of_datasets: BTreeSet<[&'a str; 3]>,
    /// The settings of classifiers on imported features.
    of_classifiers: BTreeSet<&'a str>,
    /// Whether a run has milestones or a recipe of its own.
    schedules_differ: bool,
}

impl<'a> Known<'a> {
    fn of(all: &'a [Experiment], runs: &[(usize, &Experiment)]) -> Known<'a> {
        let names = |e: &'a Experiment| e.settings.keys().map(String::as_str);
        let has_own_schedule =
            |e: &Experiment| e.settings.contains_key("milestones") || departs_in(e, "recipe");
        let is_classifier = |e: &&Experiment| e.file.is_none() && !is_training(e);
        Known {
            names: all.iter().flat_map(names).collect(),
            of_datasets: all.iter().flat_map(|e| names(e).map(move |name| of_dataset(e, name))).collect(),
            of_classifiers: all.iter().filter(is_classifier).flat_map(names).collect(),
            schedules_differ: runs.iter().any(|(_, e)| has_own_schedule(e)),
        }
    }

    /// Returns whether a run has a setting, even if its manifest does not state it. How a bare file was trained is not
    /// known, unlike how it was evaluated.
    fn has(&self, e: &Experiment, name: &str) -> bool {
        if e.settings.contains_key(name) || EVALUATION.contains(&name) {
            return true;
        }
        if OF_SOME_DATASETS.contains(&name) {
            // Without a profile, a subset is drawn only for some settings, which then state the number.
            let is_drawn = name != "rand_number" || e.column.imb_type != "none";
            return is_drawn && self.of_datasets.contains(&of_dataset(e, name));
        }
        // Only the best epoch is selected, and all evaluations of it state on which split.
        name != "select" && (is_training(e) || e.file.is_none() && self.of_classifiers.contains(name))
    }

    /// Returns a setting of a run in words. One that its manifest does not state has its standard value, so that older
    /// manifests go with newer ones.
    fn value(&self, e: &Experiment, name: &str) -> Option<String> {
        let has_standard = !(self.schedules_differ && SCHEDULE.contains(&name));
        let usual = || standard(name).filter(|_| has_standard && self.has(e, name));
        e.settings.get(name).or_else(usual).filter(|v| !v.is_null()).map(|v| words(name, v))
    }
}

/// What the labels of some runs state of their training sets and epochs: where there are several.
struct Place {
    datasets: bool,
    columns: bool,
    epochs: bool,
}

impl Place {
    fn of(all: &[Experiment]) -> Place {
        fn several<T: PartialEq>(mut values: impl Iterator<Item = T>) -> bool {
            values.next().is_some_and(|first| values.any(|other| other != first))
        }
        Place {
            datasets: several(all.iter().map(|e| &e.column.dataset)),
            columns: several(all.iter().map(|e| &e.column)),
            epochs: several(all.iter().map(|e| &e.which)),
        }
    }

    fn parts(&self, e: &Experiment) -> impl Iterator<Item = String> {
        let dataset = self.datasets.then(|| e.column.title().to_owned());
        let column = self.columns.then(|| e.column.heading());
        let epoch = self.epochs.then(|| format!("{} epoch", e.which));
        dataset.into_iter().chain(column).chain(epoch)
    }
}

/// Returns a setting of a data set together with what determines whether the data set has it.
fn of_dataset<'a>(e: &'a Experiment, name: &'a str) -> [&'a str; 3] {
    [&e.column.dataset, &e.column.imb_type, name]
}

/// Appends ` #1`, ` #2`, … to equal texts that name different things.
pub(super) fn number_equals(mut all: Vec<&mut String>) {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let texts: Vec<String> = all.iter().map(|text| (**text).clone()).collect();
    for (text, own) in texts.iter().zip(&mut all) {
        if texts.iter().filter(|other| *other == text).count() > 1 {
            let n = seen.entry(text.clone()).or_default();
            *n += 1;
            own.push_str(&format!(" #{n}"));
        }
    }
}

/// Returns the names that tell the runs of a group apart: the seed, what computed it, and the hash of its
/// weights, as many of these as needed. The name is empty for a single run.
pub(super) fn apart(runs: &[&Experiment]) -> Vec<String> {
    let seed = |e: &Experiment| e.seed.map_or("unknown seed".into(), |s| format!("seed {s}"));
    let by = |e: &Experiment| e.computed_by.clone().unwrap_or_else(|| "unknown device".into());
    let parts: [&dyn Fn(&Experiment) -> String; 3] =
        [&seed, &by, &|e: &Experiment| key::short(&e.weights).to_owned()];
    let mut names = vec![String::new(); runs.len()];
    for part in parts {
        let distinct = |all: &[String]| all.iter().collect::<BTreeSet<_>>().len();
        let values: Vec<String> = runs.iter().map(|e| part(e)).collect();
        if distinct(&names) < runs.len() && distinct(&values) > 1 {
            let joined = |(name, value): (&String, String)| {
                if name.is_empty() { value } else { format!("{name}, {value}") }
            };
            names = names.iter().zip(values).map(joined).collect();
        }
    }
    names
}

/// Describes the number of runs: `3`; if seeds repeat, `3 runs of 2 seeds`; if seeds are unknown, `3 runs`.
pub(super) fn count<T: Copy + Ord>(seeds: &[Option<T>]) -> String {
    let n = seeds.len();
    let known: BTreeSet<T> = seeds.iter().copied().flatten().collect();
    match known.len() {
        distinct if distinct == n || n == 1 => n.to_string(),
        _ if seeds.contains(&None) => format!("{n} runs"),
        distinct => format!("{n} runs of {}", plural(distinct, "seed")),
    }
}

/// Returns the mean and, for two or more values, the sample standard deviation (n − 1).
pub(super) fn mean_std(values: &[f64]) -> (f64, Option<f64>) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
    (mean, (values.len() > 1).then(|| (squares / (n - 1.0)).sqrt()))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::super::column::Column;
    use super::super::experiment::tests::experiment as plain;
    use super::*;

    fn experiment(method: &str, options: &str, ratio: &str, seed: u64, epochs: u64) -> Experiment {
        let column = Column { imb_ratio: ratio.to_owned(), ..plain().column };
        let settings = [("epochs".to_owned(), epochs.into())].into_iter().collect();
        let (method, options) = (method.to_owned(), options.to_owned());
        Experiment { column, method, options, settings, seed: Some(seed), ..plain() }
    }

    #[test]
    fn runs_of_one_seed_are_grouped_without_copies() {
        let run = |seed, by: Option<&str>, weights: &str| Experiment {
            computed_by: by.map(str::to_owned),
            weights: weights.into(),
            ..experiment("remix", "", "100", seed, 300)
        };
        let all = [
            run(1, Some("avx512"), "4"),
            run(0, Some("amx"), "2"),
            run(0, None, "1"),
            run(0, Some("amx"), "1"),
            run(0, Some("cuda:0 NVIDIA H200"), "3"),
        ];
        let all: Vec<&Experiment> = all.iter().collect();
        let found = series(&all);
        assert_eq!((found.len(), found[0].label.as_str()), (1, "Remix"));
        assert_eq!(found[0].members, [3, 1, 4, 0]);
        let members: Vec<_> = found[0].members.iter().map(|&i| all[i]).collect();
        assert_eq!(count(&members.iter().map(|e| e.seed).collect::<Vec<_>>()), "4 runs of 2 seeds");
        assert_eq!(
            apart(&members),
            ["seed 0, amx, 1", "seed 0, amx, 2", "seed 0, cuda:0 NVIDIA H200, 3", "seed 1, avx512, 4"]
        );
        assert_eq!(apart(&members[2..]), ["seed 0", "seed 1"]);
        assert_eq!(apart(&members[1..3]), ["amx", "cuda:0 NVIDIA H200"]);
        assert_eq!(apart(&members[..1]), [""]);
    }

    #[test]
    fn runs_are_counted_by_seed() {
        let all: [&[Option<u64>]; 6] = [
            &[Some(3)],
            &[None],
            &[Some(0), Some(1)],
            &[Some(0), Some(0)],
            &[None, None],
            &[Some(0), Some(1), Some(0)],
        ];
        assert_eq!(all.map(count), ["1", "1", "2", "2 runs of 1 seed", "2 runs", "3 runs of 2 seeds"]);
    }

    #[test]
    fn labels_are_unique() {
        let mut other = experiment("remix", "", "100", 0, 300);
        other.column.dataset = "cifar100".into();
        other.settings.insert("minority_fraction".into(), 0.5.into());
        let all = [experiment("remix", "", "100", 0, 300), other];
        let labels: Vec<_> = series(&all.iter().collect::<Vec<_>>()).into_iter().map(|s| s.label).collect();
        assert_eq!(labels, ["Remix (CIFAR-10, exp 100)", "Remix (CIFAR-100, exp 100)"]);
        // A setting that only some manifests state, once at its standard value and once not.
        let mut all = [(); 3].map(|()| experiment("remix", "", "100", 0, 300));
        for (e, (value, weights)) in all[1..].iter_mut().zip([(0.into(), "1"), (5.into(), "2")]) {
            e.settings.insert("warmup".into(), value);
            e.weights = weights.into();
        }
        let found = series(&all.iter().collect::<Vec<_>>());
        let wanted = [("Remix (warmup 0)", vec![0, 1]), ("Remix (warmup 5)", vec![2])];
        assert_eq!(found, wanted.map(|(label, members)| Series { label: label.into(), members }));
        let mut texts = ["a", "b", "a"].map(str::to_owned);
        number_equals(texts.iter_mut().collect());
        assert_eq!(texts, ["a #1", "b", "a #2"]);
    }

    #[test]
    fn labels_state_the_schedule_that_each_run_had() {
        let mut all = [4, 8].map(|epochs| experiment("remix", "", "100", 0, epochs));
        all[0].settings.insert("milestones".into(), serde_json::json!([1, 2]));
        all[1].settings.insert("recipe".into(), "paper".into());
        let labels: Vec<_> = series(&all.iter().collect::<Vec<_>>()).into_iter().map(|s| s.label).collect();
        assert_eq!(labels, ["Remix (4 epochs, milestones 1 and 2)", "Remix (8 epochs, recipe paper)"]);
        // A classifier on imported features has no recipe, and the other run has the usual one.
        let mut all = [(); 2].map(|()| experiment("remix", "", "100", 0, 300));
        all[0].settings.insert("recipe".into(), "seed".into());
        all[1].settings.insert("second_stage".into(), "linear".into());
        let labels: Vec<_> = series(&all.iter().collect::<Vec<_>>()).into_iter().map(|s| s.label).collect();
        assert_eq!(labels, ["Remix", "Remix (linear)"]);
    }

    #[test]
    fn what_is_not_known_of_a_bare_file_is_in_no_label() {
        let mut bare = Experiment { file: Some("/w".into()), ..experiment("weights w", "", "100", 0, 1) };
        bare.settings = [("adjust".to_owned(), 1.into())].into_iter().collect();
        let mut all = [experiment("erm", "", "100", 0, 1), experiment("erm", "", "100", 0, 1), bare];
        all[1].settings.insert("adjust".into(), 1.into());
        let labels: Vec<_> = series(&all.iter().collect::<Vec<_>>()).into_iter().map(|s| s.label).collect();
        assert_eq!(labels, ["ERM", "ERM (adjust 1)", "weights w (adjust 1)"]);
    }

    #[test]
    fn labels_state_no_setting_that_a_run_does_not_have() {
        let labels = |all: &[Experiment]| -> Vec<String> {
            series(&all.iter().collect::<Vec<_>>()).into_iter().map(|s| s.label).collect()
        };
        let on = |dataset: &str, imb_type: &str, settings: &[(&str, f64)]| {
            let mut e = experiment("erm", "", "100", 0, 300);
            (e.column.dataset, e.column.imb_type) = (dataset.into(), imb_type.into());
            e.settings.extend(settings.iter().map(|(name, value)| ((*name).to_owned(), Value::from(*value))));
            e
        };
        // Only synthetic sets have a number of images per class, only step profiles a minority fraction, and
        // only what is drawn a random number.
        let synthetic = on("synthetic", "exp", &[("train_per_class", 50.0)]);
        let all = [on("cifar10", "exp", &[]), synthetic];
        assert_eq!(labels(&all), ["ERM (CIFAR-10, exp 100)", "ERM (Synthetic, exp 100)"]);
        let drawn = on("cifar10", "exp", &[("rand_number", 5.0)]);
        let all = [drawn, on("cifar10", "step", &[("minority_fraction", 0.1)]), on("cifar10", "none", &[])];
        assert_eq!(labels(&all), ["ERM (exp 100)", "ERM (step 100)", "ERM (all images)"]);
        let found = series_anywhere(&all.iter().collect::<Vec<_>>());
        assert_eq!(found, [Series { label: "ERM".into(), members: vec![0, 1, 2] }]);
        // Without a profile, only the run with a validation split has a random number.
        let split = [("val_fraction", 0.2), ("rand_number", 5.0)];
        let all = [on("cifar10", "none", &[]), on("cifar10", "none", &split)];
        assert_eq!(labels(&all), ["ERM (val-fraction 0)", "ERM (val-fraction 0.2)"]);
        let all = [on("cifar10", "step", &[("minority_fraction", 0.1)])];
        // Another step profile may be of a version that did not state its fraction.
        let all = [all[0].clone(), on("cifar10", "step", &[])];
        assert_eq!(labels(&all), ["ERM (minority-fraction 0.5)", "ERM (minority-fraction 0.1)"]);
        // The last epoch was not selected.
        let mut best = Experiment { which: "best".into(), ..on("cifar10", "exp", &[]) };
        best.settings.insert("select".into(), "val".into());
        assert_eq!(labels(&[on("cifar10", "exp", &[]), best]), ["ERM (best epoch)", "ERM (last epoch)"]);
    }

    #[test]
    fn classifiers_on_imported_features_have_settings_of_their_own() {
        let classifier = |passes: Option<u64>| {
            let mut e = experiment("erm", "", "100", 0, 1);
            e.settings = [("second_stage".to_owned(), "NCM".into())].into_iter().collect();
            e.settings.extend(passes.map(|n| ("passes".to_owned(), Value::from(n))));
            e
        };
        let labels = |all: &[Experiment]| -> Vec<String> {
            series(&all.iter().collect::<Vec<_>>()).into_iter().map(|s| s.label).collect()
        };
        assert_eq!(labels(&[experiment("erm", "", "100", 0, 10), classifier(None)]), ["ERM", "ERM (NCM)"]);
        // They are averaged neither with each other if their settings differ, nor with a second stage.
        let found = labels(&[classifier(None), classifier(Some(3))]);
        assert_eq!(found, ["ERM (NCM)", "ERM (passes 3, NCM)"]);
        let mut second_stage = classifier(None);
        second_stage.settings.insert("epochs".into(), 10.into());
        assert_eq!(labels(&[second_stage, classifier(None)]), ["ERM (NCM) #1", "ERM (NCM) #2"]);
    }

    #[test]
    fn classifiers_and_corrections_are_in_each_label() {
        let with = |name: &str, value: Value| {
            let mut e = experiment("erm", "", "100", 0, 10);
            e.settings.insert("split".into(), "val".into());
            e.settings.insert(name.into(), value);
            e
        };
        for (name, value, label) in [
            ("second_stage", "20-NN".into(), "ERM (20-NN)"),
            ("adjust", 1.0.into(), "ERM (adjust 1)"),
            ("adjust", "auto".into(), "ERM (adjust auto)"),
            ("test_prior", "train".into(), "ERM (test-prior train)"),
            ("test_prior", "uniform".into(), "ERM"),
        ] {
            let e = with(name, value);
            assert_eq!(series(&[&e])[0].label, label);
            assert_eq!(series_anywhere(&[&e, &e])[0].label, label);
        }
    }

    #[test]
    fn seeds_are_grouped_and_labels_state_only_differences() {
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
