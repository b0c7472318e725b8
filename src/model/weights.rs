//! Weights in PyTorch's names and layouts: what checkpoint files hold, and the files themselves. Which tensors of a file are
//! weights, and by which names, is in `entries`.
//!
//! `conv1.weight` (cout, cin, 3, 3), `bn1.weight`, `bn1.bias`, `bn1.running_mean`, `bn1.running_var`, `bn1.num_batches_tracked`, …,
//! `linear.weight` (classes, 64), `linear.bias` (a normalised classifier, of LDAM: `linear.weight` (64, classes) alone): the reference `ResNet_s` loads such a file with `load_state_dict`, and its
//! files load here.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use candle_core::Tensor;
use memmap2::Mmap;
use safetensors::tensor::{Dtype, SafeTensors, TensorView, serialize};
use serde::Deserializer;
use serde::de::{IgnoredAny, MapAccess, Visitor};

use super::entries::{Contents, Entry};
use super::resnet::Net;
use super::{Arch, Named, torch};
use crate::data::Info;
use crate::manifest::store::write_atomic;
use crate::ops::{read, write};

/// A tensor by PyTorch's shape, row major.
#[derive(Clone, Debug, PartialEq)]
pub struct Values {
    /// Shape.
    pub shape: Vec<usize>,
    /// Values.
    pub data: Vec<f32>,
}

/// Tensors by PyTorch's names.
pub type StateDict = BTreeMap<String, Values>;

/// (3, 3, cin, cout) → (cout, cin, 3, 3).
fn to_oihw(hwio: &[f32], cin: usize, cout: usize) -> Vec<f32> {
    let mut oihw = vec![0.0; hwio.len()];
    for (at, v) in hwio.iter().enumerate() {
        let (k, ci, co) = (at / (cin * cout), at / cout % cin, at % cout);
        oihw[(co * cin + ci) * 9 + k] = *v;
    }
    oihw
}

/// (cout, cin, 3, 3) → (3, 3, cin, cout).
pub(super) fn to_hwio(oihw: &[f32], cin: usize, cout: usize) -> Vec<f32> {
    let mut hwio = vec![0.0; oihw.len()];
    for (at, v) in hwio.iter_mut().enumerate() {
        let (k, ci, co) = (at / (cin * cout), at / cout % cin, at % cout);
        *v = oihw[(co * cin + ci) * 9 + k];
    }
    hwio
}

impl Net {
    /// The parameters of a flat tensor (parameters, gradients or velocities) by name.
    ///
    /// # Errors
    /// Candle's.
    pub fn named(&self, flat: &Tensor) -> Result<StateDict> {
        let flat = read(flat)?;
        let mut all = StateDict::new();
        let mut put = |name: String, shape: Vec<usize>, data: Vec<f32>| {
            all.insert(name, Values { shape, data });
        };
        for slot in &self.slots {
            let Named { conv, norm, geo } = &slot.conv;
            let weight = &flat[slot.weight..][..geo.weight_len()];
            let (gamma, beta) = flat[slot.gamma_beta..][..2 * geo.cout].split_at(geo.cout);
            put(format!("{conv}.weight"), vec![geo.cout, geo.cin, 3, 3], to_oihw(weight, geo.cin, geo.cout));
            put(format!("{norm}.weight"), vec![geo.cout], gamma.to_vec());
            put(format!("{norm}.bias"), vec![geo.cout], beta.to_vec());
        }
        let len = self.arch.feature_len();
        let (weight, bias) = flat[self.linear_at..][..self.classes * (len + 1)].split_at(self.classes * len);
        if self.criterion.normalised {
            put("linear.weight".into(), vec![len, self.classes], transposed(weight, len));
        } else {
            put("linear.weight".into(), vec![self.classes, len], weight.to_vec());
            put("linear.bias".into(), vec![self.classes], bias.to_vec());
        }
        Ok(all)
    }

