//! The network where it is trained: on the CPU, or on a GPU, whose parameters are copied back to the host to
//! be written.

use std::borrow::Cow;
use std::ops::Range;

use anyhow::{Result, ensure};
use candle_core::DType;
use half::bf16;
use rayon::prelude::*;

use super::check_loss;
use super::classifier::OnFeatures;
use super::config::Config;
use super::plan::{EpochPlan, Plan, Sample, Step};
use crate::backend::cpu::blend::Pairs;
use crate::backend::cpu::infer::{self, Folded};
use crate::backend::cpu::load::{self, View};
use crate::backend::cpu::net::{Hidden, Net};
use crate::backend::cuda::images::view;
use crate::backend::cuda::trainer::{self, Planned, Trainer};
use crate::backend::cuda::{self, Row};
use crate::backend::device::Device;
use crate::backend::{Inference, Levels, Rates, levels};
use crate::data::augment::{self, Op};
use crate::data::shard::{Split, centre};
use crate::interrupt::{self, Interrupted};
use crate::methods::loss::{Criterion, Targets};
use crate::methods::mix::Partner;
use crate::metrics;
use crate::net::Params;
use crate::net::files::StateDict;
use crate::simd::value::Value;
use crate::tensor::zeros_of;

/// What is trained, the data that it is trained on, and the device that computes.
pub struct Engine<'a> {
    on: On<'a>,
}

/// The images of a training.
struct Images<'a> {
    train: &'a Split,
    /// The splits on which accuracy is measured.
    judged: Vec<&'a Split>,
    levels: Levels,
}

enum On<'a> {
    Cpu(Box<Net>, Images<'a>),
    Cuda {
        trainer: Box<Trainer>,
        images: Images<'a>,
        /// The host's copy of the parameters, from which files are written.
        params: Box<Params>,
        name: String,
    },
    Features(Box<OnFeatures>),
}

