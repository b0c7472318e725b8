//! CIFAR-10 and CIFAR-100 as published in Toronto: the binary and the Python format, each as a directory or
//! as its .tar.gz (or .tar). Everything is checked against the published sizes; nothing is downloaded here.
//!
//! Both formats hold the same images in the same order. Binary: records of one label byte (CIFAR-100: coarse,
//! then fine) and 3072 bytes of pixels. Python: a pickled dictionary with a (rows, 3072) array and a list of
//! labels.

mod decode;
mod numpy;

use std::fs;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use self::decode::balanced;
use super::archive::{self, Content};
use super::{Error, PIXELS, Planes, Source};
use crate::manifest::store;

/// The properties in which the two data sets differ.
#[derive(Clone, Copy, Debug)]
pub struct Dataset {
    /// The value of `--dataset`.
    pub name: &'static str,
    /// Number of (fine) classes.
    pub classes: usize,
    /// Images in each training file.
    train_rows: usize,
    /// Images in the test file.
    test_rows: usize,
    /// Number of label bytes of a binary record; only the last one is used.
    lead: usize,
    /// Keys of the labels and of the class names in the pickles.
    keys: [&'static str; 2],
    /// The binary and the Python format.
    forms: &'static [Form; 2],
    /// [`Source::digest`] of the published images.
    digest: &'static str,
}

/// A published format of a data set.
#[derive(Clone, Copy, Debug)]
struct Form {
    python: bool,
    directory: &'static str,
    archive: &'static str,
    /// Training files in order, the test file, the file of class names.
    files: &'static [&'static str],
}

/// CIFAR-10: 50,000 and 10,000 images of 10 classes.
pub const CIFAR10: Dataset = Dataset {
    name: "cifar10",
    classes: 10,
    train_rows: 10_000,
    test_rows: 10_000,
    lead: 1,
    keys: ["labels", "label_names"],
    forms: &[
        Form {
            python: false,
            directory: "cifar-10-batches-bin",
            archive: "cifar-10-binary.tar.gz",
            files: &[
                "data_batch_1.bin",
                "data_batch_2.bin",
                "data_batch_3.bin",
                "data_batch_4.bin",
                "data_batch_5.bin",
                "test_batch.bin",
                "batches.meta.txt",
            ],
        },
        Form {
            python: true,
            directory: "cifar-10-batches-py",
            archive: "cifar-10-python.tar.gz",
            files: &[
                "data_batch_1",
                "data_batch_2",
                "data_batch_3",
                "data_batch_4",
                "data_batch_5",
                "test_batch",
                "batches.meta",
            ],
        },
    ],
    digest: "81ba180af0fb943081846f317b859070bb7a04d341acdec86d8e186288e10d75",
};

/// CIFAR-100 with its fine labels: 50,000 and 10,000 images of 100 classes.
pub const CIFAR100: Dataset = Dataset {
    name: "cifar100",
    classes: 100,
    train_rows: 50_000,
    test_rows: 10_000,
    lead: 2,
    keys: ["fine_labels", "fine_label_names"],
    forms: &[
        Form {
            python: false,
            directory: "cifar-100-binary",
            archive: "cifar-100-binary.tar.gz",
            files: &["train.bin", "test.bin", "fine_label_names.txt"],
        },
        Form {
            python: true,
            directory: "cifar-100-python",
            archive: "cifar-100-python.tar.gz",
            files: &["train", "test", "meta"],
        },
    ],
    digest: "1c643b3036f3b75aab34cd1c0acda712deaacd8f5eb9639f83f436964ed783e1",
};

impl Form {
    fn is_in(&self, dir: &Path) -> bool {
        self.files.iter().all(|f| dir.join(f).is_file())
    }

    fn begins_in(&self, dir: &Path) -> bool {
        self.files.iter().any(|f| dir.join(f).is_file())
    }
}

/// The location of a data set.
#[derive(Debug)]
pub struct Located {
    dataset: Dataset,
    container: Container,
}

/// What holds the files of a data set.
#[derive(Debug)]
enum Container {
    Directory(&'static Form, PathBuf),
    /// An archive; its format is determined when it is read.
    Archive(PathBuf),
}

impl Dataset {
    /// Returns the number of training images of each class.
    pub fn train_per_class(&self) -> usize {
        (self.forms[0].files.len() - 2) * self.train_rows / self.classes
    }

