//! Weights in PyTorch's names and layouts: what checkpoint files hold.
//!
//! `conv1.weight` (cout, cin, 3, 3), `bn1.weight`, `bn1.bias`, `bn1.running_mean`, `bn1.running_var`, `bn1.num_batches_tracked`, …,
//! `linear.weight` (classes, 64), `linear.bias` (a normalised classifier, of LDAM: `linear.weight` (64, classes) alone): the reference `ResNet_s` loads such a file with `load_state_dict`, and its
//! files load here.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use candle_core::Tensor;
use memmap2::Mmap;
use safetensors::tensor::{Dtype, SafeTensors, TensorView, serialize};

use super::resnet::Net;
use super::{Arch, Named};
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
    let (dict, _) = open(path)?;
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
    let norms: Vec<_> = arch.convs([32, 32, 3]);
    let known = |name: &str| {
        let (layer, _) = name.rsplit_once('.').unwrap_or((name, ""));
        layer == "linear" || norms.iter().any(|n| n.conv == layer || n.norm == layer)
    };
    match dict.keys().find(|name| !known(name)) {
        Some(name) => {
            bail!("has a tensor {name:?}, which {arch} has not; is it another architecture (--arch)?")
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

/// Reads a file of [`save`] or of PyTorch's safetensors: its f32 tensors, and its metadata.
///
/// # Errors
/// An unreadable or damaged file, tensors of another type, values that are not finite.
pub fn open(path: &Path) -> Result<(StateDict, HashMap<String, String>)> {
    let at = || path.display().to_string();
    let file = File::open(path).with_context(at)?;
    // SAFETY: the file is ours or the user's; someone who truncates it while we read gets a signal, not wrong numbers.
    let map = unsafe { Mmap::map(&file) }.with_context(at)?;
    parse(&map).with_context(at)
}

fn parse(bytes: &[u8]) -> Result<(StateDict, HashMap<String, String>)> {
    let hint = "not an intact safetensors file; make or copy it again";
    let (_, header) = SafeTensors::read_metadata(bytes).context(hint)?;
    let all = SafeTensors::deserialize(bytes).context(hint)?;
    let mut dict = StateDict::new();
    for (name, view) in all.tensors() {
        if name.ends_with(".num_batches_tracked") {
            continue;
        }
        ensure!(view.dtype() == Dtype::F32, "{name} is {:?}; save the weights as float32", view.dtype());
        let data: Vec<f32> =
            view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        ensure!(
            data.iter().all(|x| x.is_finite()),
            "{name} has values that are not finite; the training diverged"
        );
        ensure!(
            !name.ends_with(".running_var") || data.iter().all(|&x| x >= 0.0),
            "{name} has negative values, which are no variances; make or copy the file again"
        );
        // DataParallel's prefix, as the field's checkpoints often have it.
        let name = name.strip_prefix("module.").unwrap_or(&name).to_owned();
        dict.insert(name, Values { shape: view.shape().to_vec(), data });
    }
    Ok((dict, header.metadata().clone().unwrap_or_default()))
}
