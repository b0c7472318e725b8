//! Published accuracies from `published.json`, which records the source and the setting of each, and from
//! files of the same form that are given to a report.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::experiment::Experiment;
use super::settings::{milestones_in_words, same, standard, words};
use super::telling::options;
use super::{plural, title};
use crate::manifest::json_fault;
use crate::methods::presets::preset;
use crate::train::schedule::Origin;

/// The committed file.
const TEXT: &str = include_str!("published.json");

/// The committed values and, before them, those of a given file, which take precedence.
#[derive(Debug, Deserialize)]
pub struct Published {
    /// Descriptions of the sources, by name; `paper`, `ldam` and `seed` (the reproduction report) are built
    /// in.
    pub sources: BTreeMap<String, String>,
    tables: Vec<Table>,
    /// The hash of all values, which is part of a report's key.
    #[serde(skip)]
    pub hash: String,
}

impl Published {
    /// Returns the committed values.
    pub fn committed() -> Published {
        let all: Published = serde_json::from_str(TEXT).expect("published.json is tested to parse");
        Published { hash: blake3::hash(TEXT.as_bytes()).to_hex().to_string(), ..all }
    }

    /// Returns the committed values and those of a file in the form of `published.json`.
    ///
    /// # Errors
    /// Returns a message if the file cannot be read or has another form, or if a source is missing or has the
    /// name of a built-in one.
    pub fn with(file: &Path) -> Result<Published, String> {
        let text = fs::read_to_string(file).map_err(|e| e.to_string())?;
        let given: Published = serde_json::from_str(&text)
            .map_err(|e| format!("is not in the format of published.json: {}", json_fault(&e)))?;
        if let Some(table) = given.tables.iter().find(|t| !given.sources.contains_key(&t.source)) {
            return Err(format!("`sources` has no {:?}, which a table refers to", table.source));
        }
        let mut all = Published::committed();
        if let Some(known) = given.sources.keys().find(|name| all.sources.contains_key(*name)) {
            return Err(format!(
                "the source {known:?} has the name of a built-in source; give it another name"
            ));
        }
        all.sources.extend(given.sources);
        all.tables.splice(..0, given.tables);
        all.hash = blake3::hash([TEXT, &text].concat().as_bytes()).to_hex().to_string();
        Ok(all)
    }

    /// Returns the description of a source.
    pub fn source(&self, name: &str) -> &str {
        self.sources.get(name).map_or("", String::as_str)
    }

