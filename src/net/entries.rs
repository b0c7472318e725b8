//! Conversion of the tensors of a weight file to a [`StateDict`]: selects the names that are weights, removes
//! the prefix that wrappers of a network add, and converts to f32. It is the same for every file format.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail, ensure};
use half::{bf16, f16};
use safetensors::tensor::Dtype;

/// A tensor with the shape that it has in PyTorch, in row-major order.
#[derive(Clone, Debug, PartialEq)]
pub struct Values {
    /// Shape.
    pub shape: Vec<usize>,
    /// Values.
    pub data: Vec<f32>,
}

/// Tensors by their names in PyTorch.
pub type StateDict = BTreeMap<String, Values>;

/// Prefixes that wrappers (`DataParallel`, `torch.compile`, a module with the network as a member) and nested
/// dictionaries put before the names of a network's tensors.
const PREFIXES: &str =
    "module _orig_mod model net network state_dict model_state_dict model_state net_state_dict";

/// Names of checkpoint entries that are not weights, whether single values or dictionaries.
const NO_WEIGHTS: &str = "
    acc acc1 accuracy amp args best best_acc best_acc1 best_acc5 best_epoch best_loss best_prec best_prec1
    best_top1 callbacks config cuda_rng_state epoch epochs global_step grad_scaler hparams hyper_parameters
    iter iteration iterations loops loss lr lr_scheduler lr_schedulers meta n_averaged num_updates optim
    optim_state_dict optimiser optimizer optimizer_state optimizer_state_dict optimizer_states optimizers
    prec1 rng_state scaler scaler_state_dict scheduler scheduler_state scheduler_state_dict seed start_epoch
    step steps top1 torch_rng_state train_loss
";

/// A tensor as stored in a file, row-major and little-endian.
#[derive(Debug)]
pub struct Entry<'a> {
    /// Name, including prefixes.
    pub name: String,
    /// Element type.
    pub dtype: Dtype,
    /// Dimensions.
    pub shape: Vec<usize>,
    /// The elements.
    pub bytes: Cow<'a, [u8]>,
}

/// The contents of a file.
#[derive(Debug, Default)]
pub struct Contents<'a> {
    /// The tensors that may be weights.
    pub entries: Vec<Entry<'a>>,
    /// All other entries, by the first part of their names after the known prefixes.
    pub skipped: BTreeSet<String>,
}

/// Returns whether a name is in a list of names, which white space separates.
fn is_among(name: &str, names: &str) -> bool {
    names.split_ascii_whitespace().any(|n| n == name)
}

/// Splits a name into its known prefixes and the rest.
fn split(name: &str) -> (&str, &str) {
    let mut rest = name;
    while let Some((first, after)) = rest.split_once('.')
        && is_among(first, PREFIXES)
    {
        rest = after;
    }
    name.split_at(name.len() - rest.len())
}

/// Returns whether the name is that of a batch norm's batch counter, which is not needed.
fn is_count(name: &str) -> bool {
    name.rsplit('.').next() == Some("num_batches_tracked")
}

fn first(name: &str) -> &str {
    name.split('.').next().unwrap_or(name)
}

impl Contents<'_> {
    /// Returns whether a tensor is known not to be a weight, and notes it if so (batch counters are not
    /// noted).
    pub fn skips(&mut self, name: &str) -> bool {
        let known = is_among(first(split(name).1), NO_WEIGHTS);
        if known {
            self.skip(name);
        }
        known || is_count(name)
    }

    /// Notes an entry that is not a tensor or not a weight.
    pub fn skip(&mut self, name: &str) {
        if !is_count(name) {
            self.skipped.insert(first(split(name).1).to_owned());
        }
    }

    /// Returns the weights in f32, by their names without the prefix that all of them share.
    ///
    /// # Errors
    /// Returns an error if there are no weights, if a name occurs twice, if prefixes differ, or if values are
    /// not finite, not of a floating-point type, beyond f32, or negative variances.
    pub fn state_dict(mut self) -> Result<StateDict> {
        // Files list their tensors in any order; error messages must not depend on it.
        self.entries.sort_by(|a, b| a.name.cmp(&b.name));
        ensure!(!self.entries.is_empty(), "holds no weights; save model.state_dict()");
        one_network(self.entries.iter().map(|e| &e.name[..]))?;
        self.entries
            .iter()
            .map(|e| Ok((split(&e.name).1.to_owned(), Values { shape: e.shape.clone(), data: e.numbers()? })))
            .collect()
    }
}

/// Refuses names that occur twice, with or without their prefixes, and prefixes that only some names have.
fn one_network<'a>(names: impl Iterator<Item = &'a str> + Clone) -> Result<()> {
    let mut seen = BTreeMap::new();
    let mut prefixes: BTreeMap<&str, (usize, &str)> = BTreeMap::new();
    for name in names {
        let (prefix, rest) = split(name);
        if let Some(other) = seen.insert(rest, name) {
            bail!(
                "holds {} twice, as {other:?} and {name:?}; save only the weights of one network",
                rest.escape_debug()
            );
        }
        prefixes.entry(prefix).or_insert((0, name)).0 += 1;
    }
    let mut by_count: Vec<(&str, (usize, &str))> = prefixes.into_iter().collect();
    by_count.sort_by_key(|&(prefix, (count, _))| (std::cmp::Reverse(count), prefix));
    match by_count[..] {
        [("", _), (prefix, (_, odd)), ..] => {
            bail!(
                "{odd:?} begins with {prefix:?}, but other names do not; save only the weights of one network"
            )
        }
        [(prefix, _), (_, (_, odd)), ..] => {
            bail!(
                "most names begin with {prefix:?}, but {odd:?} does not; save only the weights of one network"
            )
        }
        _ => Ok(()),
    }
}

impl Entry<'_> {
    /// Returns the elements in f32.
    fn numbers(&self) -> Result<Vec<f32>> {
        let own = split(&self.name).1;
        let name = own.escape_debug();
        let data: Vec<f32> = match self.dtype {
            Dtype::F32 => self.words().map(f32::from_le_bytes).collect(),
            Dtype::F16 => self.words().map(|w| f16::from_le_bytes(w).to_f32()).collect(),
            Dtype::BF16 => self.words().map(|w| bf16::from_le_bytes(w).to_f32()).collect(),
            Dtype::F64 => self
                .words()
                .map(|w| narrowed(f64::from_le_bytes(w)))
                .collect::<Result<_, _>>()
                .map_err(|x| {
                    anyhow::anyhow!(
                        "{name} has the value {x:e}, which is out of range of float32; the training diverged"
                    )
                })?,
            other => bail!("{name} has type {other:?}; save the weights as float32"),
        };
        ensure!(
            data.iter().all(|x| x.is_finite()),
            "{name} has values that are not finite; the training diverged"
        );
        ensure!(
            !own.ends_with(".running_var") || data.iter().all(|&x| x >= 0.0),
            "{name} has negative values, but variances cannot be negative; make or copy the file again"
        );
        Ok(data)
    }

    fn words<const N: usize>(&self) -> impl Iterator<Item = [u8; N]> {
        self.bytes.as_chunks().0.iter().copied()
    }
}

/// Returns the nearest f32, or the number itself as the error if it is finite but the nearest f32 is
/// infinite.
fn narrowed(x: f64) -> Result<f32, f64> {
    let near = x as f32;
    if near.is_infinite() && x.is_finite() { Err(x) } else { Ok(near) }
}
