//! Tables: evaluations arranged as methods × (type, ratio), with their statistics. There is one table per
//! data set and epoch, so that last and best epochs never mix.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::column::{Column, dataset_title};
use super::experiment::{Experiment, disambiguated, order, representatives};
use super::plural;
use super::published::{Beside, Missing, Published};
use super::record::{BALANCED, OTHERS, Record};
use super::series::{count, mean_std};
use super::telling::{departures, telling, variant};

/// One table.
#[derive(Debug)]
pub struct Table<'a> {
    /// Its number in the reproduction report: 1 for CIFAR-10, 2 for CIFAR-100.
    pub number: Option<u32>,
    /// The data set's name in the params.
    pub dataset: String,
    /// `last`, `best` or `file`.
    pub which: String,
    /// Columns, in order.
    pub columns: Vec<Column>,
    /// Rows, in the order of the methods in the literature.
    pub rows: Vec<Row<'a>>,
    /// Settings that all rows share and that differ from the standard ones, in words.
    pub common: Vec<String>,
    /// The largest difference between evaluations of the same weights, in percentage points. Only one of them
    /// counts for each run.
    pub repeated: f64,
    /// The split that all rows were evaluated on; `None` if they differ.
    pub split: Option<String>,
    /// Why some cells have no published value beside them, in words.
    pub unpublished: BTreeSet<Missing>,
}

/// A column shown beside the reproduced values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Published values.
    Paper,
    /// Reproduced minus published.
    Difference,
    /// Values of the reproduction report.
    Report,
}

impl Part {
    /// Returns the heading.
    pub fn title(self) -> &'static str {
        match self {
            Part::Paper => "paper",
            Part::Difference => "Δ",
            Part::Report => "report",
        }
    }
}

/// One method in one setting.
#[derive(Debug)]
pub struct Row<'a> {
    /// Name of the preset.
    pub method: String,
    /// How the settings differ from the preset and the standard ones, without what the table states once for
    /// all rows; empty for the plain method.
    pub variant: String,
    /// The same, including what the table states once for all rows.
    pub departures: String,
    /// One cell per column.
    pub cells: Vec<Cell<'a>>,
}

/// One method on one training set.
#[derive(Debug)]
pub struct Cell<'a> {
    /// The evaluations, one for each run, by seed; empty if nothing was evaluated.
    pub values: Vec<&'a Record>,
    /// The published value for the setting, if there is one.
    pub paper: Option<Beside<'a>>,
    /// The value in the reproduction report in percent, if there is one.
    pub starting_report: Option<f64>,
}

