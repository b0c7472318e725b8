//! The parameters of a network: their positions in one flat tensor, their initial values, and their names and
//! layouts in files.
//!
//! Layouts in files are PyTorch's: `conv1.weight` (out, in, height, width), `bn1.weight`, `bn1.bias`,
//! `bn1.running_mean`, `bn1.running_var`, …, `linear.weight` (classes, features) and `linear.bias`. A cosine
//! classifier has only `linear.weight`, (features, classes).

use std::collections::BTreeSet;

use anyhow::{Result, bail, ensure};
use candle_core::Tensor;
use rand::Rng;
use rand_distr::{Distribution, StandardNormal};

use super::files::{StateDict, Values};
use super::{ClassifierKind, Conv, Network};
use crate::rng::{Purpose, stream};
use crate::tensor::{read, write, zeros};

/// Offsets of the parameters of a convolution and its batch norm in the flat tensors.
#[derive(Clone, Copy, Debug)]
pub struct Slot {
    /// The weight, (height, width, in, out).
    pub weight: usize,
    /// γ, then β.
    pub gamma_beta: usize,
    /// Running mean, then running variance; these are in a tensor of their own.
    pub running: usize,
}

/// The parameters of a network, with the velocities of SGD and the running statistics of batch norm.
pub struct Params {
    network: Network,
    classes: usize,
    slots: Vec<Slot>,
    classifier: usize,
    /// All parameters, flat: for each convolution, in the order of [`Network::convs`], the weight, γ and β;
    /// then the classifier's weight (classes, features) and bias.
    pub values: Tensor,
    /// The velocities of SGD, in the same layout.
    pub velocity: Tensor,
    /// Running means and variances, flat: for each convolution the mean, then the variance.
    pub running: Tensor,
}

/// Number of floats in a cache line; each group of parameters starts on a cache line.
const LINE: usize = 16;

impl Params {
    /// Creates parameters that are all zero.
    ///
    /// # Errors
    /// Returns an error if a candle operation fails.
    pub fn new(network: &Network, classes: usize) -> candle_core::Result<Params> {
        let (mut len, mut running) = (0, 0);
        let mut reserve = |n: usize| {
            let at = len;
            len += n.next_multiple_of(LINE);
            at
        };
        let mut slots = Vec::new();
        for conv in network.convs() {
            let slot =
                Slot { weight: reserve(conv.weight_len()), gamma_beta: reserve(2 * conv.cout), running };
            running += 2 * conv.cout;
            slots.push(slot);
        }
        let classifier = reserve(classes * (network.features() + 1));
        Ok(Params {
            network: network.clone(),
            classes,
            slots,
            classifier,
            values: zeros(&[len])?,
            velocity: zeros(&[len])?,
            running: zeros(&[running])?,
        })
    }

    /// Returns the network that the parameters belong to.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// Returns the number of classes.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// Returns the offsets of each convolution, in the order of [`Network::convs`].
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// Returns the offset of the classifier.
    pub fn classifier(&self) -> usize {
        self.classifier
    }

    /// Returns the number of values of the classifier's weight and bias.
    pub fn classifier_len(&self) -> usize {
        self.classes * (self.network.features() + 1)
    }

    fn is_cosine(&self) -> bool {
        self.network.classifier.kind == ClassifierKind::Cosine
    }

    /// Returns the convolutions with their slots.
    fn convs(&self) -> impl Iterator<Item = (&Conv, Slot)> {
        self.network.convs().zip(self.slots.iter().copied())
    }