    /// Returns the published value for a run's setting and a data set's column: one with the run's own
    /// schedule if there is one, and otherwise that of the first source. Returns `None` if nobody published
    /// the setting.
    pub fn beside(&self, run: &Experiment, column: &str) -> Option<Beside<'_>> {
        let found: Vec<Beside> = self.values(run, column).filter(|v| v.table.source != "seed").collect();
        found.iter().find(|v| v.same_schedule).or(found.first()).copied()
    }

    /// Returns the value in the reproduction report, in percent, for a run's setting and a data set's column.
    pub fn starting_report(&self, run: &Experiment, column: &str) -> Option<f64> {
        self.values(run, column).find(|v| v.table.source == "seed").map(|v| v.value)
    }

    /// Returns all published values for a run's setting, if its schedule is one of the published schedules.
    fn values<'a>(&'a self, run: &Experiment, column: &str) -> impl Iterator<Item = Beside<'a>> {
        let schedule = Schedule::of(run).filter(|s| self.tables.iter().any(|t| t.schedule.is_of(run, s)));
        let name = method(&run.method, &run.options);
        self.tables.iter().filter_map(move |table| {
            let schedule = schedule.as_ref().filter(|_| table.fits(run))?;
            let mut rows = table.rows.iter();
            let (_, row) = rows.find(|(row, _)| {
                let (base, options) = row.split_once('(').unwrap_or((row, ""));
                method(base, options.trim_end_matches(')')) == name
            })?;
            let value = *row.get(column)?;
            let value = match table.unit {
                Unit::Accuracy => value,
                // Round to the number of decimals printed in the sources.
                Unit::Error => ((100.0 - value) * 100.0).round() / 100.0,
            };
            Some(Beside { value, table, same_schedule: table.schedule.is_of(run, schedule) })
        })
    }

    /// Returns why there is no published value for a run's setting and a data set's column; `None` if nobody
    /// published values for the data set.
    pub fn why_none(&self, run: &Experiment, column: &str) -> Option<Missing> {
        let dataset = column.split('/').next().unwrap_or_default();
        let all = || self.tables.iter().flat_map(|t| t.rows.values().map(move |row| (t, row)));
        let of_column: Vec<&Table> =
            all().filter(|(_, row)| row.contains_key(column)).map(|(t, _)| t).collect();
        if of_column.is_empty() {
            let any = all().flat_map(|(_, row)| row.keys()).any(|c| c.split('/').next() == Some(dataset));
            return any.then(|| Missing::Nobody(format!("value for {}", run.column.heading())));
        }
        let schedule = Schedule::of(run);
        let is_known =
            schedule.as_ref().is_some_and(|s| self.tables.iter().any(|t| t.schedule.is_of(run, s)));
        let departures = |t: &Table| {
            let mut all = t.departures(run);
            let told = schedule.as_ref().filter(|_| !is_known).map(Schedule::words);
            all.extend(told);
            all
        };
        let nearest = of_column.into_iter().min_by_key(|t| departures(t).len())?;
        Some(match departures(nearest) {
            none if none.is_empty() => Missing::Nobody(format!("value for {} on this data", name(run))),
            some => Missing::Departs {
                from: format!("{}, {}", nearest.arch, nearest.schedule.words()),
                by: some.join(", "),
            },
        })
    }
}

/// A table of values from one source in one setting.
#[derive(Debug, Deserialize)]
pub struct Table {
    /// `paper`, `ldam`, `seed` (the reproduction report), or the name of a source in a given file.
    pub source: String,
    /// The table's name in the source.
    pub table: String,
    /// The network architecture.
    pub arch: String,
    /// Epochs and learning rate.
    pub schedule: Schedule,
    /// The batch size.
    #[serde(default = "batch_size")]
    batch_size: u64,
    /// Settings that are not compared, because the source does not state them, or because they differ from
    /// the standard and have no name here.
    #[serde(default)]
    open: Vec<String>,
    #[serde(default)]
    unit: Unit,
    /// What is uncertain about the setting. Values with a doubt are shown, but no difference from them.
    pub doubt: Option<String>,
    /// Values by method and by `dataset/imb_type/imb_ratio`.
    rows: BTreeMap<String, BTreeMap<String, f64>>,
}

fn batch_size() -> u64 {
    128
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Unit {
    #[default]
    Accuracy,
    Error,
}

/// The length of a training and the epochs at which its learning rate drops.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Schedule {
    /// Number of passes over the images.
    pub epochs: u32,
    /// The epochs from which the learning rate is a tenth of what it was before.
    pub milestones: Vec<u32>,
    /// Number of epochs of linear warm-up.
    #[serde(default)]
    pub warmup: u32,
    /// The first epoch of a deferred rule; the last milestone if it is not given.
    #[serde(default)]
    pub rule_from: Option<u32>,
}

impl Schedule {
    /// Returns the schedule of a run, with standard values for settings that it does not state; `None` if a
    /// setting cannot be interpreted.
    fn of(run: &Experiment) -> Option<Schedule> {
        let setting = |name| run.settings.get(name).or_else(|| standard(name)).cloned();
        let number = |name| setting(name).and_then(|v| u32::try_from(v.as_u64()?).ok());
        let epochs = number("epochs")?;
        let milestones = match run.settings.get("milestones") {
            Some(chosen) => serde_json::from_value(chosen.clone()).ok()?,
            None => serde_json::from_value::<Origin>(setting("recipe")?).ok()?.milestones(epochs),
        };
        let rule_from = run.settings.get("rule_from").and_then(|v| u32::try_from(v.as_u64()?).ok());
        Some(Schedule { epochs, milestones, warmup: number("warmup")?, rule_from })
    }

