//! Files of PyTorch's `torch.save` since version 1.6: a zip file with a pickle that describes the tensors
//! (`data.pkl`), and one member with the elements of each storage (`data/0`, …).
//!
//! Whatever the bytes are, nothing is executed, and memory is bounded by a few times the size of the file: a
//! size is trusted only if the file has that many bytes. Members must be uncompressed, as PyTorch stores
//! them, and their checksums must match.

mod object;

use std::borrow::Cow;
use std::collections::HashMap;
use std::io::{Cursor, Read};

use anyhow::{Context, Result, bail, ensure};
use zip::read::{ArchiveOffset, Config};
use zip::{CompressionMethod, ZipArchive};

use self::object::{Object, Tensor, Value};
use super::entries::{Contents, Entry};
use crate::pickle;

/// Maximum length of a tensor's name, including the names of its dictionaries.
const MAX_NAME: usize = 256;

const DAMAGED: &str = "not an intact file of PyTorch's torch.save; make or copy it again";
const ALONE: &str = "save only the weights, with torch.save(model.state_dict(), \"weights.pth\")";

/// Reads the tensors that may be weights. Nested dictionaries give names that are joined by dots.
///
/// # Errors
/// Returns an error if the file is damaged or holds Python objects, or if names, shapes or sizes are invalid.
pub fn read(bytes: &[u8]) -> Result<Contents<'static>> {
    let mut archive = Archive::open(bytes)?;
    let pickle = archive.member("data.pkl", None).context(DAMAGED)?;
    let value = pickle::parse(&pickle).map_err(|e| match e {
        pickle::Error::Damaged(..) => anyhow::Error::new(e).context(DAMAGED),
        pickle::Error::Refused(..) => anyhow::anyhow!("{e}; {ALONE}"),
    })?;
    let mut found = Contents::default();
    let mut tensors = vec![];
    match value {
        Value::Dict(_) => flatten(value, "", &mut tensors, &mut found)?,
        _ => bail!("holds no dictionary of tensors; {ALONE}"),
    }
    let mut claimed = 0usize;
    for (name, tensor) in tensors {
        let (dtype, shape) = (tensor.storage.dtype, tensor.shape.clone());
        let size = tensor.elements().checked_mul(width(&tensor));
        claimed = size.and_then(|size| claimed.checked_add(size)).unwrap_or(usize::MAX);
        ensure!(
            claimed <= bytes.len(),
            "its tensors are larger than the file; save contiguous copies of the weights"
        );
        let shown = || name.escape_debug().to_string();
        let bytes = archive.tensor(&tensor).with_context(shown).context(DAMAGED)?;
        found.entries.push(Entry { name, dtype, shape, bytes: Cow::Owned(bytes) });
    }
    Ok(found)
}

/// Collects the tensors in a value by name; skips values that are not tensors and names that are not weights.
fn flatten<'a>(
    value: Value<'a>,
    name: &str,
    tensors: &mut Vec<(String, Tensor<'a>)>,
    found: &mut Contents,
) -> Result<()> {
    let join = |part: &str| -> Result<String> {
        ensure!(name.len() + part.len() < MAX_NAME, "a tensor's name is too long; {ALONE}");
        Ok(if name.is_empty() { part.to_owned() } else { format!("{name}.{part}") })
    };
    match value {
        Value::Dict(items) => {
            for (key, value) in items {
                let name = match key {
                    Value::Text(key) => join(key)?,
                    Value::Int(key) => join(&key.to_string())?,
                    _ => join("?")?,
                };
                flatten(value, &name, tensors, found)?;
            }
        }
        Value::List(items) | Value::Tuple(items) => {
            for (n, value) in items.into_iter().enumerate() {
                flatten(value, &join(&n.to_string())?, tensors, found)?;
            }
        }
        Value::Object(Object::Tensor(tensor)) => {
            if !found.skips(name) {
                tensors.push((name.to_owned(), *tensor));
            }
        }
        _ => found.skip(name),
    }
    Ok(())
}

/// Returns the number of bytes of an element.
fn width(tensor: &Tensor) -> usize {
    tensor.storage.dtype.bitsize() / 8
}

