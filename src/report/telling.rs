//! The settings that a row of a table must state so that it is not mistaken for another experiment.

use std::collections::{BTreeMap, BTreeSet};

use super::experiment::Experiment;
use super::settings::{ALWAYS, departs, standard, words};

/// The settings that a table states, for all rows together or row by row.
pub(super) struct Telling {
    /// Settings with one value in all records, if that is not the standard value, in words. They are stated
    /// once and in no row; those in [`ALWAYS`] are stated in each row instead.
    pub common: Vec<String>,
    /// Settings without a standard value that rows must state, because otherwise rows that are not averaged
    /// together would look the same.
    varying: BTreeSet<String>,
    shared: BTreeSet<String>,
}

/// Determines which settings of a table's records must be stated, and where.
pub(super) fn telling(records: &[&Experiment]) -> Telling {
    let names: BTreeSet<&String> = records.iter().flat_map(|r| r.settings.keys()).collect();
    let mut telling = Telling { common: vec![], varying: BTreeSet::new(), shared: BTreeSet::new() };
    for name in names {
        let values: BTreeSet<String> =
            records.iter().filter_map(|r| Some(words(name, r.settings.get(name)?))).collect();
        let mut per_method: BTreeMap<&str, BTreeSet<bool>> = BTreeMap::new();
        for r in records {
            per_method.entry(&r.method).or_default().insert(r.settings.contains_key(name));
        }
        let is_shared = values.len() == 1 && records.iter().all(|r| r.settings.contains_key(name));
        if is_shared && !ALWAYS.contains(&name.as_str()) {
            telling.common.extend(values.into_iter().filter(|_| departs(name, &records[0].settings[name])));
            telling.shared.insert(name.clone());
        } else if standard(name).is_none()
            && (values.len() > 1 || per_method.values().any(|has| has.len() > 1))
        {
            telling.varying.insert(name.clone());
        }
    }
    telling
}

/// Describes how a record differs from the preset and the standard settings, without what is stated once for
/// all rows.
pub(super) fn variant(r: &Experiment, telling: &Telling) -> String {
    let is_told = |name: &str| {
        !telling.shared.contains(name) && (standard(name).is_some() || telling.varying.contains(name))
    };
    in_words(r, is_told).join(", ")
}

/// Describes the same departure by departure, including what all rows share, for records that are read alone.
pub(super) fn departures(r: &Experiment, telling: &Telling) -> Vec<String> {
    let is_told = |name: &str| {
        standard(name).is_some() || telling.varying.contains(name) || telling.shared.contains(name)
    };
    in_words(r, is_told)
}

/// Describes the options that differ from the preset's, and the settings accepted by `tell` that differ from
/// the standard.
fn in_words(r: &Experiment, tell: impl Fn(&str) -> bool) -> Vec<String> {
    let told = r.settings.iter().filter(|(name, value)| tell(name) && departs(name, value));
    options(r).chain(told.map(|(name, value)| words(name, value))).collect()
}

/// Returns the settings in [`ALWAYS`] that differ from the standard, in words.
pub(super) fn always(r: &Experiment) -> impl Iterator<Item = String> {
    ALWAYS.into_iter().filter_map(move |name| {
        let value = r.settings.get(name)?;
        departs(name, value).then(|| words(name, value))
    })
}

/// Returns the options of the method that differ from the preset's, in words and named like their flags.
pub(super) fn options(r: &Experiment) -> impl Iterator<Item = String> {
    let all = r.options.split(',').filter(|o| !o.is_empty());
    all.map(|o| o.replace('=', " ").replace('_', "-"))
}
