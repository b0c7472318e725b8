//! What can be wrong with a manifest, or with the files that it names.

use std::path::{Path, PathBuf};

use super::SCHEMA;

/// An error in a manifest, or in the files that it names.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file system reported an error.
    #[error("{path}: {error}{}", advice(error))]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason. It is not named `source`, because a message with its causes would then state
        /// it twice.
        error: std::io::Error,
    },
    /// There is a file where a directory is needed.
    #[error("{path}: is a file, but a directory is needed there; choose another path")]
    NotADirectory {
        /// The file.
        path: PathBuf,
    },
    /// The given file does not exist.
    #[error("{path}: there is no such file; pass the manifest.json of a finished result, or its directory")]
    NoFile {
        /// The file.
        path: PathBuf,
    },
    /// The given directory holds no result itself, but results in its subdirectories.
    #[error("{path}: is not a result but a directory of results; pass those, such as {path}/*")]
    Several {
        /// The directory.
        path: PathBuf,
    },
    /// The directory holds a result that is not finished.
    #[error(
        "{path}: is not finished; repeat the command that started it (report runs shows the progress of \
         training runs)"
    )]
    Unfinished {
        /// The directory.
        path: PathBuf,
    },
    /// The text is not JSON, or not a manifest.
    #[error(
        "{path}: not a manifest: {why}; expected a manifest.json that mk-imbalance, train, eval, embed or \
         report wrote"
    )]
    NotAManifest {
        /// The file, or `stdin`.
        path: PathBuf,
        /// The reason.
        why: String,
    },
    /// The schema has another major version.
    #[error("{path}: has schema {found}, not {SCHEMA}; use the version of the tools that wrote it")]
    Schema {
        /// The file, or `stdin`.
        path: PathBuf,
        /// The schema that the manifest names.
        found: String,
    },
    /// The manifest is of a kind that the tool does not take.
    #[error(
        "{path}: is {} {found} manifest, but {tool} takes {wanted} manifests, which {maker} writes",
        article(found)
    )]
    WrongKind {
        /// The file, or `stdin`.
        path: PathBuf,
        /// Kind found.
        found: &'static str,
        /// Kind wanted.
        wanted: &'static str,
        /// The tool that reads.
        tool: &'static str,
        /// The tool that makes the wanted kind.
        maker: &'static str,
    },
    /// A manifest from a pipe does not state where it is, and is not where it was made either.
    #[error(
        "stdin: a {kind} manifest that does not say where its files are; pass its path as an argument instead"
    )]
    Nowhere {
        /// Kind of the manifest.
        kind: &'static str,
    },
    /// A plan was given where a result is needed.
    #[error("{path}: this {kind} is only a plan, as printed by --dry-run; make it with {tool}")]
    Planned {
        /// Where the result would be.
        path: PathBuf,
        /// Its kind.
        kind: &'static str,
        /// The tool that makes it.
        tool: &'static str,
    },
    /// The manifest has no output with the role that is needed.
    #[error("{path}: this {kind} lists no {role} file; {}", remedy(role, tool))]
    NoOutput {
        /// The manifest.
        path: PathBuf,
        /// Its kind.
        kind: &'static str,
        /// The role that was looked for.
        role: String,
        /// The tool that makes it.
        tool: &'static str,
    },
    /// An output is missing.
    #[error("{path}: missing, although {manifest} lists it; run {tool} again to restore it")]
    Missing {
        /// The output.
        path: PathBuf,
        /// The manifest.
        manifest: PathBuf,
        /// The tool that makes it.
        tool: &'static str,
    },
    /// An output differs from what was published.
    #[error(
        "{path}: {what} differs from its manifest (expected {expected}, found {found}), so it was changed or \
         damaged; run {tool} again to restore it"
    )]
    Damaged {
        /// The output.
        path: PathBuf,
        /// `size` or `blake3`.
        what: &'static str,
        /// The value in the manifest.
        expected: String,
        /// The value on disk.
        found: String,
        /// The tool that makes it.
        tool: &'static str,
    },
    /// A manifest differs from what was published.
    #[error("{path}: {what}, so it was changed or damaged; run {tool} again to restore it")]
    Edited {
        /// The manifest.
        path: PathBuf,
        /// What does not match.
        what: &'static str,
        /// The tool that makes it again.
        tool: &'static str,
    },
    /// The path of an output leads out of the manifest's directory.
    #[error("{path}: lists the output {output}, which is outside its directory; do not use this manifest")]
    Escapes {
        /// The manifest.
        path: PathBuf,
        /// The output's path.
        output: PathBuf,
    },
    /// The output directory holds the result of another tool.
    #[error(
        "{path}: already holds {} {found}, which the new {wanted} would replace; choose another {}",
        article(found),
        flag(wanted)
    )]
    Occupied {
        /// The directory.
        path: PathBuf,
        /// Kind found.
        found: &'static str,
        /// Kind to be made.
        wanted: &'static str,
    },
    /// A file has the name of an output, but was not made by these tools.
    #[error("{path}: {}; choose another {}", in_the_way(path, tool), flag(tool))]
    InTheWay {
        /// The file.
        path: PathBuf,
        /// The tool that would replace it.
        tool: &'static str,
    },
    /// The file system cannot lock files.
    #[error(
        "{path}: cannot be locked ({error}), but locks keep two processes from writing the same result; \
         choose an --out on a file system that supports locks, such as a local disk"
    )]
    Locks {
        /// The lock file.
        path: PathBuf,
        /// The system's reason.
        error: std::io::Error,
    },
    /// The path of a file or directory is not UTF-8, so no manifest can name it.
    #[error("{path}: this path is not UTF-8, so no manifest can name it; rename it, or choose another one")]
    NotUtf8 {
        /// The file or directory.
        path: PathBuf,
    },
    /// There is no manifest at all.
    #[error("{path}: no manifests; {hint}")]
    Empty {
        /// The file, or `stdin`.
        path: PathBuf,
        /// What to do.
        hint: &'static str,
    },
}

/// Returns the indefinite article for the name of a kind.
fn article(kind: &str) -> &'static str {
    if kind.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" }
}

/// Returns the flags that choose where the result of a tool, or a result of a kind, goes.
fn flag(tool: &str) -> &'static str {
    if tool == "report" { "--out or -o" } else { "--out" }
}

/// Returns what is wrong with a file at the path of a tool's output.
fn in_the_way(path: &Path, tool: &str) -> String {
    match path.is_dir() {
        true => "is a directory".into(),
        false => format!("was not made by {tool}, which would replace it"),
    }
}

/// Returns the remedy for an output that a result was made without.
fn remedy(role: &str, tool: &str) -> String {
    match role {
        "val" => "make a validation split with mk-imbalance --val-fraction, and its features with embed \
                  --splits train,val,test"
            .into(),
        _ => format!("make it again with {tool}"),
    }
}

/// Returns the remedy for an error of the file system.
fn advice(error: &std::io::Error) -> &'static str {
    use std::io::ErrorKind;
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            "; free some space, and run the same command again"
        }
        ErrorKind::PermissionDenied => {
            "; check its permissions and those of its directory, or choose another path"
        }
        ErrorKind::ReadOnlyFilesystem => "; choose a path on a writable file system",
        ErrorKind::NotFound => "; check the path",
        ErrorKind::AlreadyExists | ErrorKind::NotADirectory | ErrorKind::IsADirectory => {
            "; choose another path"
        }
        _ => "",
    }
}

impl Error {
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.into();
        move |error| Error::Io { path, error }
    }
}
