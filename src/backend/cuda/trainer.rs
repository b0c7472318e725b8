//! What `train` drives on a GPU: an epoch is one upload of its plan, one graph launch a step, and one read of the
//! losses at its end. Images that do not fit the GPU's memory, or that the host changes, are sent some steps at a
//! time.

use std::ops::Range;

use anyhow::Result;

use super::Error;
use super::args::Row;
use super::device::{Device, Graph, Memory, REPEATS};
use super::images::{at_a_time, fit, flat, send};
use super::infer::{BATCH, Evaluator};
use super::net::{DeviceNet, Feed, Segments};
use crate::backend::cpu::load::Levels;
use crate::backend::cpu::sgd::Rates;
use crate::data::shard::Split;
use crate::interrupt::{self, Interrupted};
use crate::methods::loss::Criterion;
use crate::net::Params;

/// A training run on a GPU. Fields in the order in which they must go: graphs use all memory below them.
pub struct Trainer {
    /// Of a whole batch, for each place where it may be mixed.
    full: Vec<Graph>,
    /// The last step of an epoch, where it is smaller.
    rest: Vec<Graph>,
    evaluators: Vec<Evaluator>,
    net: DeviceNet,
    _segments: [Segments; 2],
    /// All images, or those of the next steps.
    pixels: Memory<u8>,
    /// How many steps these are.
    held: Option<usize>,
    plan: Memory<Row>,
    step: Memory<u32>,
    losses: Memory<f64>,
    rates: Memory<f32>,
    _others: [Memory<f32>; 3],
    device: Device,
    feed: Feed,
    /// The epoch that comes next.
    planned: Option<(u32, Planned)>,
    images: usize,
    batch: usize,
    /// Bytes of an image.
    image_len: usize,
}

/// Rows of an epoch, and where each of its steps is mixed.
pub type Planned = (Vec<Row>, Vec<usize>);

/// The images of a run.
#[derive(Clone, Copy)]
pub struct Images<'a> {
    /// Those that it trains on.
    pub train: &'a Split,
    /// Splits that accuracy is measured on.
    pub judged: &'a [&'a Split],
    /// The normalised values of their bytes.
    pub levels: &'a Levels,
    /// Whether the host changes the images, so that those of each step come from it, as [`Trainer::stream`] is
    /// given them. Else they are kept on the device if they fit.
    pub streamed: bool,
}

impl Trainer {
    /// Puts a network and its images on a GPU, and records its steps, one for each of `places`, see
    /// [`crate::methods::mix::Mix::places`].
    ///
    /// # Errors
    /// Sizes that the kernels do not take; not enough memory; the driver's.
    pub fn new(
        device: &Device,
        params: &Params,
        criterion: &Criterion,
        Images { train, judged, levels, streamed }: Images,
        batch: usize,
        places: usize,
    ) -> Result<Trainer> {
        let images = train.len();
        let own = DeviceNet::new(device, params, Some(criterion), train.shape(), batch)?;
        own.take(params)?;
        // What is left beside the network.
        let streamed = streamed || !fit(device, &[&[train][..], judged].concat())?;
        let len: usize = train.shape().iter().product();
        let held = streamed.then(|| at_a_time(batch * len));
        let pixels = device.zeros(held.map_or(images, |steps| images.min(steps * batch)) * len)?;
        if !streamed {
            send(&pixels, train, 0..images)?;
        }
        let plan = device.zeros(images)?;
        let (step, losses) = (device.zeros(1)?, device.zeros(2 * images.div_ceil(batch))?);
        let (rates, table) = (device.zeros(4)?, device.upload(&flat(levels))?);
        let (features, logits) =
            (device.zeros(batch * params.network().features())?, device.zeros(batch * params.classes())?);
        let feed = Feed {
            pixels: pixels.at(0),
            plan: plan.at(0),
            step: step.at(0),
            levels: table.at(0),
            features: features.at(0),
            logits: logits.at(0),
            losses: losses.at(0),
            rates: rates.at(0),
        };
        let rest = images % batch;
        let segments = [own.segments(batch)?, own.segments(rest.max(1))?];
        let record = |n: usize, segments: &Segments| -> super::Result<Vec<Graph>> {
            let places = if n > 0 { 0..places } else { 0..0 };
            // SAFETY: all memory of the feed is in the trainer, and a plan has as many rows as there are
            // images.
            places.map(|place| device.record(|| unsafe { own.step(&feed, n, place, segments) })).collect()
        };
        let full = record(if images >= batch { batch } else { 0 }, &segments[0])?;
        let rest = record(rest, &segments[1])?;
        // Accuracy is that of f32, whatever the training computes in: as on the CPU, and as `eval` has it.
        let in_f32 = device.in_f32()?;
        let fits = fit(device, judged)?;
        let evaluator = |split: &&Split| Evaluator::new(&in_f32, params, split, levels, BATCH, fits);
        let evaluators = judged.iter().map(evaluator);
        let evaluators = evaluators.collect::<super::Result<Vec<_>>>()?;
        let _others = [table, features, logits];
        let device = device.clone();
        let _segments = segments;
        Ok(Trainer {
            full,
            rest,
            evaluators,
            net: own,
            _segments,
            pixels,
            held,
            plan,
            step,
            losses,
            rates,
            _others,
            device,
            feed,
            planned: None,
            images,
            batch,
            image_len: len,
        })
    }