/// A zip file, with the storages that have been read.
struct Archive<'a> {
    zip: ZipArchive<Cursor<&'a [u8]>>,
    /// The directory that contains all members: the name under which the file was saved.
    root: String,
    /// Number of bytes that further members may take.
    left: usize,
    storages: HashMap<String, Vec<u8>>,
}

impl<'a> Archive<'a> {
    fn open(bytes: &'a [u8]) -> Result<Self> {
        // Detecting the archive's offset mistakes some intact files for damaged ones. PyTorch's files begin
        // with the archive.
        let config = Config { archive_offset: ArchiveOffset::Known(0) };
        let zip = ZipArchive::with_config(config, Cursor::new(bytes)).ok().context(DAMAGED)?;
        ensure!(!zip.has_duplicate_names(), "holds two members of the same name; {DAMAGED}");
        let names = zip.file_names_raw().filter_map(|name| std::str::from_utf8(name).ok());
        let roots =
            names.filter_map(|name| name.strip_suffix("/data.pkl")).filter(|root| !root.contains('/'));
        let roots: Vec<String> = roots.map(str::to_owned).collect();
        let Ok([root]) = <[String; 1]>::try_from(roots) else {
            bail!("a zip file without the data.pkl of PyTorch's torch.save; {ALONE}");
        };
        let mut archive = Archive { zip, root, left: bytes.len(), storages: HashMap::new() };
        if archive.has("constants.pkl") {
            bail!("a TorchScript module; {ALONE}");
        }
        if archive.has("byteorder") {
            let order = archive.member("byteorder", None)?;
            ensure!(
                order == b"little",
                "was saved in big-endian byte order; save it again on a little-endian machine"
            );
        }
        Ok(archive)
    }

    fn has(&self, name: &str) -> bool {
        self.zip.index_for_name(&format!("{}/{name}", self.root)).is_some()
    }

    /// Returns the bytes of a member, which must be `expected` bytes long if that is given.
    fn member(&mut self, name: &str, expected: Option<usize>) -> Result<Vec<u8>> {
        let name = format!("{}/{name}", self.root);
        let member = self.zip.by_name(&name).ok();
        let name = name.escape_debug();
        let member = member.with_context(|| format!("{name} is missing or damaged"))?;
        ensure!(
            member.compression() == CompressionMethod::Stored,
            "{name} is compressed, but torch.save does not compress; save the file again"
        );
        let size = usize::try_from(member.size()).ok().filter(|&size| size <= self.left);
        let size = size.with_context(|| format!("{name} is larger than the file"))?;
        ensure!(expected.is_none_or(|n| n == size), "{name} has {size} bytes, not {}", expected.unwrap_or(0));
        self.left -= size;
        let mut bytes = Vec::with_capacity(size);
        // Read one byte more: the checksum is verified only at the end of the member.
        let read = member.take(size as u64 + 1).read_to_end(&mut bytes).ok();
        read.with_context(|| format!("{name} is damaged"))?;
        ensure!(bytes.len() == size, "{name} has a different length than the file states");
        Ok(bytes)
    }

    /// Returns the bytes of a tensor in row-major order.
    fn tensor(&mut self, tensor: &Tensor) -> Result<Vec<u8>> {
        let storage = &tensor.storage;
        let width = width(tensor);
        if !self.storages.contains_key(storage.key) {
            let size = storage.len.checked_mul(width).context("a storage is larger than any file")?;
            let bytes = self.member(&format!("data/{}", storage.key), Some(size))?;
            self.storages.insert(storage.key.to_owned(), bytes);
        }
        let all = &self.storages[storage.key];
        // Two tensors may claim different element types for one storage.
        ensure!(
            all.len() / width == storage.len,
            "its storage has a different length than the pickle states"
        );
        let elements = tensor.elements();
        let mut bytes = Vec::with_capacity(elements * width);
        let mut index = vec![0; tensor.shape.len()];
        for _ in 0..elements {
            let step = |(i, stride): (&usize, &usize)| i * stride;
            let at = (tensor.offset + index.iter().zip(&tensor.strides).map(step).sum::<usize>()) * width;
            bytes.extend_from_slice(&all[at..at + width]);
            for (i, &n) in index.iter_mut().zip(&tensor.shape).rev() {
                *i += 1;
                if *i < n {
                    break;
                }
                *i = 0;
            }
        }
        Ok(bytes)
    }
}