impl Cell<'_> {
    /// Returns the mean over runs.
    pub fn mean(&self) -> Option<f64> {
        Some(self.top1()?.0)
    }

    /// Returns the sample standard deviation over runs (n − 1); `None` for fewer than two.
    pub fn std(&self) -> Option<f64> {
        self.top1()?.1
    }

    fn top1(&self) -> Option<(f64, Option<f64>)> {
        let all: Vec<f64> = self.values.iter().map(|v| v.top1).collect();
        (!all.is_empty()).then(|| mean_std(&all))
    }

    /// Returns the mean and the sample standard deviation over runs of the metric with index `n` in
    /// [`OTHERS`], if every run has it.
    pub fn other(&self, n: usize) -> Option<(f64, Option<f64>)> {
        let all: Option<Vec<f64>> = self.values.iter().map(|v| v.others[n]).collect();
        all.filter(|all| !all.is_empty()).map(|all| mean_std(&all))
    }

    /// Returns the reproduced mean minus the published value, if the two are comparable.
    pub fn difference(&self) -> Option<f64> {
        Some(self.mean()? - self.paper.filter(Beside::is_comparable)?.value)
    }

    /// Describes the number of runs: `3`; if seeds repeat, `3 runs of 2 seeds`; if several classifiers were
    /// trained on the features of a network, `10 runs of 2 networks`.
    pub fn count(&self) -> String {
        let seeds = self.seeds();
        let of_networks: Option<BTreeSet<u64>> = self.values.iter().map(|v| v.of.network_seed).collect();
        match of_networks {
            Some(networks) if networks.len() < seeds.iter().collect::<BTreeSet<_>>().len() => {
                format!("{} runs of {}", self.values.len(), plural(networks.len(), "network"))
            }
            _ => count(&seeds),
        }
    }

    /// Returns the accuracies of independent trainings, in percent. Runs of one seed, which differ by rounding
    /// alone, and classifiers on the features of one network are not independent; they count as their mean.
    pub fn independent(&self) -> Vec<f64> {
        let mut groups: BTreeMap<_, Vec<f64>> = BTreeMap::new();
        for v in &self.values {
            let seed = v.of.network_seed.or(v.of.seed);
            // Nothing is known of weights without a seed, so each counts.
            groups.entry((seed, seed.is_none().then_some(&v.of.weights))).or_default().push(v.top1);
        }
        groups.values().map(|all| mean_std(all).0).collect()
    }

    /// Returns whether every run has a seed of its own or is the only one.
    pub fn is_one_run_a_seed(&self) -> bool {
        self.count().parse::<usize>().is_ok()
    }

    /// Returns the seeds of the runs, each with that of the network that a classifier was trained on.
    pub fn seeds(&self) -> Vec<Option<[u64; 2]>> {
        self.values.iter().map(|v| Some([v.of.seed?, v.of.network_seed.unwrap_or(0)])).collect()
    }
}

impl<'a> Table<'a> {
    /// Returns the parts shown beside the reproduced values of a column: those for which some row has a
    /// value.
    pub fn parts(&self, column: usize) -> Vec<Part> {
        let any = |has: fn(&Cell) -> bool| self.rows.iter().any(|row| has(&row.cells[column]));
        let all = [
            (Part::Paper, any(|c| c.paper.is_some())),
            (Part::Difference, any(|c| c.difference().is_some())),
            (Part::Report, any(|c| c.starting_report.is_some())),
        ];
        all.into_iter().filter(|(_, shown)| *shown).map(|(part, _)| part).collect()
    }

    /// Returns whether some column has a part.
    pub fn has(&self, part: Part) -> bool {
        (0..self.columns.len()).any(|column| self.parts(column).contains(&part))
    }

    /// Returns what the numbers are, for a caption: `mean ± standard deviation over seeds (number of seeds)`.
    pub fn statistics(&self) -> &'static str {
        match self.cells().all(Cell::is_one_run_a_seed) {
            true => "mean ± standard deviation over seeds (number of seeds)",
            false => {
                "mean ± standard deviation over runs (number of runs, and of seeds or networks where they differ)"
            }
        }
    }

    /// Returns how many runs each version of `train` made.
    pub fn versions(&self) -> BTreeMap<u64, usize> {
        let mut versions = BTreeMap::new();
        for version in self.cells().flat_map(|c| &c.values).filter_map(|v| v.of.semantics) {
            *versions.entry(version).or_default() += 1;
        }
        versions
    }

    /// Returns all cells, row by row.
    pub fn cells(&self) -> impl Iterator<Item = &Cell<'a>> {
        self.rows.iter().flat_map(|r| &r.cells)
    }

    /// Returns the metrics other than top-1 that some cell of a column has, as indices into [`OTHERS`], without
    /// balanced accuracy where it is top-1 accuracy everywhere.
    pub fn others(&self, column: usize) -> Vec<usize> {
        let is_told = |cell: &Cell, n| {
            let same = |(value, _): (f64, _)| cell.mean().is_some_and(|top1| (value - top1).abs() < 1e-6);
            cell.other(n).is_some_and(|value| OTHERS[n].name != BALANCED || !same(value))
        };
        (0..OTHERS.len()).filter(|&n| self.rows.iter().any(|r| is_told(&r.cells[column], n))).collect()
    }

    /// Returns the title: `CIFAR-10, last epoch (Table 1 of the reproduction report)`.
    pub fn title(&self) -> String {
        let number =
            self.number.map_or(String::new(), |n| format!(" (Table {n} of the reproduction report)"));
        self.name() + &number
    }

    /// Returns the title without its number: `CIFAR-10, last epoch`.
    pub fn name(&self) -> String {
        let epoch = match self.which.as_str() {
            "file" => "weights of unknown epoch".into(),
            which => format!("{which} epoch"),
        };
        format!("{}, {epoch}", dataset_title(&self.dataset))
    }
}

