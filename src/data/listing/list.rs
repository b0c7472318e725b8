//! Reads lists of images: lines `path label`, lines `path`, or CSV with a header.
//!
//! ImageNet-LT and Places-LT are published as such lists. Their paths are those on one author's disk, so a
//! path that does not exist is searched for in the other usual layouts.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::{Component, Path};

use super::folder::unlistable;
use super::{Entry, Listing, Read, number, repeated, some};
use crate::data::Error;

/// Columns of a CSV file that may hold paths.
const PATHS: [&str; 6] = ["path", "file", "filename", "file_name", "image", "image_path"];

/// Columns of a CSV file that may hold labels.
const LABELS: [&str; 5] = ["label", "class", "category", "target", "class_name"];

/// A line: a path, and the text of its label if there is one.
type Line = (String, Option<String>);

/// Returns whether the label of a line is a number.
fn has_number((_, label): &Line) -> bool {
    label.as_ref().is_some_and(|label| label.parse::<i128>().is_ok())
}

/// Reads lists of the training, validation and test images.
///
/// # Errors
/// Returns an error if a list cannot be read or parsed, or if files are missing; it names the first five of
/// them and their number.
pub fn read(root: &Path, lists: [Option<&Path>; 3]) -> Result<Listing, Error> {
    let mut listing = Listing { root: root.to_owned(), ..Listing::default() };
    let given = || lists.into_iter().enumerate().filter_map(|(split, list)| Some((split, list?)));
    let mut read: Vec<List> = vec![];
    for (split, list) in given() {
        let bytes = fs::read(list).map_err(Error::io(list))?;
        listing.read.push(Read::new("list", list, &bytes));
        read.push((split, list, lines(list, bytes, root)?));
    }
    let all = || read.iter().flat_map(|(.., lines)| lines);
    let numbered = all().all(has_number);
    // Names of classes: the label, or the first directory if there is no label.
    let name = |(path, label): &Line| match label {
        Some(label) => label.clone(),
        None => path.split_once('/').map_or(String::new(), |(dir, _)| dir.to_owned()),
    };
    let names: BTreeSet<String> = if numbered { BTreeSet::new() } else { all().map(name).collect() };
    let labels: BTreeMap<&str, u32> = number(names.iter().map(|n| &**n));
    refuse_numbers_beside_directories(&read)?;
    let mut resolver = Resolver::default();
    for (split, list, lines) in &read {
        let bad = |why: String| Error::Listing { path: (*list).to_owned(), why };
        if lines.is_empty() {
            return Err(bad("lists no images".into()));
        }
        let with = lines.iter().filter(|(_, label)| label.is_some()).count();
        if with != 0 && with != lines.len() {
            let at = lines.iter().position(|(_, label)| label.is_none()).unwrap_or(0);
            return Err(bad(format!(
                "has lines with a label ({with}) and without ({}), such as {:?}; give all lines a label, or none",
                lines.len() - with,
                lines[at].0
            )));
        }
        for line in lines {
            let class = name(line);
            if class.is_empty() {
                return Err(bad(format!(
                    "{:?} has neither a label nor a directory that names its class; add a label, or list it \
                     as CLASS/FILE below --data",
                    line.0
                )));
            }
            let number = || class.parse().ok().filter(|label| *label < MOST);
            let label = if numbered { number() } else { labels.get(&*class).copied() };
            let wrong = || {
                let last = MOST - 1;
                bad(format!("{:?} has the label {class}, but numbers must be from 0 to {last}", line.0))
            };
            let label = label.ok_or_else(wrong)?;
            listing.splits[*split].push(Entry { path: line.0.clone(), label });
        }
        resolver.check(root, list, &mut listing.splits[*split])?;
    }
    refuse_repeats(&listing, given())?;
    listing.is_numbered = numbered;
    if numbered {
        refuse_other_labels(&listing, given())?;
        listing.class_names = directory_names(&listing);
    } else {
        listing.class_names = names.into_iter().collect();
    }
    Ok(listing)
}

