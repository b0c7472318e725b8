//! The order of the classes, and their names.

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};
use std::path::Path;

use super::{Listing, Read, classes, some};
use crate::data::Error;

/// The order in which classes are numbered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// As text, by the bytes of the names.
    Lexical,
    /// Natural order: numbers within names compare as numbers.
    Natural,
    /// By the number of training images, largest first; ties as text.
    Frequency,
    /// In the order of these names.
    Names(Vec<String>),
}

impl Listing {
    /// Reorders the classes; `order` has their present labels. Images of classes that it omits are dropped.
    pub(super) fn renumber(&mut self, order: &[usize]) {
        let mut new = vec![None; self.class_names.len()];
        order.iter().enumerate().for_each(|(to, &from)| new[from] = Some(to as u32));
        for split in &mut self.splits {
            split.retain_mut(|entry| match new[entry.label as usize] {
                Some(label) => {
                    entry.label = label;
                    true
                }
                None => false,
            });
            split.sort_by_key(|entry| entry.label);
        }
        self.class_names = order.iter().map(|&from| std::mem::take(&mut self.class_names[from])).collect();
    }

    /// Numbers the classes, and sorts the images of each split by class.
    ///
    /// # Errors
    /// Returns an error if the given names are not those of the classes, or if the source itself numbers the
    /// classes.
    pub fn order(&mut self, order: &Order) -> Result<(), Error> {
        if self.is_numbered {
            let why = "--class-order: does nothing here, because the lists number the classes; omit it";
            return Err(self.fail(why.into()));
        }
        let counts = self.counts(0);
        let names = &self.class_names;
        let mut labels: Vec<usize> = (0..names.len()).collect();
        match order {
            Order::Lexical => labels.sort_by_key(|&label| &names[label]),
            Order::Natural => labels.sort_by(|&a, &b| natural(&names[a], &names[b])),
            Order::Frequency => {
                labels.sort_by_key(|&label| (std::cmp::Reverse(counts[label]), &names[label]))
            }
            Order::Names(wanted) => {
                let position: HashMap<&str, usize> =
                    wanted.iter().enumerate().map(|(at, name)| (&**name, at)).collect();
                let unknown: Vec<&String> = wanted.iter().filter(|name| !names.contains(name)).collect();
                let missing: Vec<&String> =
                    names.iter().filter(|name| !position.contains_key(&***name)).collect();
                // The position of a name is that of its last occurrence.
                let twice: Vec<&String> = wanted
                    .iter()
                    .enumerate()
                    .filter(|(at, name)| position[&***name] != *at)
                    .map(|(_, name)| name)
                    .collect();
                if !unknown.is_empty() || !missing.is_empty() || !twice.is_empty() {
                    let part = |what: &str, all: &[&String]| match all {
                        [] => String::new(),
                        all => format!("; {what}: {}", some(all)),
                    };
                    return Err(self.fail(format!(
                        "--class-order: the file must list each class once{}{}{}",
                        part("missing", &missing),
                        part("unknown", &unknown),
                        part("more than once", &twice)
                    )));
                }
                labels.sort_by_key(|&label| position[&*names[label]]);
            }
        }
        self.renumber(&labels);
        Ok(())
    }

    /// Returns two neighbouring classes that are in textual but not in natural order, such as "10" before
    /// "2".
    pub fn unnatural(&self) -> Option<[&str; 2]> {
        let mut pairs = self.class_names.windows(2);
        pairs.find(|p| natural(&p[0], &p[1]) == Ordering::Greater).map(|p| [&*p[0], &*p[1]])
    }

    /// Renames the classes, by label.
    ///
    /// # Errors
    /// Returns an error if there are too few or too many names, or if a name occurs twice.
    pub fn rename(&mut self, names: Vec<String>) -> Result<(), Error> {
        let (found, wanted) = (self.class_names.len(), names.len());
        let s = if wanted == 1 { "" } else { "s" };
        let differ = format!("--class-names: {}, but {wanted} name{s}", classes(found));
        if self.is_numbered && wanted > found {
            // Classes at the end of the numbering may have no images.
            self.class_names.resize(wanted, String::new());
        } else if found > wanted {
            let beyond = self.splits.iter().flatten().find(|e| e.label as usize >= wanted);
            let example =
                beyond.map_or(String::new(), |e| format!(", such as label {} of {}", e.label, e.path));
            return Err(self.fail(format!("{differ}; classes are left without a name{example}")));
        } else if found < wanted {
            return Err(self.fail(differ));
        }
        unique(&names).map_err(|name| self.fail(format!("--class-names: {name:?} occurs twice")))?;
        self.class_names = names;
        Ok(())
    }
}

