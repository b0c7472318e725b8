//! Reads one folder per class, as torchvision's `ImageFolder` does.
//!
//! The layout is `DIR/CLASS/…`, or `DIR/train/CLASS/…` with `val`, `valid` or `test` next to `train`. Names
//! are sorted by their bytes; within a class, images are sorted by directory and then by name. Symbolic links
//! are followed. Hidden directories and files are skipped.

use std::ffi::OsStr;
use std::fs::{self, DirEntry};
use std::io;
use std::path::Path;

use walkdir::WalkDir;

use super::{Entry, Listing, PassedOver, some};
use crate::data::Error;
use crate::data::files::decode::is_image;

/// The message for a name with a line break.
pub const LINE_BREAK: &str = "has a line break in its name, which lists of files cannot contain; rename it";

/// The message for a name with a tab.
const TAB: &str = "has a tab in its name, which lists of files cannot contain; rename it";

/// The message for a name that is not UTF-8.
pub const NOT_UTF8: &str = "has a name that is not UTF-8; rename it";

/// Directories of splits, with their index in [`Listing::splits`].
const SPLITS: [(&str, usize); 4] = [("train", 0), ("val", 1), ("valid", 1), ("test", 2)];

/// Reads a directory.
///
/// # Errors
/// Returns an error if a directory cannot be read or has no classes, if a name is not UTF-8, or if links form
/// a cycle.
pub fn read(root: &Path) -> Result<Listing, Error> {
    let mut listing = Listing { root: root.to_owned(), ..Listing::default() };
    let found = directories(root, &mut listing.passed_over)?;
    let is_split = |name: &String| SPLITS.iter().any(|(split, _)| split == name);
    if !found.iter().all(is_split) || !found.iter().any(|name| name == "train") || !has_classes(root, "train")
    {
        // A class may be called train, but a directory that holds only directories is hardly a class.
        if let Some(split) = found.iter().find(|name| is_like_a_split(name) && has_classes(root, name)) {
            let others: Vec<&String> = found.iter().filter(|name| !is_split(name)).collect();
            let why = if !others.is_empty() {
                format!(
                    "splits must be named train, val, valid or test, with nothing else beside them; rename \
                     or move {}",
                    some(&others)
                )
            } else if !found.iter().any(|name| name == "train") {
                "there is no directory train beside it".into()
            } else {
                "train has no class folders, or has images beside them; move all images of train into class \
                 folders"
                    .into()
            };
            return Err(listing.fail(format!("{split} looks like a split, but {why}")));
        }
        if let [only] = &found[..]
            && has_classes(root, only)
        {
            return Err(listing.fail(format!(
                "only one class, {only:?}; at least two are needed; if the directories in it are the classes, \
                 pass --data {}",
                root.join(only).display()
            )));
        }
        let all: Vec<Option<&String>> = found.iter().map(Some).collect();
        listing.splits[0] = split(root, "", &all, &mut listing.passed_over)?;
        listing.class_names = found;
        return Ok(listing);
    }
    if found.iter().any(|n| n == "val") && found.iter().any(|n| n == "valid") {
        return Err(listing.fail("has both val and valid; remove or rename one".into()));
    }
    let classes = directories(&root.join("train"), &mut listing.passed_over)?;
    for (name, at) in SPLITS.into_iter().filter(|(name, _)| found.iter().any(|n| n == name)) {
        let dir = root.join(name);
        let own = if at == 0 { classes.clone() } else { directories(&dir, &mut listing.passed_over)? };
        let unknown: Vec<&String> = own.iter().filter(|c| !classes.contains(c)).collect();
        if !unknown.is_empty() {
            let why = format!("has classes that are not in train: {}", some(&unknown));
            return Err(Error::Listing { path: dir, why });
        }
        // A class may be missing in this split; labels are those of train.
        let own: Vec<Option<&String>> =
            classes.iter().map(|class| Some(class).filter(|class| own.contains(class))).collect();
        listing.splits[at] = split(root, &format!("{name}/"), &own, &mut listing.passed_over)?;
    }
    listing.class_names = classes;
    Ok(listing)
}

/// Returns whether a name looks like that of a split, in another spelling.
fn is_like_a_split(name: &str) -> bool {
    let known = ["train", "training", "val", "valid", "validation", "test", "testing"];
    known.iter().any(|split| name.eq_ignore_ascii_case(split))
}

/// Returns whether a directory holds directories, and no images next to them.
fn has_classes(root: &Path, name: &str) -> bool {
    let entries = fs::read_dir(root.join(name)).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name()).filter(|name| !is_hidden(name));
    let names: Vec<String> = names.filter_map(|name| name.into_string().ok()).collect();
    let is_dir = |inside: &str| root.join(name).join(inside).is_dir();
    names.iter().any(|inside| is_dir(inside))
        && !names.iter().any(|inside| is_image(inside) && !is_dir(inside))
}

