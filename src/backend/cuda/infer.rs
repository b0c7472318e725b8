//! Inference on a GPU: runs a whole split through a network, with the running statistics of batch norm.

use anyhow::Result;

use super::args::Row;
use super::device::{Device, Graph};
use super::images::{fit, flat, send, units_per_transfer, view};
use super::net::{DeviceNet, Feed, Segments};
use crate::backend::{Inference, Levels};
use crate::data::shard::Split;
use crate::metrics;
use crate::net::Params;

/// Number of images that go through the network together.
pub const BATCH: usize = 512;

/// Runs a split through a network of its own. Its graphs use the memory of `net` and `feed`.
pub struct Evaluator {
    full: Option<Graph>,
    rest: Option<Graph>,
    net: DeviceNet,
    /// The segments of `net`.
    segments: Segments,
    feed: Feed,
    /// The number of images that are on the device at a time.
    on_device: usize,
    images: usize,
    batch: usize,
    classes: usize,
    feature_len: usize,
}

impl Evaluator {
    /// Copies a network to the device, and records the passes over a split, of `batch` images each. If the
    /// split `fits` in the device's memory, its images are kept there.
    ///
    /// # Errors
    /// Returns an error if the kernels do not support the network or the sizes, if there is not enough
    /// memory, if candle cannot read a tensor, or if a call of the driver fails.
    pub fn new(
        device: &Device,
        params: &Params,
        split: &Split,
        levels: &Levels,
        batch: usize,
        fits: bool,
    ) -> Result<Evaluator> {
        let (images, classes, feature_len) = (split.len(), params.classes(), params.network().features());
        let batch = batch.min(images);
        let net = DeviceNet::new(device, params, None, split.shape(), batch)?;
        net.take(params)?;
        let segments = net.segments(1)?;
        let len: usize = split.shape().iter().product();
        let on_device = if fits { images } else { images.min(batch * units_per_transfer(batch * len)) };
        let row = |i| {
            let index = (i % on_device) as u32;
            Row { index, view: view(0, 0, false), lambda: 1.0, ..Row::default() }
        };
        let plan: Vec<Row> = (0..images).map(row).collect();
        let feed = Feed {
            pixels: device.zeros(on_device * len)?,
            plan: device.upload(&plan)?,
            step: device.zeros(1)?,
            levels: device.upload(flat(levels))?,
            features: device.zeros(images * feature_len)?,
            logits: device.zeros(images * classes)?,
        };
        if on_device == images {
            send(&feed.pixels, split, 0..images)?;
        }
        let record = |n: usize| {
            // SAFETY: the evaluator keeps the network and the feed. The feed has memory for all images, and a
            // row for each of them, with an `index` below `on_device` and the `partner` 0.
            (n > 0).then(|| device.record(|| unsafe { net.infer(&feed, n) })).transpose()
        };
        let full = record(if images >= batch { batch } else { 0 })?;
        let rest = record(images % batch)?;
        Ok(Evaluator { full, rest, net, segments, feed, on_device, images, batch, classes, feature_len })
    }

    /// Copies the parameters and running statistics of a network in training.
    ///
    /// # Errors
    /// Returns an error if a call of the driver fails.
    pub fn copy(&self, net: &DeviceNet) -> super::Result<()> {
        // SAFETY: the segments are those of this network.
        unsafe { self.net.copy(net, &self.segments) }
    }

    /// Starts the passes of all images of the split through the network.
    ///
    /// # Errors
    /// Returns an error if a call of the driver fails.
    pub fn run(&self, split: &Split) -> super::Result<()> {
        self.net.fold()?;
        self.feed.step.clear()?;
        for from in (0..self.images).step_by(self.batch) {
            if self.on_device < self.images && from % self.on_device == 0 {
                send(&self.feed.pixels, split, from..self.images.min(from + self.on_device))?;
            }
            let whole = from + self.batch <= self.images;
            if let Some(graph) = if whole { &self.full } else { &self.rest } {
                // SAFETY: the evaluator keeps all memory that the graph uses. The step's number was cleared
                // before the first pass, so this one is on the images from `from` on, which have rows.
                unsafe { graph.launch()? };
            }
        }
        Ok(())
    }

    /// Returns the logits of the images that were run, (N, classes).
    ///
    /// # Errors
    /// Returns an error if a call of the driver or an earlier kernel failed.
    pub fn logits(&self) -> super::Result<Vec<f32>> {
        self.feed.logits.read(0, self.images * self.classes)
    }

    /// Returns the features of the images that were run, (N, features).
    ///
    /// # Errors
    /// Returns an error if a call of the driver or an earlier kernel failed.
    pub fn features(&self) -> super::Result<Vec<f32>> {
        self.feed.features.read(0, self.images * self.feature_len)
    }

    /// Returns the percentage of the images that were classified correctly.
    ///
    /// # Errors
    /// Returns an error if a call of the driver or an earlier kernel failed.
    pub fn top1(&self, split: &Split) -> super::Result<f64> {
        Ok(metrics::top1(&self.logits()?, split.labels(), self.classes))
    }
}

/// Computes the logits and features of all images of a split on a GPU, like
/// [`crate::backend::cpu::infer::Folded::run`].
///
/// # Errors
/// Returns an error like [`Evaluator::new`], or if an earlier kernel failed.
pub fn infer(device: &Device, params: &Params, split: &Split, levels: &Levels) -> Result<Inference> {
    let evaluator = Evaluator::new(device, params, split, levels, BATCH, fit(device, &[split])?)?;
    evaluator.run(split)?;
    let (logits, features) = (evaluator.logits()?, evaluator.features()?);
    Ok(Inference { logits, features, classes: params.classes(), feature_len: params.network().features() })
}
