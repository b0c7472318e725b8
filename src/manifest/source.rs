//! Reading manifests: from files, directories and pipes (`-` or no argument), one or many, concatenated or
//! one per line.

use std::fs::{self, File};
use std::io::{self, BufRead, IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;

use super::{Error, FILE, Kind, Manifest, SCHEMA, in_utf8, json_fault, key};

/// Maximum size in bytes of a file of manifests. Anything longer, such as `/dev/zero` or an archive, is
/// refused.
const MOST: u64 = 1 << 28;

/// Whether stdin has been read. Whoever reads it again finds it empty, whatever was piped in.
static IS_STDIN_READ: AtomicBool = AtomicBool::new(false);

/// Reads the manifests of all arguments. No argument means stdin, and so does `-`; a directory means the
/// manifest in it.
///
/// `tool` is the name of the calling tool, for messages; `kind` is the kind of manifest that it takes.
///
/// # Errors
/// Returns an error if a file cannot be read, holds something other than manifests or holds none at all, or
/// if a manifest has another schema or another kind, is only a plan or has been edited.
pub fn read_all(args: &[PathBuf], tool: &'static str, kind: Kind) -> Result<Vec<Manifest>, Error> {
    read_kinds(args, tool, &[kind])
}

/// Reads manifests like [`read_all`], for a tool that takes several kinds. Messages name the first of them.
///
/// # Errors
/// Fails under the same conditions as [`read_all`].
pub fn read_kinds(args: &[PathBuf], tool: &'static str, kinds: &[Kind]) -> Result<Vec<Manifest>, Error> {
    if args.is_empty() {
        return read_stdin(tool, kinds.to_vec()).collect();
    }
    let mut all = Vec::new();
    for arg in args {
        if arg.as_os_str() == "-" {
            all.extend(read_stdin(tool, kinds.to_vec()).collect::<Result<Vec<_>, _>>()?);
        } else {
            let found = read_file(arg)?.into_iter();
            all.extend(found.map(|m| of_kind(m, tool, kinds)).collect::<Result<Vec<_>, _>>()?);
        }
    }
    Ok(all)
}

/// Returns the manifests of stdin, each as soon as it arrives: the preceding tool in the pipe may still be
/// working.
///
/// # Errors
/// An item is an error under the same conditions as in [`read_all`].
pub fn read_stdin(tool: &'static str, kinds: Vec<Kind>) -> impl Iterator<Item = Result<Manifest, Error>> {
    let hint = match kinds[0] {
        Kind::Dataset => "pipe mk-imbalance into this tool, or pass a data set's manifest.json",
        Kind::Checkpoint => "pipe train into this tool, or pass manifest.json files of checkpoints",
        Kind::Embedding => {
            "pipe embed --project tsne into this tool, or pass manifest.json files of embeddings"
        }
        _ => "pipe eval into this tool, or pass manifest.json files",
    };
    let is_read = IS_STDIN_READ.swap(true, Ordering::Relaxed);
    // A terminal counts as empty: nobody types manifests.
    let stdin: Box<dyn BufRead> = match is_read || io::stdin().is_terminal() {
        true => Box::new(io::empty()),
        false => Box::new(io::stdin().lock()),
    };
    let values = serde_json::Deserializer::from_reader(BomStripper::new(stdin)).into_iter();
    let found = values.map(move |value| {
        let mut m = parse(value, Path::new("stdin"))?;
        locate(&mut m);
        of_kind(m, tool, &kinds)
    });
    let mut found = found.peekable();
    let none = || match is_read {
        true => {
            let why = "is given twice, by `-` or by naming no file; give it once";
            Err(Error::refused("stdin", why))
        }
        false => Err(empty("stdin", hint)),
    };
    let none = found.peek().is_none().then(none);
    none.into_iter().chain(found)
}

/// Returns the error for a file, or `stdin`, without any manifest.
fn empty(path: impl Into<PathBuf>, hint: &str) -> Error {
    Error::refused(path, format!("no manifests; {hint}"))
}

fn of_kind(m: Manifest, tool: &'static str, kinds: &[Kind]) -> Result<Manifest, Error> {
    let here = |m: Manifest| m.path.unwrap_or_else(|| "stdin".into());
    if kinds.contains(&m.kind) {
        if !m.is_planned() {
            return Ok(m);
        }
        let (kind, tool) = (m.kind.name(), m.kind.tool());
        let why = format!("this {kind} is only a plan, as printed by --dry-run; make it with {tool}");
        return Err(Error::Refused { path: here(m), why });
    }
    let (found, wanted) = (m.kind.name(), kinds[0]);
    Err(Error::WrongKind { path: here(m), found, wanted: wanted.name(), tool, maker: wanted.tool() })
}

/// Reads the manifests in one file, or in the `manifest.json` of a directory. The file may also be a pipe,
/// such as `/dev/stdin` or the `<(…)` of a shell.
///
/// # Errors
/// Returns an error if the file cannot be read, holds something other than manifests or holds none at all, if
/// a manifest has another schema or has been edited, or if the path is not UTF-8.
pub fn read_file(path: &Path) -> Result<Vec<Manifest>, Error> {
    let file = if path.is_dir() { path.join(FILE) } else { path.to_owned() };
    // The files that a manifest names are beside the manifest, not beside a link to it, so links are
    // resolved. A link can also lead to a pipe, which has nothing beside it.
    let file = match file.canonicalize() {
        Ok(real) if file.is_symlink() && real.is_file() => real,
        _ => file,
    };
    let mut text = Vec::new();
    let opened = File::open(&file).and_then(|f| f.take(MOST + 1).read_to_end(&mut text));
    opened.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound if path.join(super::store::PLAN).is_file() => Error::refused(
            path,
            "is not finished; repeat the command that started it (report runs shows the progress of training \
             runs)",
        ),
        io::ErrorKind::NotFound if holds_results(path) => {
            let why = format!(
                "is a directory of results, not a result; pass the results themselves, such as {}",
                path.join("*").display()
            );
            Error::refused(path, why)
        }
        io::ErrorKind::NotFound => {
            let why = "there is no such file; pass the manifest.json of a finished result, or its directory";
            Error::refused(&file, why)
        }
        _ => Error::Io { path: file.clone(), error },
    })?;
    if text.len() as u64 > MOST {
        let why = format!("it is longer than {} MiB", MOST >> 20);
        return Err(Error::NotAManifest { path: file, why });
    }
    let text = String::from_utf8(text).map_err(|e| {
        let utf16 = [&[0xff, 0xfe], &[0xfe, 0xff]].iter().any(|mark| e.as_bytes().starts_with(*mark));
        let why = if utf16 { "it is UTF-16; save it as UTF-8" } else { "it is not text" };
        Error::NotAManifest { path: file.clone(), why: why.into() }
    })?;
    let values = serde_json::Deserializer::from_reader(BomStripper::new(text.as_bytes())).into_iter();
    let mut found = values.map(|v| parse(v, &file)).collect::<Result<Vec<_>, _>>()?;
    // A file with a single manifest is that manifest's own file. A collection of manifests (a saved pipe) or
    // a pipe is not.
    let own = (found.len() == 1 && file.is_file()).then_some(&file);
    for m in &mut found {
        match own {
            Some(file) if m.path.is_none() => {
                in_utf8(file)?;
                m.path = Some(file.clone());
            }
            _ => locate(m),
        }
    }
    if found.is_empty() {
        return Err(empty(file, "the file is empty"));
    }
    Ok(found)
}