    /// Initialises the parameters, the running statistics and the velocities.
    ///
    /// Convolutions and the classifier get Kaiming-normal weights (fan in, gain √2), the classifier's bias is
    /// uniform in ±1/√features; γ = 1, β = 0, running means are 0 and running variances 1, velocities are
    /// zero. The weights of a cosine classifier are uniform and then scaled to length 1, as in the code of
    /// LDAM, and its bias is 0.
    ///
    /// # Errors
    /// Returns an error if a candle operation fails.
    pub fn init(&self, seed: u64) -> candle_core::Result<()> {
        let normal = |values: &mut [f32], tensor: usize, fan_in: usize| {
            let std = (2.0 / fan_in as f64).sqrt();
            let mut rng = stream(seed, Purpose::Init, 0, tensor as u64);
            for value in values {
                let z: f64 = StandardNormal.sample(&mut rng);
                *value = (z * std) as f32;
            }
        };
        write(&self.values, |values| {
            for (n, (conv, slot)) in self.convs().enumerate() {
                let fan_in = conv.kernel * conv.kernel * conv.cin;
                normal(&mut values[slot.weight..][..conv.weight_len()], n, fan_in);
                values[slot.gamma_beta..][..conv.cout].fill(1.0);
                values[slot.gamma_beta + conv.cout..][..conv.cout].fill(0.0);
            }
            let (len, tensor) = (self.network.features(), self.slots.len());
            let classifier = &mut values[self.classifier..][..self.classifier_len()];
            let (weight, bias) = classifier.split_at_mut(self.classes * len);
            if self.is_cosine() {
                let mut rng = stream(seed, Purpose::Init, 0, tensor as u64);
                for row in weight.chunks_exact_mut(len) {
                    row.iter_mut().for_each(|w| *w = rng.random_range(-1.0..1.0));
                    let norm = row.iter().map(|w| w * w).sum::<f32>().sqrt();
                    row.iter_mut().for_each(|w| *w /= norm);
                }
                return bias.fill(0.0);
            }
            normal(weight, tensor, len);
            let bound = 1.0 / (len as f32).sqrt();
            let mut rng = stream(seed, Purpose::Init, 0, tensor as u64 + 1);
            bias.iter_mut().for_each(|b| *b = rng.random_range(-bound..bound));
        })?;
        write(&self.running, |running| {
            for (conv, slot) in self.convs() {
                running[slot.running..][..conv.cout].fill(0.0);
                running[slot.running + conv.cout..][..conv.cout].fill(1.0);
            }
        })?;
        write(&self.velocity, |velocity| velocity.fill(0.0))
    }

    /// Returns the values of a flat tensor (parameters, gradients or velocities) by name.
    ///
    /// # Errors
    /// Returns an error if a candle operation fails.
    pub fn named(&self, flat: &Tensor) -> Result<StateDict> {
        let flat = read(flat)?;
        let mut all = StateDict::new();
        let mut put = |name: String, shape: Vec<usize>, data: Vec<f32>| {
            all.insert(name, Values { shape, data });
        };
        for (conv, slot) in self.convs() {
            let weight = to_oihw(&flat[slot.weight..][..conv.weight_len()], conv);
            let (gamma, beta) = flat[slot.gamma_beta..][..2 * conv.cout].split_at(conv.cout);
            put(format!("{}.weight", conv.name), conv.shape().into(), weight);
            put(format!("{}.weight", conv.norm), vec![conv.cout], gamma.to_vec());
            put(format!("{}.bias", conv.norm), vec![conv.cout], beta.to_vec());
        }
        let (len, name) = (self.network.features(), &self.network.classifier.name);
        let classifier = &flat[self.classifier..][..self.classifier_len()];
        let (weight, bias) = classifier.split_at(self.classes * len);
        if self.is_cosine() {
            put(format!("{name}.weight"), vec![len, self.classes], transposed(weight, len));
        } else {
            put(format!("{name}.weight"), vec![self.classes, len], weight.to_vec());
            put(format!("{name}.bias"), vec![self.classes], bias.to_vec());
        }
        Ok(all)
    }

    /// Returns the parameters and running statistics by name.
    ///
    /// # Errors
    /// Returns an error if a candle operation fails.
    pub fn state_dict(&self) -> Result<StateDict> {
        let mut all = self.named(&self.values)?;
        let running = read(&self.running)?;
        for (conv, slot) in self.convs() {
            let (mean, var) = running[slot.running..][..2 * conv.cout].split_at(conv.cout);
            for (name, data) in [("mean", mean), ("var", var)] {
                let values = Values { shape: vec![conv.cout], data: data.to_vec() };
                all.insert(format!("{}.running_{name}", conv.norm), values);
            }
        }
        Ok(all)
    }