/// Returns whether a name is that of a hidden directory or file, or of the directory in archives where macOS
/// keeps its metadata.
fn is_hidden(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".") || name == "__MACOSX"
}

/// Notes a hidden directory or file. Files whose names are not those of images are counted with the others.
fn skip_hidden(path: &Path, is_dir: bool, passed_over: &mut PassedOver) {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    match is_dir || is_image(&name) {
        true => passed_over.hidden.push(path.display().to_string()),
        false => passed_over.other(&name),
    }
}

/// Returns the sorted names of the directories in a directory; other files are counted.
pub(super) fn directories(dir: &Path, passed_over: &mut PassedOver) -> Result<Vec<String>, Error> {
    let entries: io::Result<Vec<DirEntry>> = fs::read_dir(dir).and_then(Iterator::collect);
    let mut entries = entries.map_err(Error::io(dir))?;
    entries.sort_by_cached_key(DirEntry::file_name);
    let mut all = vec![];
    for entry in entries {
        // Follow links; a broken link is not a directory.
        let name = entry.file_name();
        let is_dir = fs::metadata(entry.path()).is_ok_and(|m| m.is_dir());
        if is_hidden(&name) {
            skip_hidden(&entry.path(), is_dir, passed_over);
        } else if is_dir {
            all.push(name.into_string().map_err(|name| not_utf8(&dir.join(name)))?);
        } else if name.to_str().is_some_and(is_image) {
            passed_over.misplaced.push(entry.path().display().to_string());
        } else {
            passed_over.other(&name.to_string_lossy());
        }
    }
    Ok(all)
}

/// Returns the images of classes, by label; a class without a directory is `None`.
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

/// Returns the images below a directory, in the order of `ImageFolder`, as paths below `root`; other files
/// are counted.
///
/// An image whose name cannot be written in a list of files is passed to `refuse`: if that returns an error,
/// the call ends with it; if it returns `Ok`, the image is left out.
///
/// # Errors
/// Returns an error if a directory cannot be read, if links form a cycle, or if `refuse` returns one.
pub fn images(
    root: &Path,
    dir: &str,
    passed_over: &mut PassedOver,
    mut refuse: impl FnMut(Error) -> Result<(), Error>,
) -> Result<Vec<String>, Error> {
    let mut found = vec![];
    let top = root.join(dir);
    let is_skipped = |path: &Path| path != top && path.file_name().is_some_and(is_hidden);
    let mut entries = WalkDir::new(&top).follow_links(true).sort_by_file_name().into_iter();
    while let Some(entry) = entries.next() {
        let entry = match entry {
            Ok(entry) => entry,
            Err(e) => {
                if let Some(path) = e.path().filter(|path| is_skipped(path)) {
                    skip_hidden(path, false, passed_over);
                    continue;
                }
                let path = e.path().unwrap_or(root).to_owned();
                let is_link = path.symlink_metadata().is_ok_and(|m| m.is_symlink());
                if is_link && e.loop_ancestor().is_none() {
                    // A broken link is treated as an image that cannot be read.
                    let name = path.file_name().unwrap_or_default();
                    match name.to_str().is_some_and(is_image) {
                        true => match below(root, &path) {
                            Ok(path) => found.push(path),
                            Err(e) => refuse(e)?,
                        },
                        false => passed_over.other(&name.to_string_lossy()),
                    }
                    continue;
                }
                if let Some(up) = e.loop_ancestor() {
                    let why = format!("is a link that leads back to {}; remove it", up.display());
                    return Err(Error::Listing { path, why });
                }
                let e = e.into_io_error().unwrap_or_else(|| io::ErrorKind::Other.into());
                return Err(Error::io(path)(e));
            }
        };
        let (path, is_dir) = (entry.path(), entry.file_type().is_dir());
        if is_skipped(path) {
            skip_hidden(path, is_dir, passed_over);
            if is_dir {
                entries.skip_current_dir();
            }
            continue;
        }
        if is_dir {
            continue;
        }
        if !entry.file_name().to_str().is_some_and(is_image) {
            let extension = path.extension().and_then(|e| e.to_str());
            let looks_like_image = extension.is_some_and(|e| is_image(&format!("x.{e}")));
            if entry.file_name().to_str().is_none() && looks_like_image {
                refuse(not_utf8(path))?;
                continue;
            }
            passed_over.other(&entry.file_name().to_string_lossy());
            continue;
        }
        if !entry.file_type().is_file() {
            passed_over.irregular.push(path.strip_prefix(root).unwrap_or(path).display().to_string());
            continue;
        }
        match below(root, path) {
            Ok(path) => found.push(path),
            Err(e) => refuse(e)?,
        }
    }
    let split = |path: &str| path.rsplit_once('/').map(|(dir, name)| (dir.to_owned(), name.to_owned()));
    found.sort_by_cached_key(|path| split(path).unwrap_or_else(|| (String::new(), path.clone())));
    Ok(found)
}