    /// Steps whose images are on the device at a time, where not all images are kept there.
    pub fn held(&self) -> Option<usize> {
        self.held
    }

    /// One epoch of `plan`, which makes those up to the `last`; returns loss and right predictions of each
    /// step. While the GPU works, the next epoch is planned.
    ///
    /// # Errors
    /// The driver's; [`Interrupted`].
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

    /// [`Trainer::epoch`] where the images come from the host: `images` makes those of some steps, in the
    /// order of the plan's rows, whose indices are places among the images of [`Trainer::held`] steps. They
    /// are made while the GPU works on the ones before.
    ///
    /// # Errors
    /// As there.
    pub fn stream(
        &mut self,
        plan: impl Fn(u32) -> Planned,
        images: impl Fn(Range<usize>) -> Vec<u8>,
        epoch: u32,
        last: u32,
        rates: Rates,
    ) -> Result<Vec<[f64; 2]>> {
        let (rows, places) = match self.planned.take() {
            Some((planned, all)) if planned == epoch => all,
            _ => plan(epoch),
        };
        let steps = places.len();
        self.plan.write(0, &rows)?;
        let nesterov = f32::from(u8::from(rates.nesterov));
        self.rates.write(0, &[rates.lr, rates.momentum, rates.weight_decay, nesterov])?;
        self.step.clear()?;
        let held = self.held.unwrap_or(steps).max(1);
        let make = |first: usize| {
            let some = first..steps.min(first + held);
            (self.held.is_some() && !some.is_empty()).then(|| images(some))
        };
        let mut made = make(0);
        for (n, places) in places.chunks(held).enumerate() {
            if let Some(images) = &made {
                let rows = self.images.min((n * held + places.len()) * self.batch) - n * held * self.batch;
                assert_eq!(images.len(), rows * self.image_len, "all images of the steps");
                self.pixels.write(0, images)?;
            }
            for (step, &place) in (n * held..).zip(places) {
                if interrupt::requested() {
                    self.device.wait()?;
                    return Err(Interrupted.into());
                }
                let whole = (step + 1) * self.batch <= self.images;
                let graphs = if whole { &self.full } else { &self.rest };
                // SAFETY: as where it was recorded.
                unsafe { graphs[place].launch()? };
            }
            made = make((n + 1) * held);
        }
        if epoch < last {
            self.planned = Some((epoch + 1, plan(epoch + 1)));
        }
        let losses = self.losses.read(0, 2 * steps)?;
        Ok(losses.as_chunks().0.to_vec())
    }

    /// Percent of each judged split that is classified right.
    ///
    /// # Errors
    /// The driver's.
    pub fn top1(&mut self, judged: &[&Split]) -> Result<Vec<f64>> {
        // The evaluators may have a stream of their own.
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

    /// Repeats the whole steps of the epoch that was uploaded last until there were `steps`, and waits: for
    /// measurements.
    ///
    /// # Errors
    /// The driver's.
    pub fn repeat(&self, steps: usize) -> super::Result<()> {
        let epoch = (self.images / self.batch).max(1);
        for step in 0..steps {
            if step % epoch == 0 {
                self.step.clear()?;
            }
            if let Some(graph) = self.full.first() {
                // SAFETY: as where it was recorded.
                unsafe { graph.launch()? };
            }
        }
        self.device.wait()
    }

    /// Seconds of each launch of a whole step, by kernel, in their order: for measurements. Leaves the
    /// network in disorder.
    ///
    /// # Errors
    /// Fewer steps in an epoch than a launch is repeated; the driver's.
    pub fn profile(&self) -> super::Result<Vec<(&'static str, f64)>> {
        // Each repetition of the head goes on by a step.
        if self.images / self.batch < REPEATS as usize {
            return Err(Error::Size(format!("{} images are too few to time kernels on", self.images)));
        }
        self.step.clear()?;
        // SAFETY: as where the step is recorded; the plan has as many steps as the head's repetitions
        // advance.
        self.device.timed(|| unsafe { self.net.step(&self.feed, self.batch, 0, &self._segments[0]) })
    }

    /// Gives parameters, velocities and running statistics to the host.
    ///
    /// # Errors
    /// The driver's.
    pub fn give(&self, params: &Params) -> Result<()> {
        self.net.give(params)
    }

    /// The raw outputs of a layer in the last step, of its first `images` images.
    ///
    /// # Errors
    /// The driver's.
    #[cfg(test)]
    pub fn raw(&self, layer: usize, images: usize) -> super::Result<Vec<f32>> {
        self.net.raw(layer, images)
    }

    /// The logits of the first judged split.
    ///
    /// # Errors
    /// The driver's.
    #[cfg(test)]
    pub fn judged_logits(&self) -> super::Result<Vec<f32>> {
        self.evaluators[0].logits()
    }

    /// The gradients of the last step, flat as the parameters.
    ///
    /// # Errors
    /// The driver's.
    #[cfg(test)]
    pub fn grads(&self) -> super::Result<Vec<f32>> {
        self.net.grads.read(0, self.net.grads.count())
    }
}
