//! Lists of image files with their classes and splits: read from folders ([`folder`]), from lists ([`list`])
//! or from the layout of a published data set ([`layouts`]), before any image is opened.

pub mod folder;
pub mod layouts;
pub mod list;
mod order;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};

use rand_mt::Mt;

pub use self::order::{Order, names_of, read_names};
use super::Error;
use super::imbalance::shuffle;

/// Names of the splits, in the order of [`Listing::splits`].
pub const SPLITS: [&str; 3] = ["train", "val", "test"];

/// An image file with its label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Path below the directory of the data set, with `/` as the separator.
    pub path: String,
    /// Index of the class.
    pub label: u32,
}

/// Labelled image files by split.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// The directory that paths are relative to.
    pub root: PathBuf,
    /// Names of the classes; a label is an index into them.
    pub class_names: Vec<String>,
    /// Training, validation and test images; the latter two may be empty.
    pub splits: [Vec<Entry>; 3],
    /// Other files whose content matters, namely lists.
    pub read: Vec<Read>,
    /// Whether the source itself numbers the classes.
    pub is_numbered: bool,
    /// Files that are not among the images.
    pub passed_over: PassedOver,
}

/// A file that is no image, but whose content matters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    /// Role in the manifest.
    pub role: &'static str,
    /// Path, as it was given.
    pub path: PathBuf,
    /// Hash of the content that was read. A pipe cannot be read again to hash it.
    pub blake3: String,
}

impl Read {
    fn new(role: &'static str, path: &Path, content: &[u8]) -> Read {
        Read { role, path: path.to_owned(), blake3: blake3::hash(content).to_hex().to_string() }
    }
}

/// Files in the directories that are not among the images.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PassedOver {
    /// Number of files whose names are not those of images, by their extensions.
    pub others: BTreeMap<String, usize>,
    /// Files with the names of images that are not in the directory of a class.
    pub misplaced: Vec<String>,
    /// Pipes, sockets and devices with the names of images.
    pub irregular: Vec<String>,
    /// Hidden directories, and hidden files with the names of images.
    pub hidden: Vec<String>,
}

impl PassedOver {
    /// Counts a file whose name is not that of an image.
    pub fn other(&mut self, name: &str) {
        let extension = match name.rsplit_once('.').filter(|(stem, _)| !stem.is_empty()) {
            // What macOS keeps beside a file on other systems' disks.
            _ if name.starts_with("._") => "._*".into(),
            Some((_, extension)) => format!(".{extension}"),
            None => "without an extension".into(),
        };
        *self.others.entry(extension).or_default() += 1;
    }

    /// Returns notices for the user, one sentence each.
    pub fn notices(&self) -> Vec<String> {
        let mut all = vec![];
        if !self.misplaced.is_empty() {
            let n = self.misplaced.len();
            let what = if n == 1 {
                "image outside the class directories"
            } else {
                "images outside the class directories"
            };
            all.push(format!("left out {n} {what}: {}", some(&self.misplaced)));
        }
        if !self.hidden.is_empty() {
            let n = self.hidden.len();
            let what = if n == 1 { "hidden directory or image" } else { "hidden directories and images" };
            all.push(format!("skipped {n} {what}: {}", some(&self.hidden)));
        }
        let n: usize = self.others.values().sum();
        if n > 0 {
            let extensions: Vec<String> =
                self.others.iter().map(|(extension, n)| format!("{n} {extension}")).collect();
            let what = if n == 1 {
                "file whose name is not that of an image"
            } else {
                "files whose names are not those of images"
            };
            all.push(format!("skipped {n} {what}: {}", some(&extensions)));
        }
        if !self.irregular.is_empty() {
            let n = self.irregular.len();
            let what = match n {
                1 => "image that is not a regular file",
                _ => "images that are not regular files",
            };
            all.push(format!("skipped {n} {what}: {}", some(&self.irregular)));
        }
        all
    }
}

/// Shares of the images of each class to hold out.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    /// Share for the test split, if there is none yet.
    pub test: f64,
    /// Share for the validation split, if there is none yet; 0 for none.
    pub val: f64,
    /// Seed of the draw.
    pub seed: u32,
}

