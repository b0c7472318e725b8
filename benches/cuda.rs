//! Measures the training step on a GPU: `cuda DATASET [--device N] [--steps N] [--side-by-side N]` prints one
//! JSON object per line.
//!
//! For each precision it measures a step replayed as a graph, the same for two and for N networks at once, a
//! whole epoch with everything around it, and every kernel of a step by itself. `make bench-cuda` runs
//! PyTorch for comparison. Without a GPU, it says so and exits.

#![allow(missing_docs)]

use std::path::PathBuf;
use std::sync::Barrier;
use std::time::Instant;

use anyhow::{Context, Result};
use remix::backend::cuda::Device;
use remix::backend::cuda::device::usable;
use remix::backend::cuda::trainer::{Images, Trainer};
use remix::backend::{Rates, levels};
use remix::data::Info;
use remix::data::shard::Split;
use remix::manifest::{Kind, source};
use remix::methods::presets::preset;
use remix::net::Params;
use remix::train::config::{Config, Precision};
use remix::train::engine::rows;
use remix::train::plan::Plan;
use serde_json::json;

const RATES: Rates = Rates { lr: 0.1, momentum: 0.9, weight_decay: 2e-4, nesterov: false };

struct Bench {
    train: Split,
    test: Split,
    info: Info,
    index: usize,
    steps: usize,
}

impl Bench {
    fn trainer(&self, config: &Config) -> Result<(Device, Trainer, Plan)> {
        let device = Device::open(self.index, config.precision)?;
        let params = Params::new(&config.network(), self.info.classes)?;
        params.init(config.seed)?;
        let criterion = config.loss.criterion(&self.info.cls_num_list);
        let levels = levels(&config.mean, &config.std);
        let images = Images { train: &self.train, judged: &[&self.test], levels: &levels, streamed: false };
        let mut trainer = Trainer::new(&device, &params, &criterion, images, config.batch_size, 1)?;
        let plan = Plan::new(config, self.train.labels(), self.train.shape(), &self.info.cls_num_list)?;
        trainer.epoch(|e| rows(&plan, e, None), |_| vec![], 1, 1, RATES)?;
        trainer.repeat(self.steps / 10)?;
        Ok((device, trainer, plan))
    }

    /// Returns the seconds per step while `seeds` networks train at once, all for the same number of steps.
    fn side_by_side(&self, config: &Config, seeds: usize) -> Result<f64> {
        let (ready, done) = (Barrier::new(seeds + 1), Barrier::new(seeds + 1));
        std::thread::scope(|scope| {
            let work = || -> Result<()> {
                let trainer = self.trainer(config);
                ready.wait();
                // The trainer is kept until after the barrier, so that freeing its memory is not measured.
                let ran = trainer.and_then(|all| all.1.repeat(self.steps).map(|()| all).map_err(Into::into));
                done.wait();
                ran.map(drop)
            };
            let threads: Vec<_> = (0..seeds).map(|_| scope.spawn(work)).collect();
            ready.wait();
            let started = Instant::now();
            done.wait();
            let seconds = started.elapsed().as_secs_f64();
            for thread in threads {
                thread.join().ok().context("a thread panicked")??;
            }
            Ok(seconds / self.steps as f64)
        })
    }
}

fn main() -> Result<()> {
    let mut args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let mut number = |flag: &str, default: usize| -> Result<usize> {
        let Some(at) = args.iter().position(|a| a == flag) else { return Ok(default) };
        args.remove(at);
        args.get(at).with_context(|| format!("{flag} wants a number"))?;
        Ok(args.remove(at).parse()?)
    };
    let (index, steps, seeds) =
        (number("--device", 0)?, number("--steps", 500)?, number("--side-by-side", 5)?);
    if let Err(e) = usable(index) {
        eprintln!("skipped: {e}");
        return Ok(());
    }
    let given = [PathBuf::from(args.first().context("a data set of mk-imbalance is wanted")?)];
    let manifest = source::read_all(&given, "train", Kind::Dataset)?.swap_remove(0);
    let open = |split| Split::open(&manifest, split);
    let bench =
        Bench { train: open("train")?, test: open("test")?, info: Info::of(&manifest)?, index, steps };
    for precision in [Precision::Bf16, Precision::F32] {
        let config = Config { precision, ..Config::new(preset("remix")?) };
        let (device, mut trainer, plan) = bench.trainer(&config)?;
        let started = Instant::now();
        trainer.repeat(steps)?;
        let step = started.elapsed().as_secs_f64() / steps as f64;
        let started = Instant::now();
        trainer.epoch(|e| rows(&plan, e, None), |_| vec![], 2, 2, RATES)?;
        let epoch = started.elapsed().as_secs_f64();
        let started = Instant::now();
        trainer.top1(&[&bench.test])?;
        let test = started.elapsed().as_secs_f64();
        let (name, held) = (device.describe(), device.bytes_in_use());
        let kernels = trainer.profile()?;
        drop((device, trainer));
        let several = [2, seeds].map(|n| bench.side_by_side(&config, n).map(|s| json!([n, s * 1e3])));
        let several: Vec<_> = several.into_iter().collect::<Result<_>>()?;
        println!(
            "{}",
            json!({
                "precision": precision, "arch": config.arch, "batch_size": config.batch_size, "device": name,
                "step_ms": step * 1e3, "launches": kernels.len(), "bytes_held": held, "epoch_ms": epoch * 1e3,
                "epoch_steps": plan.steps(), "test_ms": test * 1e3, "test_images": bench.test.len(),
                "side_by_side": several,
                "kernels_us": kernels.iter().map(|(name, s)| json!([name, s * 1e6])).collect::<Vec<_>>(),
            })
        );
    }
    Ok(())
}