/// Returns the first name that occurs twice as an error.
fn unique(names: &[String]) -> Result<(), String> {
    let mut known = HashSet::new();
    names.iter().find(|name| !known.insert(*name)).map_or(Ok(()), |name| Err(name.clone()))
}

/// Compares names in natural order: numbers within them compare as numbers.
fn natural(a: &str, b: &str) -> Ordering {
    // Length with leading zeros, length without, and the digits: longer numbers are larger.
    let number = |text: &str| {
        let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let digits = text[..end].trim_start_matches('0');
        (end, digits.len(), digits.to_owned())
    };
    let (mut left, mut right) = (a, b);
    while let (Some(x), Some(y)) = (left.chars().next(), right.chars().next()) {
        let (l, r) = if x.is_ascii_digit() && y.is_ascii_digit() {
            let (l, r) = (number(left), number(right));
            match (l.1, &l.2).cmp(&(r.1, &r.2)) {
                Ordering::Equal => (l.0, r.0),
                other => return other,
            }
        } else {
            match x.cmp(&y) {
                Ordering::Equal => (x.len_utf8(), y.len_utf8()),
                other => return other,
            }
        };
        (left, right) = (&left[l..], &right[r..]);
    }
    left.len().cmp(&right.len()).then_with(|| a.cmp(b))
}

/// Reads a file of names, one per line, without empty lines at its end.
///
/// # Errors
/// Returns an error if the file cannot be read, has no names, or has an empty line between names.
pub fn names_of(path: &Path) -> Result<Vec<String>, Error> {
    read_names("class-names", path).map(|(names, _)| names)
}

/// Reads a file like [`names_of`], and also returns what was read, with the role of the file.
///
/// # Errors
/// Returns the errors of [`names_of`].
pub fn read_names(role: &'static str, path: &Path) -> Result<(Vec<String>, Read), Error> {
    let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
    let read = Read::new(role, path, text.as_bytes());
    let text = text.trim_start_matches('\u{feff}').trim_end();
    let names: Vec<String> = text.lines().map(|line| line.trim().to_owned()).collect();
    match names.iter().position(String::is_empty) {
        _ if text.is_empty() => Err(Error::Listing { path: path.into(), why: "has no names".into() }),
        Some(at) => Err(Error::Listing { path: path.into(), why: format!("line {} has no name", at + 1) }),
        None => Ok((names, read)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Entry;
    use super::super::tests::listing;
    use super::*;

    #[test]
    fn numbers_in_names_sort_by_value() {
        let mut names = ["a10", "a2", "a", "b1", "a2b10", "a2b9", "10", "9", "a02", "", "é3", "é20"];
        names.sort_by(|a, b| natural(a, b));
        assert_eq!(names, ["", "9", "10", "a", "a02", "a2", "a2b9", "a2b10", "a10", "b1", "é3", "é20"]);
    }

    #[test]
    fn reordered_classes_keep_their_images() {
        let mut l = listing(&[("a", 3), ("b", 5), ("c", 0), ("d", 4)]);
        assert!(l.check_classes(false).expect_err("c is empty").to_string().contains("images: c;"));
        assert_eq!(l.check_classes(true).expect("dropped"), ["c"]);
        l.order(&Order::Frequency).expect("ordered");
        assert_eq!(l.class_names, ["b", "d", "a"]);
        assert_eq!(l.counts(0), [5, 4, 3]);
        let is_own = |e: &Entry| e.path.starts_with(&l.class_names[e.label as usize]);
        assert!(l.splits[0].iter().all(is_own) && l.splits[0].is_sorted_by_key(|e| e.label));
        let twice = Order::Names(["b", "a", "d", "a"].map(String::from).to_vec());
        let error = l.order(&twice).expect_err("a occurs twice").to_string();
        assert!(error.ends_with("must list each class once; more than once: a"), "{error}");
        let error = l.rename(vec!["x".into()]).expect_err("too few").to_string();
        assert!(error.contains("--class-names: 3 classes, but 1 name; classes are left"), "{error}");
    }
}
