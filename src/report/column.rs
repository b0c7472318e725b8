//! The columns of a table: one per training set.

use std::cmp::Ordering;

use serde_json::Value;

use crate::manifest::Input;

/// A column of a table: its training set. Columns are ordered by data set, then exp, step and balanced sets,
/// then with the largest ratio first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// `cifar10`, `cifar100` or `synthetic`; for image files, the name of their directory.
    pub dataset: String,
    /// `exp`, `step` or `none`.
    pub imb_type: String,
    /// Ratio of the largest class to the smallest, as printed: `100`, `1.5`.
    pub imb_ratio: String,
}

impl Column {
    /// Returns the name used in `published.json`: `cifar10/exp/100`.
    pub fn name(&self) -> String {
        format!("{}/{}/{}", self.dataset, self.imb_type, self.imb_ratio)
    }

    /// Returns the data set's name as papers write it: `CIFAR-10`.
    pub fn title(&self) -> &str {
        dataset_title(&self.dataset)
    }

    /// Returns the heading under the data set's name: `exp 100`. An unmodified set has no ratio to show.
    pub fn heading(&self) -> String {
        match self.imb_type.as_str() {
            "none" => "all images".into(),
            imb_type => format!("{imb_type} {}", self.imb_ratio),
        }
    }
}

impl Ord for Column {
    fn cmp(&self, other: &Self) -> Ordering {
        let rank = |c: &Column| (c.dataset.clone(), c.imb_type == "none", c.imb_type.clone());
        let ratio = |c: &Column| c.imb_ratio.parse::<f64>().unwrap_or(0.0);
        rank(self)
            .cmp(&rank(other))
            .then(ratio(other).total_cmp(&ratio(self)))
            .then(self.imb_ratio.cmp(&other.imb_ratio))
    }
}

impl PartialOrd for Column {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Returns a data set's name as papers write it.
pub(super) fn dataset_title(name: &str) -> &str {
    match name {
        "cifar10" => "CIFAR-10",
        "cifar100" => "CIFAR-100",
        "synthetic" => "Synthetic",
        other => other,
    }
}

/// The data sets with published values and those that `mk-imbalance` knows by name, in lower case with only
/// letters and digits.
const PUBLISHED: [&str; 6] = ["cifar10", "cifar100", "cinic10", "inaturalist", "synthetic", "tinyimagenet"];

/// Returns the column that a data set belongs to, from its params. A data set made by hand need not state how
/// it was made imbalanced; it then counts as unmodified.
pub(super) fn column_of(dataset: &Input) -> Option<Column> {
    let text = |name| dataset.params.get(name).and_then(Value::as_str).map(str::to_owned);
    let imb_type = text("imb_type").unwrap_or_else(|| "none".into());
    let imb_ratio = match dataset.params.get("imb_ratio").and_then(Value::as_f64) {
        // `f64` prints 100.0 as 100 and 1.5 as 1.5.
        Some(ratio) => ratio.to_string(),
        None if imb_type == "none" => "1".into(),
        None => return None,
    };
    // Image files are named after their directory, but never like a published data set.
    let own = dataset.facts.get("name").and_then(Value::as_str);
    let bare = |own: &str| own.chars().filter(|c| c.is_alphanumeric()).collect::<String>().to_lowercase();
    let own = own.filter(|own| !PUBLISHED.contains(&&*bare(own))).map(str::to_owned);
    Some(Column { dataset: own.or_else(|| text("dataset"))?, imb_type, imb_ratio })
}
