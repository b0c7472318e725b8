//! blake3 of files, remembered by the file's identity so that an unchanged 180 MB archive is read only once.
//!
//! The memo is in `$REMIX_CACHE_DIR`, otherwise in `$XDG_CACHE_HOME/remix`, otherwise in `~/.cache/remix`. An
//! entry holds the device, inode, size, mtime and ctime; if any of them differs, the file is read again.
//! Nobody can set ctime back, so a changed file is never taken for the old one. Without a writable cache
//! directory everything works, but more slowly.

use std::fs::{self, File, Metadata};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::Error;

/// Minimum age of a file's last change before its hash is remembered: a file changed more recently could
/// change again within one tick of the file system's clock.
const SETTLED: Duration = Duration::from_millis(50);

/// Returns the blake3 of a file, from the memo if the file has not changed since it was hashed.
pub fn file(path: &Path) -> Result<String, Error> {
    let meta = fs::metadata(path).map_err(Error::io(path))?;
    let identity = identity(&meta);
    let memo = Memo::at(format!("{:x}-{:x}", meta.dev(), meta.ino()));
    if let Some((hash, rest)) = memo.read().split_once(' ')
        && rest == identity
        && hash.len() == 64
    {
        return Ok(hash.to_owned());
    }
    let hash = file_now(path)?;
    if is_settled(&meta) {
        memo.remember(&format!("{hash} {identity}"));
    }
    Ok(hash)
}

/// Returns the metadata of a file that change whenever the file does.
pub(crate) fn identity(meta: &Metadata) -> String {
    format!(
        "{} {} {} {} {} {} {}",
        meta.dev(),
        meta.ino(),
        meta.size(),
        meta.mtime(),
        meta.mtime_nsec(),
        meta.ctime(),
        meta.ctime_nsec()
    )
}

/// Returns whether a file has been left alone for so long that another change would show in its identity.
pub(crate) fn is_settled(meta: &Metadata) -> bool {
    let changed =
        Duration::new(meta.ctime().try_into().unwrap_or(0), meta.ctime_nsec().try_into().unwrap_or(0));
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH + changed).is_ok_and(|age| age > SETTLED)
}

/// A cache file of hashes. Losing it costs time, not correctness.
pub(crate) struct Memo(Option<PathBuf>);

impl Memo {
    fn at(name: String) -> Memo {
        Memo(cache_dir("hashes").map(|dir| dir.join(name)))
    }

    /// Returns the memo of all files in a directory.
    pub(crate) fn of_directory(root: &Path) -> Memo {
        let real = root.canonicalize().unwrap_or_else(|_| root.to_owned());
        let name = blake3::hash(real.as_os_str().as_encoded_bytes()).to_hex();
        Memo::at(format!("tree-{}", &name[..32]))
    }

    /// Returns the remembered text, which is empty if there is none.
    pub(crate) fn read(&self) -> String {
        self.0.as_deref().and_then(|path| fs::read_to_string(path).ok()).unwrap_or_default()
    }

    /// Stores a text, as far as possible: a memo that cannot be written costs time, not correctness.
    pub(crate) fn remember(&self, text: &str) {
        let Some((entry, dir)) = self.0.as_deref().and_then(|entry| Some((entry, entry.parent()?))) else {
            return;
        };
        let write = || -> std::io::Result<()> {
            fs::create_dir_all(dir)?;
            let mut tmp = tempfile::NamedTempFile::new_in(dir)?;
            tmp.write_all(text.as_bytes())?;
            tmp.persist(entry)?;
            Ok(())
        };
        if let Err(e) = write() {
            log::debug!("{}: cannot store hashes of files: {e}", entry.display());
        }
    }
}

/// Computes the blake3 of a file by reading it in full.
pub fn file_now(path: &Path) -> Result<String, Error> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_mmap_rayon(path).map_err(Error::io(path))?;
    Ok(hasher.finalize().to_hex().to_string())
}

/// Returns a directory for files that can be made again, inside `$REMIX_CACHE_DIR` or otherwise inside
/// `remix` in the user's cache directory.
pub(crate) fn cache_dir(name: &str) -> Option<PathBuf> {
    let var = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let root = var("REMIX_CACHE_DIR")
        .or_else(|| var("XDG_CACHE_HOME").map(|d| d.join("remix")))
        .or_else(|| var("HOME").map(|d| d.join(".cache/remix")))?;
    Some(root.join(name))
}

/// Flushes a directory, which makes the renames inside it durable.
pub(crate) fn sync_dir(dir: &Path) -> Result<(), Error> {
    File::open(dir).and_then(|d| d.sync_all()).map_err(Error::io(dir))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_file_is_read_again_even_with_its_old_mtime() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("f");
        fs::write(&path, b"one").expect("written");
        let mtime = fs::metadata(&path).and_then(|m| m.modified()).expect("mtime");
        std::thread::sleep(SETTLED * 2);
        assert_eq!(file(&path).expect("hash"), blake3::hash(b"one").to_hex().as_str());
        fs::write(&path, b"two").expect("written");
        let f = File::options().append(true).open(&path).expect("open");
        f.set_modified(mtime).expect("mtime set back");
        assert_eq!(file(&path).expect("hash"), blake3::hash(b"two").to_hex().as_str());
    }
}