/// A list, with its split and its lines.
type List<'a> = (usize, &'a Path, Vec<Line>);

/// Refuses labels that are numbers in one list and directories in another: nothing says which number a
/// directory has.
fn refuse_numbers_beside_directories(lists: &[List]) -> Result<(), Error> {
    let numbered = lists.iter().find(|(.., lines)| lines.iter().any(has_number));
    let unlabelled =
        lists.iter().find(|(.., lines)| !lines.is_empty() && lines.iter().all(|(_, label)| label.is_none()));
    if let (Some((_, with, _)), Some((_, without, _))) = (numbered, unlabelled) {
        let why = format!(
            "has no labels, but the labels of {} are numbers; give all lists labels, or none",
            with.display()
        );
        return Err(Error::Listing { path: (*without).to_owned(), why });
    }
    Ok(())
}

/// Refuses paths that occur more than once, in one list or in two.
fn refuse_repeats<'a>(
    listing: &Listing,
    lists: impl Iterator<Item = (usize, &'a Path)>,
) -> Result<(), Error> {
    // The paths of the lists before, each with its list.
    let mut known: HashMap<&str, &Path> = HashMap::new();
    for (split, list) in lists {
        let fail = |why: String| Err(Error::Listing { path: list.to_owned(), why });
        let paths = || listing.splits[split].iter().map(|entry| &*entry.path);
        let elsewhere: Vec<(&str, &Path)> =
            paths().filter_map(|path| Some((path, *known.get(path)?))).collect();
        if let Some(&(first, other)) = elsewhere.first() {
            let both: BTreeSet<&str> =
                elsewhere.iter().filter(|(_, list)| *list == other).map(|(path, _)| *path).collect();
            return fail(format!(
                "{} {} also in {}, such as {first}; an image may be in one split only",
                both.len(),
                if both.len() == 1 { "path is" } else { "paths are" },
                other.display()
            ));
        }
        if let Some(why) = repeated(paths()) {
            return fail(why);
        }
        known.extend(paths().map(|path| (path, list)));
    }
    Ok(())
}

/// Refuses validation and test images whose label differs from that of the training images in a directory of
/// the same name, if each class has its own directory. Otherwise a list that counts from 1 beside one that
/// counts from 0 would go unnoticed.
fn refuse_other_labels<'a>(
    listing: &Listing,
    lists: impl Iterator<Item = (usize, &'a Path)>,
) -> Result<(), Error> {
    let Some(names) = class_directories(listing) else { return Ok(()) };
    let labels: HashMap<&str, u32> = names.into_iter().map(|(label, name)| (name, label)).collect();
    for (split, list) in lists {
        for Entry { path, label } in &listing.splits[split] {
            if let Some(trained) =
                directory(path).and_then(|name| labels.get(name)).filter(|own| *own != label)
            {
                let why = format!(
                    "{path:?} has the label {label}, but training images in a directory of the same name \
                     have {trained}; number the classes the same way in all lists"
                );
                return Err(Error::Listing { path: list.to_owned(), why });
            }
        }
    }
    Ok(())
}

/// Larger than the number of classes in any list.
pub(super) const MOST: u32 = 1_000_000;

/// Returns names for numbered classes: if the training images of each class are all in a directory of their
/// own, the names of the directories; otherwise the numbers.
fn directory_names(listing: &Listing) -> Vec<String> {
    let classes = listing.splits.iter().flatten().map(|e| e.label + 1).max().unwrap_or(0);
    let names = class_directories(listing).unwrap_or_default();
    (0..classes)
        .map(|label| names.get(&label).map_or_else(|| label.to_string(), |name| (*name).to_owned()))
        .collect()
}

