//! Checking results: that a manifest is as it was published, and that the files that it lists are.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::{Error, Kind, Manifest, Output, hash, key};

impl Manifest {
    /// Returns the paths of the outputs with a role, after checking their sizes and hashes.
    ///
    /// # Errors
    /// Returns an error if there is no such output, or if one is missing or damaged.
    pub fn checked(&self, role: &str) -> Result<Vec<PathBuf>, Error> {
        let paths =
            self.outputs_of(role).map(|o| self.check(o, hash::file)).collect::<Result<Vec<_>, _>>()?;
        if paths.is_empty() {
            // `as_input` returns the error for a role that no output has.
            self.as_input(role, &[role])?;
        }
        Ok(paths)
    }

    /// Computes the key from the params and inputs, whatever key the manifest states.
    pub(crate) fn own_key(&self) -> String {
        key::key(self.kind, self.semantics, &self.params, &self.inputs)
    }

    /// Checks the manifest and its outputs with the given hash function. Returns the first fault, if any.
    pub(crate) fn damage(&self, hash: impl Fn(&Path) -> Result<String, Error>) -> Option<Error> {
        let here = self.path.clone().unwrap_or_default();
        self.edited(&here).err().or_else(|| self.outputs.iter().find_map(|o| self.check(o, &hash).err()))
    }

    /// Refuses a manifest whose key does not follow from its params and inputs, or whose digest does not
    /// match its content.
    pub(super) fn edited(&self, path: &Path) -> Result<(), Error> {
        let bad = |what: &str| {
            let why = format!("{what}, so it was changed or damaged");
            Err(Error::Damaged { path: path.to_owned(), why, tool: self.kind.tool() })
        };
        if self.key != self.own_key() {
            return bad("its key does not match its params and inputs");
        }
        match &self.digest {
            Some(digest) if *digest != key::digest(self) => {
                bad("its params, lineage, outputs or metrics do not match its digest")
            }
            _ => Ok(()),
        }
    }

    /// Checks one output with the given hash function (remembered or read in full) and returns its path.
    pub(crate) fn check(
        &self,
        o: &Output,
        hash: impl Fn(&Path) -> Result<String, Error>,
    ) -> Result<PathBuf, Error> {
        let dir = self.dir()?;
        let path = dir.join(&o.path);
        // `train` restores only the last weights, from its state; other files need a new training.
        let anew = self.kind == Kind::Checkpoint && o.role != "last";
        let tool = if anew { "train --force" } else { self.kind.tool() };
        let meta = match fs::metadata(&path) {
            Ok(meta) => meta,
            Err(e) if e.kind() == ErrorKind::NotFound => {
                let manifest = self.path.as_deref().unwrap_or(Path::new("")).display();
                let why = format!("missing, although {manifest} lists it");
                return Err(Error::Damaged { path, why, tool });
            }
            Err(error) => return Err(Error::Io { path, error }),
        };
        let damaged = |what: &str, expected: &str, found: &str| {
            let why = format!(
                "{what} differs from its manifest (expected {expected}, found {found}), so it was changed or \
                 damaged"
            );
            Error::Damaged { path: path.clone(), why, tool }
        };
        if meta.len() != o.bytes {
            return Err(damaged("size", &o.bytes.to_string(), &meta.len().to_string()));
        }
        let found = hash(&path)?;
        if found != o.blake3 {
            return Err(damaged("blake3", &o.blake3, &found));
        }
        Ok(path)
    }
}
