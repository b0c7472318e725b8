//! Tables: evaluations arranged as methods × (type, ratio), with their statistics. One table a data set and epoch, so that
//! last and best never mix.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::Value;

use super::experiment::{Column, Experiment, order, told_apart};
use super::record::{OTHERS, Record};
use super::series::mean_std;
use super::settings::{common, is_published, telling, variant};
use super::{Error, published};

/// One table.
#[derive(Debug)]
pub struct Table {
    /// Its number in the starting report: 1 for CIFAR-10, 2 for CIFAR-100.
    pub number: Option<u32>,
    /// The data set's name in params.
    pub dataset: String,
    /// `last`, `best` or `file`.
    pub which: String,
    /// Columns, in their order.
    pub columns: Vec<Column>,
    /// Rows, in the order of the methods in the literature.
    pub rows: Vec<Row>,
    /// Settings that all rows share and that have no standard value, as `name value`.
    pub common: Vec<String>,
    /// The split that all were evaluated on; none where rows differ.
    pub split: Option<String>,
}

/// One method in one setting.
#[derive(Debug)]
pub struct Row {
    /// Name of the preset.
    pub method: String,
    /// What departs from the preset and the standard settings; empty for the plain method.
    pub variant: String,
    /// Whether this is a setting that published values are of.
    pub published: bool,
    /// One cell a column.
    pub cells: Vec<Cell>,
}

/// One method on one training set.
#[derive(Debug)]
pub struct Cell {
    /// One a seed, by seed. Empty where nothing was evaluated.
    pub values: Vec<Run>,
    /// Published value, percent, and the name of its source; none in other settings than the published.
    pub paper: Option<(f64, &'static str)>,
    /// Value in the starting report, percent; likewise.
    pub starting_report: Option<f64>,
}

/// The result of one seed.
#[derive(Debug)]
pub struct Run {
    /// Seed of the training, where it is known.
    pub seed: Option<u64>,
    /// Percent.
    pub top1: f64,
    /// The other numbers, by [`OTHERS`].
    pub others: [Option<f64>; OTHERS.len()],
    /// Key of the metrics manifest.
    pub key: String,
    place: PathBuf,
}

impl Cell {
    /// Mean over seeds.
    pub fn mean(&self) -> Option<f64> {
        Some(self.top1()?.0)
    }

    /// Sample standard deviation over seeds (n − 1); none for fewer than two.
    pub fn std(&self) -> Option<f64> {
        self.top1()?.1
    }

    fn top1(&self) -> Option<(f64, Option<f64>)> {
        let all: Vec<f64> = self.values.iter().map(|v| v.top1).collect();
        (!all.is_empty()).then(|| mean_std(&all))
    }

    /// Mean over seeds, and sample standard deviation, of a number by its place in [`OTHERS`], where every seed has it.
    pub fn other(&self, n: usize) -> Option<(f64, Option<f64>)> {
        let all: Option<Vec<f64>> = self.values.iter().map(|v| v.others[n]).collect();
        all.filter(|all| !all.is_empty()).map(|all| mean_std(&all))
    }

    /// Reproduced mean minus published value.
    pub fn difference(&self) -> Option<f64> {
        Some(self.mean()? - self.paper?.0)
    }
}

impl Table {
    /// Whether published numbers exist for the data set.
    pub fn has_paper(&self) -> bool {
        self.number.is_some()
    }

    /// Whether any cell has a value in the starting report.
    pub fn has_starting_report(&self) -> bool {
        self.cells().any(|c| c.starting_report.is_some())
    }

    /// All cells, row by row.
    pub fn cells(&self) -> impl Iterator<Item = &Cell> {
        self.rows.iter().flat_map(|r| &r.cells)
    }

    /// Numbers beside top-1 that some cell of a column has, by their places in [`OTHERS`].
    pub fn others(&self, column: usize) -> Vec<usize> {
        (0..OTHERS.len()).filter(|&n| self.rows.iter().any(|r| r.cells[column].other(n).is_some())).collect()
    }

    /// `Table 1. CIFAR-10, last epoch`
    pub fn title(&self) -> String {
        let number = self.number.map_or(String::new(), |n| format!("Table {n}. "));
        number + &self.name()
    }

