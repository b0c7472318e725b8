//! A folder a class, as torchvision's `ImageFolder` reads it.
//!
//! `DIR/CLASS/…`, or `DIR/train/CLASS/…` with `val`, `valid` or `test` beside it. Names sort by their bytes;
//! inside of a class directories do, then the names in each. Symbolic links are followed.

use std::fs;
use std::path::Path;

use walkdir::WalkDir;

use super::{Entry, Listing, PassedOver, some};
use crate::data::Error;
use crate::data::files::decode::is_image;

/// What is wrong with a name that is not on one line.
pub const LINE_BREAK: &str = "has a line break in its name, which lists of files cannot hold; rename it";

/// What is wrong with a name of other bytes.
pub const NOT_UTF8: &str = "has a name that is not UTF-8; rename it";

/// Directories of splits, with their place in [`Listing::splits`].
const SPLITS: [(&str, usize); 4] = [("train", 0), ("val", 1), ("valid", 1), ("test", 2)];

/// Reads a directory.
///
/// # Errors
/// A directory that cannot be read or has no classes; names that are not UTF-8; links that lead in a circle.
pub fn read(root: &Path) -> Result<Listing, Error> {
    let mut listing = Listing { root: root.to_owned(), ..Listing::default() };
    let mut found = directories(root, &mut listing.passed_over)?;
    let is_split = |name: &String| SPLITS.iter().any(|(split, _)| split == name);
    if !found.iter().all(is_split) || !found.iter().any(|name| name == "train") || !has_classes(root, "train")
    {
        // A class may be called train, but a directory of directories alone is hardly one.
        if let Some(split) = found.iter().find(|name| is_like_a_split(name) && has_classes(root, name)) {
            let others: Vec<&String> = found.iter().filter(|name| !is_split(name)).collect();
            let why = if !others.is_empty() {
                format!(
                    "splits are called train, and val, valid or test, and nothing may be beside them; rename or move {}",
                    some(&others)
                )
            } else if !found.iter().any(|name| name == "train") {
                "there is no train beside it".into()
            } else {
                "train holds no folders, or images beside them; move those into folders of classes".into()
            };
            return Err(listing.fail(format!("{split} holds folders as a split does, but {why}")));
        }
        found.sort_unstable();
        let all: Vec<Option<&String>> = found.iter().map(Some).collect();
        listing.splits[0] = split(root, "", &all, &mut listing.passed_over)?;
        listing.class_names = found;
        return Ok(listing);
    }
    if found.iter().any(|n| n == "val") && found.iter().any(|n| n == "valid") {
        return Err(listing.fail("has both val and valid; remove or rename one".into()));
    }
    let mut classes = directories(&root.join("train"), &mut listing.passed_over)?;
    classes.sort_unstable();
    for (name, at) in SPLITS.into_iter().filter(|(name, _)| found.iter().any(|n| n == name)) {
        let dir = root.join(name);
        let own = if at == 0 { classes.clone() } else { directories(&dir, &mut listing.passed_over)? };
        let unknown: Vec<&String> = own.iter().filter(|c| !classes.contains(c)).collect();
        if !unknown.is_empty() {
            let why = format!("has classes that are not in train: {}", some(&unknown));
            return Err(Error::Listing { path: dir, why });
        }
        // A class may be missing here, and its number is that of train.
        let own: Vec<Option<&String>> =
            classes.iter().map(|class| Some(class).filter(|class| own.contains(class))).collect();
        listing.splits[at] = split(root, &format!("{name}/"), &own, &mut listing.passed_over)?;
    }
    listing.class_names = classes;
    Ok(listing)
}

/// Whether a name is that of a split in some other spelling.
fn is_like_a_split(name: &str) -> bool {
    let known = ["train", "training", "val", "valid", "validation", "test", "testing"];
    known.iter().any(|split| name.eq_ignore_ascii_case(split))
}

/// Whether a directory holds directories, and no images beside them.
fn has_classes(root: &Path, name: &str) -> bool {
    let entries = fs::read_dir(root.join(name)).into_iter().flatten().flatten();
    let names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    let is_dir = |inside: &str| root.join(name).join(inside).is_dir();
    names.iter().any(|inside| is_dir(inside))
        && !names.iter().any(|inside| is_image(inside) && !is_dir(inside))
}