impl<'a> Engine<'a> {
    /// Moves parameters to the device where they are trained. Accuracy is measured on the splits `judged`.
    ///
    /// # Errors
    /// Returns an error if the device has no kernels for the network, or if a GPU cannot be used or does not
    /// have enough memory.
    pub fn new(
        device: Device,
        config: &Config,
        params: Params,
        criterion: Criterion,
        train: &'a Split,
        judged: Vec<&'a Split>,
    ) -> Result<Engine<'a>> {
        let levels = levels(&config.mean, &config.std);
        let batch = config.batch_size.min(train.len());
        let on = match device {
            Device::Cpu => {
                let dtype = config.precision.dtype();
                let net = Net::new(params, criterion, train.shape(), batch, dtype)?;
                let net = if config.freeze.is_some() { net.frozen() } else { net };
                On::Cpu(Box::new(net), Images { train, judged, levels })
            }
            Device::Cuda(index) => {
                ensure!(
                    config.mix.kind.partner == Partner::OfBatch,
                    "--mix {}: the GPU has no kernels for it; use --device cpu",
                    config.mix.name()
                );
                let device = cuda::Device::open(index, config.precision)?;
                let streamed = config.changes_images() || train.stored() != train.shape();
                let images = trainer::Images { train, judged: &judged, levels: &levels, streamed };
                let trainer =
                    Trainer::new(&device, &params, &criterion, images, batch, config.mix.mix_points())?;
                let note = if trainer.steps_on_device().is_some() { ", images on the host" } else { "" };
                log::debug!("{}: {} MiB in use{note}", device.describe(), device.bytes_in_use() >> 20);
                let images = Images { train, judged, levels };
                let (trainer, params) = (Box::new(trainer), Box::new(params));
                On::Cuda { trainer, images, params, name: device.describe() }
            }
        };
        Ok(Engine { on })
    }

    /// Creates the engine of a classifier on features.
    pub fn of_features(classifier: OnFeatures) -> Engine<'a> {
        Engine { on: On::Features(Box::new(classifier)) }
    }

    /// Trains one epoch. Returns the sum over the images of the loss of their batch, and the number of
    /// correct predictions. On the CPU, `on_step` is called with the number of each step that has ended.
    ///
    /// # Errors
    /// Returns an error if the loss is not finite or the device fails, and [`Interrupted`] after a signal.
    pub fn epoch(
        &mut self,
        plan: &Plan,
        epoch: u32,
        rates: Rates,
        on_step: &mut dyn FnMut(usize),
    ) -> Result<(f64, f64)> {
        match &mut self.on {
            On::Cpu(net, Images { train, levels, .. }) => {
                train_epoch(net, train, levels, &plan.epoch(epoch), rates, epoch, on_step)
            }
            On::Features(classifier) => classifier.epoch(plan, epoch, rates, on_step),
            On::Cuda { trainer, images: Images { train, .. }, .. } => {
                let crops = train.stored() != train.shape();
                let held = trainer.steps_on_device().map(|steps| Held { steps, crops });
                let of_epoch = held.map(|_| plan.epoch(epoch));
                let images = |steps| of_epoch.as_ref().map_or(vec![], |of| images(train, of, steps));
                let planned = |epoch| rows(plan, epoch, held);
                let losses = trainer.epoch(planned, images, epoch, plan.epochs(), rates)?;
                let (mut sum, mut right) = (0.0, 0.0);
                for (step, [loss, hits]) in losses.into_iter().enumerate() {
                    check_loss(loss, epoch, step)?;
                    sum += loss * plan.images(step) as f64;
                    right += hits;
                }
                Ok((sum, right))
            }
        }
    }

    /// Copies the parameters to the host as the last epoch left them, if they are trained elsewhere.
    ///
    /// # Errors
    /// Returns an error if the device fails.
    pub fn give(&self) -> Result<()> {
        match &self.on {
            On::Cpu(..) | On::Features(_) => Ok(()),
            On::Cuda { trainer, params, .. } => trainer.give(params),
        }
    }

    /// Returns the tensors of the whole network, as [`Engine::give`] left them.
    ///
    /// # Errors
    /// Returns an error if candle cannot read the tensors.
    pub fn state_dict(&self) -> Result<StateDict> {
        match &self.on {
            On::Cpu(net, _) => net.params.state_dict(),
            On::Features(classifier) => classifier.state_dict(),
            On::Cuda { params, .. } => params.state_dict(),
        }
    }

    /// Returns the tensors that a training resumes from, as [`Engine::give`] left them.
    ///
    /// # Errors
    /// Returns an error if candle cannot read the tensors.
    pub fn training_state(&self) -> Result<StateDict> {
        match &self.on {
            On::Cpu(net, _) => net.params.training_state(),
            On::Features(classifier) => classifier.training_state(),
            On::Cuda { params, .. } => params.training_state(),
        }
    }

    /// Returns the percentage of each judged split that is classified correctly.
    ///
    /// # Errors
    /// Returns an error if the device cannot run the network, and [`Interrupted`] after a signal.
    pub fn top1(&self) -> Result<Vec<f64>> {
        match &self.on {
            On::Cpu(net, Images { train, judged, levels }) => {
                let net = Folded::new(&net.params, train.shape())?;
                let of = |split: &&Split| -> Result<f64> {
                    let out = net.run(split, levels)?;
                    Ok(metrics::top1(&out.logits, split.labels(), out.classes))
                };
                judged.iter().map(of).collect()
            }
            On::Features(classifier) => Ok(classifier.top1()?),
            On::Cuda { trainer, images, .. } => trainer.top1(&images.judged),
        }
    }

    /// Returns the exponent that τ-norm was computed with, if it was.
    pub fn tau_norm(&self) -> Option<f64> {
        match &self.on {
            On::Features(classifier) => classifier.tau_norm,
            _ => None,
        }
    }

    /// Returns what computes, as the name and value of an entry in the manifest's `run`.
    pub fn describe(&self) -> (&'static str, String) {
        match &self.on {
            On::Features(_) => ("instruction_set", f32::isa().name().to_owned()),
            On::Cpu(net, _) => {
                let isa = if net.x.dtype() == DType::BF16 { bf16::isa() } else { f32::isa() };
                ("instruction_set", isa.name().to_owned())
            }
            On::Cuda { name, .. } => ("device", name.clone()),
        }
    }
}

/// How the images of a run reach a GPU that does not keep all of them.
#[derive(Clone, Copy, Debug)]
pub struct Held {
    /// Number of steps whose images are on the GPU at a time.
    pub steps: usize,
    /// Whether they are cut out of larger images before they are copied.
    pub crops: bool,
}

/// Returns an epoch of the plan in the form that the GPU's kernels take.
pub fn rows(plan: &Plan, epoch: u32, held: Option<Held>) -> Planned {
    let (batch, plan) = (plan.images(0), plan.epoch(epoch));
    let mut mix_points = vec![];
    let step = |i: usize| {
        let Step { samples, mix_point, partner, lambda, patch, label_a, label_b, coef_a, coef_b } =
            plan.step(i);
        mix_points.push(mix_point);
        samples.into_iter().enumerate().map(move |(n, s)| Row {
            index: held.map_or(s.index, |held| (i % held.steps * batch + n) as u32),
            view: match held {
                Some(Held { crops: true, .. }) => view(0, 0, s.flip),
                _ => view(s.dy, s.dx, s.flip),
            },
            partner: partner[n],
            lambda: lambda[n],
            rows: patch[n].top | patch[n].bottom << 16,
            columns: patch[n].left | patch[n].right << 16,
            label_a: label_a[n],
            label_b: label_b[n],
            coef_a: coef_a[n],
            coef_b: coef_b[n],
        })
    };
    let rows = (0..plan.steps()).flat_map(step).collect();
    (rows, mix_points)
}

/// Returns the images of some steps in the form that a GPU takes: changed, and cut out of larger ones.
pub fn images(train: &Split, plan: &EpochPlan, steps: Range<usize>) -> Vec<u8> {
    let samples: Vec<Sample> = steps.flat_map(|step| plan.step(step).samples).collect();
    let len = train.shape().iter().product();
    let mut all = vec![0; samples.len() * len];
    let images = samples.par_iter().zip(all.par_chunks_exact_mut(len));
    images.for_each(|(sample, out)| Changed::of(train, sample).cut(train.shape(), out));
    all
}

