//! Decodes the bytes of an official file to labels and pixels, and checks every size and number.

use std::path::Path;

use super::numpy::{Object, Value};
use super::{Dataset, Form, official};
use crate::data::{Error, Images, PIXELS, Planes, imbalance, tensors};
use crate::pickle;

/// Maximum size of a Python file; the largest official one has 155 MB.
const MAX_PICKLE: u64 = 1 << 28;

/// Maximum size of a file of class names.
const MAX_NAMES: u64 = 1 << 16;

/// Checks that every class has the same number of images, because the profiles are defined on balanced data.
pub(super) fn balanced(images: &Planes, classes: usize) -> Result<(), String> {
    let counts = imbalance::count(images.labels(), classes);
    let each = images.len() / classes;
    match counts.iter().position(|&n| n != each) {
        Some(k) => Err(format!("has {} images of class {k}, but the official one has {each}", counts[k])),
        None => Ok(()),
    }
}

impl Dataset {
    /// Returns the size above which a file is not read.
    pub(super) fn limit(&self, form: &Form, name: &str) -> u64 {
        match () {
            () if form.files.last() == Some(&name) => MAX_NAMES,
            () if form.python => MAX_PICKLE,
            // One byte more than expected, so that a longer file is reported as too long instead of being
            // cut.
            () => (self.train_rows.max(self.test_rows) * (self.lead + PIXELS)) as u64 + 1,
        }
    }

    /// Returns the buffer, the number of bytes before each image, and the labels.
    pub(super) fn decode(
        &self,
        form: &Form,
        path: &Path,
        bytes: Vec<u8>,
        rows: usize,
    ) -> Result<(Vec<u8>, usize, Vec<u32>), Error> {
        let (bytes, lead, labels) = if form.python {
            let value = pickle::parse(&bytes).map_err(|e| match e {
                pickle::Error::Damaged(..) => official(path, e.to_string()),
                pickle::Error::Refused(..) => Error::Hostile { path: path.to_owned(), why: e.to_string() },
            })?;
            let (pixels, labels) = self.python(&value, rows).map_err(|why| official(path, why))?;
            (pixels, 0, labels)
        } else {
            let record = self.lead + PIXELS;
            if bytes.len() != rows * record {
                let why = format!("has {} bytes, but the official file has {}", bytes.len(), rows * record);
                return Err(official(path, why));
            }
            let labels = bytes.chunks_exact(record).map(|r| i64::from(r[self.lead - 1])).collect();
            (bytes, self.lead, labels)
        };
        let labels =
            tensors::checked("image", labels.into_iter(), self.classes).map_err(|why| official(path, why))?;
        Ok((bytes, lead, labels))
    }

    fn python(&self, value: &Value, rows: usize) -> Result<(Vec<u8>, Vec<i64>), String> {
        let key = self.keys[0];
        let Some(Value::Object(Object::Array { shape, data })) = value.get("data") else {
            return Err("has no array `data`".into());
        };
        if shape[..] != [rows, PIXELS] {
            return Err(format!("`data` has shape {shape:?}, but [{rows}, {PIXELS}] in the official file"));
        }
        let labels = value.get(key).and_then(Value::items).ok_or_else(|| format!("has no list `{key}`"))?;
        if labels.len() != rows {
            return Err(format!("`{key}` has {} items, but {rows} in the official file", labels.len()));
        }
        let int = |v: &Value| match v {
            Value::Int(n) => Ok(*n),
            _ => Err(format!("`{key}` has an item that is not an integer")),
        };
        Ok((data.to_vec(), labels.iter().map(int).collect::<Result<_, _>>()?))
    }

    pub(super) fn class_names(&self, form: &Form, bytes: &[u8]) -> Result<Vec<String>, String> {
        let key = self.keys[1];
        let text = |bytes: &[u8]| match std::str::from_utf8(bytes) {
            Ok(name) if !name.is_empty() && !name.contains(char::is_control) => Ok(name.to_owned()),
            _ => Err("has a class name that is not plain text".to_owned()),
        };
        let names: Vec<String> = if form.python {
            let value: Value = pickle::parse(bytes).map_err(|e| e.to_string())?;
            let names =
                value.get(key).and_then(Value::items).ok_or_else(|| format!("has no list `{key}`"))?;
            let name = |v: &Value| match v {
                Value::Bytes(name) => text(name),
                _ => Err(format!("`{key}` has an item that is not a string")),
            };
            names.iter().map(name).collect::<Result<_, _>>()?
        } else {
            // Both line endings are accepted: an editor or a transfer in text mode may have changed them.
            let lines = bytes.split(|&b| b == b'\n').map(|l| l.strip_suffix(b"\r").unwrap_or(l));
            lines.filter(|l| !l.is_empty()).map(text).collect::<Result<_, _>>()?
        };
        if names.len() != self.classes {
            return Err(format!(
                "has {} class names, but the official file has {}",
                names.len(),
                self.classes
            ));
        }
        Ok(names)
    }
}
