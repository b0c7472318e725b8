//! The files of a directory as a single input; its hash covers the lines `path<TAB>blake3`, sorted by path.
//!
//! The hashes of files are remembered together with their sizes, times and inodes, in one memo per directory,
//! so that hashing a hundred thousand unchanged files again takes one `stat` each.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::{fs, io};

use rayon::prelude::*;

use crate::interrupt;
use crate::manifest::hash;

/// The file of a result that lists all files with their hashes.
pub const LIST: &str = "files.tsv";

/// Replaces the hash of a file that cannot be read.
const UNREADABLE: &str = "unreadable";

/// Files with their hashes, sorted by path.
#[derive(Debug, Default)]
pub struct Tree {
    /// Path below the directory, and blake3 of the content or `unreadable`.
    pub files: Vec<(String, String)>,
}

impl Tree {
    /// Hashes files below a directory; paths must be unique.
    ///
    /// `on` is called after each file that was read. Files that cannot be read are listed as well; decoding
    /// them later reports the error. After a signal the hashes are meaningless.
    pub fn of(root: &Path, mut paths: Vec<String>, on: impl Fn() + Sync) -> Tree {
        paths.sort_unstable();
        let memo = hash::Memo::of_directory(root);
        let known = memo.read();
        let known: HashMap<&str, (&str, &str)> = known
            .lines()
            .filter_map(|line| {
                let mut parts = line.splitn(3, '\t');
                let (identity, hash) = (parts.next()?, parts.next()?);
                Some((parts.next()?, (identity, hash)))
            })
            .collect();
        let hash_of = |path: &str| -> io::Result<(String, Option<String>)> {
            let file = root.join(path);
            let meta = fs::metadata(&file)?;
            let identity = hash::identity(&meta);
            if let Some((then, hash)) = known.get(path)
                && *then == identity
            {
                return Ok(((*hash).to_owned(), Some(identity)));
            }
            if interrupt::requested() {
                // The hash does not matter here: the caller checks for the interruption.
                return Ok((String::new(), None));
            }
            let content = fs::read(&file)?;
            on();
            let hash = blake3::hash(&content).to_hex().to_string();
            Ok((hash, hash::is_settled(&meta).then_some(identity)))
        };
        let hashed: Vec<(String, String, Option<String>)> = paths
            .into_par_iter()
            .map(|path| {
                let (hash, identity) = hash_of(&path).unwrap_or_else(|_| (UNREADABLE.into(), None));
                (path, hash, identity)
            })
            .collect();
        let is_new = |(path, hash, identity): &(String, String, Option<String>)| {
            identity.as_deref().is_some_and(|i| known.get(&**path) != Some(&(i, hash)))
        };
        if hashed.iter().any(is_new) {
            let mut lines = String::new();
            for (path, hash, identity) in &hashed {
                if let Some(identity) = identity {
                    lines += &format!("{identity}\t{hash}\t{path}\n");
                }
            }
            // Keep the entries of other selections of files, as long as these exist.
            let now: HashSet<&str> = hashed.iter().map(|(path, ..)| path.as_str()).collect();
            let others = known.iter().filter(|(path, _)| !now.contains(*path) && root.join(path).exists());
            for (path, (identity, hash)) in others {
                lines += &format!("{identity}\t{hash}\t{path}\n");
            }
            memo.remember(&lines);
        }
        Tree { files: hashed.into_iter().map(|(path, hash, _)| (path, hash)).collect() }
    }

    /// Returns the lines, as they are hashed and written.
    pub fn lines(&self) -> String {
        self.files.iter().map(|(path, hash)| format!("{path}\t{hash}\n")).collect()
    }

    /// Returns the hash of all lines.
    pub fn blake3(&self) -> String {
        let mut all = blake3::Hasher::new();
        for (path, hash) in &self.files {
            all.update(format!("{path}\t{hash}\n").as_bytes());
        }
        all.finalize().to_hex().to_string()
    }

    /// Returns the hash of a file's content, or `None` if the file could not be read.
    pub fn hash_of(&self, path: &str) -> Option<&str> {
        let (_, hash) = &self.files[self.row(path)?];
        (hash != UNREADABLE).then_some(hash.as_str())
    }

    /// Returns the row of a file.
    pub fn row(&self, path: &str) -> Option<usize> {
        self.files.binary_search_by(|(p, _)| p.as_str().cmp(path)).ok()
    }
}