/// Arranges evaluations as tables, with published values beside them; their order does not matter.
pub fn tables<'a>(records: &'a [Record], published: &'a Published) -> Vec<Table<'a>> {
    let mut groups: BTreeMap<_, Vec<&Record>> = BTreeMap::new();
    for r in records {
        let number = number(&r.of.column.dataset);
        // Numbered tables come first, the others by name; last comes before best.
        let which = ["last", "best"].iter().position(|w| *w == r.of.which).unwrap_or(2);
        groups.entry((number.unwrap_or(u32::MAX), r.of.column.dataset.clone(), which)).or_default().push(r);
    }
    groups.into_values().map(|group| table(&group, published)).collect()
}

fn number(dataset: &str) -> Option<u32> {
    match dataset {
        "cifar10" => Some(1),
        "cifar100" => Some(2),
        _ => None,
    }
}

fn table<'a>(records: &[&'a Record], published: &'a Published) -> Table<'a> {
    let told = disambiguated(&records.iter().map(|r| &r.of).collect::<Vec<_>>());
    let of: Vec<&Experiment> = told.iter().collect();
    let first = of[0];
    let number = number(&first.column.dataset);
    let mut columns: Vec<Column> = of.iter().map(|r| r.column.clone()).collect();
    columns.sort();
    columns.dedup();

    let telling = telling(&of);
    let representatives = representatives(&of);
    let repeated = (0..of.len()).map(|i| (records[i].top1 - records[representatives[i]].top1).abs());
    let repeated = repeated.fold(0.0, f64::max);
    let mut rows: BTreeMap<_, (&Experiment, BTreeMap<&Column, Vec<&'a Record>>)> = BTreeMap::new();
    for i in representatives.iter().copied().collect::<BTreeSet<_>>() {
        let of = of[i];
        let departures = departures(of, &telling);
        // Rows with fewer departures come first.
        let key = (order(&of.method), of.method.clone(), departures.len(), departures);
        let (_, row) = rows.entry(key).or_insert_with(|| (of, BTreeMap::new()));
        row.entry(&of.column).or_default().push(records[i]);
    }
    let mut unpublished = BTreeSet::new();
    let rows = rows.into_iter().map(|((_, method, _, departures), (of, mut cells))| {
        let cells = columns.iter().map(|c| {
            let mut values = cells.remove(c).unwrap_or_default();
            values.sort_by(|a, b| {
                let (a, b) = (&a.of, &b.of);
                (a.seed, &a.computed_by, &a.weights).cmp(&(b.seed, &b.computed_by, &b.weights))
            });
            let name = c.name();
            let paper = published.beside(of, &name);
            if paper.is_none() && !values.is_empty() {
                unpublished.extend(published.why_none(of, &name));
            }
            Cell { values, paper, starting_report: published.starting_report(of, &name) }
        });
        Row {
            cells: cells.collect(),
            method,
            variant: variant(of, &telling),
            departures: departures.join(", "),
        }
    });
    let rows: Vec<Row> = rows.collect();
    let (dataset, which) = (first.column.dataset.clone(), first.which.clone());
    let split =
        |e: &&Experiment| e.settings.get("split").and_then(Value::as_str).unwrap_or("test").to_owned();
    let split = Some(split(&of[0])).filter(|first| of.iter().all(|e| split(e) == *first));
    Table { number, dataset, which, columns, rows, common: telling.common, repeated, split, unpublished }
}

#[cfg(test)]
mod tests;