impl Listing {
    /// Returns the number of images of each class in a split.
    pub fn counts(&self, split: usize) -> Vec<usize> {
        let mut counts = vec![0; self.class_names.len()];
        self.splits[split].iter().for_each(|e| counts[e.label as usize] += 1);
        counts
    }

    fn fail(&self, why: String) -> Error {
        Error::Listing { path: self.root.clone(), why }
    }

    /// Makes a single held-out split the test split, whatever its name was.
    pub fn settle_splits(&mut self) {
        if self.splits[2].is_empty() {
            self.splits.swap(1, 2);
        }
    }

    /// Refuses classes without training images, or drops them. Returns the names of the dropped classes.
    ///
    /// # Errors
    /// Returns an error if there are such classes and they are not to be dropped, or if fewer than two
    /// classes remain.
    pub fn check_classes(&mut self, drop_empty: bool) -> Result<Vec<String>, Error> {
        let counts = self.counts(0);
        let is_empty = |label: usize| counts[label] == 0;
        let empty: Vec<String> = self
            .class_names
            .iter()
            .enumerate()
            .filter(|(label, _)| is_empty(*label))
            .map(|(_, name)| name.clone())
            .collect();
        if !empty.is_empty() && !drop_empty {
            let names = some(&empty);
            return Err(self.fail(format!(
                "{} without training images: {names}; add images, or leave out such classes with \
                 --drop-empty",
                classes(empty.len())
            )));
        }
        if !empty.is_empty() {
            let kept: Vec<usize> = (0..counts.len()).filter(|&label| !is_empty(label)).collect();
            self.renumber(&kept);
        }
        match &self.class_names[..] {
            [] => {
                Err(self.fail("no classes; put the images of each class into a directory of its own".into()))
            }
            [one] => Err(self.fail(format!("only one class, {one:?}; at least two are needed"))),
            _ => Ok(empty),
        }
    }

    /// Refuses paths that occur more than once.
    ///
    /// # Errors
    /// Returns an error that names five such paths, and says how many there are.
    pub fn check_paths(&self) -> Result<(), Error> {
        let paths = self.splits.iter().flatten().map(|e| &*e.path);
        repeated(paths).map_or(Ok(()), |why| Err(self.fail(why)))
    }

    /// Holds out shares of each class for missing splits. Returns the classes that are too small to have
    /// images in every split.
    pub fn cut(&mut self, cut: Cut) -> Vec<String> {
        let test = if self.splits[2].is_empty() { cut.test } else { 0.0 };
        let val = if self.splits[1].is_empty() { cut.val } else { 0.0 };
        if test == 0.0 && val == 0.0 {
            return vec![];
        }
        let mut members = vec![vec![]; self.class_names.len()];
        for (n, entry) in (0..).zip(&self.splits[0]) {
            members[entry.label as usize].push(n);
        }
        let mut to = vec![0; self.splits[0].len()];
        let mut small = vec![];
        for (name, members) in self.class_names.iter().zip(&mut members) {
            // One generator per class: which images are held out must not depend on the other classes.
            let hash = blake3::hash(format!("{}\t{name}", cut.seed).as_bytes());
            let [a, b, c, d, ..] = *hash.as_bytes();
            shuffle(members, &mut Mt::new(u32::from_le_bytes([a, b, c, d])));
            let mut left = members.len();
            let mut short = false;
            for (split, share) in [(2, test), (1, val)].into_iter().filter(|(_, share)| *share > 0.0) {
                // Hold out at least one image for each split, but keep at least one.
                let wanted = ((members.len() as f64 * share).round() as usize).max(1);
                let held = wanted.min(left.saturating_sub(1));
                short |= held == 0;
                members[left - held..left].iter().for_each(|&n: &u32| to[n as usize] = split);
                left -= held;
            }
            if short && !members.is_empty() {
                small.push(name.clone());
            }
        }
        let all = std::mem::take(&mut self.splits[0]);
        for (entry, split) in all.into_iter().zip(to) {
            self.splits[split].push(entry);
        }
        small
    }
}

/// Formats a number of classes, for example `3 classes`.
pub fn classes(n: usize) -> String {
    format!("{n} class{}", if n == 1 { "" } else { "es" })
}

/// Returns the first five of some names, and how many more there are.
pub fn some(names: &[impl AsRef<str>]) -> String {
    first_five(names, ", ", " and ")
}

