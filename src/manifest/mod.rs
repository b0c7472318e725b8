//! The manifest: the JSON object by which each tool describes what it made and finds what other tools made.
//!
//! This module holds the schema ([`Manifest`]), its key ([`key`]), reading manifests from files and pipes
//! ([`source`]), file hashes ([`hash`]) and the directory that publishes outputs atomically ([`store`]). It
//! knows nothing about images or networks.

pub mod hash;
pub mod key;
mod lock;
pub mod source;
pub mod store;

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The schema that this build writes. The number after the slash is the major version; any other is refused.
pub const SCHEMA: &str = "remix.manifest/1";

/// File name of a manifest inside its output directory.
pub const FILE: &str = "manifest.json";

/// A JSON object that keeps its entries in the order in which they were written.
pub type Object = Map<String, Value>;

/// What a manifest describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Image shards made by `mk-imbalance`.
    Dataset,
    /// Weights, training state and log made by `train`.
    Checkpoint,
    /// Numbers made by `eval`.
    Metrics,
    /// Features and logits made by `embed`.
    Embedding,
    /// Tables and figures made by `report`.
    Report,
}

impl Kind {
    /// Returns the name used in JSON and in messages.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Dataset => "dataset",
            Kind::Checkpoint => "checkpoint",
            Kind::Metrics => "metrics",
            Kind::Embedding => "embedding",
            Kind::Report => "report",
        }
    }

    /// Returns the tool that makes manifests of this kind.
    pub fn tool(self) -> &'static str {
        match self {
            Kind::Dataset => "mk-imbalance",
            Kind::Checkpoint => "train",
            Kind::Metrics => "eval",
            Kind::Embedding => "embed",
            Kind::Report => "report",
        }
    }
}

/// One result with everything needed to trust it, repeat it and find its files.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Manifest {
    /// Always `remix.manifest/1`.
    pub schema: String,
    /// What this manifest describes.
    pub kind: Kind,
    /// blake3 of the canonical JSON of kind, semantics, params and the content hashes of the inputs.
    pub key: String,
    /// Version of the tool's meaning; raised when the same params would give another result.
    pub semantics: u32,
    /// Every parameter that can change the result, fully resolved.
    pub params: Object,
    /// What the result was computed from, with its own lineage.
    pub inputs: Vec<Input>,
    /// The files of the result, relative to the manifest. Empty in a dry run's plan.
    #[serde(default)]
    pub outputs: Vec<Output>,
    /// Numbers that describe the result.
    #[serde(default)]
    pub metrics: Object,
    /// blake3 of the canonical JSON of all of the above, the paths of inputs left out. Earlier versions did
    /// not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// How, when and where it was made. Nothing here enters the key.
    #[serde(default)]
    pub run: Object,
    /// Where the manifest's file is. Only on stdout, never in the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// Fields that this version does not know; they survive a round trip.
    #[serde(flatten)]
    pub extra: Object,
}

/// Something that a result was computed from: an official file, or the outputs of another manifest.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Input {
    /// What it is to the tool: `archive`, `dataset`, `checkpoint`, `metrics`.
    pub role: String,
    /// Key of the manifest, where the input has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Where it was, relative to the manifest that lists it.
    pub path: PathBuf,
    /// Content hash: of the file, or of the hashes of the files that were used ([`key::content`]).
    pub blake3: String,
    /// Parameters of the input's manifest, so that lineage survives the loss of the files.
    #[serde(default, skip_serializing_if = "Object::is_empty")]
    pub params: Object,
    /// What else of the input's manifest its readers go by: of a data set its name, whether it is the
    /// published one, and hashes of its images; of a checkpoint what computed it, and the version of `train`
    /// where that is not the first. Facts enter no key.
    #[serde(default, skip_serializing_if = "Object::is_empty")]
    pub facts: Object,
    /// Inputs of the input's manifest, up to the official files.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<Input>,
}

