//! Weight files: reads safetensors and files of PyTorch's `torch.save`, writes safetensors. `entries` decides
//! which tensors of a file are weights, and by which names; their layouts are described in [`super::params`].

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use memmap2::Mmap;
use safetensors::tensor::{Dtype, SafeTensors, TensorView, serialize};
use serde::Deserializer;
use serde::de::{IgnoredAny, MapAccess, Visitor};

use super::entries::{Contents, Entry};
pub use super::entries::{StateDict, Values};
use super::{Network, Params, torch};
use crate::manifest::store::write_atomic;

/// Reads the weights of a network for `classes` classes from a file.
///
/// # Errors
/// Returns an error that names the file if it cannot be read, or if its weights are of another architecture
/// or number of classes.
pub fn open_for(path: &Path, network: &Network, classes: usize) -> Result<Params> {
    let dict = weights(path)?;
    let read = || -> Result<Params> {
        let params = Params::from_state_dict(network, &dict)?;
        let own = params.classes();
        ensure!(
            own == classes,
            "is a network for {own} classes, but the data set has {classes}; use the data set that it was \
             trained on"
        );
        Ok(params)
    };
    read().with_context(|| path.display().to_string())
}

/// Reads the weights in a file, without the optimiser state that the state file of `train` also holds.
///
/// # Errors
/// Returns an error if the file cannot be read.
pub fn weights(path: &Path) -> Result<StateDict> {
    let (mut dict, _) = open(path)?;
    let all = dict.len();
    dict.retain(|name, _| !name.starts_with("velocity."));
    if dict.len() < all {
        log::info!("{}: ignored entries that are not weights: velocity", path.display());
    }
    Ok(dict)
}

/// Returns a hash of the names and values, in the order of the names.
pub fn digest(dict: &StateDict) -> String {
    let mut hasher = blake3::Hasher::new();
    for (name, v) in dict {
        hasher.update(name.as_bytes());
        let bytes: Vec<u8> = v.data.iter().flat_map(|x| x.to_le_bytes()).collect();
        hasher.update(&bytes);
    }
    hasher.finalize().to_hex().to_string()
}

/// Writes tensors as safetensors, atomically.
///
/// `steps` is stored as every batch norm's `num_batches_tracked`. `note` is the only metadata entry, if any:
/// the order of several would not be reproducible.
///
/// # Errors
/// Returns an error if the file cannot be written.
pub fn save(path: &Path, dict: &StateDict, steps: u64, note: Option<(&str, String)>) -> Result<()> {
    let count = (steps as i64).to_le_bytes();
    let mut tensors: Vec<(String, Dtype, Vec<usize>, Vec<u8>)> = Vec::new();
    for (name, v) in dict {
        let bytes = v.data.iter().flat_map(|x| x.to_le_bytes()).collect();
        tensors.push((name.clone(), Dtype::F32, v.shape.clone(), bytes));
        if let Some(norm) = name.strip_suffix(".running_var") {
            let name = format!("{norm}.num_batches_tracked");
            tensors.push((name, Dtype::I64, vec![], count.to_vec()));
        }
    }
    let views = tensors
        .iter()
        .map(|(name, dtype, shape, bytes)| Ok((name, TensorView::new(*dtype, shape.clone(), bytes)?)))
        .collect::<Result<Vec<_>>>()?;
    let note = note.map(|(k, v)| HashMap::from([(k.to_owned(), v)]));
    let bytes = serialize(views, note)?;
    Ok(write_atomic(path, |f| f.write_all(&bytes))?)
}

/// A format of weight files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// The safetensors format.
    Safetensors,
    /// A zip file, as PyTorch's `torch.save` has written it since version 1.6.
    Zip,
    /// A bare pickle, as `torch.save` wrote it before version 1.6.
    Pickle,
    /// A tar archive, as the first versions of `torch.save` wrote it.
    Tar,
}

impl Form {
    /// Number of bytes at the beginning of a file that identify its format.
    pub const HEAD: usize = 512;

    /// Returns the format of a file of `len` bytes from its first [`Form::HEAD`] bytes, whatever its name.
    ///
    /// Returns `None` if it is not a weight file, or if it is so damaged that its beginning does not show it.
    pub fn of(head: &[u8], len: u64) -> Option<Self> {
        match head {
            [b'P', b'K', 3, 4, ..] => Some(Form::Zip),
            // Checked before pickles, because the length of a header may begin with the bytes of a pickle.
            [a, b, c, d, e, f, g, h, b'{', ..]
                if u64::from_le_bytes([*a, *b, *c, *d, *e, *f, *g, *h]) <= len.saturating_sub(8) =>
            {
                Some(Form::Safetensors)
            }
            [0x80, 2..=5, ..] => Some(Form::Pickle),
            _ if head.get(257..262) == Some(b"ustar") => Some(Form::Tar),
            _ => None,
        }
    }