/// Returns a path below the root, as it is written in lists of files.
fn below(root: &Path, path: &Path) -> Result<String, Error> {
    let below = path.strip_prefix(root).unwrap_or(path).to_str().ok_or_else(|| not_utf8(path))?;
    match unlistable(below) {
        Some(why) => Err(Error::Listing { path: path.into(), why: why.into() }),
        None => Ok(below.to_owned()),
    }
}

/// Returns what keeps a path out of lists of files, whose lines have a tab after the path.
pub fn unlistable(path: &str) -> Option<&'static str> {
    match path {
        _ if path.contains(['\n', '\r']) => Some(LINE_BREAK),
        _ if path.contains('\t') => Some(TAB),
        _ => None,
    }
}

fn not_utf8(path: &Path) -> Error {
    Error::Listing { path: path.into(), why: NOT_UTF8.into() }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn broken_links_are_counted_by_their_own_names() {
        let dir = tempfile::tempdir().expect("a directory");
        let root = dir.path().join("v1.5");
        fs::create_dir_all(root.join("a")).expect("made");
        for name in ["link", "notes.txt", "x.png"] {
            symlink("nowhere", root.join("a").join(name)).expect("linked");
        }
        let mut passed_over = PassedOver::default();
        assert_eq!(images(&root, "a", &mut passed_over, Err).expect("listed"), ["a/x.png"]);
        let expected = "skipped 2 files whose names are not those of images: 1 .txt, 1 without an extension";
        assert_eq!(passed_over.notices(), [expected]);
    }

    /// Makes files that are not read.
    fn make(root: &Path, names: &[&str]) {
        for path in names.iter().map(|name| root.join(name)) {
            fs::create_dir_all(path.parent().expect("a directory")).expect("made");
            fs::write(path, "").expect("written");
        }
    }

    #[test]
    fn hidden_directories_and_images_are_skipped() {
        let dir = tempfile::tempdir().expect("a directory");
        let (root, shown) = (dir.path(), dir.path().display());
        let hidden = [".git/1.png", "__MACOSX/2.png", "train/.3.png", "train/.t/4.png", "train/a/.t/5.png"];
        make(root, &hidden);
        make(root, &["train/a/6.png", "train/a/._6.png", "train/b/7.png", "test/b/8.png"]);
        symlink("nowhere", root.join("train/b/.9.png")).expect("linked");
        symlink(".", root.join("train/b/.up")).expect("linked");
        let listing = read(root).expect("listed");
        assert_eq!(listing.class_names, ["a", "b"]);
        let paths: Vec<&str> = listing.splits.iter().flatten().map(|entry| &*entry.path).collect();
        assert_eq!(paths, ["train/a/6.png", "train/b/7.png", "test/b/8.png"]);
        let expected = [
            format!(
                "skipped 6 hidden directories and images: {shown}/.git, {shown}/__MACOSX, {shown}/train/.3.png, \
                 {shown}/train/.t, {shown}/train/a/.t and 1 more"
            ),
            "skipped 2 files whose names are not those of images: 1 ._*, 1 without an extension".to_owned(),
        ];
        assert_eq!(listing.passed_over.notices(), expected);
    }

    #[test]
    fn misplaced_images_are_listed_in_order() {
        let dir = tempfile::tempdir().expect("a directory");
        let (root, shown) = (dir.path(), dir.path().display());
        make(root, &["3.png", "1.png", "4.png", "0.png", "2.png"]);
        let expected: Vec<String> = (0..5).map(|n| format!("{shown}/{n}.png")).collect();
        assert_eq!(read(root).expect("listed").passed_over.misplaced, expected);
    }

    #[test]
    fn a_directory_above_the_classes_is_told_from_a_class() {
        let dir = tempfile::tempdir().expect("a directory");
        let (root, shown) = (dir.path(), dir.path().display());
        make(root, &["list.txt", "all/a/1.png", "all/b/2.png"]);
        let expected = format!(
            "{shown}: only one class, \"all\"; at least two are needed; if the directories in it are the \
             classes, pass --data {shown}/all"
        );
        assert_eq!(read(root).expect_err("one class").to_string(), expected);
        make(root, &["all/3.png"]);
        assert_eq!(read(root).expect("listed").class_names, ["all"]);
    }

    #[test]
    fn tabs_in_names_are_refused() {
        for name in ["a/1\t2.png", "a\tb/1.png"] {
            let dir = tempfile::tempdir().expect("a directory");
            make(dir.path(), &[name, "c/1.png"]);
            let error = read(dir.path()).expect_err("a tab").to_string();
            assert!(error.ends_with(TAB), "{error}");
        }
    }
}
