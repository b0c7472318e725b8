//! Single files: written atomically, renamed and removed, and their paths.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Component, Path, PathBuf};

use super::TEMPORARY;
use crate::interrupt::kill_point;
use crate::manifest::{Error, hash, in_utf8};

/// Renames a file, and flushes the directory that it is then in.
///
/// # Errors
/// Returns an error if the file cannot be renamed, or if the directory cannot be flushed.
pub fn rename(from: &Path, to: &Path) -> Result<(), Error> {
    kill_point();
    fs::rename(from, to).map_err(Error::io(from))?;
    hash::sync_dir(parent(to))
}

/// Removes a file. A file that does not exist is not an error.
pub fn remove(path: &Path) -> Result<(), Error> {
    kill_point();
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io(path)(e)),
        _ => Ok(()),
    }
}

/// Writes a file under a temporary name in the same directory, flushes it to disk, renames it, and flushes
/// the directory.
///
/// # Errors
/// Returns an error if the file system fails. The target is then as it was before, unless it was the final
/// flush of the directory that failed.
pub fn write_atomic(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<&File>) -> io::Result<()>,
) -> Result<(), Error> {
    let dir = parent(path);
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let tmp = tempfile::Builder::new()
        .prefix(&temporary(name))
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .tempfile_in(dir)
        .map_err(Error::io(path))?;
    let mut buffered = BufWriter::with_capacity(1 << 20, tmp.as_file());
    write(&mut buffered)
        .and_then(|()| buffered.flush())
        .and_then(|()| tmp.as_file().sync_all())
        .map_err(Error::io(path))?;
    drop(buffered);
    kill_point();
    tmp.persist(path).map_err(|e| Error::io(path)(e.error))?;
    kill_point();
    hash::sync_dir(dir)
}

/// Returns the prefix of the names of a file's temporary files.
pub(super) fn temporary(name: &str) -> String {
    format!("{TEMPORARY}{name}-")
}

/// Returns the directory that a file is in; for a bare file name, that is `.`.
pub fn parent(path: &Path) -> &Path {
    path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes a path absolute and removes `.` and `..`, by name only: nothing needs to exist.
pub fn absolute(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for part in std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).components() {
        match part {
            Component::ParentDir => {
                clean.pop();
            }
            Component::CurDir => {}
            part => clean.push(part),
        }
    }
    clean
}

/// Returns the absolute path of what a file in the directory `dir` names as `path`. Links in `dir` are followed first,
/// because the system resolves a `..` only after following them, unless they lead to a path that JSON cannot hold.
pub fn beside(dir: &Path, path: &Path) -> PathBuf {
    let real = dir.canonicalize().ok().filter(|real| in_utf8(real).is_ok());
    absolute(&real.unwrap_or_else(|| dir.to_owned()).join(path))
}

/// Returns `path` relative to the directory `from`. Both must be absolute.
pub(super) fn relative(path: &Path, from: &Path) -> PathBuf {
    let same = path.components().zip(from.components()).take_while(|(a, b)| a == b).count();
    let up = from.components().skip(same).map(|_| Component::ParentDir);
    up.chain(path.components().skip(same)).collect()
}