    /// Returns what is wrong with files of the older formats and what to do, or `None` for a supported
    /// format.
    pub fn refusal(self) -> Option<&'static str> {
        match self {
            Form::Safetensors | Form::Zip => None,
            Form::Pickle => Some(
                "is a pickle, the format of PyTorch before version 1.6, which is not supported; save the \
                 weights again with torch.save(torch.load(\"old.pth\", weights_only=True), \"new.pth\")",
            ),
            Form::Tar => Some(
                "is a tar archive, the format of the first versions of PyTorch, which is not supported; \
                 unpack it if it contains weight files, or save the weights again with \
                 torch.save(torch.load(\"old.pth\"), \"new.pth\")",
            ),
        }
    }
}

/// Returns a name that occurs twice in a safetensors header; a map would keep only one of the two tensors.
fn named_twice(header: &[u8]) -> Option<String> {
    struct Names;
    impl<'de> Visitor<'de> for Names {
        type Value = Option<String>;

        fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
            f.write_str("the header of a safetensors file")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let (mut seen, mut twice) = (BTreeSet::new(), None);
            while let Some((name, IgnoredAny)) = map.next_entry::<String, IgnoredAny>()? {
                if !seen.insert(name.clone()) {
                    twice.get_or_insert(name);
                }
            }
            Ok(twice)
        }
    }
    serde_json::Deserializer::from_slice(header).deserialize_map(Names).ok().flatten()
}

/// Reads a file of [`save`], another safetensors file, or a file of PyTorch's `torch.save`.
///
/// Returns the weights in f32 and, for safetensors, the metadata. Entries that are known not to be weights
/// are skipped and logged.
///
/// # Errors
/// Returns an error if the file is unreadable or damaged, if its format is not supported, if the names are
/// not those of one network, or if a tensor is not of a floating-point type or has values that are not finite
/// or beyond f32.
pub fn open(path: &Path) -> Result<(StateDict, HashMap<String, String>)> {
    let at = || path.display().to_string();
    ensure!(!path.is_dir(), "{}: is a directory, not a file of weights", at());
    let file = File::open(path).with_context(at)?;
    // SAFETY: the file belongs to this program or to the user. If someone truncates it while it is read, the
    // process gets a signal, not wrong numbers.
    let map = unsafe { Mmap::map(&file) }.with_context(at)?;
    let (contents, metadata) = parse(&map).with_context(at)?;
    let skipped: Vec<_> = contents.skipped.iter().map(|name| name.escape_debug().to_string()).collect();
    if !skipped.is_empty() {
        log::info!("{}: ignored entries that are not weights: {}", at(), skipped.join(", "));
    }
    Ok((contents.state_dict().with_context(at)?, metadata))
}

/// Returns the tensors in the bytes of a file, and its metadata.
pub(super) fn parse(bytes: &[u8]) -> Result<(Contents<'_>, HashMap<String, String>)> {
    let form = Form::of(bytes, bytes.len() as u64);
    if let Some(refusal) = form.and_then(Form::refusal) {
        bail!("{refusal}");
    }
    if form == Some(Form::Zip) {
        return Ok((torch::read(bytes)?, HashMap::new()));
    }
    let hint = match form {
        Some(_) => "is a truncated or damaged safetensors file; make or copy it again",
        None => "not an intact safetensors file, nor one of PyTorch's torch.save; make or copy it again",
    };
    // The library's own reasons say nothing more to users, and may quote the file.
    let (length, header) = SafeTensors::read_metadata(bytes).ok().context(hint)?;
    if let Some(name) = named_twice(bytes.get(8..8 + length).unwrap_or_default()) {
        bail!("holds {} twice; make the file again", name.escape_debug());
    }
    let all = SafeTensors::deserialize(bytes).ok().context(hint)?;
    let mut contents = Contents::default();
    for (name, view) in all.tensors() {
        if !contents.skips(&name) {
            let (dtype, shape) = (view.dtype(), view.shape().to_vec());
            contents.entries.push(Entry { name, dtype, shape, bytes: view.data().into() });
        }
    }
    Ok((contents, header.metadata().clone().unwrap_or_default()))
}

#[cfg(test)]
mod tests;
