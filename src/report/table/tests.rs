//! Tests of the arrangement and the statistics.

use std::sync::LazyLock;

use serde_json::{Value, json};

use super::super::experiment::tests::experiment;
use super::*;

/// Arranges evaluations beside the committed values.
fn tables(records: &[Record]) -> Vec<Table<'_>> {
    static PUBLISHED: LazyLock<Published> = LazyLock::new(Published::committed);
    super::tables(records, &PUBLISHED)
}

fn record(method: &str, column: [&str; 3], seed: u64, top1: f64, settings: Value) -> Record {
    let [dataset, imb_type, imb_ratio] = column.map(str::to_owned);
    let of = Experiment {
        column: Column { dataset, imb_type, imb_ratio },
        which: "last".into(),
        method: method.into(),
        settings: settings.as_object().expect("an object").clone().into_iter().collect(),
        seed: Some(seed),
        weights: format!("{method}{seed}"),
        ..experiment()
    };
    Record { of, top1, others: [None; OTHERS.len()], key: format!("{method}{seed}"), content: String::new() }
}

const EXP100: [&str; 3] = ["cifar10", "exp", "100"];

fn plain() -> Value {
    json!({"arch": "resnet32", "epochs": 300, "recipe": "paper", "val_fraction": 0.0})
}

#[test]
fn seeds_are_averaged_and_compared() {
    let values = [74.0, 76.0, 75.3];
    let records: Vec<_> = (0..3).map(|s| record("remix", EXP100, s, values[s as usize], plain())).collect();
    let tables = tables(&records);
    assert_eq!(tables[0].title(), "CIFAR-10, last epoch (Table 1 of the reproduction report)");
    assert_eq!((tables.len(), tables[0].columns.len(), tables[0].rows.len()), (1, 1, 1));
    let cell = &tables[0].rows[0].cells[0];
    // statistics.mean([74, 76, 75.3]), statistics.stdev([74, 76, 75.3])
    assert!((cell.mean().expect("mean") - 75.1).abs() < 1e-12);
    assert!((cell.std().expect("std") - 1.0148891565092215).abs() < 1e-12);
    assert!((cell.difference().expect("difference") - (75.1 - 75.36)).abs() < 1e-12);
    assert_eq!(cell.starting_report, Some(75.05));
}

#[test]
fn other_metrics_are_means_of_all_seeds_or_missing() {
    let mut records: Vec<_> = (0..3).map(|s| record("remix", EXP100, s, 75.0, plain())).collect();
    let [few, ece] = ["few", "ece"].map(|name| OTHERS.iter().position(|o| o.name == name).expect("a number"));
    for (r, value) in records.iter_mut().zip([60.0, 62.0, 64.5]) {
        r.others[few] = Some(value);
    }
    records[0].others[ece] = Some(0.1);
    let t = &tables(&records)[0];
    let cell = &t.rows[0].cells[0];
    // statistics.mean([60, 62, 64.5]), statistics.stdev([60, 62, 64.5])
    let (mean, std) = cell.other(few).expect("all have it");
    assert!(
        (mean - 62.166666666666664).abs() < 1e-12 && (std.expect("three") - 2.254624876411447).abs() < 1e-12
    );
    assert_eq!((cell.other(ece), t.others(0)), (None, vec![few]));
}

#[test]
fn different_settings_have_separate_rows() {
    let short = json!({"arch": "resnet20", "epochs": 10, "recipe": "paper"});
    let records = [record("erm", EXP100, 0, 70.0, plain()), record("erm", EXP100, 0, 50.0, short)];
    let tables = tables(&records);
    let variants: Vec<_> = tables[0].rows.iter().map(|r| r.variant.as_str()).collect();
    assert_eq!(variants, ["", "resnet20, 10 epochs"]);
    assert_eq!(tables[0].common, ["recipe paper"]);
    assert_eq!(tables[0].rows[1].departures, "resnet20, 10 epochs, recipe paper");
}

#[test]
fn settings_of_all_rows_are_stated_once() {
    let short = || json!({"arch": "resnet20", "epochs": 10, "warmup": 0});
    let records = [record("erm", EXP100, 0, 50.0, short()), record("remix", EXP100, 0, 50.0, short())];
    let t = &tables(&records)[0];
    assert_eq!(t.common, ["resnet20", "10 epochs"]);
    let rows: Vec<_> = t.rows.iter().map(|r| (r.variant.as_str(), r.departures.as_str())).collect();
    assert_eq!(rows, [("", "resnet20, 10 epochs"); 2]);
}

#[test]
fn rows_name_the_classifier_and_the_correction_that_they_share() {
    let of = || json!({"arch": "resnet20", "second_stage": "20-NN", "adjust": 1.0, "test_prior": "uniform"});
    let records = [0, 1].map(|seed| record("erm", EXP100, seed, 50.0, of()));
    let t = &tables(&records)[0];
    assert_eq!((t.rows.len(), t.common.as_slice()), (1, &["resnet20".to_owned()][..]));
    let row = &t.rows[0];
    let wanted = ("adjust 1, 20-NN", "adjust 1, resnet20, 20-NN");
    assert_eq!((row.variant.as_str(), row.departures.as_str()), wanted);
}