    /// Copies values by name into a flat tensor.
    fn take(&self, dict: &StateDict, prefix: &str, flat: &Tensor) -> Result<()> {
        let (len, name) = (self.network.features(), &self.network.classifier.name);
        let weight = format!("{prefix}{name}.weight");
        let classifier = if self.is_cosine() {
            let weight = transposed(get(dict, &weight, &[len, self.classes])?, self.classes);
            [weight, vec![0.0; self.classes]].concat()
        } else {
            let weight = get(dict, &weight, &[self.classes, len])?;
            [weight, get(dict, &format!("{prefix}{name}.bias"), &[self.classes])?].concat()
        };
        let mut parts = vec![(self.classifier, classifier)];
        for (conv, slot) in self.convs() {
            let Conv { name, norm, cout, .. } = conv;
            let weight = get(dict, &format!("{prefix}{name}.weight"), &conv.shape())?;
            parts.push((slot.weight, to_hwio(weight, conv)));
            let gamma = get(dict, &format!("{prefix}{norm}.weight"), &[*cout])?;
            let beta = get(dict, &format!("{prefix}{norm}.bias"), &[*cout])?;
            parts.push((slot.gamma_beta, [gamma, beta].concat()));
        }
        Ok(put(flat, &parts)?)
    }

    /// Loads parameters and running statistics.
    ///
    /// # Errors
    /// Returns an error if a tensor is missing or has another shape.
    pub fn load(&self, dict: &StateDict) -> Result<()> {
        self.take(dict, "", &self.values)?;
        let mut parts = vec![];
        for (Conv { norm, cout, .. }, slot) in self.convs() {
            let mean = get(dict, &format!("{norm}.running_mean"), &[*cout])?;
            let var = get(dict, &format!("{norm}.running_var"), &[*cout])?;
            parts.push((slot.running, [mean, var].concat()));
        }
        Ok(put(&self.running, &parts)?)
    }

    /// Loads parameters and running statistics from a file's tensors as the start of a training.
    ///
    /// Without `with_classifier`, the classifier stays as it is.
    ///
    /// # Errors
    /// Returns an error if a tensor is missing, has another shape, or is not one of the network's.
    pub fn start_from(&self, dict: &StateDict, with_classifier: bool) -> Result<()> {
        check_names(&self.network, dict)?;
        let classifier = format!("{}.", self.network.classifier.name);
        let own = self.state_dict()?;
        let kept = |name: &str| !with_classifier && name.starts_with(&classifier);
        let taken = dict.iter().filter(|(name, _)| !kept(name));
        let left = own.iter().filter(|(name, _)| kept(name));
        self.load(&taken.chain(left).map(|(name, v)| (name.clone(), v.clone())).collect())
    }

    /// Returns why a file's classifier cannot be used for this network, or `None` if it can.
    pub fn other_classifier(&self, dict: &StateDict) -> Option<&'static str> {
        let (name, features) = (&self.network.classifier.name, self.network.features());
        let Some(weight) = dict.get(&format!("{name}.weight")) else { return Some("the file has none") };
        if kind_of(&self.network, dict) != self.network.classifier.kind {
            return Some("that of the file is of a different kind than the loss needs");
        }
        let own = if self.is_cosine() { [features, self.classes] } else { [self.classes, features] };
        match weight.shape == own {
            true => None,
            false if weight.shape.get(usize::from(self.is_cosine())) == Some(&self.classes) => {
                Some("that of the file has a different number of features")
            }
            false => Some("that of the file has a different number of classes"),
        }
    }

    /// Returns everything that a resumed training needs: [`Params::state_dict`], and the velocities with the
    /// prefix `velocity.`.
    ///
    /// # Errors
    /// Returns an error if a candle operation fails.
    pub fn training_state(&self) -> Result<StateDict> {
        let mut all = self.state_dict()?;
        let velocity = self.named(&self.velocity)?;
        all.extend(velocity.into_iter().map(|(name, v)| (format!("velocity.{name}"), v)));
        Ok(all)
    }

    /// Loads what [`Params::training_state`] returned.
    ///
    /// # Errors
    /// Returns an error if a tensor is missing or has another shape.
    pub fn resume(&self, dict: &StateDict) -> Result<()> {
        self.load(dict)?;
        self.take(dict, "velocity.", &self.velocity)
    }

    /// Creates the parameters of a network from a file's tensors, with the file's number of classes and kind
    /// of classifier.
    ///
    /// # Errors
    /// Returns an error if a tensor is missing, has another shape, or is not one of the network's.
    pub fn from_state_dict(network: &Network, dict: &StateDict) -> Result<Params> {
        let mut network = network.clone();
        network.classifier.kind = kind_of(&network, dict);
        check_names(&network, dict)?;
        let name = format!("{}.weight", network.classifier.name);
        let classes = match (dict.get(&name).map(|v| &v.shape[..]), network.classifier.kind) {
            (Some(&[_, classes]), ClassifierKind::Cosine) => classes,
            (Some(&[classes, _]), ClassifierKind::Linear) => classes,
            _ => bail!("has no two-dimensional tensor {name:?}; check the architecture (--arch)"),
        };
        if network.classifier.kind == ClassifierKind::Linear {
            // Checked before memory is reserved, because the length in `features-N` may be arbitrary.
            get(dict, &name, &[classes, network.features()])?;
        }
        let params = Params::new(&network, classes)?;
        params.load(dict)?;
        Ok(params)
    }
}