/// The directory of each class that has training images, if each has one of its own.
fn class_directories(listing: &Listing) -> Option<HashMap<u32, &str>> {
    let mut names: HashMap<u32, Option<&str>> = HashMap::new();
    for entry in &listing.splits[0] {
        let dir = directory(&entry.path);
        let name = names.entry(entry.label).or_insert(dir);
        if *name != dir {
            *name = None;
        }
    }
    let told: BTreeSet<&str> = names.values().flatten().copied().collect();
    let is_own = told.len() == names.len();
    let own = names.into_iter().filter_map(|(label, name)| Some((label, name?)));
    is_own.then(|| own.collect())
}

/// The name of the directory that a file is in.
fn directory(path: &str) -> Option<&str> {
    path.rsplit_once('/').and_then(|(dir, _)| dir.rsplit('/').next())
}

/// Reads the lines of a list. Absolute paths into the directory are made relative to it.
fn lines(list: &Path, bytes: Vec<u8>, root: &Path) -> Result<Vec<Line>, Error> {
    let root = std::path::absolute(root).unwrap_or_else(|_| root.to_owned());
    let below = |(path, label): Line| -> Line {
        let inside = Path::new(&path).strip_prefix(&root).ok().and_then(Path::to_str);
        (inside.map(str::to_owned).unwrap_or(path), label)
    };
    let lines: Vec<Line> = lines_of(list, bytes)?.into_iter().map(below).collect();
    if let Some((path, _)) = lines.iter().find(|(path, _)| path.contains('\t')) {
        let why = format!(
            "{path:?} has a tab in its name, which lists of files cannot contain; rename it or, if the tab \
             separates columns, separate them by commas below the line path,label"
        );
        return Err(Error::Listing { path: list.to_owned(), why });
    }
    Ok(lines)
}

fn lines_of(list: &Path, bytes: Vec<u8>) -> Result<Vec<Line>, Error> {
    let bad = |why: String| Error::Listing { path: list.to_owned(), why };
    let text = String::from_utf8(bytes).map_err(|_| bad("is not UTF-8 text; save it as UTF-8".into()))?;
    let text = text.trim_start_matches('\u{feff}');
    let first = text.lines().next().unwrap_or_default();
    let has = |known: &[&str]| {
        first.split(',').any(|column| known.iter().any(|k| column.trim().eq_ignore_ascii_case(k)))
    };
    if list.extension().is_some_and(|e| e.eq_ignore_ascii_case("csv")) || has(&PATHS) && has(&LABELS) {
        return csv_lines(text).map_err(bad);
    }
    let lines = text.lines().map(|line| line.trim_end_matches(['\r', '\n'])).filter(|l| !l.trim().is_empty());
    let line = |line: &str| match line.trim_end().rsplit_once([' ', '\t']) {
        Some((path, label)) if label.parse::<i64>().is_ok() && !path.trim().is_empty() => {
            (plain(path.trim_end()), Some(label.to_owned()))
        }
        _ => (plain(line), None),
    };
    Ok(lines.map(line).collect())
}

/// Returns a path without a leading `./`.
fn plain(path: &str) -> String {
    path.strip_prefix("./").unwrap_or(path).to_owned()
}

fn csv_lines(text: &str) -> Result<Vec<Line>, String> {
    let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(text.as_bytes());
    let header = reader.headers().map_err(|e| e.to_string())?.clone();
    let column = |known: &[&str]| {
        known.iter().find_map(|name| header.iter().position(|h| h.trim().eq_ignore_ascii_case(name)))
    };
    let path = column(&PATHS).ok_or("has no column `path` in its first line")?;
    let label = column(&LABELS).ok_or("has no column `label` in its first line")?;
    let mut all = vec![];
    for record in reader.records() {
        let record = record.map_err(|e| e.to_string())?;
        let line = record.position().map_or(0, csv::Position::line);
        let field = |at: usize, what: &str| {
            let text = record.get(at).filter(|text| !text.trim().is_empty());
            text.ok_or_else(|| format!("line {line} has no {what}"))
        };
        all.push((plain(field(path, "path")?.trim()), Some(field(label, "label")?.trim().to_owned())));
    }
    Ok(all)
}

