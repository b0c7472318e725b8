//! The network where it trains: on the CPU, or on a GPU, whose parameters are given back to the CPU's network to be written.

use anyhow::{Result, bail};
use candle_core::DType;
use half::bf16;

use super::SLOWER;
use super::config::Config;
use super::plan::{EpochPlan, Plan, Step};
use crate::data::shard::Split;
use crate::device::Device;
use crate::interrupt::{self, Interrupted};
use crate::methods::loss::Targets;
use crate::model::infer::{self, Folded};
use crate::model::resnet::{Hidden, Net};
use crate::ops::blend::Pairs;
use crate::ops::head::argmax;
use crate::ops::load::{self, Levels, View, levels};
use crate::ops::sgd::Rates;
use crate::ops::value::Value;
use crate::ops::zeros_of;

/// A network, its images, and what computes.
pub struct Engine<'a> {
    net: &'a Net,
    train: &'a Split,
    /// Splits that accuracy is measured on.
    judged: Vec<&'a Split>,
    levels: Levels,
    arch: crate::model::Arch,
    on: On,
}

enum On {
    Cpu,
    #[cfg(feature = "cuda")]
    Cuda {
        trainer: Box<crate::cuda::trainer::Trainer>,
        name: String,
    },
}

/// Images that a network on the host needs room for.
pub fn host_batch(device: Device, batch: usize) -> usize {
    if device.is_cuda() { 1 } else { batch }
}

impl<'a> Engine<'a> {
    /// Takes the parameters of `net` to where they are trained, in batches up to `batch`. Accuracy is measured on the splits `judged`.
    ///
    /// # Errors
    /// A GPU that cannot be used, or has not enough memory.
    pub fn new(
        device: Device,
        config: &Config,
        net: &'a Net,
        train: &'a Split,
        judged: Vec<&'a Split>,
        batch: usize,
    ) -> Result<Engine<'a>> {
        let levels = levels(&config.mean, &config.std);
        let on = match device {
            Device::Cpu => On::Cpu,
            #[cfg(feature = "cuda")]
            Device::Cuda(index) => {
                let device = crate::cuda::Device::open(index, config.precision)?;
                let trainer = crate::cuda::trainer::Trainer::new(
                    &device,
                    net,
                    train,
                    &judged,
                    &levels,
                    batch,
                    config.mix.places(),
                )?;
                log::debug!("{}: {} MiB in use", device.describe(), device.held() >> 20);
                On::Cuda { trainer: Box::new(trainer), name: device.describe() }
            }
        };
        #[cfg(not(feature = "cuda"))]
        let _ = batch;
        Ok(Engine { net, train, judged, levels, arch: config.arch, on })
    }

    /// One epoch; returns the sum of the images' losses, each that of its batch, and the number of right predictions. On the
    /// CPU `on_step` is told the number of each step that has ended.
    ///
    /// # Errors
    /// A loss that is no number; [`Interrupted`]; those of the device.
    pub fn epoch(
        &mut self,
        plan: &Plan,
        epoch: u32,
        rates: Rates,
        on_step: &mut dyn FnMut(usize),
    ) -> Result<(f64, f64)> {
        match &mut self.on {
            On::Cpu => {
                train_epoch(self.net, self.train, &self.levels, &plan.epoch(epoch), rates, epoch, on_step)
            }
            #[cfg(feature = "cuda")]
            On::Cuda { trainer, .. } => {
                let losses = trainer.epoch(plan, epoch, rates)?;
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

    /// Gives what the last epoch came to to the network on the host, which has it already where that trains.
    ///
    /// # Errors
    /// Those of the device.
    pub fn give(&self) -> Result<()> {
        match &self.on {
            On::Cpu => Ok(()),
            #[cfg(feature = "cuda")]
            On::Cuda { trainer, .. } => trainer.give(self.net),
        }
    }

    /// Percent of each judged split that is classified right.
    ///
    /// # Errors
    /// Those of the device.
    pub fn top1(&mut self, classes: usize) -> Result<Vec<f64>> {
        match &mut self.on {
            On::Cpu => {
                let state = self.net.state_dict()?;
                let net = Folded::new(&state, self.arch, self.train.shape(), classes)?;
                let of = |split: &&Split| {
                    let out = net.run(split, &self.levels, infer::BATCH);
                    let rows = out.logits.chunks_exact(out.classes);
                    let right = rows.enumerate().filter(|(n, z)| argmax(z) == split.label(*n)).count();
                    100.0 * right as f64 / split.len() as f64
                };
                Ok(self.judged.iter().map(of).collect())
            }
            #[cfg(feature = "cuda")]
            On::Cuda { trainer, .. } => trainer.top1(&self.judged),
        }
    }

    /// What computes, for `run` of the manifest: name and value.
    pub fn describe(&self) -> (&'static str, String) {
        match &self.on {
            On::Cpu => {
                let isa = if self.net.x.dtype() == DType::BF16 { bf16::isa() } else { f32::isa() };
                ("instruction_set", isa.name().to_owned())
            }
            #[cfg(feature = "cuda")]
            On::Cuda { name, .. } => ("device", name.clone()),
        }
    }
}

fn check_loss(loss: f64, epoch: u32, step: usize) -> Result<()> {
    if !loss.is_finite() {
        bail!("the loss is {loss} in epoch {epoch}, step {}; {SLOWER}", step + 1);
    }
    Ok(())
}

/// One epoch on the CPU. The next step's images are loaded by what threads are free while one is computed.
///
/// # Errors
/// A loss that is no number; [`Interrupted`]; candle's.
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
        let view = |n: usize| {
            let s = loaded.samples[n];
            View { image: train.image(s.index as usize), dy: s.dy.into(), dx: s.dx.into(), flip: s.flip }
        };
        let whole;
        let lambda = match loaded.place {
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
    let mut next = Some(load(0)?);
    for step in 0.. {
        let Some(Step { place, partner, lambda, label_a, label_b, coef_a, coef_b, .. }) = next else { break };
        if interrupt::requested() {
            return Err(Interrupted.into());
        }
        net.x.slice_set(&ahead, 0, 0)?;
        let targets = Targets { label_a: &label_a, label_b: &label_b, coef_a: &coef_a, coef_b: &coef_b };
        let pairs = Pairs { partner: &partner, lambda: &lambda };
        let hidden = (place > 0).then_some(Hidden { stage: place, pairs });
        let (result, loaded) = rayon::join(
            || net.step(targets, hidden, rates),
            || (step + 1 < plan.steps()).then(|| load(step + 1)).transpose(),
        );
        let result = result?;
        next = loaded?;
        check_loss(result.loss, epoch, step)?;
        loss += result.loss * label_a.len() as f64;
        right += result.right;
        on_step(step + 1);
    }
    Ok((loss, right))
}