/// One file of a result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Output {
    /// What the file is: `train`, `test`, `last`, `best`, `state`, `log`, ….
    pub role: String,
    /// File name, relative to the manifest.
    pub path: PathBuf,
    /// Size in bytes.
    pub bytes: u64,
    /// Hash of the content.
    pub blake3: String,
    /// Images, lines or table rows, where that means something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<u64>,
}

impl Manifest {
    /// Returns the directory that the paths of the outputs are relative to.
    ///
    /// # Errors
    /// Returns an error if the manifest came from a pipe and has no `path`.
    pub fn dir(&self) -> Result<&Path, Error> {
        self.path.as_deref().and_then(Path::parent).ok_or(Error::Nowhere { kind: self.kind.name() })
    }

    /// Returns the outputs with a role, in the order of the manifest.
    pub fn outputs_of<'a>(&'a self, role: &'a str) -> impl Iterator<Item = &'a Output> {
        self.outputs.iter().filter(move |o| o.role == role)
    }

    /// Returns whether this is a plan, as `--dry-run` prints it: nothing has been made.
    pub fn is_planned(&self) -> bool {
        self.outputs.is_empty() && self.metrics.is_empty() && self.run.is_empty() && self.digest.is_none()
    }

    /// Returns the input with a role.
    pub fn input(&self, role: &str) -> Option<&Input> {
        self.inputs.iter().find(|i| i.role == role)
    }

    /// Turns this manifest into an input of another one: its key, params and inputs become lineage, and
    /// `blake3` is the content hash of the outputs with `roles`.
    ///
    /// # Errors
    /// Returns an error if the manifest has no such outputs (as in a dry run's plan), or if its place is
    /// unknown.
    pub fn as_input(&self, role: &str, roles: &[&str]) -> Result<Input, Error> {
        let used: Vec<&Output> = self.outputs.iter().filter(|o| roles.contains(&o.role.as_str())).collect();
        if used.is_empty() {
            let (path, kind, tool) =
                (self.path.clone().unwrap_or_default(), self.kind.name(), self.kind.tool());
            return Err(Error::NoOutput { path, kind, role: roles.join(" or "), tool });
        }
        let dir = self.dir()?;
        let mut inputs = self.inputs.clone();
        for_each_path(&mut inputs, &mut |path| *path = dir.join(&*path));
        Ok(Input {
            role: role.to_owned(),
            key: Some(self.key.clone()),
            path: self.path.clone().unwrap_or_else(|| dir.join(FILE)),
            blake3: key::content(&used),
            params: self.params.clone(),
            facts: self.facts(),
            inputs,
        })
    }

    /// Returns what readers of this manifest need, besides its key and params, when it is an input; see
    /// [`Input::facts`].
    pub fn facts(&self) -> Object {
        let mut facts = Object::new();
        match self.kind {
            Kind::Dataset => {
                let said =
                    ["name", "official", "images"].into_iter().filter_map(|n| self.metrics.get_key_value(n));
                facts.extend(said.map(|(name, value)| (name.clone(), value.clone())));
            }
            Kind::Checkpoint => {
                // The instruction set comes first, because on a CPU `device` says only that it was one.
                let by = ["instruction_set", "device"].into_iter().find_map(|name| self.run.get(name));
                let by = by.map(|by| match self.run.get("finished_by_semantics") {
                    Some(last) => {
                        format!("{}, versions {} and {last}", by.as_str().unwrap_or_default(), self.semantics)
                            .into()
                    }
                    None => by.clone(),
                });
                facts.extend(by.map(|by| ("computed_by".to_owned(), by)));
                if self.semantics != 1 {
                    facts.insert("semantics".into(), self.semantics.into());
                }
            }
            _ => {}
        }
        facts
    }

    /// Returns an output whose path leads out of the manifest's directory, if any. Such a manifest is not to
    /// be trusted.
    pub fn escaping(&self) -> Option<&Path> {
        let inside = |p: &Path| p.components().all(|c| matches!(c, std::path::Component::Normal(_)));
        self.outputs.iter().map(|o| o.path.as_path()).find(|p| !inside(p))
    }