/// Like [`some`], for texts that may contain commas.
pub fn some_texts(texts: &[impl AsRef<str>]) -> String {
    first_five(texts, "; ", "; and ")
}

fn first_five(names: &[impl AsRef<str>], between: &str, before_more: &str) -> String {
    let first: Vec<&str> = names.iter().take(5).map(AsRef::as_ref).collect();
    let more = names.len().saturating_sub(first.len());
    let tail = if more > 0 { format!("{before_more}{more} more") } else { String::new() };
    format!("{}{tail}", first.join(between))
}

/// Returns a message if paths occur more than once.
fn repeated<'a>(paths: impl Iterator<Item = &'a str>) -> Option<String> {
    let mut known = HashSet::new();
    let repeated: BTreeSet<&str> = paths.filter(|path| !known.insert(*path)).collect();
    let repeated: Vec<&str> = repeated.into_iter().collect();
    let what = match repeated.len() {
        0 => return None,
        1 => "1 path occurs".into(),
        n => format!("{n} paths occur"),
    };
    Some(format!("{what} more than once: {}; keep one line for each", some(&repeated)))
}

/// Assigns labels to names, in the order of their bytes.
fn number<'a>(names: impl Iterator<Item = &'a str>) -> BTreeMap<&'a str, u32> {
    let mut all: BTreeMap<&str, u32> = names.map(|name| (name, 0)).collect();
    all.values_mut().zip(0..).for_each(|(label, n)| *label = n);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn listing(counts: &[(&str, usize)]) -> Listing {
        let mut listing = Listing::default();
        for (label, (name, count)) in (0..).zip(counts) {
            listing.class_names.push((*name).to_owned());
            let entry = |n: usize| Entry { path: format!("{name}/{n:04}"), label };
            listing.splits[0].extend((0..*count).map(entry));
        }
        listing
    }

    #[test]
    fn lists_in_messages_end_after_five() {
        let texts = ["a, b", "c", "d", "e", "f", "g"];
        assert_eq!(some_texts(&texts[..2]), "a, b; c");
        assert_eq!(some_texts(&texts), "a, b; c; d; e; f; and 1 more");
        assert_eq!(some(&texts), "a, b, c, d, e, f and 1 more");
    }

    #[test]
    fn held_out_splits_are_disjoint_complete_and_of_every_class() {
        let whole = listing(&[("a", 100), ("b", 7), ("c", 2), ("d", 1), ("e", 3)]);
        let mut cut = whole.clone();
        let small = cut.cut(Cut { test: 0.2, val: 0.1, seed: 3 });
        assert_eq!(small, ["c", "d"], "with two images and with one there is none for each split");
        assert_eq!(cut.counts(2), [20, 1, 1, 0, 1]);
        assert_eq!(cut.counts(1), [10, 1, 0, 0, 1]);
        assert_eq!(cut.counts(0), [70, 5, 1, 1, 1]);
        let mut all: Vec<String> = cut.splits.iter().flatten().map(|e| e.path.clone()).collect();
        all.sort_unstable();
        assert!(all.iter().eq(whole.splits[0].iter().map(|e| &e.path)));
        assert!(cut.splits.iter().all(|split| split.is_sorted_by_key(|e| e.path.clone())), "in their order");
        let drawn = |seed| {
            let mut cut = whole.clone();
            cut.cut(Cut { test: 0.2, val: 0.1, seed });
            cut.splits[2].clone()
        };
        assert_eq!(drawn(3), cut.splits[2]);
        assert_ne!(drawn(4), cut.splits[2]);
        // A class does not depend on the others or on their order either.
        let mut other = listing(&[("z", 40), ("b", 7), ("a", 100)]);
        other.cut(Cut { test: 0.2, val: 0.1, seed: 3 });
        let of_a = |l: &Listing| -> Vec<String> {
            l.splits[2].iter().map(|e| e.path.clone()).filter(|path| path.starts_with('a')).collect()
        };
        assert_eq!(of_a(&other), of_a(&cut));
        // The test split does not depend on whether there is a validation split.
        let mut without = whole.clone();
        without.cut(Cut { test: 0.2, val: 0.0, seed: 3 });
        assert_eq!(without.splits[2], cut.splits[2]);
    }
}