    /// Parameters and running statistics by name.
    ///
    /// # Errors
    /// Candle's.
    pub fn state_dict(&self) -> Result<StateDict> {
        let mut all = self.named(&self.params)?;
        for layer in self.layers() {
            let running = read(&layer.running)?;
            let (mean, var) = running.split_at(running.len() / 2);
            for (name, data) in [("mean", mean), ("var", var)] {
                let values = Values { shape: vec![data.len()], data: data.to_vec() };
                all.insert(format!("{}.running_{name}", layer.named.norm), values);
            }
        }
        Ok(all)
    }

    /// Takes parameters by name into a flat tensor.
    fn take(&self, dict: &StateDict, prefix: &str, flat: &Tensor) -> Result<()> {
        let (weight, bias) =
            linear(dict, prefix, self.classes, self.arch.feature_len(), self.criterion.normalised)?;
        let mut parts = vec![(self.linear_at, [weight, bias].concat())];
        for slot in &self.slots {
            let Named { conv, norm, geo } = &slot.conv;
            let weight = get(dict, &format!("{prefix}{conv}.weight"), &[geo.cout, geo.cin, 3, 3])?;
            parts.push((slot.weight, to_hwio(weight, geo.cin, geo.cout)));
            parts
                .push((slot.gamma_beta, get(dict, &format!("{prefix}{norm}.weight"), &[geo.cout])?.to_vec()));
            parts.push((
                slot.gamma_beta + geo.cout,
                get(dict, &format!("{prefix}{norm}.bias"), &[geo.cout])?.to_vec(),
            ));
        }
        write(flat, |flat| {
            for (at, values) in parts {
                flat[at..at + values.len()].copy_from_slice(&values);
            }
            Ok(())
        })?;
        Ok(())
    }

