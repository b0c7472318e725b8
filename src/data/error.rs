//! What can be wrong with images, and with the files that they come from.

use std::io;
use std::path::PathBuf;

use crate::manifest;

/// Errors in images and in the files that they come from. Each message is one line: where, what, and what to
/// do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The manifest or a file that it lists is invalid, or the file system reported an error.
    #[error(transparent)]
    Manifest(#[from] manifest::Error),
    /// The path does not exist.
    #[error(
        "{path}: there is no such file or directory; give the path of {dataset} with --data, or download it \
         with `make data` or scripts/fetch-cifar --dest {path}"
    )]
    Nothing {
        /// The path that was searched.
        path: PathBuf,
        /// `cifar10` or `cifar100`.
        dataset: &'static str,
    },
    /// None of the official files was found.
    #[error(
        "{path}: no {dataset} here{hint}; give the archive, its directory, or a directory that contains \
         either ({names}), or download it with `make data` or scripts/fetch-cifar"
    )]
    NotFound {
        /// The path that was searched.
        path: PathBuf,
        /// `cifar10` or `cifar100`.
        dataset: &'static str,
        /// What is there instead, if known.
        hint: String,
        /// Names of the official directories and archives.
        names: String,
    },
    /// Something known, but not the official files.
    #[error("{path}: is {what}; {todo}")]
    Other {
        /// The given path.
        path: PathBuf,
        /// What it is.
        what: String,
        /// What to do.
        todo: String,
    },
    /// An official file that differs from the published one.
    #[error("{path}: {why}; download it again (scripts/fetch-cifar)")]
    Official {
        /// The file, or the member of the archive.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A file that would do harm if it were trusted.
    #[error("{path}: {why}; do not use this file; download the official one (scripts/fetch-cifar)")]
    Hostile {
        /// The file, or the member of the archive.
        path: PathBuf,
        /// What it attempted.
        why: String,
    },
    /// Shards or metrics that `mk-imbalance` would not have written.
    #[error("{path}: {why}; make the data set again with mk-imbalance")]
    Foreign {
        /// The shard or the manifest.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// Features that `embed` would not have written.
    #[error("{path}: {why}; make the features again with embed --splits")]
    Features {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// Invalid image files, or an invalid list of them.
    #[error("{path}: {why}")]
    Listing {
        /// The directory, the list or the file.
        path: PathBuf,
        /// What is wrong, and what to do.
        why: String,
    },
    /// Images that cannot be read.
    #[error(
        "{count} of {all} images cannot be read: {first}; {}repair or remove them, or leave them out with \
         --on-error skip",
        before(remedy)
    )]
    Broken {
        /// Number of broken images.
        count: usize,
        /// Number of all images.
        all: usize,
        /// The first broken images, with what is wrong.
        first: String,
        /// What also helps, see [`Unreadable::remedy`].
        remedy: Option<&'static str>,
    },
    /// Images that changed after they were hashed.
    #[error("{count} of {all} images changed while the data set was made: {first}; run the command again")]
    Changed {
        /// Number of changed images.
        count: usize,
        /// Number of all images.
        all: usize,
        /// The names of the first changed images.
        first: String,
    },
    /// A profile that the data cannot provide.
    #[error("{0}")]
    Profile(String),
}

/// Formats a remedy that comes before another one.
fn before(remedy: &Option<&str>) -> String {
    remedy.map_or_else(String::new, |what| format!("{what}, "))
}

impl Error {
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Error {
        let path = path.into();
        move |error| manifest::Error::io(path)(error).into()
    }
}

/// The reason why an image cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// The file system reported an error.
    // Not a source, because a message with its causes would then state it twice.
    #[error("{0}")]
    Io(io::Error),
    /// The file has changed since it was hashed.
    #[error("was changed after it was hashed; run the command again")]
    Changed,
    /// The image is larger than is allowed.
    #[error("{0}")]
    TooLarge(String),
    /// The content is damaged, or not that of an image.
    #[error("{0}")]
    Damaged(String),
}

impl Unreadable {
    /// Returns what helps besides repairing or removing the file.
    pub fn remedy(&self) -> Option<&'static str> {
        match self {
            Unreadable::TooLarge(_) => Some("raise --max-pixels"),
            Unreadable::Io(e) if e.kind() == io::ErrorKind::PermissionDenied => Some("check the permissions"),
            _ => None,
        }
    }
}

impl From<String> for Unreadable {
    fn from(why: String) -> Unreadable {
        Unreadable::Damaged(why)
    }
}

impl From<&str> for Unreadable {
    fn from(why: &str) -> Unreadable {
        Unreadable::Damaged(why.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remedies_follow_from_causes_and_not_from_names() {
        let denied = Unreadable::Io(io::ErrorKind::PermissionDenied.into());
        let missing = Unreadable::Io(io::ErrorKind::NotFound.into());
        let large = Unreadable::TooLarge("has 9×9 pixels, more than --max-pixels 80".into());
        for (why, remedy) in [
            (denied, "; check the permissions, repair or remove them"),
            (missing, "; repair or remove them"),
            (large, "; raise --max-pixels, repair or remove them"),
            ("is not an image in a supported format".into(), "; repair or remove them"),
        ] {
            let first = format!("Permission denied/--max-pixels.png: {why}");
            let e = Error::Broken { count: 1, all: 9, first, remedy: why.remedy() }.to_string();
            assert!(e.starts_with("1 of 9 images cannot be read: ") && e.contains(remedy), "{e}");
        }
    }
}