    /// Returns whether a run has this schedule, and begins its rule where the published runs began theirs.
    fn is_of(&self, run: &Experiment, schedule: &Schedule) -> bool {
        let deferred = preset(&run.method).is_ok_and(|method| method.rule.kind.deferred);
        let rate = |s: &Schedule| (s.epochs, s.milestones.clone(), s.warmup);
        let begins = |s: &Schedule| s.rule_from.or(s.milestones.last().copied());
        rate(self) == rate(schedule) && (!deferred || begins(self) == begins(schedule))
    }

    /// Describes the schedule: `300 epochs, milestones 150 and 250` or `1 epoch, no milestones`.
    pub fn words(&self) -> String {
        let warmup = if self.warmup > 0 { format!(", warm-up {}", self.warmup) } else { String::new() };
        let rule = self.rule_from.map_or(String::new(), |epoch| format!(", a deferred rule from {epoch}"));
        format!("{}{warmup}, {}{rule}", plural(self.epochs, "epoch"), milestones_in_words(&self.milestones))
    }
}

/// A published value shown beside a cell.
#[derive(Clone, Copy, Debug)]
pub struct Beside<'a> {
    /// Accuracy in percent.
    pub value: f64,
    /// The table that it comes from.
    pub table: &'a Table,
    /// Whether the cell's runs use the schedule of the published ones.
    pub same_schedule: bool,
}

impl Beside<'_> {
    /// Returns whether a difference from it reflects results rather than settings.
    pub fn is_comparable(&self) -> bool {
        self.same_schedule && self.table.doubt.is_none()
    }
}

/// Why a published value is missing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Missing {
    /// Nobody published what this text names.
    Nobody(String),
    /// The published values are for another network or schedule; `by` says how the runs depart from it.
    Departs { from: String, by: String },
}

/// Returns the reasons in sentences, with one sentence for all departures from the same setting.
pub(super) fn missing_in_words(all: &BTreeSet<Missing>) -> Vec<String> {
    let mut sentences = vec![];
    let mut departures: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for missing in all {
        match missing {
            Missing::Nobody(what) => sentences.push(format!("There is no published {what}.")),
            Missing::Departs { from, by } => departures.entry(from).or_default().push(by),
        }
    }
    sentences.extend(departures.iter().map(|(from, by)| {
        let by = by.join("; with ");
        format!("Published values are not shown beside runs with {by}, because they are for {from} and otherwise the usual settings.")
    }));
    sentences
}

/// Returns a method with its options in readable form.
fn name(run: &Experiment) -> String {
    let options: Vec<String> = options(run).collect();
    match options.is_empty() {
        true => title(&run.method),
        false => format!("{} with {}", title(&run.method), options.join(", ")),
    }
}

/// Returns a method with its options, with numbers in one format. The normalisation of class weights is left
/// out, because the sources do not state it.
fn method(base: &str, options: &str) -> (String, Vec<String>) {
    let number = |text: &str| text.parse::<f64>().map_or_else(|_| text.to_owned(), |v| v.to_string());
    let option = |o: &str| o.split_once('=').map(|(name, value)| format!("{name}={}", number(value)));
    let mut all: Vec<String> = options.split(',').filter_map(option).collect();
    all.retain(|o| !o.starts_with("rw_norm="));
    all.sort();
    (base.to_owned(), all)
}

impl Table {
    /// Returns whether a run is in this setting, regardless of its schedule.
    fn fits(&self, run: &Experiment) -> bool {
        self.departures(run).is_empty()
    }