    /// Takes parameters and running statistics.
    ///
    /// # Errors
    /// A tensor that is missing or has another shape.
    pub fn load(&self, dict: &StateDict) -> Result<()> {
        self.take(dict, "", &self.params)?;
        for layer in self.layers() {
            let (norm, cout) = (&layer.named.norm, layer.named.geo.cout);
            let mean = get(dict, &format!("{norm}.running_mean"), &[cout])?;
            let var = get(dict, &format!("{norm}.running_var"), &[cout])?;
            write(&layer.running, |running| {
                running[..cout].copy_from_slice(mean);
                running[cout..].copy_from_slice(var);
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Everything that a resumed training needs: [`Net::state_dict`] and the velocities under `velocity.`.
    ///
    /// # Errors
    /// Candle's.
    pub fn training_state(&self) -> Result<StateDict> {
        let mut all = self.state_dict()?;
        let velocity = self.named(&self.velocity)?;
        all.extend(velocity.into_iter().map(|(name, v)| (format!("velocity.{name}"), v)));
        Ok(all)
    }

    /// Takes what [`Net::training_state`] gave.
    ///
    /// # Errors
    /// A tensor that is missing or has another shape.
    pub fn resume(&self, dict: &StateDict) -> Result<()> {
        self.load(dict)?;
        self.take(dict, "velocity.", &self.velocity)
    }
}

/// The classifier, weight (classes, len) and bias (classes). A normalised one is (len, classes) in files, without a bias, which is zero here.
///
/// # Errors
/// A tensor that is missing or has another shape.
pub(super) fn linear(
    dict: &StateDict,
    prefix: &str,
    classes: usize,
    len: usize,
    normalised: bool,
) -> Result<(Vec<f32>, Vec<f32>)> {
    let name = format!("{prefix}linear.weight");
    Ok(match normalised {
        true => (transposed(get(dict, &name, &[len, classes])?, classes), vec![0.0; classes]),
        false => (
            get(dict, &name, &[classes, len])?.to_vec(),
            get(dict, &format!("{prefix}linear.bias"), &[classes])?.to_vec(),
        ),
    })
}

/// Rows of `width` values, as columns.
fn transposed(rows: &[f32], width: usize) -> Vec<f32> {
    (0..width).flat_map(|column| rows.iter().skip(column).step_by(width)).copied().collect()
}

/// Whether the classifier of these weights is a normalised one: without a bias, and of that shape.
pub fn is_normalised(dict: &StateDict, arch: Arch) -> bool {
    let weight = dict.get("linear.weight");
    !dict.contains_key("linear.bias") && weight.is_some_and(|w| w.shape.first() == Some(&arch.feature_len()))
}

/// A tensor of the given shape.
///
/// # Errors
/// No such tensor, or one of another shape.
pub fn get<'a>(dict: &'a StateDict, name: &str, shape: &[usize]) -> Result<&'a [f32]> {
    let Some(v) = dict.get(name) else {
        bail!("has no tensor {name:?}; is it another architecture (--arch)?");
    };
    ensure!(
        v.shape == shape,
        "{name} is {:?}, {shape:?} is needed; is it another architecture (--arch) or number of classes?",
        v.shape
    );
    Ok(&v.data)
}

/// Reads the weights of an architecture, and the number of their classes, which is that of a data set.
///
/// # Errors
/// A file that cannot be read, weights of another architecture or number of classes; the file is named.
pub fn open_for(path: &Path, arch: Arch, info: &Info) -> Result<(StateDict, usize)> {
    let (mut dict, _) = open(path)?;
    // The state file of `train` holds the optimiser's state beside the weights.
    let all = dict.len();
    dict.retain(|name, _| !name.starts_with("velocity."));
    if dict.len() < all {
        log::info!("{}: ignored entries that are not weights: velocity", path.display());
    }
    let check = || -> Result<usize> {
        check_arch(&dict, arch)?;
        let classes = match dict.get("linear.weight").map(|v| &v.shape[..]) {
            Some(&[_, classes]) if is_normalised(&dict, arch) => classes,
            Some(&[classes, _]) => classes,
            _ => bail!("has no tensor \"linear.weight\" of two dimensions; not a ResNet_s checkpoint"),
        };
        let known = info.classes;
        ensure!(
            classes == known,
            "a network for {classes} classes, the data set has {known}; use the data set it was trained on"
        );
        Ok(classes)
    };
    let classes = check().with_context(|| path.display().to_string())?;
    Ok((dict, classes))
}

/// Refuses weights that are not exactly those of the architecture.
///
/// # Errors
/// Tensors that the architecture does not have; `load` reports those that are missing.
pub(super) fn check_arch(dict: &StateDict, arch: Arch) -> Result<()> {
    let mut known = BTreeSet::from(["linear.weight".to_owned(), "linear.bias".to_owned()]);
    for Named { conv, norm, .. } in arch.convs([32, 32, 3]) {
        known.insert(format!("{conv}.weight"));
        known.extend(["weight", "bias", "running_mean", "running_var"].map(|part| format!("{norm}.{part}")));
    }
    match dict.keys().find(|name| !known.contains(*name)) {
        Some(name) => {
            bail!(
                "has a tensor {name:?}, which {arch} does not have; is it another architecture (--arch), or is the name in a dictionary or behind a prefix that is not known?"
            )
        }
        None => Ok(()),
    }
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

/// Writes tensors as safetensors, atomically. `steps` becomes every batch norm's `num_batches_tracked`; `note` is the one
/// metadata entry, if any (the order of several would not be reproducible).
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

    /// The form of a file of `len` bytes by its first [`Form::HEAD`] ones, whatever it is called. None if it is no such
    /// file, or so damaged that the beginning does not show it.
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

/// Reads a file of [`save`], another one in safetensors, or one of PyTorch's `torch.save`: its weights in f32 and, of
/// safetensors, its metadata. What is known to be no weight is skipped and said.
///
/// # Errors
/// An unreadable or damaged file, a form that is not read, names that are not those of one network, tensors that are no
/// floating-point numbers, values that are not finite or beyond f32.
pub fn open(path: &Path) -> Result<(StateDict, HashMap<String, String>)> {
    let at = || path.display().to_string();
    let file = File::open(path).with_context(at)?;
    // SAFETY: the file is ours or the user's; someone who truncates it while we read gets a signal, not wrong numbers.
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
