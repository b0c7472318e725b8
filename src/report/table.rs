//! Tables: evaluations arranged as methods × (type, ratio), with their statistics. One table a data set and epoch, so that
//! last and best never mix.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::experiment::{Column, Experiment, order};
use super::record::Record;
use super::settings::{common, telling, variant};
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
}

/// One method in one setting.
#[derive(Debug)]
pub struct Row {
    /// Name of the preset.
    pub method: String,
    /// What departs from the preset and the standard settings; empty for the plain method.
    pub variant: String,
    /// One cell a column.
    pub cells: Vec<Cell>,
}

/// One method on one training set.
#[derive(Debug)]
pub struct Cell {
    /// One a seed, by seed. Empty where nothing was evaluated.
    pub values: Vec<Run>,
    /// Published value, percent, and the name of its source.
    pub paper: Option<(f64, &'static str)>,
    /// Value in the starting report, percent.
    pub starting_report: Option<f64>,
}

/// The result of one seed.
#[derive(Debug)]
pub struct Run {
    /// Seed of the training, where it is known.
    pub seed: Option<u64>,
    /// Percent.
    pub top1: f64,
    /// Key of the metrics manifest.
    pub key: String,
    place: PathBuf,
}

impl Cell {
    /// Mean over seeds.
    pub fn mean(&self) -> Option<f64> {
        let n = self.values.len();
        (n > 0).then(|| self.values.iter().map(|v| v.top1).sum::<f64>() / n as f64)
    }

    /// Sample standard deviation over seeds (n − 1); none for fewer than two.
    pub fn std(&self) -> Option<f64> {
        let mean = self.mean()?;
        let n = self.values.len();
        let squares: f64 = self.values.iter().map(|v| (v.top1 - mean).powi(2)).sum();
        (n > 1).then(|| (squares / (n - 1) as f64).sqrt())
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
    let of: Vec<&Experiment> = records.iter().map(|r| &r.of).collect();
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
    let mut rows: BTreeMap<_, BTreeMap<&Column, Vec<Run>>> = BTreeMap::new();
    for r in records {
        let variant = variant(&r.of, &telling);
        let row = rows.entry((order(&r.of.method), r.of.method.clone(), variant.clone())).or_default();
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
        values.push(Run { seed: r.of.seed, top1: r.top1, key: r.key.clone(), place: r.place.clone() });
    }
    let rows = rows.into_iter().map(|((_, method, variant), mut cells)| {
        let cells = columns.iter().map(|c| {
            let mut values = cells.remove(c).unwrap_or_default();
            values.sort_by_key(|v| v.seed);
            let name = c.name();
            let starting_report = published::starting_report(&method, &name);
            Cell { values, paper: published::paper(&method, &name), starting_report }
        });
        Row { cells: cells.collect(), method, variant }
    });
    let rows = rows.collect();
    let (dataset, which) = (first.column.dataset.clone(), first.which.clone());
    Ok(Table { number, dataset, which, columns, rows, common: common(&of, &telling) })
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