#[test]
fn runs_are_counted_by_weights_not_by_seed() {
    let run = |seed, top1, by: &str, weights: &str, semantics| {
        let mut r = record("remix-rw", EXP100, seed, top1, plain());
        r.of.computed_by = Some(by.into());
        r.of.semantics = Some(semantics);
        r.of.weights = weights.into();
        r
    };
    let records = [
        run(0, 74.82, "amx", "a", 1),
        run(1, 67.33, "avx512", "b", 1),
        run(0, 66.80, "cuda:0 NVIDIA H200", "c", 2),
        run(0, 73.27, "cuda:0 NVIDIA H200", "d", 1),
        run(0, 74.80, "amx", "a", 1),
    ];
    let t = &tables(&records)[0];
    let cell = &t.rows[0].cells[0];
    assert_eq!((t.rows.len(), cell.values.len(), cell.count()), (1, 4, "4 runs of 2 seeds".into()));
    assert!((cell.mean().expect("mean") - 70.555).abs() < 1e-9);
    assert!((t.repeated - 0.02).abs() < 1e-9, "two evaluations of a");
    assert_eq!(t.versions().into_iter().collect::<Vec<_>>(), [(1, 3), (2, 1)]);
    assert!(t.statistics().contains("over runs"));
}

#[test]
fn what_shares_a_network_or_a_seed_counts_once() {
    let run = |network, seed, top1| {
        let mut r = record("rs", EXP100, seed, top1, plain());
        r.of.network_seed = network;
        r.of.weights = format!("{network:?} {seed} {top1}");
        r
    };
    let of_two = [(0, 0, 70.0), (0, 1, 71.0), (1, 0, 74.0), (1, 1, 76.0)];
    let records = of_two.map(|(network, seed, top1)| run(Some(network), seed, top1));
    let t = &tables(&records)[0];
    let cell = &t.rows[0].cells[0];
    assert_eq!((cell.count(), cell.independent()), ("4 runs of 2 networks".into(), vec![70.5, 75.0]));
    assert!(t.statistics().contains("networks where they differ"));
    let records = [0, 1].map(|network| run(Some(network), network, 70.0));
    assert_eq!(tables(&records)[0].rows[0].cells[0].count(), "2");
    let records = [(0, 70.0), (0, 72.0), (1, 75.0)].map(|(seed, top1)| run(None, seed, top1));
    let t = &tables(&records)[0];
    let cell = &t.rows[0].cells[0];
    assert_eq!((cell.count(), cell.independent()), ("3 runs of 2 seeds".into(), vec![71.0, 75.0]));
}

#[test]
fn balanced_accuracy_is_shown_where_it_is_not_top1() {
    let balanced = OTHERS.iter().position(|o| o.name == BALANCED).expect("a number");
    let shown = |value| {
        let mut r = record("erm", EXP100, 0, 70.0, plain());
        r.others[balanced] = value;
        tables(&[r])[0].others(0)
    };
    assert_eq!([None, Some(70.0 + 1e-9), Some(66.0)].map(shown), [vec![], vec![], vec![balanced]]);
}

#[test]
fn settings_without_a_standard_are_shown_only_if_they_vary() {
    let with = |swa| json!({"arch": "resnet32", "swa": swa, "ema": 0.1});
    let a = record("erm", EXP100, 0, 70.0, with(true));
    let b = record("erm", EXP100, 1, 71.0, with(false));
    let both = [a, b];
    let t = &tables(&both)[0];
    let variants: Vec<_> = t.rows.iter().map(|r| r.variant.as_str()).collect();
    assert_eq!(variants, ["swa false", "swa true"]);
    assert_eq!(t.common, ["ema 0.1"]);
    let t = &tables(&both[..1])[0];
    assert_eq!((t.rows[0].variant.as_str(), t.common.join(", ")), ("", "ema 0.1, swa true".into()));
}

#[test]
fn last_and_best_have_separate_tables() {
    let last = record("erm", EXP100, 0, 70.0, plain());
    let mut best = Record { top1: 71.0, ..last.clone() };
    best.of.which = "best".into();
    let titles: Vec<_> = tables(&[best, last]).iter().map(Table::title).collect();
    let of = "(Table 1 of the reproduction report)";
    assert_eq!(titles, [format!("CIFAR-10, last epoch {of}"), format!("CIFAR-10, best epoch {of}")]);
}

#[test]
fn columns_and_rows_are_sorted() {
    let at = |t, r| ["cifar10", t, r];
    let records = [
        record("remix", at("none", "1"), 0, 90.0, plain()),
        record("zzz", at("step", "20"), 0, 1.0, plain()),
        record("remix-drw", at("exp", "50"), 0, 1.0, plain()),
        record("erm", EXP100, 0, 1.0, plain()),
    ];
    let t = &tables(&records)[0];
    let columns: Vec<_> = t.columns.iter().map(|c| format!("{} {}", c.imb_type, c.imb_ratio)).collect();
    assert_eq!(columns, ["exp 100", "exp 50", "step 20", "none 1"]);
    let rows: Vec<_> = t.rows.iter().map(|r| r.method.as_str()).collect();
    assert_eq!(rows, ["erm", "remix", "remix-drw", "zzz"]);
    // The published value is shown even if nothing was run.
    let missing = &t.rows[1].cells[0];
    assert_eq!((missing.mean(), missing.std(), missing.difference()), (None, None, None));
    assert_eq!(missing.paper.map(|p| p.value), Some(75.36));
}