    /// Returns the JSON Schema of manifests, as committed in `docs/reference/manifest.schema.json`.
    pub fn json_schema() -> Value {
        let mut schema = schemars::schema_for!(Manifest).to_value();
        schema["properties"]["schema"]["const"] = SCHEMA.into();
        schema["$id"] = SCHEMA.into();
        schema
    }
}

/// Refuses a path that JSON cannot hold. Tools check this before they work, because the manifest comes last.
///
/// # Errors
/// Returns [`Error::NotUtf8`] if the path is not UTF-8.
pub fn in_utf8(path: &Path) -> Result<(), Error> {
    match path.to_str() {
        Some(_) => Ok(()),
        None => Err(Error::NotUtf8 { path: path.to_owned() }),
    }
}

/// Calls `f` on the paths of inputs and, recursively, of their inputs.
pub(crate) fn for_each_path(inputs: &mut [Input], f: &mut impl FnMut(&mut PathBuf)) {
    for input in inputs {
        f(&mut input.path);
        for_each_path(&mut input.inputs, f);
    }
}

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
    #[error("{path}: is a file, and a directory is needed there; choose another path")]
    NotADirectory {
        /// The file.
        path: PathBuf,
    },
    /// The given file does not exist.
    #[error("{path}: there is no such file; pass the manifest.json of something finished, or its directory")]
    NoFile {
        /// The file.
        path: PathBuf,
    },
    /// The directory holds a result that is not finished.
    #[error(
        "{path}: is not finished; run the command that began it once more (report runs shows how far trainings are)"
    )]
    Unfinished {
        /// The directory.
        path: PathBuf,
    },
    /// The text is not JSON, or not a manifest.
    #[error(
        "{path}: not a manifest: {why}; expected the manifest.json that mk-imbalance, train, eval, embed or report wrote"
    )]
    NotAManifest {
        /// The file, or `stdin`.
        path: PathBuf,
        /// The reason.
        why: String,
    },
    /// The schema has another major version.
    #[error("{path}: schema {found} is not {SCHEMA}; use the version of the tools that wrote it")]
    Schema {
        /// The file, or `stdin`.
        path: PathBuf,
        /// The schema that the manifest names.
        found: String,
    },
    /// The manifest is of a kind that the tool does not take.
    #[error(
        "{path}: is {} {found} manifest, {tool} takes {wanted}; {wanted} manifests come from {maker}",
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
    #[error("{path}: this {kind} is only planned, as --dry-run prints it; make it with {tool}")]
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
    #[error("{path}: missing, though {manifest} lists it; run {tool} again to restore it")]
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
        "{path}: {what} differs from its manifest (expected {expected}, found {found}); it was changed or damaged, run {tool} again to restore it"
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
    #[error("{path}: {what}; it was changed or damaged, run {tool} again to restore it")]
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
    #[error("{path}: holds a {found}, which {wanted} would replace; choose another {}", flag(wanted))]
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
        "{path}: cannot be locked ({error}), and locks keep two processes from making one result; choose an --out on a file system \
         that has them, such as a local disk"
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

/// Returns what is wrong with a file at the place of a tool's output.
fn in_the_way(path: &Path, tool: &str) -> String {
    match path.is_dir() {
        true => "is a directory".into(),
        false => format!("was not made by {tool}, which would replace it"),
    }
}

/// Returns the remedy for an output that a result was made without.
fn remedy(role: &str, tool: &str) -> String {
    match role {
        "val" => "a validation split is made by mk-imbalance --val-fraction, and its features by embed --splits train,val,test".into(),
        _ => format!("make it again with {tool}"),
    }
}

/// Returns the remedy for an error of the file system.
fn advice(error: &std::io::Error) -> &'static str {
    use std::io::ErrorKind;
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "; make room, and run the same command again",
        ErrorKind::PermissionDenied => {
            "; look at its permissions and those of its directory, or choose another place"
        }
        ErrorKind::ReadOnlyFilesystem => "; choose a place that can be written to",
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