    /// Describes how a run departs from this setting, regardless of its schedule. A run in bf16 counts as the
    /// same experiment, rounded.
    fn departures(&self, run: &Experiment) -> Vec<String> {
        let own = |name| run.settings.get(name).or_else(|| standard(name));
        let open = |name: &str| {
            ["arch", "batch_size", "epochs", "milestones", "recipe", "rule_from", "warmup", "precision"]
                .contains(&name)
                || self.open.iter().any(|o| o == name)
        };
        let mut all = Vec::new();
        for (name, fits) in [
            ("arch", own("arch").and_then(Value::as_str) == Some(&self.arch)),
            ("batch_size", own("batch_size").and_then(Value::as_u64) == Some(self.batch_size)),
        ] {
            all.extend(own(name).filter(|_| !fits).map(|value| words(name, value)));
        }
        let usual = |name: &str, value: &Value| {
            open(name) || standard(name).map_or(name != "evaluated on", |s| same(s, value))
        };
        all.extend(run.settings.iter().filter(|(n, v)| !usual(n, v)).map(|(n, v)| words(n, v)));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::super::experiment::tests::experiment;
    use super::*;
    use serde_json::json;

    /// Returns a run of a method on CIFAR-10, or on the data set of the column it is used with, with some
    /// settings.
    fn run(method: &str, options: &str, settings: Value) -> Experiment {
        let settings = settings.as_object().expect("an object").clone().into_iter().collect();
        Experiment { method: method.into(), options: options.into(), settings, ..experiment() }
    }

    fn paper(method: &str) -> Experiment {
        run(method, "", json!({"recipe": "paper"}))
    }

    #[test]
    fn schedules_in_words() {
        let words = |epochs, milestones: &[u32], warmup| {
            Schedule { epochs, milestones: milestones.to_vec(), warmup, rule_from: None }.words()
        };
        assert_eq!(words(300, &[150, 250], 0), "300 epochs, milestones 150 and 250");
        assert_eq!(words(90, &[30, 60, 80], 0), "90 epochs, milestones 30, 60 and 80");
        assert_eq!(words(200, &[160], 5), "200 epochs, warm-up 5, milestone 160");
        assert_eq!(words(1, &[], 0), "1 epoch, no milestones");
    }

    #[test]
    fn values_match_the_sources() {
        // Tables 1 to 4 of arXiv 2007.03943v3, Table 2 of arXiv 1906.07413v2, and Table 1 of the
        // reproduction report.
        let all = Published::committed();
        let value = |run: &Experiment, column| {
            all.beside(run, column).map(|v| (v.value, v.table.source.as_str(), v.is_comparable()))
        };
        assert_eq!(value(&paper("remix"), "cifar10/exp/100"), Some((75.36, "paper", true)));
        assert_eq!(value(&paper("drw"), "cifar100/step/10"), Some((57.22, "paper", true)));
        assert_eq!(value(&paper("rw"), "cifar100/step/100"), Some((21.31, "ldam", false)));
        assert_eq!(value(&paper("rs"), "cifar10/step/100"), None);
        assert_eq!(all.starting_report(&paper("remix-rw"), "cifar10/exp/10"), Some(89.53));
        assert_eq!(all.starting_report(&paper("erm"), "cifar10/exp/10"), None);
        let cinic = run("mixup", "", json!({"arch": "resnet18-cifar", "recipe": "paper", "split": "val"}));
        assert_eq!(value(&cinic, "cinic10/step/50"), Some((69.74, "paper", true)));
        let inat = json!({"arch": "resnet50", "batch_size": 256, "epochs": 90, "milestones": [30, 60]});
        let inat = run("remix", "alpha=0.4", inat);
        assert_eq!(value(&inat, "inaturalist/none/1"), Some((61.31, "paper", true)));
        for name in ["paper", "ldam", "seed"] {
            assert!(!all.source(name).is_empty(), "{name}");
        }
    }

    #[test]
    fn values_depend_on_the_schedule() {
        let all = Published::committed();
        let value = |settings| {
            let found = all.beside(&run("ldam-drw", "", settings), "cifar10/exp/100");
            found.map(|v| (v.value, v.same_schedule))
        };
        // The schedules of the paper's runs, of the report's, and of LDAM's own.
        assert_eq!(value(json!({"recipe": "paper"})), Some((76.57, true)));
        assert_eq!(value(json!({"milestones": [150, 250]})), Some((76.57, true)));
        assert_eq!(value(json!({"recipe": "seed"})), Some((76.57, false)));
        let own = |rule_from| json!({"epochs": 200, "warmup": 5, "milestones": [161, 161, 181, 181], "rule_from": rule_from});
        assert_eq!(value(own(json!(161))), Some((77.03, true)));
        assert_eq!(value(own(Value::Null)), None, "its rule would begin at 181");
        let erm = json!({"epochs": 200, "warmup": 5, "milestones": [161, 161, 181, 181]});
        let erm = all.beside(&run("erm", "", erm), "cifar10/exp/100").expect("a value");
        assert_eq!((erm.value, erm.same_schedule), (70.36, true));
        for other in
            [json!({"epochs": 10}), json!({"recipe": "cosine"}), json!({"warmup": 5}), json!({"lr": 0.05})]
        {
            assert_eq!(value(other.clone()), None, "{other}");
        }
    }

    #[test]
    fn options_compare_as_numbers() {
        let all = Published::committed();
        let beside = |method: &str, options: &str| {
            let settings = json!({"recipe": "paper", "precision": "bf16"});
            all.beside(&run(method, options, settings), "cifar10/step/100")
        };
        let value = |method: &str, options: &str| beside(method, options).map(|v| v.value);
        assert_eq!(value("focal", "gamma=1.0"), Some(63.91));
        assert_eq!(value("focal", "gamma=1"), Some(63.91));
        assert_eq!(value("focal", ""), None);
        assert!(!beside("focal", "gamma=1").expect("a value").is_comparable(), "copied from the LDAM paper");
        assert_eq!(value("remix-rw", "rw_norm=batch-size"), Some(68.74));
        assert_eq!(value("remix-rw", "beta=0.999,rw_norm=batch-size"), None);
        let tau = |options| beside("remix-drw", options).expect("a value");
        assert_eq!((tau("tau=0.3").value, tau("tau=0.3").is_comparable()), (77.2, false), "of exp or step");
        assert_eq!((tau("").value, tau("").is_comparable()), (77.86, true));
    }

    #[test]
    fn each_value_of_a_file_stands_before_the_committed_ones() {
        let dir = tempfile::tempdir().expect("a directory");
        let with = |value: f64| {
            let file = dir.path().join(format!("{value}.json"));
            let table = json!({
                "source": "ours", "table": "3", "arch": "resnet32",
                "schedule": {"epochs": 300, "milestones": [150, 250]},
                "rows": {"remix": {"cifar10/exp/100": value}},
            });
            let text = json!({"sources": {"ours": "Doe et al."}, "tables": [table]}).to_string();
            fs::write(&file, text).expect("written");
            Published::with(&file).expect("values")
        };
        // Two files in one process do not affect each other.
        let all = [Published::committed(), with(1.5), with(2.5)];
        let value = |all: &Published, method| all.beside(&paper(method), "cifar10/exp/100").map(|v| v.value);
        assert_eq!(all.each_ref().map(|all| value(all, "remix")), [Some(75.36), Some(1.5), Some(2.5)]);
        assert_eq!(all.each_ref().map(|all| value(all, "mixup")), [Some(73.09); 3], "the file has none");
        assert_eq!(all.each_ref().map(|all| all.source("ours")), ["", "Doe et al.", "Doe et al."]);
        assert!(all[0].hash != all[1].hash && all[1].hash != all[2].hash, "they change the result");
    }
}
