//! The lock of a result, a file in its directory: one process works on it, the others wait.
//!
//! Work that fails leaves neither the lock's file nor directories that were made for it. The file is removed
//! while it is locked, so whoever waited for it then holds a file that is no longer at its path, sees that,
//! and tries again. A `.lock` that was there before is only locked: it may be somebody else's. The lock of a
//! file always goes, so that nothing is left beside it.

use std::cell::Cell;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::ErrorKind::{AlreadyExists, NotFound};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::Error;

/// File name of the lock of a directory.
pub const LOCK: &str = ".lock";

/// What the name of the lock of a file begins with; nobody else would choose it.
const FILE_LOCK: &str = ".remix-lock-";

/// File name of the lock of a result: a directory, or a file in one.
pub(super) fn name(file: Option<&str>) -> String {
    file.map_or_else(|| LOCK.to_owned(), |file| format!("{FILE_LOCK}{file}"))
}

/// How often a directory may vanish between being made and being locked, before that is an error.
const TRIES: usize = 100;

/// A lock that is held. Dropping it unlocks it.
pub(super) struct Lock {
    file: File,
    /// Whether the file is one of ours, for this process made it or nobody else would call it so.
    own: bool,
    path: PathBuf,
    /// Directories that this process made, the innermost first.
    made: Vec<PathBuf>,
    keep: Cell<bool>,
}

impl Lock {
    /// Makes the directory and takes the lock of a name in it, waiting for another process if need be;
    /// `waiting` is called before.
    pub fn take(dir: &Path, name: &str, waiting: impl FnOnce()) -> Result<Lock, Error> {
        let path = dir.join(name);
        if let Some(file) = dir.ancestors().find(|dir| dir.is_file()) {
            return Err(Error::NotADirectory { path: file.to_owned() });
        }
        let (mut waiting, mut tries) = (Some(waiting), 0);
        let missing = |dir: &&Path| !dir.as_os_str().is_empty() && !dir.exists();
        let mut made = Vec::new();
        loop {
            let to_make: Vec<PathBuf> = dir.ancestors().take_while(missing).map(Path::to_owned).collect();
            if to_make.len() > made.len() {
                made = to_make;
            }
            let opened = fs::create_dir_all(dir)
                .map_err(|e| (dir, e))
                .and_then(|()| open(&path).map_err(|e| (path.as_path(), e)));
            let (file, created) = match opened {
                Ok(opened) => opened,
                // Another process, which came to nothing, may just have removed it.
                Err((_, e)) if [NotFound, AlreadyExists].contains(&e.kind()) && tries < TRIES => {
                    tries += 1;
                    continue;
                }
                // Who asked for a file knows nothing of its lock.
                Err((path, e)) => {
                    let own = name.strip_prefix(FILE_LOCK).filter(|_| path != dir);
                    return Err(Error::io(own.map_or(path.to_owned(), |file| dir.join(file)))(e));
                }
            };
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    waiting.take().into_iter().for_each(|tell| tell());
                    file.lock().map_err(Error::io(&path))?;
                }
                Err(TryLockError::Error(error)) => return Err(Error::Locks { path, error }),
            }
            if is_at(&file, &path) {
                let own = created || name.starts_with(FILE_LOCK);
                return Ok(Lock { file, own, path, made, keep: Cell::new(false) });
            }
        }
    }
}

impl Lock {
    /// Says whether there is something finished in the directory, or something to continue from: then the
    /// file stays.
    pub fn keep(&self, keep: bool) {
        self.keep.set(keep);
    }
}

/// Opens the lock's file, without changing it, and says whether it was made by this.
fn open(path: &Path) -> std::io::Result<(File, bool)> {
    match OpenOptions::new().create_new(true).write(true).open(path) {
        Ok(file) => Ok((file, true)),
        Err(e) if e.kind() == AlreadyExists => Ok((OpenOptions::new().write(true).open(path)?, false)),
        Err(e) => Err(e),
    }
}

/// Whether the file is still the one at the path.
fn is_at(file: &File, path: &Path) -> bool {
    let identity = |m: fs::Metadata| (m.dev(), m.ino());
    let (here, there) = (file.metadata().map(identity), fs::metadata(path).map(identity));
    here.is_ok_and(|here| there.is_ok_and(|there| here == there))
}

impl Drop for Lock {
    fn drop(&mut self) {
        if !self.own || self.keep.get() {
            return;
        }
        // `remove_dir` takes only empty directories: what else is there, and whoever is about to work there,
        // is safe.
        if is_at(&self.file, &self.path) && fs::remove_file(&self.path).is_ok() {
            let _ = self.made.iter().try_for_each(fs::remove_dir);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(dir: &Path) -> Lock {
        Lock::take(dir, LOCK, || ()).expect("taken")
    }

    #[test]
    fn what_was_made_for_nothing_is_removed() {
        let root = tempfile::tempdir().expect("a directory");
        let dir = root.path().join("a/b");
        drop(taken(&dir));
        assert!(!root.path().join("a").exists());
        // Not what was there, nor what somebody put there.
        fs::create_dir(root.path().join("a")).expect("made");
        drop(taken(&dir));
        assert!(root.path().join("a").exists() && !dir.exists());
        let lock = taken(&dir);
        fs::write(dir.join("notes.txt"), "mine").expect("written");
        drop(lock);
        assert!(dir.join("notes.txt").exists() && !dir.join(LOCK).exists());
        // A result keeps its lock, and so does what can be continued.
        let lock = taken(&dir);
        lock.keep(true);
        drop(lock);
        assert!(dir.join(LOCK).exists());
    }

    #[test]
    fn only_one_at_a_time_holds_a_lock_that_vanishes() {
        use std::sync::atomic::{AtomicUsize, Ordering};
        let root = tempfile::tempdir().expect("a directory");
        let dir = root.path().join("a/b");
        let (holders, times) = (AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|s| {
            for _ in 0..8 {
                s.spawn(|| {
                    for _ in 0..200 {
                        let lock = taken(&dir);
                        assert_eq!(holders.fetch_add(1, Ordering::SeqCst), 0, "two hold it");
                        assert!(is_at(&lock.file, &dir.join(LOCK)));
                        times.fetch_add(1, Ordering::SeqCst);
                        holders.fetch_sub(1, Ordering::SeqCst);
                        drop(lock);
                    }
                });
            }
        });
        assert_eq!(times.into_inner(), 1600);
    }
}