/// Returns whether a subdirectory of a directory holds a result.
fn holds_results(dir: &Path) -> bool {
    fs::read_dir(dir).into_iter().flatten().flatten().any(|entry| entry.path().join(FILE).is_file())
}

/// A reader that drops byte-order marks at the beginnings of lines, where some editors and shells put them.
/// No JSON text has their bytes there.
struct BomStripper<R> {
    text: R,
    at_start: bool,
}

impl<R: BufRead> BomStripper<R> {
    fn new(text: R) -> Self {
        BomStripper { text, at_start: true }
    }
}

impl<R: BufRead> Read for BomStripper<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        const MARK: [u8; 3] = [0xef, 0xbb, 0xbf];
        loop {
            let bytes = self.text.fill_buf()?;
            let marks = bytes.iter().take_while(|b| self.at_start && MARK.contains(b)).count();
            if marks > 0 {
                self.text.consume(marks);
                continue;
            }
            let most = &bytes[..bytes.len().min(out.len())];
            let n = most.iter().position(|b| *b == b'\n').map_or(most.len(), |end| end + 1);
            out[..n].copy_from_slice(&most[..n]);
            if let Some(last) = most[..n].last() {
                self.at_start = *last == b'\n';
            }
            self.text.consume(n);
            return Ok(n);
        }
    }
}

/// Finds the file of a manifest that came without a path. Manifests printed by a tool state their `path`. One
/// that was printed by `cat` is looked for in the directory where it was published, first relative to the
/// current directory, which may be in a copy of the tree, then by its absolute path. The manifest there must
/// be the same: the directory may hold another result by now, even one with the same key.
fn locate(m: &mut Manifest) {
    if m.path.is_some() {
        return;
    }
    let text = |name| m.run.get(name).and_then(Value::as_str).map(PathBuf::from);
    let Some(out) = text("out") else { return };
    let places = [std::env::current_dir().ok(), text("cwd")];
    // Earlier versions did not write the digest, so it is computed.
    let digest = key::digest(m);
    m.path = places.into_iter().flatten().map(|from| from.join(&out).join(FILE)).find(|file| {
        fs::read_to_string(file)
            .ok()
            .and_then(|t| serde_json::from_str::<Manifest>(&t).ok())
            .is_some_and(|there| key::digest(&there) == digest)
    });
}

fn parse(value: serde_json::Result<Value>, path: &Path) -> Result<Manifest, Error> {
    let bad = |why: String| Error::NotAManifest { path: path.to_owned(), why };
    let value = value.map_err(|e| bad(json_fault(&e)))?;
    let schema = value.get("schema").and_then(Value::as_str).unwrap_or_default();
    if !schema.starts_with("remix.manifest/") {
        return Err(bad("it has no \"schema\": \"remix.manifest/1\"".into()));
    }
    if schema != SCHEMA {
        let why = format!("has schema {schema}, not {SCHEMA}; use the version of the tools that wrote it");
        return Err(Error::refused(path, why));
    }
    let m: Manifest = serde_json::from_value(value).map_err(|e| bad(json_fault(&e)))?;
    match m.escaping() {
        Some(output) => {
            let why = format!(
                "lists the output {}, which is outside its directory; do not use this manifest",
                output.display()
            );
            Err(Error::refused(path, why))
        }
        None => m.edited(path).map(|()| m),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_order_marks_are_removed_only_at_the_start_of_lines() {
        let text = "\u{feff}{\"a\": \"\u{feff}x\u{feff}\"}\n\u{feff}{}\n\u{feff}\u{feff}";
        for capacity in [1, 2, 3, 100] {
            let mut found = String::new();
            let text = io::BufReader::with_capacity(capacity, text.as_bytes());
            BomStripper::new(text).read_to_string(&mut found).expect("text");
            assert_eq!(found, "{\"a\": \"\u{feff}x\u{feff}\"}\n{}\n", "{capacity} bytes at a time");
        }
    }
}
