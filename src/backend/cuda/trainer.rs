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
use super::net::{DeviceNet, Feed, Segments, TrainingFeed};
use crate::backend::{Levels, Rates};
use crate::data::shard::Split;
use crate::interrupt::{self, Interrupted};
use crate::methods::loss::Criterion;
use crate::net::Params;

/// A training run on a GPU. Its graphs use the memory of `net`, `feed` and `training`.
pub struct Trainer {
    /// The step with a full batch.
    full: Option<Steps>,
    /// The last step of an epoch, if it is smaller.
    rest: Option<Steps>,
    pub(super) evaluators: Vec<Evaluator>,
    pub(super) net: DeviceNet,
    feed: Feed,
    training: TrainingFeed,
    /// The number of steps whose images are on the device at a time; `None` if all images are kept there.
    steps_on_device: Option<usize>,
    device: Device,
    /// The number and the plan of the next epoch, if it has been planned and checked.
    planned: Option<(u32, Planned)>,
    images: usize,
    batch: usize,
    classes: usize,
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
    /// Whether the host changes the images, so that those of each step are passed to [`Trainer::epoch`].
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
    /// The contract of [`DeviceNet::step`] applies, except for the segments.
    ///
    /// # Errors
    /// Returns an error if there is not enough memory, or if a call of the driver fails.
    unsafe fn record(
        device: &Device,
        net: &DeviceNet,
        feed: &Feed,
        training: &TrainingFeed,
        images: usize,
        mix_points: usize,
    ) -> super::Result<Steps> {
        let segments = net.segments(images)?;
        // SAFETY: the caller's contract; the segments are those of the network, and are kept with the graphs.
        let step = |mix_point| unsafe { net.step(feed, training, images, mix_point, &segments) };
        let record = |mix_point| device.record(|| step(mix_point));
        let graphs = (0..mix_points).map(record).collect::<super::Result<_>>()?;
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
        let (images, classes) = (train.len(), params.classes());
        let net = DeviceNet::new(device, params, Some(criterion), train.shape(), batch)?;
        net.take(params)?;
        // The images must fit in the memory that the network leaves free.
        let streamed = streamed || !fit(device, &[&[train][..], judged].concat())?;
        let image_len: usize = train.shape().iter().product();
        let steps_on_device = streamed.then(|| units_per_transfer(batch * image_len));
        let images_on_device = steps_on_device.map_or(images, |steps| images.min(steps * batch));
        let feed = Feed {
            pixels: device.zeros(images_on_device * image_len)?,
            plan: device.zeros(images)?,
            step: device.zeros(1)?,
            levels: device.upload(flat(levels))?,
            features: device.zeros(batch * params.network().features())?,
            logits: device.zeros(batch * classes)?,
        };
        let steps = images.div_ceil(batch);
        let training = TrainingFeed { losses: device.zeros(2 * steps)?, rates: device.zeros(4)? };
        if !streamed {
            send(&feed.pixels, train, 0..images)?;
        }
        // SAFETY: the trainer keeps the network, which trains on batches of up to `batch` images, and both
        // feeds, which have memory for all steps of an epoch. `checked` asserts that the rows are in bounds.
        let record = |images| unsafe { Steps::record(device, &net, &feed, &training, images, mix_points) };
        let full = (images >= batch).then(|| record(batch)).transpose()?;
        let rest = match images % batch {
            0 => None,
            rest => Some(record(rest)?),
        };
        // Accuracy is measured in f32, whatever the precision of training, as on the CPU and in `eval`.
        let in_f32 = device.in_f32()?;
        let fits = fit(device, judged)?;
        let evaluator = |split: &&Split| Evaluator::new(&in_f32, params, split, levels, BATCH, fits);
        let evaluators = judged.iter().map(evaluator).collect::<Result<_>>()?;
        Ok(Trainer {
            full,
            rest,
            evaluators,
            net,
            feed,
            training,
            steps_on_device,
            device: device.clone(),
            planned: None,
            images,
            batch,
            classes,
            image_len,
        })
    }

    /// Returns the number of steps whose images are on the device at a time, or `None` if all images are kept
    /// there.
    pub fn steps_on_device(&self) -> Option<usize> {
        self.steps_on_device
    }

