//! The lock of a result: a file in its directory, held by the one process that works on the result while
//! others wait.
//!
//! Work that fails leaves behind neither the lock file nor directories that were made for it. The file is
//! removed while it is still locked: a process that waited for it then holds a file that is no longer at its
//! path, notices that, and tries again. A `.lock` that existed before is locked but never removed, because it
//! may belong to somebody else. The lock of a single-file result is always removed, so that nothing is left
//! beside the file.

use std::cell::Cell;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::ErrorKind::{AlreadyExists, NotFound};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use super::Error;
use crate::interrupt;

/// Time between two tries of a lock that another process holds.
const POLL: Duration = Duration::from_millis(50);

/// File name of the lock of a directory.
pub const LOCK: &str = ".lock";

/// Prefix of the lock of a single-file result; nobody else would choose such a name.
const FILE_LOCK: &str = ".remix-lock-";

/// Returns the name of the lock file of a result, which is a directory or, if `file` is given, a file in one.
pub(super) fn name(file: Option<&str>) -> String {
    file.map_or_else(|| LOCK.to_owned(), |file| format!("{FILE_LOCK}{file}"))
}

/// How often a directory may vanish between being made and being locked before that is an error.
const TRIES: usize = 100;

/// A held lock, which is released when it is dropped.
pub(super) struct Lock {
    file: File,
    /// Whether the lock file may be removed: this process made it, or nobody else would use its name.
    own: bool,
    path: PathBuf,
    /// Directories that this process made, the innermost first.
    made: Vec<PathBuf>,
    keep: Cell<bool>,
}

impl Lock {
    /// Makes the directory and takes the lock `name` in it. If another process holds the lock, calls
    /// `waiting` and then waits.
    pub fn take(dir: &Path, name: &str, waiting: impl FnOnce()) -> Result<Lock, Error> {
        let path = dir.join(name);
        if let Some(file) = dir.ancestors().find(|dir| dir.is_file()) {
            let why = "is a file, but a directory is needed there; choose another path";
            return Err(Error::refused(file, why));
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
                // Another process whose work failed may have removed the directory in the meantime.
                Err((_, e)) if [NotFound, AlreadyExists].contains(&e.kind()) && tries < TRIES => {
                    tries += 1;
                    continue;
                }
                // The caller asked for a file and does not know about its lock, so the error names the file.
                Err((path, e)) => {
                    let own = name.strip_prefix(FILE_LOCK).filter(|_| path != dir);
                    return Err(Error::io(own.map_or(path.to_owned(), |file| dir.join(file)))(e));
                }
            };
            loop {
                match file.try_lock() {
                    Ok(()) => break,
                    Err(TryLockError::WouldBlock) => {
                        waiting.take().into_iter().for_each(|tell| tell());
                        // While another result is being made, a signal does not end the process.
                        if interrupt::requested() {
                            return Err(Error::refused(path, "interrupted while waiting for it"));
                        }
                        thread::sleep(POLL);
                    }
                    Err(TryLockError::Error(error)) => {
                        let why = format!(
                            "cannot be locked ({error}), but locks keep two processes from writing the same \
                             result; choose an --out on a file system that supports locks, such as a local disk"
                        );
                        return Err(Error::Refused { path, why });
                    }
                }
            }
            if is_at(&file, &path) {
                let own = created || name.starts_with(FILE_LOCK);
                return Ok(Lock { file, own, path, made, keep: Cell::new(false) });
            }
        }
    }

    /// Sets whether the lock file stays, because there is a finished result, or one to continue from.
    pub fn keep(&self, keep: bool) {
        self.keep.set(keep);
    }
}

/// Opens the lock file without changing it. Returns it, and whether this call created it.
fn open(path: &Path) -> std::io::Result<(File, bool)> {
    match OpenOptions::new().create_new(true).write(true).open(path) {
        Ok(file) => Ok((file, true)),
        Err(e) if e.kind() == AlreadyExists => Ok((OpenOptions::new().write(true).open(path)?, false)),
        Err(e) => Err(e),
    }
}

/// Returns whether the file is still the one at the path.
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
        // `remove_dir` removes only empty directories, so it harms neither other files there nor a process
        // that is about to work in the directory.
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
    fn unused_locks_and_directories_are_removed() {
        let root = tempfile::tempdir().expect("a directory");
        let dir = root.path().join("a/b");
        drop(taken(&dir));
        assert!(!root.path().join("a").exists());
        // Directories that existed before stay, and so do files that somebody else put there.
        fs::create_dir(root.path().join("a")).expect("made");
        drop(taken(&dir));
        assert!(root.path().join("a").exists() && !dir.exists());
        let lock = taken(&dir);
        fs::write(dir.join("notes.txt"), "mine").expect("written");
        drop(lock);
        assert!(dir.join("notes.txt").exists() && !dir.join(LOCK).exists());
        // The lock stays beside a result, and beside one that can be continued.
        let lock = taken(&dir);
        lock.keep(true);
        drop(lock);
        assert!(dir.join(LOCK).exists());
    }

    #[test]
    fn removed_locks_never_have_two_holders() {
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
