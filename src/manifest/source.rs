//! Reading manifests: from files, from pipes (`-` or no argument), one or many, concatenated or one a line.

use std::fs::{self, File};
use std::io::{self, BufRead, IsTerminal, Read};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{Error, FILE, Kind, Manifest, SCHEMA, hash, in_utf8, key};

/// The most bytes of a file of manifests; what is longer, such as `/dev/zero` or an archive, is none.
const MOST: u64 = 1 << 28;

/// Reads all manifests of the arguments; no argument means stdin, `-` too. A directory means the manifest in
/// it.
///
/// `tool` is who asks, for messages; `kind` is what it takes.
///
/// # Errors
/// Unreadable files, text that is no manifest, another schema, another kind, nothing at all.
pub fn read_all(args: &[PathBuf], tool: &'static str, kind: Kind) -> Result<Vec<Manifest>, Error> {
    read_kinds(args, tool, &[kind])
}

/// The same for a tool that takes several kinds; the first of them is the one that messages name.
///
/// # Errors
/// As [`read_all`].
pub fn read_kinds(args: &[PathBuf], tool: &'static str, kinds: &[Kind]) -> Result<Vec<Manifest>, Error> {
    if args.is_empty() {
        return read_stdin_kinds(tool, kinds.to_vec()).collect();
    }
    let mut all = Vec::new();
    for arg in args {
        if arg.as_os_str() == "-" {
            all.extend(read_stdin_kinds(tool, kinds.to_vec()).collect::<Result<Vec<_>, _>>()?);
        } else {
            let found = read_file(arg)?.into_iter();
            all.extend(found.map(|m| of_kind(m, tool, kinds)).collect::<Result<Vec<_>, _>>()?);
        }
    }
    Ok(all)
}

/// The manifests of stdin, each as soon as it has come: the tool before in the pipe may still be at work.
///
/// # Errors
/// As [`read_all`]; nothing comes after an error.
pub fn read_stdin(tool: &'static str, kind: Kind) -> impl Iterator<Item = Result<Manifest, Error>> {
    read_stdin_kinds(tool, vec![kind])
}

fn read_stdin_kinds(tool: &'static str, kinds: Vec<Kind>) -> impl Iterator<Item = Result<Manifest, Error>> {
    let hint = match kinds[0] {
        Kind::Dataset => "pipe mk-imbalance into this tool, or pass a data set's manifest.json",
        Kind::Checkpoint => "pipe train into this tool, or pass checkpoints' manifest.json",
        Kind::Embedding => {
            "pipe embed --project tsne into this tool, or pass manifest.json files of embeddings"
        }
        _ => "pipe eval into this tool, or pass manifest.json files",
    };
    // Nobody types manifests.
    let stdin: Box<dyn BufRead> =
        if io::stdin().is_terminal() { Box::new(io::empty()) } else { Box::new(io::stdin().lock()) };
    let values = serde_json::Deserializer::from_reader(Unmarked::new(stdin)).into_iter();
    let found = values.map(move |value| {
        let mut m = parse(value, Path::new("stdin"))?;
        locate(&mut m);
        of_kind(m, tool, &kinds)
    });
    let mut found = found.peekable();
    let none = || Err(Error::Empty { path: "stdin".into(), hint });
    let empty = found.peek().is_none().then(none);
    empty.into_iter().chain(found)
}

fn of_kind(m: Manifest, tool: &'static str, kinds: &[Kind]) -> Result<Manifest, Error> {
    if kinds.contains(&m.kind) {
        return match m.is_planned() {
            true => Err(Error::Planned {
                path: m.path.unwrap_or_else(|| "stdin".into()),
                kind: m.kind.name(),
                tool: m.kind.tool(),
            }),
            false => Ok(m),
        };
    }
    let wanted = kinds[0];
    Err(Error::WrongKind {
        path: m.path.unwrap_or_else(|| "stdin".into()),
        found: m.kind.name(),
        wanted: wanted.name(),
        tool,
        maker: wanted.tool(),
    })
}