    /// Runs one epoch; returns the loss and the number of correct predictions of each step. `plan` makes the
    /// plan of an epoch up to the `last`. While the GPU works, the next epoch is planned.
    ///
    /// If images come from the host, `images` makes those of some steps, in the order of the plan's rows,
    /// while the GPU works on the steps before; the index of a row is then the position of its image among
    /// those of [`Trainer::steps_on_device`] steps. Otherwise `images` is not called.
    ///
    /// # Errors
    /// Returns an error if a call of the driver fails, or [`Interrupted`] after a signal.
    ///
    /// # Panics
    /// Panics if a plan does not fit the run: it must have a row for each image and a mix point for each
    /// step; images, labels and mix points must exist; and the partners of a step must be a permutation of
    /// its images. Also panics if `images` does not make all images of the steps.
    pub fn epoch(
        &mut self,
        plan: impl Fn(u32) -> Planned,
        images: impl Fn(Range<usize>) -> Vec<u8>,
        epoch: u32,
        last: u32,
        rates: Rates,
    ) -> Result<Vec<[f64; 2]>> {
        let (rows, mix_points) = match self.planned.take() {
            Some((planned, all)) if planned == epoch => all,
            _ => self.checked(plan(epoch)),
        };
        let steps = mix_points.len();
        self.feed.plan.write(0, &rows)?;
        let nesterov = f32::from(u8::from(rates.nesterov));
        self.training.rates.write(0, &[rates.lr, rates.momentum, rates.weight_decay, nesterov])?;
        self.feed.step.clear()?;
        let steps_per_transfer = self.steps_on_device.unwrap_or(steps).max(1);
        let make = |first: usize| {
            let range = first..steps.min(first + steps_per_transfer);
            (self.steps_on_device.is_some() && !range.is_empty()).then(|| images(range))
        };
        let mut made = make(0);
        for (n, mix_points) in mix_points.chunks(steps_per_transfer).enumerate() {
            let first = n * steps_per_transfer;
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
                // SAFETY: the trainer keeps all memory that the graph uses. The step's number was cleared
                // before the first launch, so it is `step` now. There is memory for this step, and its rows
                // are in bounds, as `checked` has asserted.
                unsafe { recorded.graphs[mix_point].launch()? };
            }
            made = make(first + steps_per_transfer);
        }
        if epoch < last {
            self.planned = Some((epoch + 1, self.checked(plan(epoch + 1))));
        }
        let losses = self.training.losses.read(0, 2 * steps)?;
        Ok(losses.as_chunks().0.to_vec())
    }

    /// Returns a plan after checking that the kernels access no memory out of bounds with it.
    ///
    /// # Panics
    /// Panics as described for [`Trainer::epoch`].
    fn checked(&self, plan: Planned) -> Planned {
        let (rows, mix_points) = &plan;
        assert_eq!(rows.len(), self.images, "a row for each image");
        assert_eq!(mix_points.len(), self.images.div_ceil(self.batch), "a mix point for each step");
        let images_on_device = self.feed.pixels.count() / self.image_len;
        for step in rows.chunks(self.batch) {
            let mut is_partner = vec![false; step.len()];
            for row in step {
                assert!((row.index as usize) < images_on_device, "{row:?}: an image that is on the device");
                assert!((row.label_a.max(row.label_b) as usize) < self.classes, "{row:?}: labels of classes");
                let twice = std::mem::replace(&mut is_partner[row.partner as usize], true);
                assert!(!twice, "{row:?}: partners are a permutation");
            }
        }
        plan
    }

    /// Returns, for each judged split, the percentage of its images that is classified correctly.
    ///
    /// # Errors
    /// Returns an error if a call of the driver or a kernel failed.
    pub fn top1(&self, judged: &[&Split]) -> Result<Vec<f64>> {
        // The evaluators may have a stream of their own, which does not wait for this one.
        self.device.wait()?;
        for (evaluator, split) in self.evaluators.iter().zip(judged) {
            evaluator.copy(&self.net)?;
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
                // SAFETY: the trainer keeps all memory that the graph uses. The step is a full one of the
                // plan that was uploaded last, which was checked, or of the initial zeros, which are in
                // bounds at mix point 0.
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
                let step = || {
                    // SAFETY: the segments are those of full steps. An epoch, for which both feeds have
                    // memory, has at least as many steps as the repetitions of the head advance. The rows are
                    // in bounds as in `repeat`.
                    unsafe { self.net.step(&self.feed, &self.training, self.batch, 0, &full.segments) }
                };
                self.device.timed(step)
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
}
