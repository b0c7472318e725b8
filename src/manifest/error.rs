//! What can be wrong with a manifest, or with the files that it names.

use std::path::PathBuf;

use serde_json::error::Category;

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
    /// A file of a result is missing, or differs from what was published.
    #[error("{path}: {why}; run {tool} again to restore it")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
        /// The tool that makes it.
        tool: &'static str,
    },
    /// A path, a manifest or a file cannot be used.
    #[error("{path}: {why}")]
    Refused {
        /// The file or directory, or `stdin`.
        path: PathBuf,
        /// What is wrong, and what to do.
        why: String,
    },
}

/// Returns the indefinite article for the name of a kind.
pub(super) fn article(kind: &str) -> &'static str {
    if kind.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" }
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
    let text = text.replace("unknown variant", "unknown value");
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
        match self {
            Error::Damaged { path, why, .. } => format!("{}: {why}", path.display()),
            other => other.to_string(),
        }
    }

    pub(super) fn refused(path: impl Into<PathBuf>, why: impl Into<String>) -> Error {
        Error::Refused { path: path.into(), why: why.into() }
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
