//! Training on a GPU, for `train`: an epoch is one upload of its plan, one graph launch per step, and one
//! read of the losses at its end. Images that do not fit in the GPU's memory, or that the host changes, are
//! sent for some steps at a time.

use std::ops::Range;

use anyhow::Result;

use super::Error;
use super::args::Row;
use super::device::{Device, Graph, REPEATS};
use super::images::{fit, flat, send, units_per_transfer};
use super::infer::{BATCH, Evaluator};
use super::net::{DeviceNet, Feed, Segments};
use crate::backend::cpu::load::Levels;
use crate::backend::cpu::sgd::Rates;
use crate::data::shard::Split;
use crate::interrupt::{self, Interrupted};
use crate::methods::loss::Criterion;
use crate::net::Params;

/// A training run on a GPU. Its graphs use the memory of `net` and `feed`.
pub struct Trainer {
    /// The step with a full batch.
    full: Option<Steps>,
    /// The last step of an epoch, if it is smaller.
    rest: Option<Steps>,
    evaluators: Vec<Evaluator>,
    net: DeviceNet,
    feed: Feed,
    /// The number of steps whose images are on the device at a time; `None` if all images are kept there.
    held: Option<usize>,
    device: Device,
    /// The number and the plan of the next epoch, if it has been planned.
    planned: Option<(u32, Planned)>,
    images: usize,
    batch: usize,
    /// Size of an image in bytes.
    image_len: usize,
}

/// The rows of an epoch, and the mix point of each of its steps.
pub type Planned = (Vec<Row>, Vec<usize>);

/// The images of a run.
#[derive(Clone, Copy)]
pub struct Images<'a> {
    /// The images that are trained on.
    pub train: &'a Split,
    /// The splits that accuracy is measured on.
    pub judged: &'a [&'a Split],
    /// The normalised values of the images' bytes.
    pub levels: &'a Levels,
    /// Whether the host changes the images, so that those of each step are passed to [`Trainer::stream`].
    /// Otherwise the images are kept on the device if they fit.
    pub streamed: bool,
}

/// The recorded steps of one batch size.
struct Steps {
    /// One graph for each mix point.
    graphs: Vec<Graph>,
    /// The parameters' segments, which the graphs use.
    segments: Segments,
}

impl Steps {
    /// Records the step of a batch of `images` images at each mix point.
    ///
    /// # Safety
    /// The contract of [`DeviceNet::step`] applies.
    ///
    /// # Errors
    /// Returns an error if there is not enough memory, or if a call of the driver fails.
    unsafe fn record(
        device: &Device,
        net: &DeviceNet,
        feed: &Feed,
        images: usize,
        mix_points: usize,
    ) -> super::Result<Steps> {
        let segments = net.segments(images)?;
        // SAFETY: the caller's contract.
        let step = |mix_point| device.record(|| unsafe { net.step(feed, images, mix_point, &segments) });
        let graphs = (0..mix_points).map(step).collect::<super::Result<_>>()?;
        Ok(Steps { graphs, segments })
    }
}

