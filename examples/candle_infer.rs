//! Runs a checkpoint of `train` with candle, without the engines of this crate:
//! `candle_infer RUN DATASET [N]` prints the accuracy on the first N test images.
//!
//! RUN and DATASET are directories. The example uses only the description of the network and its candle
//! modules from this crate.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device, Tensor};
use candle_nn::{ModuleT, VarBuilder};
use remix::net::{Arch, ClassifierKind};
use remix::nn::ResNet;
use serde_json::Value;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [run, data, rest @ ..] = &args[..] else {
        anyhow::bail!("usage: candle_infer RUN DATASET [N]");
    };
    let most: usize = rest.first().map_or(Ok(usize::MAX), |n| n.parse())?;
    let (run, data) = (Path::new(run), Path::new(data));
    let manifest = |dir: &Path| -> Result<Value> {
        let file = dir.join("manifest.json");
        let text = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        Ok(serde_json::from_str(&text)?)
    };
    let (checkpoint, dataset) = (manifest(run)?, manifest(data)?);
    let params = &checkpoint["params"];
    let arch: Arch =
        params["arch"].as_str().context("no params.arch")?.parse().map_err(anyhow::Error::msg)?;
    let kind = match params["loss"]["name"].as_str() {
        Some("ldam") => ClassifierKind::Cosine,
        _ => ClassifierKind::Linear,
    };
    let classes = dataset["metrics"]["classes"].as_u64().context("no metrics.classes")? as usize;

    let device = Device::Cpu;
    let weights = [run.join("last.safetensors")];
    // SAFETY: the file is not changed while it is mapped.
    let weights = unsafe { VarBuilder::from_mmaped_safetensors(&weights, DType::F32, &device)? };
    let net = ResNet::new(&arch.network().with_classifier(kind), classes, weights)?;

    // `mk-imbalance --resize` stores larger images, of which evaluation sees the centre.
    ensure!(
        dataset["metrics"]["crop"].is_null(),
        "the images are larger than the network's input (mk-imbalance --resize), and this example does not crop them"
    );
    let three = |name: &str| -> Result<Tensor> {
        let values: Vec<f32> = serde_json::from_value(params[name].clone())?;
        Ok(Tensor::from_vec(values, (1, 3, 1, 1), &device)?)
    };
    let (mean, std) = (three("mean")?, three("std")?);
    let outputs = dataset["outputs"].as_array().context("no outputs")?;
    let (mut right, mut n) = (0, 0);
    for output in outputs.iter().filter(|output| output["role"] == "test") {
        let shard = data.join(output["path"].as_str().context("no path of a shard")?);
        let shard = candle_core::safetensors::load(shard, &device)?;
        let (images, labels) = (&shard["images"], shard["labels"].to_vec1::<i64>()?);
        let len = labels.len().min(most - n);
        if len == 0 {
            break;
        }
        let x = images.narrow(0, 0, len)?.permute((0, 3, 1, 2))?.to_dtype(DType::F32)?;
        let x = (x / 255.0)?.broadcast_sub(&mean)?.broadcast_div(&std)?;
        let predictions = net.forward_t(&x, false)?.argmax(1)?.to_vec1::<u32>()?;
        right += predictions.iter().zip(&labels).filter(|(p, l)| i64::from(**p) == **l).count();
        n += len;
    }
    ensure!(n > 0, "no test images");
    println!("{right} of {n} right: {:.2} %", 100.0 * right as f64 / n as f64);
    Ok(())
}
