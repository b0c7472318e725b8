//! The manifest: the JSON object by which each tool describes what it made and finds what other tools made.
//!
//! This module holds the schema ([`Manifest`]), its key ([`key`]), reading manifests from files and pipes
//! ([`source`]), file hashes ([`hash`]) and the directory that publishes outputs atomically ([`store`]). It
//! knows nothing about images or networks.

pub(crate) mod compare;
mod error;
pub mod hash;
pub mod key;
mod lock;
pub mod source;
pub mod store;
mod verify;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use self::error::Error;
pub(crate) use self::error::json_fault;

/// The schema that this build writes. The number after the slash is the major version; any other is refused.
pub const SCHEMA: &str = "remix.manifest/1";

/// File name of a manifest inside its output directory.
pub const FILE: &str = "manifest.json";

/// A JSON object that keeps its entries in the order in which they were written.
pub type Object = Map<String, Value>;

/// What a manifest describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
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

    /// Returns the name used in sentences about such a result.
    pub(crate) fn noun(self) -> &'static str {
        match self {
            Kind::Dataset => "data set",
            Kind::Metrics => "evaluation",
            _ => self.name(),
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
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Manifest {
    /// Always `remix.manifest/1`.
    pub schema: String,
    /// What this manifest describes.
    pub kind: Kind,
    /// blake3 of the canonical JSON of kind, semantics, params and the content hashes of the inputs.
    pub key: String,
    /// Version of the tool's behaviour; raised when the same params would give another result.
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
    /// blake3 of the canonical JSON of all of the above, without the paths of inputs. Earlier versions did
    /// not write it.
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
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Input {
    /// What the tool uses it as: `archive`, `dataset`, `checkpoint`, `metrics`.
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
    /// Other contents of the input's manifest that readers need: for a data set, its name, whether it is the
    /// published one, and hashes of its images; for a checkpoint, what computed it, and the version of
    /// `train` if that is not the first. Facts are not part of any key.
    #[serde(default, skip_serializing_if = "Object::is_empty")]
    pub facts: Object,
    /// Inputs of the input's manifest, up to the official files.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<Input>,
    /// Fields that this version does not know; they survive a round trip.
    #[serde(flatten)]
    pub extra: Object,
}

/// One file of a result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Output {
    /// What the file is: `train`, `test`, `last`, `best`, `state`, `log`, ….
    pub role: String,
    /// File name, relative to the manifest.
    pub path: PathBuf,
    /// Size in bytes.
    pub bytes: u64,
    /// Hash of the content.
    pub blake3: String,
    /// Number of images, lines or table rows, if that is meaningful.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<u64>,
    /// Fields that this version does not know; they survive a round trip.
    #[serde(flatten)]
    pub extra: Object,
}

impl Input {
    /// Creates an input that has no manifest of its own.
    pub fn new(role: &str, path: PathBuf, blake3: String) -> Input {
        Input {
            role: role.into(),
            key: None,
            path,
            blake3,
            params: Object::new(),
            facts: Object::new(),
            inputs: vec![],
            extra: Object::new(),
        }
    }

    /// Makes a file without a manifest, such as bare weights, an input of a result.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read, or if its path is not UTF-8.
    pub fn of_file(role: &str, file: &Path) -> Result<Input, Error> {
        let path = store::absolute(file);
        in_utf8(&path)?;
        let blake3 = hash::file(&path)?;
        Ok(Input::new(role, path, blake3))
    }

    /// Creates an input of a file whose content has been read. A pipe cannot be read again to be hashed.
    ///
    /// # Errors
    /// Returns an error if the path is not UTF-8.
    pub fn of_content(role: &str, file: &Path, content: &[u8]) -> Result<Input, Error> {
        let path = store::absolute(file);
        in_utf8(&path)?;
        Ok(Input::new(role, path, blake3::hash(content).to_hex().to_string()))
    }
}

impl Manifest {
    /// Returns the directory that the paths of the outputs are relative to.
    ///
    /// # Errors
    /// Returns an error if the manifest came from a pipe and has no `path`.
    pub fn dir(&self) -> Result<&Path, Error> {
        self.path.as_deref().and_then(Path::parent).ok_or_else(|| {
            let kind = self.kind.name();
            let why = format!(
                "the directory of this {kind} manifest cannot be found, or holds another result now; pass its \
                 path as an argument instead"
            );
            Error::refused("stdin", why)
        })
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
    /// Returns an error if the manifest has no such outputs (as in a dry run's plan), or if its path is
    /// unknown.
    pub fn as_input(&self, role: &str, roles: &[&str]) -> Result<Input, Error> {
        let used: Vec<&Output> = self.outputs.iter().filter(|o| roles.contains(&o.role.as_str())).collect();
        if used.is_empty() {
            let (kind, role) = (self.kind.name(), roles.join(" or "));
            let why = format!("this {kind} lists no {role} file; {}", remedy(&role, self.kind.tool()));
            return Err(Error::Refused { path: self.path.clone().unwrap_or_default(), why });
        }
        let dir = self.dir()?;
        let mut inputs = self.inputs.clone();
        for_each_path(&mut inputs, &mut |path| *path = store::beside(dir, path));
        Ok(Input {
            role: role.to_owned(),
            key: Some(self.key.clone()),
            path: self.path.clone().unwrap_or_else(|| dir.join(FILE)),
            blake3: key::content(&used),
            params: self.params.clone(),
            facts: self.facts(),
            inputs,
            extra: Object::new(),
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
}

/// Returns the fields of a struct, or of an object literal of `json!`.
///
/// # Panics
/// Panics if the value does not serialise to an object.
pub(crate) fn object(value: impl Serialize) -> Object {
    match serde_json::to_value(value) {
        Ok(Value::Object(fields)) => fields,
        _ => unreachable!("structs and object literals serialise to objects"),
    }
}

/// Refuses a path that JSON cannot hold. Tools check this before they work, because the manifest comes last.
///
/// # Errors
/// Returns an error if the path is not UTF-8.
pub fn in_utf8(path: &Path) -> Result<(), Error> {
    match path.to_str() {
        Some(_) => Ok(()),
        None => Err(Error::refused(
            path,
            "this path is not UTF-8, so no manifest can name it; rename it, or choose another one",
        )),
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

/// Calls `f` on the paths of inputs and, recursively, of their inputs.
pub(crate) fn for_each_path(inputs: &mut [Input], f: &mut impl FnMut(&mut PathBuf)) {
    for input in inputs {
        f(&mut input.path);
        for_each_path(&mut input.inputs, f);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_schema_is_current() {
        let mut schema = schemars::schema_for!(Manifest).to_value();
        schema["properties"]["schema"]["const"] = SCHEMA.into();
        schema["$id"] = SCHEMA.into();
        let current = format!("{schema:#}\n");
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reference/manifest.schema.json");
        if std::env::var_os("REMIX_BLESS").is_some() {
            std::fs::write(&path, &current).expect("written");
        }
        let committed = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            committed == current,
            "{}: renew it with REMIX_BLESS=1 cargo test --release --lib committed_schema",
            path.display()
        );
    }
}