    /// Finds the official files at `path`, which may be the archive itself, its directory, or a directory
    /// (such as a torchvision root) that contains either.
    ///
    /// Directories take precedence over archives, the binary format over the Python format.
    ///
    /// # Errors
    /// Returns an error if the data set is not there, or is incomplete.
    pub fn locate(self, path: &Path) -> Result<Located, Error> {
        let found = |container| Ok(Located { dataset: self, container });
        let meta = fs::metadata(path).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => Error::Nothing { path: path.to_owned(), dataset: self.name },
            _ => Error::io(path)(e),
        })?;
        if meta.is_file() {
            return self.packed(path, meta.len()).and_then(|()| found(Container::Archive(path.to_owned())));
        }
        if !meta.is_dir() {
            let (what, todo) =
                ("neither a file nor a directory".into(), "give the archive or its directory".into());
            return Err(Error::Other { path: path.to_owned(), what, todo });
        }
        let directories = || {
            let inside = self.forms.iter().map(|form| (form, path.join(form.directory)));
            self.forms.iter().map(|form| (form, path.to_owned())).chain(inside)
        };
        if let Some((form, dir)) = directories().find(|(form, dir)| form.is_in(dir)) {
            return found(Container::Directory(form, dir));
        }
        if let Some(archive) = self.archives(path).find(|a| a.is_file()) {
            return found(Container::Archive(archive));
        }
        if let Some((form, dir)) = directories().find(|(form, dir)| form.begins_in(dir)) {
            let missing = form.files.iter().map(|f| dir.join(f)).find(|f| !f.is_file());
            return Err(Error::Official {
                path: missing.unwrap_or(dir),
                why: format!("missing, although other files of {} are there", self.name),
            });
        }
        let names: Vec<_> = self.forms.iter().flat_map(|f| [f.directory, f.archive]).collect();
        Err(Error::NotFound {
            path: path.to_owned(),
            dataset: self.name,
            hint: self.hint(path),
            names: names.join(", "),
        })
    }

    /// Returns the possible paths of the archives in a directory, as published and after gunzip.
    fn archives(self, dir: &Path) -> impl Iterator<Item = PathBuf> {
        let names = self.forms.iter().flat_map(|f| [f.archive, f.archive.trim_end_matches(".gz")]);
        names.map(|name| dir.join(name)).collect::<Vec<_>>().into_iter()
    }

    /// Returns whether a directory is one of the official directories, or contains one or an archive.
    fn is_at(self, dir: &Path) -> bool {
        let at = |form: &Form| form.is_in(dir) || form.is_in(&dir.join(form.directory));
        self.forms.iter().any(at) || self.archives(dir).any(|a| a.is_file())
    }

    /// Refuses a file that cannot be the archive, before it is read to its end.
    fn packed(self, path: &Path, bytes: u64) -> Result<(), Error> {
        let other = |what: String, todo: String| Err(Error::Other { path: path.to_owned(), what, todo });
        let content = Content::of(path)?;
        if matches!(content, Content::Gzip | Content::Tar) {
            return Ok(());
        }
        if let Some(what) = self.part(path, bytes) {
            let dir = store::parent(path);
            return other(
                what,
                format!("give the directory that contains all of them, such as {}", dir.display()),
            );
        }
        match content {
            Content::Other(what) => {
                other(what.into(), "unpack it and give the directory, or give the official .tar.gz".into())
            }
            _ => Err(official(path, "neither a .tar.gz nor a .tar".into())),
        }
    }

    /// Returns which of the published files this is, by its name or otherwise by its size.
    fn part(self, path: &Path, bytes: u64) -> Option<String> {
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        let named =
            [self, CIFAR10, CIFAR100].into_iter().find(|d| d.forms.iter().any(|f| f.files.contains(&name)));
        if let Some(d) = named {
            return Some(format!("only one of the files of {}", d.name));
        }
        let rows = [self.train_rows, self.test_rows];
        let sized = rows.iter().any(|rows| bytes == (rows * (self.lead + PIXELS)) as u64);
        sized.then(|| format!("probably only one of the binary files of {}, judging by its size", self.name))
    }

    /// Returns a hint at what was found instead.
    fn hint(self, path: &Path) -> String {
        let others = [CIFAR10, CIFAR100].into_iter().filter(|d| d.name != self.name);
        if let Some(d) = others.into_iter().find(|d| d.is_at(path)) {
            return format!(" (but {0} is here: use --dataset {0})", d.name);
        }
        let inside = fs::read_dir(path).into_iter().flatten().flatten().map(|e| e.path());
        // Choose the first by name, so that the result is deterministic.
        match inside.filter(|dir| self.is_at(dir)).min() {
            Some(dir) => format!(" (but it is in {}: give that path)", dir.display()),
            None => String::new(),
        }
    }
}

