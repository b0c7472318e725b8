//! Reading manifests: from files, from pipes (`-` or no argument), one or many, concatenated or one a line.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{Error, FILE, Kind, Manifest, SCHEMA, hash};

/// Reads all manifests of the arguments; no argument means stdin, `-` too. A directory means the manifest in it.
///
/// `tool` is who asks, for messages; `kinds` is what it takes.
///
/// # Errors
/// Unreadable files, text that is no manifest, another schema, another kind, nothing at all.
pub fn read_all(args: &[PathBuf], tool: &'static str, kinds: &[Kind]) -> Result<Vec<Manifest>, Error> {
    let stdin = [PathBuf::from("-")];
    let args = if args.is_empty() { &stdin[..] } else { args };
    let mut all = Vec::new();
    for arg in args {
        let found = if arg.as_os_str() == "-" { read_stdin(kinds)? } else { read_file(arg)? };
        for m in &found {
            if !kinds.contains(&m.kind) {
                let wanted = kinds.first().copied().unwrap_or(Kind::Dataset);
                return Err(Error::WrongKind {
                    path: m.path.clone().unwrap_or_else(|| "stdin".into()),
                    found: m.kind.name(),
                    wanted: wanted.name(),
                    tool,
                    maker: wanted.tool(),
                });
            }
        }
        all.extend(found);
    }
    Ok(all)
}

/// The manifests in one file, or in the directory's `manifest.json`.
pub fn read_file(path: &Path) -> Result<Vec<Manifest>, Error> {
    let file = if path.is_dir() { path.join(FILE) } else { path.to_owned() };
    let text = fs::read_to_string(&file).map_err(Error::io(&file))?;
    let mut found = parse(&text, &file)?;
    let several = found.len() > 1;
    for m in &mut found {
        // A file that holds one manifest is that manifest's place; a collection of them (a saved pipe) is not.
        if !several && m.path.is_none() {
            m.path = Some(file.clone());
        } else {
            locate(m);
        }
    }
    if found.is_empty() {
        return Err(Error::Empty { path: file, hint: "the file is empty" });
    }
    Ok(found)
}

fn read_stdin(kinds: &[Kind]) -> Result<Vec<Manifest>, Error> {
    let mut text = String::new();
    io::stdin().read_to_string(&mut text).map_err(Error::io("stdin"))?;
    let mut found = parse(&text, Path::new("stdin"))?;
    if found.is_empty() {
        let hint = match kinds.first() {
            Some(Kind::Dataset) => "pipe mk-imbalance into this tool, or pass a data set's manifest.json",
            Some(Kind::Checkpoint) => "pipe train into this tool, or pass checkpoints' manifest.json",
            _ => "pipe eval into this tool, or pass manifest.json files",
        };
        return Err(Error::Empty { path: "stdin".into(), hint });
    }
    found.iter_mut().for_each(locate);
    Ok(found)
}

/// Finds the file of a manifest that came without one: what a tool prints says `path`; what `cat` prints is looked for
/// where it was published, absolute first, then relative to here.
fn locate(m: &mut Manifest) {
    if m.path.is_some() {
        return;
    }
    let text = |name| m.run.get(name).and_then(Value::as_str).map(PathBuf::from);
    let Some(out) = text("out") else { return };
    let absolute = text("cwd").map(|cwd| cwd.join(&out));
    m.path = [absolute, Some(out)].into_iter().flatten().map(|dir| dir.join(FILE)).find(|file| {
        fs::read_to_string(file)
            .ok()
            .and_then(|t| serde_json::from_str::<Manifest>(&t).ok())
            .is_some_and(|there| there.key == m.key)
    });
}

fn parse(text: &str, path: &Path) -> Result<Vec<Manifest>, Error> {
    let bad = |why: String| Error::NotAManifest { path: path.to_owned(), why };
    let mut found = Vec::new();
    for value in serde_json::Deserializer::from_str(text).into_iter::<Value>() {
        let value = value.map_err(|e| bad(e.to_string()))?;
        let schema = value.get("schema").and_then(Value::as_str).unwrap_or_default();
        if !schema.starts_with("remix.manifest/") {
            return Err(bad("no \"schema\": \"remix.manifest/1\" in it".into()));
        }
        if schema != SCHEMA {
            return Err(Error::Schema { path: path.to_owned(), found: schema.to_owned() });
        }
        let m: Manifest = serde_json::from_value(value).map_err(|e| bad(e.to_string()))?;
        let inside = |p: &Path| p.components().all(|c| matches!(c, std::path::Component::Normal(_)));
        if let Some(o) = m.outputs.iter().find(|o| !inside(&o.path)) {
            return Err(Error::Escapes { path: path.to_owned(), output: o.path.clone() });
        }
        found.push(m);
    }
    Ok(found)
}

impl Manifest {
    /// Paths of the outputs with a role, checked against their sizes and hashes.
    ///
    /// # Errors
    /// No such output, or one that is missing or damaged.
    pub fn checked(&self, role: &str) -> Result<Vec<PathBuf>, Error> {
        let paths =
            self.outputs_of(role).map(|o| self.check(o, hash::file)).collect::<Result<Vec<_>, _>>()?;
        if paths.is_empty() {
            // `as_input` has the message for a role that is not there.
            self.as_input(role, &[role])?;
        }
        Ok(paths)
    }

    /// One output checked with the given hash function (remembered or read in full).
    pub(crate) fn check(
        &self,
        o: &super::Output,
        hash: impl Fn(&Path) -> Result<String, Error>,
    ) -> Result<PathBuf, Error> {
        let dir = self.dir()?;
        let path = dir.join(&o.path);
        let tool = self.kind.tool();
        let meta = match fs::metadata(&path) {
            Ok(meta) => meta,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(Error::Missing { path, manifest: dir.join(FILE), tool });
            }
            Err(source) => return Err(Error::Io { path, source }),
        };
        let damaged = |what, expected: String, found: String| Error::Damaged {
            path: path.clone(),
            what,
            expected,
            found,
            tool,
        };
        if meta.len() != o.bytes {
            return Err(damaged("size", o.bytes.to_string(), meta.len().to_string()));
        }
        let found = hash(&path)?;
        if found != o.blake3 {
            return Err(damaged("blake3", o.blake3.clone(), found));
        }
        Ok(path)
    }
}
