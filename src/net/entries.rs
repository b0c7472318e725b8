//! From the tensors that a weight file holds to a [`StateDict`]: which names are weights, the prefix that
//! wrappers of a network leave, and conversion to f32. The same for every form of file.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail, ensure};
use half::{bf16, f16};
use safetensors::tensor::Dtype;

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

/// What wrappers (`DataParallel`, `torch.compile`, a module that has the network as a member) and nested
/// dictionaries put before the names of a network.
const PREFIXES: [&str; 9] = [
    "module",
    "_orig_mod",
    "model",
    "net",
    "network",
    "state_dict",
    "model_state_dict",
    "model_state",
    "net_state_dict",
];

/// What stands in checkpoints beside the weights, itself or as the name of a dictionary.
const NO_WEIGHTS: [&str; 56] = [
    "acc",
    "acc1",
    "accuracy",
    "amp",
    "args",
    "best",
    "best_acc",
    "best_acc1",
    "best_acc5",
    "best_epoch",
    "best_loss",
    "best_prec",
    "best_prec1",
    "best_top1",
    "callbacks",
    "config",
    "cuda_rng_state",
    "epoch",
    "epochs",
    "global_step",
    "grad_scaler",
    "hparams",
    "hyper_parameters",
    "iter",
    "iteration",
    "iterations",
    "loops",
    "loss",
    "lr",
    "lr_scheduler",
    "lr_schedulers",
    "meta",
    "n_averaged",
    "num_updates",
    "optim",
    "optim_state_dict",
    "optimiser",
    "optimizer",
    "optimizer_state",
    "optimizer_state_dict",
    "optimizer_states",
    "optimizers",
    "prec1",
    "rng_state",
    "scaler",
    "scaler_state_dict",
    "scheduler",
    "scheduler_state",
    "scheduler_state_dict",
    "seed",
    "start_epoch",
    "step",
    "steps",
    "top1",
    "torch_rng_state",
    "train_loss",
];

/// A tensor as a file holds it, row major and little-endian.
#[derive(Debug)]
pub struct Entry<'a> {
    /// Its name, prefixes included.
    pub name: String,
    /// Type of its numbers.
    pub dtype: Dtype,
    /// Its dimensions.
    pub shape: Vec<usize>,
    /// Its numbers.
    pub bytes: Cow<'a, [u8]>,
}

/// What a file holds.
#[derive(Debug, Default)]
pub struct Contents<'a> {
    /// The tensors that may be weights.
    pub entries: Vec<Entry<'a>>,
    /// What else there is, by the part of the name that says so.
    pub skipped: BTreeSet<String>,
}

/// The name in two parts: the known prefixes before it, and what is left.
fn split(name: &str) -> (&str, &str) {
    let mut rest = name;
    while let Some((first, after)) = rest.split_once('.')
        && PREFIXES.contains(&first)
    {
        rest = after;
    }
    name.split_at(name.len() - rest.len())
}

/// Whether a batch norm's count of its batches is meant, which nothing needs.
fn is_count(name: &str) -> bool {
    name.rsplit('.').next() == Some("num_batches_tracked")
}

fn first(name: &str) -> &str {
    name.split('.').next().unwrap_or(name)
}

impl Contents<'_> {
    /// Whether a tensor is known to be no weight, which is then noted.
    pub fn skips(&mut self, name: &str) -> bool {
        let known = NO_WEIGHTS.contains(&first(split(name).1));
        if known {
            self.skip(name);
        }
        known || is_count(name)
    }

    /// Notes something that is no tensor, or no weight.
    pub fn skip(&mut self, name: &str) {
        if !is_count(name) {
            self.skipped.insert(first(split(name).1).to_owned());
        }
    }

    /// The weights by their names without the prefix that all of them share, in f32.
    ///
    /// # Errors
    /// No weights at all, a name that is there twice, prefixes that differ, numbers that are not finite or
    /// not in f32.
    pub fn state_dict(mut self) -> Result<StateDict> {
        // Files say their tensors in any order; messages are to be the same every time.
        self.entries.sort_by(|a, b| a.name.cmp(&b.name));
        ensure!(!self.entries.is_empty(), "holds no weights; save model.state_dict()");
        one_network(self.entries.iter().map(|e| &e.name[..]))?;
        self.entries
            .iter()
            .map(|e| Ok((split(&e.name).1.to_owned(), Values { shape: e.shape.clone(), data: e.numbers()? })))
            .collect()
    }
}

/// Refuses names that are the same, or would be without their prefixes, and prefixes that some have and
/// others have not.
fn one_network<'a>(names: impl Iterator<Item = &'a str> + Clone) -> Result<()> {
    let mut seen = BTreeMap::new();
    let mut prefixes: BTreeMap<&str, (usize, &str)> = BTreeMap::new();
    for name in names {
        let (prefix, rest) = split(name);
        if let Some(other) = seen.insert(rest, name) {
            bail!("holds {rest} twice, as {other:?} and {name:?}; save the weights of one network alone");
        }
        prefixes.entry(prefix).or_insert((0, name)).0 += 1;
    }
    let mut by_count: Vec<(&str, (usize, &str))> = prefixes.into_iter().collect();
    by_count.sort_by_key(|&(prefix, (count, _))| (std::cmp::Reverse(count), prefix));
    match by_count[..] {
        [("", _), (prefix, (_, odd)), ..] => {
            bail!("{odd:?} begins with {prefix:?}, other names do not; save the weights of one network alone")
        }
        [(prefix, _), (_, (_, odd)), ..] => {
            bail!("most names begin with {prefix:?}, {odd:?} does not; save the weights of one network alone")
        }
        _ => Ok(()),
    }
}

impl Entry<'_> {
    /// Its numbers in f32.
    fn numbers(&self) -> Result<Vec<f32>> {
        let name = split(&self.name).1;
        let data: Vec<f32> = match self.dtype {
            Dtype::F32 => self.words().map(f32::from_le_bytes).collect(),
            Dtype::F16 => self.words().map(|w| f16::from_le_bytes(w).to_f32()).collect(),
            Dtype::BF16 => self.words().map(|w| bf16::from_le_bytes(w).to_f32()).collect(),
            Dtype::F64 => {
                self.words().map(|w| narrowed(f64::from_le_bytes(w))).collect::<Result<_, _>>().map_err(
                    |x| {
                        anyhow::anyhow!(
                            "{name} has the value {x:e}, which is beyond float32; the training diverged"
                        )
                    },
                )?
            }
            other => bail!("{name} is {other:?}; save the weights as float32"),
        };
        ensure!(
            data.iter().all(|x| x.is_finite()),
            "{name} has values that are not finite; the training diverged"
        );
        ensure!(
            !name.ends_with(".running_var") || data.iter().all(|&x| x >= 0.0),
            "{name} has negative values, but variances cannot be negative; make or copy the file again"
        );
        Ok(data)
    }

    fn words<const N: usize>(&self) -> impl Iterator<Item = [u8; N]> {
        self.bytes.as_chunks().0.iter().copied()
    }
}

/// The nearest f32, or the number itself where it is finite and the nearest is infinite.
fn narrowed(x: f64) -> Result<f32, f64> {
    let near = x as f32;
    if near.is_infinite() && x.is_finite() { Err(x) } else { Ok(near) }
}