    /// The title without its number: `CIFAR-10, last epoch`
    pub fn name(&self) -> String {
        let epoch = match self.which.as_str() {
            "file" => "weights of unknown epoch".into(),
            which => format!("{which} epoch"),
        };
        format!("{}, {epoch}", dataset_title(&self.dataset))
    }
}

/// Arranges evaluations, in whatever order they come.
///
/// # Errors
/// One experiment and seed with two results.
pub fn tables(records: &[Record]) -> Result<Vec<Table>, Error> {
    let mut groups: BTreeMap<_, Vec<&Record>> = BTreeMap::new();
    for r in records {
        let number = number(&r.of.column.dataset);
        // Numbered tables first, then by name; last before best.
        let which = ["last", "best"].iter().position(|w| *w == r.of.which).unwrap_or(2);
        groups.entry((number.unwrap_or(u32::MAX), r.of.column.dataset.clone(), which)).or_default().push(r);
    }
    groups.into_values().map(|group| table(&group)).collect()
}

/// A data set's name as papers print it.
pub(super) fn dataset_title(name: &str) -> &str {
    match name {
        "cifar10" => "CIFAR-10",
        "cifar100" => "CIFAR-100",
        "synthetic" => "Synthetic",
        other => other,
    }
}

fn number(dataset: &str) -> Option<u32> {
    match dataset {
        "cifar10" => Some(1),
        "cifar100" => Some(2),
        _ => None,
    }
}

fn table(records: &[&Record]) -> Result<Table, Error> {
    let told = told_apart(&records.iter().map(|r| &r.of).collect::<Vec<_>>());
    let of: Vec<&Experiment> = told.iter().collect();
    let first = of[0];
    let number = number(&first.column.dataset);
    let mut columns: Vec<Column> = of.iter().map(|r| r.column.clone()).collect();
    if number.is_some() {
        // The layout of the starting report, whether or not all of it was run.
        for (imb_type, imb_ratio) in [("exp", "100"), ("exp", "10"), ("step", "100"), ("step", "10")] {
            let dataset = first.column.dataset.clone();
            columns.push(Column { dataset, imb_type: imb_type.into(), imb_ratio: imb_ratio.into() });
        }
    }
    columns.sort();
    columns.dedup();

    let telling = telling(&of);
    let mut rows: BTreeMap<_, (bool, BTreeMap<&Column, Vec<Run>>)> = BTreeMap::new();
    for (r, of) in records.iter().zip(&of) {
        let variant = variant(of, &telling);
        let place = (order(&r.of.method), r.of.method.clone(), variant.clone());
        let (_, row) = rows.entry(place).or_insert_with(|| (is_published(of), BTreeMap::new()));
        let values = row.entry(&r.of.column).or_default();
        if let Some(old) = values.iter().find(|v| v.seed == r.of.seed) {
            if old.top1 != r.top1 {
                let seed = r.of.seed.map_or("without seed".into(), |s| format!("seed {s}"));
                return Err(Error::Duplicate {
                    what: format!(
                        "{} {variant} on {}, {seed}, {}",
                        r.of.method,
                        r.of.column.name(),
                        r.of.which
                    ),
                    first: old.place.clone(),
                    other: old.top1,
                    second: r.place.clone(),
                    value: r.top1,
                });
            }
            continue;
        }
        values.push(Run {
            seed: r.of.seed,
            top1: r.top1,
            others: r.others,
            key: r.key.clone(),
            place: r.place.clone(),
        });
    }
    let rows = rows.into_iter().map(|((_, method, variant), (published, mut cells))| {
        let cells = columns.iter().map(|c| {
            let mut values = cells.remove(c).unwrap_or_default();
            values.sort_by_key(|v| v.seed);
            let name = c.name();
            let paper = published::paper(&method, &name).filter(|_| published);
            let starting_report = published::starting_report(&method, &name).filter(|_| published);
            Cell { values, paper, starting_report }
        });
        Row { cells: cells.collect(), method, variant, published }
    });
    let rows = rows.collect();
    let (dataset, which) = (first.column.dataset.clone(), first.which.clone());
    let split =
        |e: &&Experiment| e.settings.get("split").and_then(Value::as_str).unwrap_or("test").to_owned();
    let split = Some(split(&of[0])).filter(|first| of.iter().all(|e| split(e) == *first));
    Ok(Table { number, dataset, which, columns, rows, common: common(&of, &telling), split })
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
