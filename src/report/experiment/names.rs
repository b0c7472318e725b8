//! Telling experiments apart, among them bare files of one name, and finding those that are the same run.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::{Experiment, Images};
use crate::manifest::{Object, key};
use crate::report::settings::words;

/// Returns the experiments so that different ones can be told apart. If data sets were made with the same
/// params but hold different images, their experiments get an `images` setting with a hash, so that they are
/// never averaged. Bare files with the same name but different contents get longer names.
pub(in crate::report) fn disambiguated(all: &[&Experiment]) -> Vec<Experiment> {
    let differs = |dataset: &str, own: &Images| {
        let others = all.iter().filter(|other| other.column.dataset == dataset);
        others.filter_map(|e| e.images.as_ref()).any(|i| i.params == own.params && !i.are(own))
    };
    let told = |e: &&Experiment| {
        let mut told = (*e).clone();
        if let Some(own) = e.images.as_ref().filter(|own| differs(&e.column.dataset, own)) {
            told.settings.insert("images".into(), key::short(&own.hash()).into());
        }
        told
    };
    let mut all: Vec<Experiment> = all.iter().map(told).collect();
    name_files(&mut all);
    all
}

/// Renames bare files that share a name but not their contents: as much of the path is kept as tells them
/// apart (`a/best.safetensors`), and the hash is added if the whole paths are equal.
fn name_files(all: &mut [Experiment]) {
    // The smallest path, by name and content hash.
    let mut names: BTreeMap<String, BTreeMap<String, PathBuf>> = BTreeMap::new();
    for e in all.iter() {
        if let Some(file) = &e.file {
            let contents = names.entry(e.method.clone()).or_default();
            let first = contents.entry(e.weights.clone()).or_insert_with(|| file.clone());
            *first = file.min(first).clone();
        }
    }
    names.retain(|_, contents| contents.len() > 1);
    for e in all.iter_mut().filter(|e| e.file.is_some()) {
        if let Some(contents) = names.get(&e.method) {
            let longest = contents.values().map(|p| p.components().count()).max().unwrap_or(0);
            let ends = |n| contents.values().map(|p| end(p, n)).collect::<std::collections::BTreeSet<_>>();
            let path = &contents[&e.weights];
            e.method = match (2..=longest).find(|&n| ends(n).len() == contents.len()) {
                Some(n) => format!("{BARE}{}", end(path, n)),
                None => format!("{} {}", e.method, key::short(&e.weights)),
            };
        }
    }
}

/// The prefix of the names of bare files.
pub(in crate::report) const BARE: &str = "weights ";

/// Returns the last components of a path, joined by slashes.
pub(super) fn end(path: &Path, components: usize) -> String {
    let all: Vec<_> = path.components().map(|c| c.as_os_str().to_string_lossy()).collect();
    all[all.len().saturating_sub(components)..].join("/")
}

/// Returns the names of bare files that had to be lengthened, by the hash of their contents. They depend on
/// paths, which are not part of any key, so a report that shows them records them in its params.
pub fn longer_names(all: &[&Experiment]) -> Object {
    let told = disambiguated(all);
    let longer = all.iter().zip(&told).filter(|(own, told)| own.method != told.method);
    longer.map(|(_, told)| (told.weights.clone(), told.method.clone().into())).collect()
}

/// Returns, for each experiment, the index of its representative. Among runs with the same settings and
/// byte-identical weights, the representative is the first that records what computed it, or else the first.
pub(in crate::report) fn representatives(all: &[&Experiment]) -> Vec<usize> {
    let identity = |e: &&Experiment| {
        let settings: Vec<String> = e.settings.iter().map(|(name, v)| words(name, v)).collect();
        json!([e.column.name(), e.which, e.method, e.options, settings, e.seed, e.weights]).to_string()
    };
    let identities: Vec<String> = all.iter().map(identity).collect();
    let mut chosen: BTreeMap<&str, usize> = BTreeMap::new();
    for (i, identity) in identities.iter().enumerate() {
        let best = chosen.entry(identity).or_insert(i);
        if all[*best].computed_by.is_none() && all[i].computed_by.is_some() {
            *best = i;
        }
    }
    identities.iter().map(|identity| chosen[identity.as_str()]).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::experiment;
    use super::*;

    fn bare(path: &str, weights: &str) -> Experiment {
        let method = format!("{BARE}{}", end(Path::new(path), 1));
        Experiment { method, weights: weights.into(), file: Some(path.into()), seed: None, ..experiment() }
    }

    fn names(all: &[Experiment]) -> Vec<String> {
        let told = disambiguated(&all.iter().collect::<Vec<_>>());
        let again = disambiguated(&told.iter().collect::<Vec<_>>());
        let names = |all: Vec<Experiment>| all.into_iter().map(|e| e.method).collect::<Vec<_>>();
        assert_eq!(names(told.clone()), names(again), "once is enough");
        names(told)
    }

    #[test]
    fn bare_files_with_the_same_name_are_distinguished() {
        let (a, b) = ("/x/a/ckpt.best.safetensors", "/x/b/ckpt.best.safetensors");
        let plain = "weights ckpt.best.safetensors";
        assert_eq!(names(&[bare(a, "1")]), [plain]);
        assert_eq!(names(&[bare(a, "1"), bare(b, "1")]), [plain, plain], "the same content is the same file");
        let named = ["weights a/ckpt.best.safetensors", "weights b/ckpt.best.safetensors"];
        assert_eq!(names(&[bare(a, "1"), bare(b, "2")]), named);
        let deep = ["/r/1/out/w.safetensors", "/r/2/out/w.safetensors", "/q/v.safetensors"];
        let all: Vec<_> = deep.iter().zip(["1", "2", "3"]).map(|(p, w)| bare(p, w)).collect();
        let named = ["weights 1/out/w.safetensors", "weights 2/out/w.safetensors", "weights v.safetensors"];
        assert_eq!(names(&all), named);
        // The file was replaced between two evaluations.
        let named = names(&[bare(a, "0123456789abcdef"), bare(a, "fedcba9876543210")]);
        assert_eq!(named, [format!("{plain} 0123456789ab"), format!("{plain} fedcba987654")]);
    }

    #[test]
    fn byte_identical_runs_have_one_representative() {
        let by = |computed_by: Option<&str>, weights: &str| Experiment {
            computed_by: computed_by.map(str::to_owned),
            weights: weights.into(),
            ..experiment()
        };
        let all = [by(None, "1"), by(Some("avx2"), "1"), by(Some("avx512"), "1"), by(None, "2")];
        assert_eq!(representatives(&all.iter().collect::<Vec<_>>()), [1, 1, 1, 3]);
        let other = Experiment { method: "mixup".into(), ..by(None, "1") };
        assert_eq!(
            representatives(&[&all[0], &other]),
            [0, 1],
            "Remix with τ = 0 is Mixup, in a row of its own"
        );
    }
}
