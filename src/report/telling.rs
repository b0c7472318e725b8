//! What a row of a table must say of its settings so that it is taken for no other experiment.

use std::collections::{BTreeMap, BTreeSet};

use super::experiment::Experiment;
use super::settings::{departs, standard, words};

/// What a table says of its settings.
pub(super) struct Telling {
    /// Settings that all records have with one value, which is not the standard one, in words: said once, and
    /// in no row.
    pub common: Vec<String>,
    /// Settings without a standard value that rows must tell, or rows that were never averaged would look the
    /// same.
    varying: BTreeSet<String>,
    shared: BTreeSet<String>,
}

/// What must be said of the settings of a table's records, and where.
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
        if values.len() == 1 && records.iter().all(|r| r.settings.contains_key(name)) {
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

/// What departs from the preset and the standard settings, in words, without what is said once for all rows.
pub(super) fn variant(r: &Experiment, telling: &Telling) -> String {
    in_words(r, |name| {
        !telling.shared.contains(name) && (standard(name).is_some() || telling.varying.contains(name))
    })
}

/// The same, whatever other rows have: for records that are read alone.
pub(super) fn departures(r: &Experiment, telling: &Telling) -> String {
    in_words(r, |name| standard(name).is_some() || telling.varying.contains(name))
}

/// Options that are not the preset's, and those of the settings to tell that depart from the standard.
fn in_words(r: &Experiment, tell: impl Fn(&str) -> bool) -> String {
    let options = options(r);
    let told = r.settings.iter().filter(|(name, value)| tell(name) && departs(name, value));
    options.chain(told.map(|(name, value)| words(name, value))).collect::<Vec<_>>().join(", ")
}

/// Options of the method that are not the preset's, in words, as their flags are called.
pub(super) fn options(r: &Experiment) -> impl Iterator<Item = String> {
    let all = r.options.split(',').filter(|o| !o.is_empty());
    all.map(|o| o.replace('=', " ").replace('_', "-"))
}