/// Returns the kind of classifier of these tensors: a cosine classifier has no bias, and a transposed weight.
fn kind_of(network: &Network, dict: &StateDict) -> ClassifierKind {
    let name = &network.classifier.name;
    let weight = dict.get(&format!("{name}.weight"));
    let is_cosine = weight.is_some_and(|w| w.shape.first() == Some(&network.features()));
    match !dict.contains_key(&format!("{name}.bias")) && is_cosine {
        true => ClassifierKind::Cosine,
        false => ClassifierKind::Linear,
    }
}

/// Refuses tensors that the network does not have; [`Params::load`] reports missing ones.
fn check_names(network: &Network, dict: &StateDict) -> Result<()> {
    let name = &network.classifier.name;
    let mut known = BTreeSet::from([format!("{name}.weight"), format!("{name}.bias")]);
    for Conv { name, norm, .. } in network.convs() {
        known.insert(format!("{name}.weight"));
        known.extend(["weight", "bias", "running_mean", "running_var"].map(|part| format!("{norm}.{part}")));
    }
    match dict.keys().find(|name| !known.contains(*name)) {
        Some(name) => bail!(
            "has a tensor {name:?}, which {} does not have; check the architecture (--arch), and save the \
             weights without enclosing dictionaries or prefixes",
            network.name
        ),
        None => Ok(()),
    }
}

/// Returns a tensor, which must have the given shape.
fn get<'a>(dict: &'a StateDict, name: &str, shape: &[usize]) -> Result<&'a [f32]> {
    let Some(v) = dict.get(name) else {
        bail!("has no tensor {name:?}; check the architecture (--arch)");
    };
    ensure!(
        v.shape == shape,
        "{name} has shape {:?}, not {shape:?}; check the architecture (--arch) and the number of classes",
        v.shape
    );
    Ok(&v.data)
}

/// Writes parts of a flat tensor, each from its offset on.
fn put(flat: &Tensor, parts: &[(usize, Vec<f32>)]) -> candle_core::Result<()> {
    write(flat, |flat| parts.iter().for_each(|(at, v)| flat[*at..][..v.len()].copy_from_slice(v)))
}

/// Converts (height, width, in, out) to (out, in, height, width).
fn to_oihw(hwio: &[f32], &Conv { kernel, cin, cout, .. }: &Conv) -> Vec<f32> {
    let mut oihw = vec![0.0; hwio.len()];
    for (at, v) in hwio.iter().enumerate() {
        let (k, ci, co) = (at / (cin * cout), at / cout % cin, at % cout);
        oihw[(co * cin + ci) * kernel * kernel + k] = *v;
    }
    oihw
}

/// Converts (out, in, height, width) to (height, width, in, out).
fn to_hwio(oihw: &[f32], &Conv { kernel, cin, cout, .. }: &Conv) -> Vec<f32> {
    let mut hwio = vec![0.0; oihw.len()];
    for (at, v) in hwio.iter_mut().enumerate() {
        let (k, ci, co) = (at / (cin * cout), at / cout % cin, at % cout);
        *v = oihw[(co * cin + ci) * kernel * kernel + k];
    }
    hwio
}

/// Transposes a matrix whose rows have `width` values.
fn transposed(rows: &[f32], width: usize) -> Vec<f32> {
    (0..width).flat_map(|column| rows.iter().skip(column).step_by(width)).copied().collect()
}