/// Finds the files of lists.
#[derive(Default)]
pub struct Resolver {
    /// The alternative layout in which a file was last found; it is tried first.
    layout: Option<usize>,
}

/// Alternative locations of a path.
const LAYOUTS: [fn(&str) -> Option<String>; 5] = [flat, flat_256, of_places, to_places, flat_from_256];

/// Maps `val/CLASS/FILE` to `val/FILE`.
fn flat(path: &str) -> Option<String> {
    let (_, file) = path.strip_prefix("val/")?.rsplit_once('/')?;
    Some(format!("val/{file}"))
}

/// Maps `val/CLASS/FILE` to `val_256/FILE`.
fn flat_256(path: &str) -> Option<String> {
    let inside = path.strip_prefix("val/")?;
    let file = inside.rsplit_once('/').map_or(inside, |(_, file)| file);
    Some(format!("val_256/{file}"))
}

/// Maps `val_256/FILE` to `val/FILE`.
fn flat_from_256(path: &str) -> Option<String> {
    Some(format!("val/{}", path.strip_prefix("val_256/")?))
}

/// Maps `train/apartment_building-outdoor/FILE` to `data_256/a/apartment_building/outdoor/FILE`.
fn of_places(path: &str) -> Option<String> {
    let (class, file) = path.strip_prefix("train/")?.split_once('/')?;
    let first = class.chars().next()?;
    Some(format!("data_256/{first}/{}/{file}", class.replace('-', "/")))
}

/// Maps `data_256/a/apartment_building/outdoor/FILE` to `train/apartment_building-outdoor/FILE`.
fn to_places(path: &str) -> Option<String> {
    let (_, inside) = path.strip_prefix("data_256/")?.split_once('/')?;
    let (class, file) = inside.rsplit_once('/')?;
    Some(format!("train/{}/{file}", class.replace('/', "-")))
}

impl Resolver {
    /// Replaces each path by that of an existing file.
    ///
    /// # Errors
    /// Returns an error if files do not exist, or if a path leads out of the directory or has a line break or
    /// a tab.
    pub fn check(&mut self, root: &Path, list: &Path, entries: &mut [Entry]) -> Result<(), Error> {
        let mut missing = vec![];
        for entry in entries.iter_mut() {
            let parts = Path::new(&entry.path).components();
            let parts: Option<Vec<&str>> =
                parts.map(|c| if let Component::Normal(part) = c { part.to_str() } else { None }).collect();
            let Some(parts) = parts else {
                let (path, root) = (&entry.path, root.display());
                let why = format!(
                    "{path:?} is not a plain path below --data {root}; give --data a directory above all \
                     images, and list paths without `..`"
                );
                return Err(Error::Listing { path: list.to_owned(), why });
            };
            // Normalise the path, so that no file is listed twice under different spellings.
            let path = parts.join("/");
            if let Some(why) = unlistable(&path) {
                return Err(Error::Listing { path: list.to_owned(), why: format!("{path:?} {why}") });
            }
            match self.find(root, &path) {
                Some(found) => entry.path = found,
                None => missing.push(path),
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        let why = format!(
            "{} of {} files {} not in {}: {}; give --data the directory that the paths are relative to",
            missing.len(),
            entries.len(),
            if missing.len() == 1 { "is" } else { "are" },
            root.display(),
            some(&missing)
        );
        Err(Error::Listing { path: list.to_owned(), why })
    }

    fn find(&mut self, root: &Path, path: &str) -> Option<String> {
        let is_there = |path: &str| root.join(path).is_file();
        let in_layout = |n: usize| LAYOUTS[n](path).filter(|path| is_there(path));
        if is_there(path) {
            return Some(path.to_owned());
        }
        if let Some(found) = self.layout.and_then(in_layout) {
            return Some(found);
        }
        let (n, found) = (0..LAYOUTS.len()).find_map(|n| Some((n, in_layout(n)?)))?;
        self.layout = Some(n);
        Some(found)
    }
}