/// The image of a sample after its operations and before it is cropped.
struct Changed<'a> {
    image: Cow<'a, [u8]>,
    size: [usize; 3],
    /// First row and column of the crop.
    at: [i32; 2],
}

impl<'a> Changed<'a> {
    fn of(train: &'a Split, sample: &Sample) -> Changed<'a> {
        let (stored, shape) = (train.stored(), train.shape());
        let image = train.image(sample.index as usize);
        let (image, size) = match sample.ops.first() {
            None => (image.into(), stored),
            Some(first) => {
                let image = augment::apply(image, [stored[0], stored[1]], &sample.ops, [shape[0], shape[1]]);
                let resized = matches!(first, Op::ResizedCrop { .. });
                (image.into(), if resized { shape } else { stored })
            }
        };
        let first = |offset: i16, axis: usize| i32::from(offset) + centre(size[axis] - shape[axis]) as i32;
        Changed { image, size, at: [first(sample.dy, 0), first(sample.dx, 1)] }
    }

    /// Returns the view of it that a loader reads.
    fn view(&self, flip: bool) -> View<'_> {
        let [dy, dx] = self.at;
        View { image: &self.image, stored: self.size, dy, dx, flip }
    }

    /// Copies the crop out of a larger image; an image of the network's size is copied whole.
    fn cut(&self, [height, width, channels]: [usize; 3], out: &mut [u8]) {
        if self.size == [height, width, channels] {
            return out.copy_from_slice(&self.image);
        }
        let [top, left] = self.at.map(|at| usize::try_from(at).expect("inside of a larger image"));
        let rows = self.image.chunks_exact(self.size[1] * channels).skip(top);
        for (row, out) in rows.zip(out.chunks_exact_mut(width * channels)) {
            out.copy_from_slice(&row[left * channels..][..width * channels]);
        }
    }
}

/// Computes logits and features of the training images as they are in an epoch of a plan, augmented but not
/// mixed, in the order of the split. The plan must draw each image once.
///
/// # Errors
/// Returns [`Interrupted`] after a signal.
pub fn augmented(
    net: &Folded,
    train: &Split,
    levels: &Levels,
    plan: &EpochPlan,
) -> Result<Inference, Interrupted> {
    let mut samples: Vec<Sample> = (0..plan.steps()).flat_map(|step| plan.step(step).samples).collect();
    samples.sort_unstable_by_key(|sample| sample.index);
    net.forward(samples.len(), infer::BATCH, |n, pixels| {
        let changed = Changed::of(train, &samples[n]);
        changed.view(samples[n].flip).write(train.shape()[1], levels, pixels);
    })
}

/// Trains one epoch on the CPU. While a step is computed, idle threads load the images of the next one.
///
/// # Errors
/// Returns an error if the loss is not finite or candle fails, and [`Interrupted`] after a signal.
pub(crate) fn train_epoch(
    net: &Net,
    train: &Split,
    levels: &Levels,
    plan: &EpochPlan,
    rates: Rates,
    epoch: u32,
    on_step: &mut dyn FnMut(usize),
) -> Result<(f64, f64)> {
    let ahead = zeros_of(net.x.dtype(), net.x.dims())?;
    let load = |step: usize| -> Result<Step> {
        let loaded = plan.step(step);
        let changed: Vec<Changed> = loaded.samples.par_iter().map(|s| Changed::of(train, s)).collect();
        let view = |n: usize| changed[n].view(loaded.samples[n].flip);
        let whole;
        let lambda = match loaded.mix_point {
            0 => &loaded.lambda,
            _ => {
                whole = vec![1.0; loaded.lambda.len()];
                &whole
            }
        };
        load::forward(&ahead, train.shape(), levels, view, &loaded.partner, lambda, &loaded.patch)?;
        Ok(loaded)
    };
    let (mut loss, mut right) = (0.0, 0.0);
    let mut next = load(0)?;
    for step in 0..plan.steps() {
        let Step { mix_point, partner, lambda, label_a, label_b, coef_a, coef_b, .. } = &next;
        interrupt::check()?;
        net.x.slice_set(&ahead, 0, 0)?;
        let targets = Targets { label_a, label_b, coef_a, coef_b };
        let hidden =
            (*mix_point > 0).then_some(Hidden { stage: *mix_point, pairs: Pairs { partner, lambda } });
        let (result, loaded) = rayon::join(
            || net.step(targets, hidden, rates),
            || (step + 1 < plan.steps()).then(|| load(step + 1)).transpose(),
        );
        let (result, loaded) = (result?, loaded?);
        check_loss(result.loss, epoch, step)?;
        loss += result.loss * label_a.len() as f64;
        right += result.right;
        on_step(step + 1);
        if let Some(loaded) = loaded {
            next = loaded;
        }
    }
    Ok((loss, right))
}