impl Trainer {
    /// Puts a network and its images on a GPU, and records a step for each of the first `mix_points` mix
    /// points, see [`crate::methods::mix::Mix::mix_points`].
    ///
    /// # Errors
    /// Returns an error if the kernels do not support the network or the sizes, if there is not enough
    /// memory, or if a call of the driver fails.
    pub fn new(
        device: &Device,
        params: &Params,
        criterion: &Criterion,
        Images { train, judged, levels, streamed }: Images,
        batch: usize,
        mix_points: usize,
    ) -> Result<Trainer> {
        let images = train.len();
        let net = DeviceNet::new(device, params, Some(criterion), train.shape(), batch)?;
        net.take(params)?;
        // The images must fit in the memory that the network leaves free.
        let streamed = streamed || !fit(device, &[&[train][..], judged].concat())?;
        let image_len: usize = train.shape().iter().product();
        let held = streamed.then(|| units_per_transfer(batch * image_len));
        let feed = Feed {
            pixels: device.zeros(held.map_or(images, |steps| images.min(steps * batch)) * image_len)?,
            plan: device.zeros(images)?,
            step: device.zeros(1)?,
            levels: device.upload(&flat(levels))?,
            features: device.zeros(batch * params.network().features())?,
            logits: device.zeros(batch * params.classes())?,
            losses: device.zeros(2 * images.div_ceil(batch))?,
            rates: device.zeros(4)?,
        };
        if !streamed {
            send(&feed.pixels, train, 0..images)?;
        }
        // SAFETY: the feed has memory for all steps of an epoch, and a plan has as many rows as there are
        // images.
        let record = |images| unsafe { Steps::record(device, &net, &feed, images, mix_points) };
        let full = (images >= batch).then(|| record(batch)).transpose()?;
        let rest = match images % batch {
            0 => None,
            rest => Some(record(rest)?),
        };
        // Accuracy is measured in f32, whatever the precision of training, as on the CPU and in `eval`.
        let in_f32 = device.in_f32()?;
        let fits = fit(device, judged)?;
        let evaluator = |split: &&Split| Evaluator::new(&in_f32, params, split, levels, BATCH, fits);
        let evaluators = judged.iter().map(evaluator).collect::<super::Result<_>>()?;
        Ok(Trainer {
            full,
            rest,
            evaluators,
            net,
            feed,
            held,
            device: device.clone(),
            planned: None,
            images,
            batch,
            image_len,
        })
    }

    /// Returns the number of steps whose images are on the device at a time, or `None` if all images are kept
    /// there.
    pub fn held(&self) -> Option<usize> {
        self.held
    }

    /// Runs one epoch; returns the loss and the number of correct predictions of each step. `plan` makes the
    /// plan of an epoch up to the `last`. While the GPU works, the next epoch is planned.
    ///
    /// # Errors
    /// Returns an error if a call of the driver fails, or [`Interrupted`] after a signal.
    pub fn epoch(
        &mut self,
        plan: impl Fn(u32) -> Planned,
        epoch: u32,
        last: u32,
        rates: Rates,
    ) -> Result<Vec<[f64; 2]>> {
        assert!(self.held.is_none(), "the images come from the host");
        self.stream(plan, |_| vec![], epoch, last, rates)
    }

    /// Runs one epoch like [`Trainer::epoch`], with images that come from the host: `images` makes those of
    /// some steps, in the order of the plan's rows. The index of a row is the position of its image among
    /// those of [`Trainer::held`] steps. The images are made while the GPU works on the steps before.
    ///
    /// # Errors
    /// Returns an error like [`Trainer::epoch`].
    pub fn stream(
        &mut self,
        plan: impl Fn(u32) -> Planned,
        images: impl Fn(Range<usize>) -> Vec<u8>,
        epoch: u32,
        last: u32,
        rates: Rates,
    ) -> Result<Vec<[f64; 2]>> {
        let (rows, mix_points) = match self.planned.take() {
            Some((planned, all)) if planned == epoch => all,
            _ => plan(epoch),
        };
        let steps = mix_points.len();
        self.feed.plan.write(0, &rows)?;
        let nesterov = f32::from(u8::from(rates.nesterov));
        self.feed.rates.write(0, &[rates.lr, rates.momentum, rates.weight_decay, nesterov])?;
        self.feed.step.clear()?;
        let held = self.held.unwrap_or(steps).max(1);
        let make = |first: usize| {
            let some = first..steps.min(first + held);
            (self.held.is_some() && !some.is_empty()).then(|| images(some))
        };
        let mut made = make(0);
        for (n, mix_points) in mix_points.chunks(held).enumerate() {
            let first = n * held;
            if let Some(images) = &made {
                let rows = self.images.min((first + mix_points.len()) * self.batch) - first * self.batch;
                assert_eq!(images.len(), rows * self.image_len, "all images of the steps");
                self.feed.pixels.write(0, images)?;
            }
            for (step, &mix_point) in (first..).zip(mix_points) {
                if interrupt::requested() {
                    self.device.wait()?;
                    return Err(Interrupted.into());
                }
                let whole = (step + 1) * self.batch <= self.images;
                let recorded = if whole { &self.full } else { &self.rest };
                let recorded = recorded.as_ref().expect("steps of this size are recorded");
                // SAFETY: the trainer keeps all memory that the graph uses.
                unsafe { recorded.graphs[mix_point].launch()? };
            }
            made = make(first + held);
        }
        if epoch < last {
            self.planned = Some((epoch + 1, plan(epoch + 1)));
        }
        let losses = self.feed.losses.read(0, 2 * steps)?;
        Ok(losses.as_chunks().0.to_vec())
    }

