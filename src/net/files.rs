//! Files of weights: reading safetensors and PyTorch's `torch.save`, writing safetensors. Which tensors of a
//! file are weights, and by which names, is in `entries`; their layouts are those of [`super::params`].

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

/// Reads the weights of a network from a file; they must be for the classes of a data set.
///
/// # Errors
/// A file that cannot be read, weights of another architecture or number of classes; the file is named.
pub fn open_for(path: &Path, network: &Network, classes: usize) -> Result<Params> {
    let dict = weights(path)?;
    let read = || -> Result<Params> {
        let params = Params::from_state_dict(network, &dict)?;
        let own = params.classes();
        ensure!(
            own == classes,
            "a network for {own} classes, the data set has {classes}; use the data set it was trained on"
        );
        Ok(params)
    };
    read().with_context(|| path.display().to_string())
}

/// The weights in a file, without the optimiser's state that the state file of `train` holds beside them.
///
/// # Errors
/// A file that cannot be read.
pub fn weights(path: &Path) -> Result<StateDict> {
    let (mut dict, _) = open(path)?;
    let all = dict.len();
    dict.retain(|name, _| !name.starts_with("velocity."));
    if dict.len() < all {
        log::info!("{}: ignored entries that are not weights: velocity", path.display());
    }
    Ok(dict)
}

/// Hash of names and values, in the order of the names.
pub fn digest(dict: &StateDict) -> String {
    let mut hasher = blake3::Hasher::new();
    for (name, v) in dict {
        hasher.update(name.as_bytes());
        let bytes: Vec<u8> = v.data.iter().flat_map(|x| x.to_le_bytes()).collect();
        hasher.update(&bytes);
    }
    hasher.finalize().to_hex().to_string()
}

/// Writes tensors as safetensors, atomically. `steps` becomes every batch norm's `num_batches_tracked`;
/// `note` is the one metadata entry, if any (the order of several would not be reproducible).
///
/// # Errors
/// The file system's.
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

/// A form of file that holds weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// safetensors.
    Safetensors,
    /// A zip file, as PyTorch's `torch.save` writes it since version 1.6.
    Zip,
    /// A bare pickle, as `torch.save` wrote it before.
    Pickle,
    /// A tar archive, as the first versions of `torch.save` wrote it.
    Tar,
}

impl Form {
    /// Bytes at the beginning of a file that tell its form.
    pub const HEAD: usize = 512;

    /// The form of a file of `len` bytes by its first [`Form::HEAD`] ones, whatever it is called. None if it
    /// is no such file, or so damaged that the beginning does not show it.
    pub fn of(head: &[u8], len: u64) -> Option<Self> {
        match head {
            [b'P', b'K', 3, 4, ..] => Some(Form::Zip),
            // Before pickles, whose first bytes a header's length may have.
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

    /// What is wrong with files of the older forms, and what to do.
    pub fn refusal(self) -> Option<&'static str> {
        match self {
            Form::Safetensors | Form::Zip => None,
            Form::Pickle => Some(
                "a pickle, as PyTorch before version 1.6 saved weights, which is not read; save them anew with \
                 torch.save(torch.load(\"old.pth\", weights_only=True), \"new.pth\")",
            ),
            Form::Tar => Some(
                "a tar archive, as the first versions of PyTorch saved weights, which is not read; unpack it if weights \
                 are in it, or save them anew with torch.save(torch.load(\"old.pth\"), \"new.pth\")",
            ),
        }
    }
}

/// A name that stands twice in a header of safetensors: of the two tensors a map keeps one.
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

/// Reads a file of [`save`], another one in safetensors, or one of PyTorch's `torch.save`: its weights in f32
/// and, of safetensors, its metadata. What is known to be no weight is skipped and said.
///
/// # Errors
/// An unreadable or damaged file, a form that is not read, names that are not those of one network, tensors
/// that are no floating-point numbers, values that are not finite or beyond f32.
pub fn open(path: &Path) -> Result<(StateDict, HashMap<String, String>)> {
    let at = || path.display().to_string();
    let file = File::open(path).with_context(at)?;
    // SAFETY: the file is ours or the user's; someone who truncates it while we read gets a signal, not wrong
    // numbers.
    let map = unsafe { Mmap::map(&file) }.with_context(at)?;
    let (contents, metadata) = parse(&map).with_context(at)?;
    let skipped: Vec<_> = contents.skipped.iter().map(|name| name.escape_debug().to_string()).collect();
    if !skipped.is_empty() {
        log::info!("{}: ignored entries that are not weights: {}", at(), skipped.join(", "));
    }
    Ok((contents.state_dict().with_context(at)?, metadata))
}

/// The tensors in the bytes of a file, and its metadata.
pub(super) fn parse(bytes: &[u8]) -> Result<(Contents<'_>, HashMap<String, String>)> {
    let form = Form::of(&bytes[..bytes.len().min(Form::HEAD)], bytes.len() as u64);
    if let Some(refusal) = form.and_then(Form::refusal) {
        bail!("{refusal}");
    }
    if form == Some(Form::Zip) {
        return Ok((torch::read(bytes)?, HashMap::new()));
    }
    let hint = match form {
        Some(_) => "not an intact safetensors file; make or copy it again",
        None => "not an intact safetensors file, nor one of PyTorch's torch.save; make or copy it again",
    };
    let (length, header) = SafeTensors::read_metadata(bytes).context(hint)?;
    if let Some(name) = named_twice(bytes.get(8..8 + length).unwrap_or_default()) {
        bail!("holds {name} twice; make the file again");
    }
    let all = SafeTensors::deserialize(bytes).context(hint)?;
    let mut contents = Contents::default();
    for (name, view) in all.tensors() {
        if !contents.skips(&name) {
            let (dtype, shape) = (view.dtype(), view.shape().to_vec());
            contents.entries.push(Entry { name, dtype, shape, bytes: view.data().into() });
        }
    }
    Ok((contents, header.metadata().clone().unwrap_or_default()))
}