/// Names of the directories in a directory; other files are counted.
pub(super) fn directories(dir: &Path, passed_over: &mut PassedOver) -> Result<Vec<String>, Error> {
    let mut all = vec![];
    for entry in fs::read_dir(dir).map_err(Error::io(dir))? {
        let entry = entry.map_err(Error::io(dir))?;
        // Through a link; one that leads nowhere is no directory.
        let name = entry.file_name();
        if fs::metadata(entry.path()).is_ok_and(|m| m.is_dir()) {
            all.push(name.into_string().map_err(|name| not_utf8(&dir.join(name)))?);
        } else if name.to_str().is_some_and(is_image) {
            passed_over.misplaced.push(entry.path().display().to_string());
        } else {
            passed_over.other(&name.to_string_lossy());
        }
    }
    Ok(all)
}

/// The images of classes, by label, in directories of their names, where there is one.
fn split(
    root: &Path,
    prefix: &str,
    classes: &[Option<&String>],
    passed_over: &mut PassedOver,
) -> Result<Vec<Entry>, Error> {
    let mut all = vec![];
    for (label, class) in (0..).zip(classes).filter_map(|(label, class)| Some((label, (*class)?))) {
        let dir = format!("{prefix}{class}");
        let files = images(root, &dir, passed_over, Err)?;
        all.extend(files.into_iter().map(|path| Entry { path, label }));
    }
    Ok(all)
}

/// Images below a directory, in the order of `ImageFolder`, as paths below `root`; other files are counted.
/// An image whose name a list of files cannot hold goes to `refuse`: [`Err`] ends the call, and what returns
/// `Ok` leaves the image out.
///
/// # Errors
/// A directory that cannot be read; links that lead in a circle; what `refuse` returns.
pub fn images(
    root: &Path,
    dir: &str,
    passed_over: &mut PassedOver,
    mut refuse: impl FnMut(Error) -> Result<(), Error>,
) -> Result<Vec<String>, Error> {
    let mut found = vec![];
    for entry in WalkDir::new(root.join(dir)).follow_links(true) {
        let entry = match entry {
            Ok(entry) => entry,
            Err(e) => {
                let path = e.path().unwrap_or(root).to_owned();
                let is_link = path.symlink_metadata().is_ok_and(|m| m.is_symlink());
                if is_link && e.loop_ancestor().is_none() {
                    // It leads nowhere, and is then as an image that cannot be read.
                    match path.file_name().and_then(|n| n.to_str()).is_some_and(is_image) {
                        true => match below(root, &path) {
                            Ok(path) => found.push(path),
                            Err(e) => refuse(e)?,
                        },
                        false => passed_over.other(&path.to_string_lossy()),
                    }
                    continue;
                }
                let why = match e.loop_ancestor() {
                    Some(up) => format!("is a link that leads back to {}; remove it", up.display()),
                    None => e.io_error().map_or_else(|| e.to_string(), ToString::to_string),
                };
                return Err(Error::Listing { path, why });
            }
        };
        if entry.file_type().is_dir() {
            continue;
        }
        let path = entry.path();
        if !entry.file_name().to_str().is_some_and(|name| is_image(name) && entry.file_type().is_file()) {
            let ending = path.extension().and_then(|e| e.to_str());
            if entry.file_name().to_str().is_none() && ending.is_some_and(|e| is_image(&format!("x.{e}"))) {
                refuse(not_utf8(path))?;
                continue;
            }
            passed_over.other(&entry.file_name().to_string_lossy());
            continue;
        }
        match below(root, path) {
            Ok(path) => found.push(path),
            Err(e) => refuse(e)?,
        }
    }
    let place = |path: &str| path.rsplit_once('/').map(|(dir, name)| (dir.to_owned(), name.to_owned()));
    found.sort_by_cached_key(|path| place(path).unwrap_or_else(|| (String::new(), path.clone())));
    Ok(found)
}

/// A path below the root, as lists of files have it.
fn below(root: &Path, path: &Path) -> Result<String, Error> {
    let below = path.strip_prefix(root).unwrap_or(path).to_str().ok_or_else(|| not_utf8(path))?;
    if below.contains(['\n', '\r']) {
        return Err(Error::Listing { path: path.into(), why: LINE_BREAK.into() });
    }
    Ok(below.to_owned())
}

fn not_utf8(path: &Path) -> Error {
    Error::Listing { path: path.into(), why: NOT_UTF8.into() }
}