    /// Returns, for each judged split, the percentage of its images that is classified correctly.
    ///
    /// # Errors
    /// Returns an error if a call of the driver or a kernel failed.
    pub fn top1(&mut self, judged: &[&Split]) -> Result<Vec<f64>> {
        // The evaluators may have a stream of their own, which does not wait for this one.
        self.device.wait()?;
        for (evaluator, split) in self.evaluators.iter().zip(judged) {
            evaluator.take(&self.net)?;
            evaluator.run(split)?;
        }
        Ok(self
            .evaluators
            .iter()
            .zip(judged)
            .map(|(e, split)| e.top1(split))
            .collect::<super::Result<_>>()?)
    }

    /// Repeats the full steps of the epoch that was uploaded last, until `steps` steps have run, and waits
    /// for them; for measurements.
    ///
    /// # Errors
    /// Returns an error if a call of the driver or a kernel failed.
    pub fn repeat(&self, steps: usize) -> super::Result<()> {
        let epoch = (self.images / self.batch).max(1);
        for step in 0..steps {
            if step % epoch == 0 {
                self.feed.step.clear()?;
            }
            if let Some(full) = &self.full {
                // SAFETY: the trainer keeps all memory that the graph uses.
                unsafe { full.graphs[0].launch()? };
            }
        }
        self.device.wait()
    }

    /// Returns the kernel name and the seconds of each launch of a full step, in order; for measurements. The
    /// network's parameters and statistics are meaningless afterwards.
    ///
    /// # Errors
    /// Returns an error if an epoch has fewer steps than the repetitions of a launch, or if a call of the
    /// driver fails.
    pub fn profile(&self) -> super::Result<Vec<(&'static str, f64)>> {
        match &self.full {
            // Each repetition of the head advances the step counter.
            Some(full) if self.images / self.batch >= REPEATS as usize => {
                self.feed.step.clear()?;
                // SAFETY: the feed has memory for all steps of an epoch, and the plan has as many steps as
                // the repetitions of the head advance.
                self.device.timed(|| unsafe { self.net.step(&self.feed, self.batch, 0, &full.segments) })
            }
            _ => Err(Error::Size(format!("{} images are too few to time kernels on", self.images))),
        }
    }

    /// Copies parameters, velocities and running statistics to the host.
    ///
    /// # Errors
    /// Returns an error if a call of the driver or a kernel failed.
    pub fn give(&self, params: &Params) -> Result<()> {
        self.net.give(params)
    }

    /// Returns the raw outputs of a layer in the last step, for its first `images` images.
    ///
    /// # Errors
    /// Returns an error if a call of the driver or a kernel failed.
    #[cfg(test)]
    pub fn raw(&self, layer: usize, images: usize) -> super::Result<Vec<f32>> {
        self.net.raw(layer, images)
    }

    /// Returns the logits of the first judged split.
    ///
    /// # Errors
    /// Returns an error if a call of the driver or a kernel failed.
    #[cfg(test)]
    pub fn judged_logits(&self) -> super::Result<Vec<f32>> {
        self.evaluators[0].logits()
    }

    /// Returns the gradients of the last step, in the layout of the parameters.
    ///
    /// # Errors
    /// Returns an error if a call of the driver or a kernel failed.
    #[cfg(test)]
    pub fn grads(&self) -> super::Result<Vec<f32>> {
        self.net.grads.read(0, self.net.grads.count())
    }
}
