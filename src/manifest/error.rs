//! What can be wrong with a manifest, or with the files that it names.

use std::path::{Path, PathBuf};

use serde_json::error::Category;

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
    #[error(
        "{path}: is a directory of results, not a result; pass the results themselves, such as {}",
        path.join("*").display()
    )]
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
        "{path}: not a manifest: {why}; pass a manifest.json that mk-imbalance, train, eval, embed or report \
         wrote"
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
    #[error("{path}: missing, although {manifest} lists it{}", restore(tool))]
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
         damaged{}",
        restore(tool)
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
    #[error("{path}: {what}, so it was changed or damaged{}", restore(tool))]
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
    /// A file has the name of an output, but no manifest or plan that can be read lists it, so it may be
    /// anybody's.
    #[error("{path}: {}, or choose another {}", in_the_way(path, own, tool), flag(tool))]
    InTheWay {
        /// The file.
        path: PathBuf,
        /// The names of the manifest and the plan of the result.
        own: [String; 2],
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

/// Returns what is wrong with a file at the path of a tool's output, and what to do besides choosing another
/// path.
fn in_the_way(path: &Path, own: &[String; 2], tool: &str) -> String {
    if path.is_dir() {
        return "is a directory; move it away".into();
    }
    let [manifest, plan] = own;
    let why = match path.ends_with(manifest) || path.ends_with(plan) {
        true => format!("is not a manifest that {tool} can read"),
        false => format!("no readable {manifest} or {plan} lists it"),
    };
    format!("{why}, so {tool} does not replace it; move it away")
}

/// Returns the advice for a result that is missing a file or was changed.
fn restore(tool: &str) -> String {
    format!("; run {tool} again to restore it")
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

/// Describes what is wrong with JSON from a file, without the names of types in this program.
pub(crate) fn json_fault(error: &serde_json::Error) -> String {
    let (line, column) = (error.line(), error.column());
    let text = error.to_string();
    let why = text.rsplit_once(" at line ").filter(|_| line > 0).map_or(&*text, |(why, _)| why);
    // These are limits of the parser: the text is JSON nevertheless.
    let is_limit = ["number out of range", "recursion limit exceeded"].contains(&why);
    let why = match error.classify() {
        Category::Io => return text,
        Category::Eof => return format!("it ends early (line {line})"),
        Category::Syntax if !is_limit => "it is not JSON".into(),
        Category::Syntax | Category::Data => match why.split_once("expected struct ") {
            Some((found, _)) if found.starts_with("invalid type") => format!("{found}expected an object"),
            Some(_) => "expected an object".into(),
            None => why.to_owned(),
        },
    };
    if line > 0 { format!("{why} (line {line}, column {column})") } else { why }
}

impl Error {
    /// Returns the message without the advice to make the result again, for a tool that is doing that.
    pub(super) fn without_remedy(&self) -> String {
        let text = self.to_string();
        let fault = match self {
            Error::Missing { tool, .. } | Error::Damaged { tool, .. } | Error::Edited { tool, .. } => {
                text.strip_suffix(&restore(tool))
            }
            _ => None,
        };
        fault.map_or_else(|| text.clone(), str::to_owned)
    }

    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.into();
        move |error| Error::Io { path, error }
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::{Value, json};

    use super::json_fault;

    #[test]
    fn faults_of_json_are_in_words() {
        #[derive(Debug, Deserialize)]
        struct Shard {
            #[allow(dead_code)]
            bytes: u64,
        }
        for (text, wanted) in [
            ("{\"bytes\": 1\n", "it ends early (line 2)"),
            ("{bytes: 1}", "it is not JSON (line 1, column 2)"),
            ("[]", "expected an object (line 1, column 2)"),
            ("{}", "missing field `bytes` (line 1, column 2)"),
        ] {
            let error = serde_json::from_str::<Shard>(text).expect_err("a fault");
            assert_eq!(json_fault(&error), wanted);
        }
        let of_value = |value| json_fault(&serde_json::from_value::<Shard>(value).expect_err("a fault"));
        assert_eq!(of_value(json!({})), "missing field `bytes`");
        assert_eq!(of_value(json!(3)), "invalid type: integer `3`, expected an object");
        for (text, why) in [
            ("{\"a\": 1e999}".to_owned(), "number out of range (line 1, "),
            ("[".repeat(300) + &"]".repeat(300), "recursion limit exceeded (line 1, "),
        ] {
            let fault = json_fault(&serde_json::from_str::<Value>(&text).expect_err("a fault"));
            assert!(fault.starts_with(why), "{fault}");
        }
    }
}