/// The manifests in one file, or in the directory's `manifest.json`. The file may also be a pipe, such as
/// `/dev/stdin` or what a shell makes of `<(…)`.
///
/// # Errors
/// An unreadable file, text that is no manifest, another schema, nothing at all, a path that no manifest can
/// name.
pub fn read_file(path: &Path) -> Result<Vec<Manifest>, Error> {
    let file = if path.is_dir() { path.join(FILE) } else { path.to_owned() };
    // What a manifest names is beside it, not beside a link to it. Nothing is beside a pipe, which links can
    // also lead to.
    let file = match file.canonicalize() {
        Ok(real) if file.is_symlink() && real.is_file() => real,
        _ => file,
    };
    let mut text = Vec::new();
    let opened = File::open(&file).and_then(|f| f.take(MOST + 1).read_to_end(&mut text));
    opened.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound if path.join(super::store::PLAN).is_file() => {
            Error::Unfinished { path: path.to_owned() }
        }
        io::ErrorKind::NotFound => Error::NoFile { path: file.clone() },
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
    let values = serde_json::Deserializer::from_reader(Unmarked::new(text.as_bytes())).into_iter();
    let mut found = values.map(|v| parse(v, &file)).collect::<Result<Vec<_>, _>>()?;
    // A file that holds one manifest is that manifest's place; a collection of them (a saved pipe) is not,
    // nor is a pipe.
    let place = (found.len() == 1 && file.is_file()).then_some(&file);
    for m in &mut found {
        match place {
            Some(file) if m.path.is_none() => {
                in_utf8(file)?;
                m.path = Some(file.clone());
            }
            _ => locate(m),
        }
    }
    if found.is_empty() {
        return Err(Error::Empty { path: file, hint: "the file is empty" });
    }
    Ok(found)
}

/// Text without byte-order marks at the beginnings of lines, where some editors and shells put one. No JSON
/// has their bytes there.
struct Unmarked<R> {
    text: R,
    at_start: bool,
}

impl<R: BufRead> Unmarked<R> {
    fn new(text: R) -> Self {
        Unmarked { text, at_start: true }
    }
}

impl<R: BufRead> Read for Unmarked<R> {
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

/// Finds the file of a manifest that came without one: what a tool prints says `path`; what `cat` prints is
/// looked for where it was published, absolute first, then relative to here.
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

fn parse(value: serde_json::Result<Value>, path: &Path) -> Result<Manifest, Error> {
    let bad = |why: String| Error::NotAManifest { path: path.to_owned(), why };
    let value = value.map_err(|e| bad(e.to_string()))?;
    let schema = value.get("schema").and_then(Value::as_str).unwrap_or_default();
    if !schema.starts_with("remix.manifest/") {
        return Err(bad("no \"schema\": \"remix.manifest/1\" in it".into()));
    }
    if schema != SCHEMA {
        return Err(Error::Schema { path: path.to_owned(), found: schema.to_owned() });
    }
    let m: Manifest = serde_json::from_value(value).map_err(|e| bad(e.to_string()))?;
    match m.escaping() {
        Some(output) => Err(Error::Escapes { path: path.to_owned(), output: output.to_owned() }),
        None => m.edited(path).map(|()| m),
    }
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

    /// The key that its params and inputs have, whatever it says.
    pub(crate) fn own_key(&self) -> String {
        key::key(self.kind, self.semantics, &self.params, &self.inputs)
    }

    /// What is wrong with its numbers or outputs, if anything, by the given hash function.
    pub(crate) fn damage(&self, hash: impl Fn(&Path) -> Result<String, Error>) -> Option<Error> {
        let here = self.path.clone().unwrap_or_default();
        self.edited(&here).err().or_else(|| self.outputs.iter().find_map(|o| self.check(o, &hash).err()))
    }

    /// Refuses a manifest whose key is not that of its params and inputs, or whose digest is another than it
    /// says.
    fn edited(&self, path: &Path) -> Result<(), Error> {
        let bad = |what| Err(Error::Edited { path: path.to_owned(), what, tool: self.kind.tool() });
        if self.key != self.own_key() {
            return bad("its key is not that of its params and inputs");
        }
        match &self.digest {
            Some(digest) if *digest != key::digest(self) => {
                bad("its params, lineage, outputs or metrics are not those that were published")
            }
            _ => Ok(()),
        }
    }

    /// One output checked with the given hash function (remembered or read in full).
    pub(crate) fn check(
        &self,
        o: &super::Output,
        hash: impl Fn(&Path) -> Result<String, Error>,
    ) -> Result<PathBuf, Error> {
        let dir = self.dir()?;
        let path = dir.join(&o.path);
        // From its state, `train` restores the last weights.
        let anew = self.kind == Kind::Checkpoint && o.role != "last";
        let tool = if anew { "train --force" } else { self.kind.tool() };
        let meta = match fs::metadata(&path) {
            Ok(meta) => meta,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let manifest = self.path.clone().unwrap_or_default();
                return Err(Error::Missing { path, manifest, tool });
            }
            Err(error) => return Err(Error::Io { path, error }),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_left_out_at_the_beginnings_of_lines_alone() {
        let text = "\u{feff}{\"a\": \"\u{feff}x\u{feff}\"}\n\u{feff}{}\n\u{feff}\u{feff}";
        for capacity in [1, 2, 3, 100] {
            let mut found = String::new();
            let text = io::BufReader::with_capacity(capacity, text.as_bytes());
            Unmarked::new(text).read_to_string(&mut found).expect("text");
            assert_eq!(found, "{\"a\": \"\u{feff}x\u{feff}\"}\n{}\n", "{capacity} bytes at a time");
        }
    }
}