/// Paths (for a member of an archive: below the archive) and contents, in the order of [`Form::files`].
type Files = Vec<(PathBuf, Vec<u8>)>;

impl Located {
    /// Returns the files that will be read, with their roles in the manifest: one `archive`, or each `file`
    /// in order.
    pub fn files(&self) -> Vec<(&'static str, PathBuf)> {
        match &self.container {
            Container::Archive(path) => vec![("archive", path.clone())],
            Container::Directory(form, dir) => form.files.iter().map(|f| ("file", dir.join(f))).collect(),
        }
    }

    /// Returns whether the images that were read are the published ones, bit for bit.
    pub fn is_official(&self, read: &Source) -> bool {
        read.digest() == self.dataset.digest
    }

    /// Reads the data set and checks everything but `is_official`.
    ///
    /// # Errors
    /// Returns an error if anything differs from the published files in size, count, label range or balance,
    /// or if the content is hostile.
    pub fn read(&self) -> Result<Source, Error> {
        let d = &self.dataset;
        let (form, files) = match &self.container {
            Container::Directory(form, dir) => {
                let read = |name: &&str| {
                    let path = dir.join(name);
                    let size = fs::metadata(&path).map_err(Error::io(&path))?.len();
                    let limit = d.limit(form, name);
                    if size > limit {
                        let why = format!("has {size} bytes, but at most {limit} are expected");
                        return Err(Error::Official { path, why });
                    }
                    let bytes = fs::read(&path).map_err(Error::io(&path))?;
                    Ok((path, bytes))
                };
                (*form, form.files.par_iter().map(read).collect::<Result<Vec<_>, _>>()?)
            }
            Container::Archive(path) => self.unpack(path)?,
        };
        let mut files = files.into_iter();
        let mut train = Planes::default();
        let mut test = Planes::default();
        let (names_path, names) = files.next_back().expect("the last file holds the names");
        let class_names = d.class_names(form, &names).map_err(|why| official(&names_path, why))?;
        let last = files.len() - 1;
        let decoded: Vec<_> = files
            .enumerate()
            .collect::<Vec<_>>()
            .into_par_iter()
            .map(|(n, (path, bytes))| {
                d.decode(form, &path, bytes, if n == last { d.test_rows } else { d.train_rows })
            })
            .collect::<Result<_, _>>()?;
        for (n, (bytes, lead, labels)) in decoded.into_iter().enumerate() {
            if n == last { &mut test } else { &mut train }.push(bytes, lead, labels);
        }
        let path = match &self.container {
            Container::Directory(_, path) | Container::Archive(path) => path,
        };
        for (what, images) in [("training", &train), ("test", &test)] {
            balanced(images, d.classes).map_err(|why| official(path, format!("the {what} set {why}")))?;
        }
        Ok(Source { class_names, train, test })
    }

    fn unpack(&self, path: &Path) -> Result<(&'static Form, Files), Error> {
        let d = &self.dataset;
        // An archive that was packed again may contain directories above the official one.
        let form_of = |member: &Path| {
            let dir = member.parent()?.file_name()?;
            d.forms.iter().find(|f| dir == f.directory)
        };
        let mut members = archive::read(path, |member| {
            let form = form_of(member)?;
            let name = form.files.iter().find(|&&f| member.file_name().is_some_and(|n| n == f))?;
            Some(d.limit(form, name))
        })?;
        let found = members.keys().find_map(|m| Some((form_of(m)?, m.parent()?.to_owned())));
        let Some((form, dir)) = found else {
            let [binary, python] = d.forms.each_ref().map(|f| f.directory);
            return Err(official(path, format!("holds no {} ({binary} or {python})", d.name)));
        };
        let member = |name: &&str| {
            let member = dir.join(name);
            let bytes = members.remove(&member);
            let bytes =
                bytes.ok_or_else(|| official(path, format!("the member {} is missing", member.display())))?;
            Ok((path.join(member), bytes))
        };
        let files = form.files.iter().map(member).collect::<Result<_, Error>>()?;
        Ok((form, files))
    }
}

fn official(path: &Path, why: String) -> Error {
    Error::Official { path: path.to_owned(), why }
}

#[cfg(test)]
mod tests;
