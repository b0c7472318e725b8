//! Building blocks of the tests: devices, data sets of noise, networks, and epochs on the CPU and on a
//! device.

use std::path::Path;

use safetensors::tensor::{Dtype, TensorView};
use serde_json::json;
use tempfile::TempDir;

use crate::backend::cpu::net::Net;
use crate::backend::cuda::device::{Device, usable};
use crate::backend::cuda::tests::skipped;
use crate::backend::cuda::trainer::{Images, Trainer};
use crate::backend::{Rates, levels};
use crate::data::Info;
use crate::data::shard::Split;
use crate::manifest::store::{Claim, Plan as Directory, Produced};
use crate::manifest::{Kind, Manifest, Object};
use crate::methods::presets::preset;
use crate::net::{Params, files};
use crate::rng::{Purpose, shuffle, stream};
use crate::train::config::{Config, Precision};
use crate::train::engine::{Held, images, rows, train_epoch};
use crate::train::plan::Plan;

pub const CLASSES: usize = 3;
pub const RATES: Rates = Rates { lr: 0.1, momentum: 0.9, weight_decay: 2e-4, nesterov: false };

/// Returns the emulator and a GPU, if they are available.
pub fn devices(precision: Precision) -> Vec<Device> {
    let mut all: Vec<Device> = Device::emulated(precision, false).into_iter().collect();
    match usable(0) {
        Ok(()) => all.push(Device::open(0, precision).expect("a GPU")),
        Err(e) if std::env::var_os("REMIX_REQUIRE_GPU").is_some() => panic!("{e}"),
        Err(e) => skipped(format!("on a GPU: {e}")),
    }
    all
}

pub fn emulated(device: &Device) -> bool {
    device.describe() == "emulated"
}

/// A data set of noise, with splits `train` and `test` of images (height, width, 3).
pub struct Data {
    pub manifest: Manifest,
    pub train: Split,
    pub test: Split,
    _dir: TempDir,
}

impl Data {
    pub fn new(shape: [usize; 3], train: usize, test: usize) -> Data {
        Data::cropped(shape, None, train, test)
    }

    /// Creates a data set of whose images networks see squares of `crop` pixels.
    pub fn cropped(shape: [usize; 3], crop: Option<usize>, train: usize, test: usize) -> Data {
        let labels: Vec<usize> = (0..train).map(|i| i % CLASSES).collect();
        Data::made(shape, crop, &labels, test)
    }

    /// Creates a data set of training images with these labels; the test split has the first `test` of them,
    /// repeated if necessary.
    pub fn labelled(shape: [usize; 3], labels: &[usize], test: usize) -> Data {
        Data::made(shape, None, labels, test)
    }

    fn made(shape: [usize; 3], crop: Option<usize>, labels: &[usize], test: usize) -> Data {
        let dir = tempfile::tempdir().expect("a directory");
        write(&dir.path().join("train"), shape, labels);
        let first: Vec<usize> = labels.iter().copied().cycle().take(test).collect();
        write(&dir.path().join("test"), shape, &first);
        let outputs = ["train", "test"].map(|role| Produced { role, name: role.into(), rows: None }).into();
        let classes = labels.iter().max().expect("some labels") + 1;
        let counts: Vec<usize> = (0..classes).map(|k| labels.iter().filter(|&&l| l == k).count()).collect();
        let names: Vec<String> = (0..classes).map(|k| k.to_string()).collect();
        let mut metrics = json!({
            "classes": classes, "class_names": names, "cls_num_list": counts, "mean": [0.5, 0.5, 0.5],
            "std": [0.2, 0.2, 0.2],
        });
        if let Some(crop) = crop {
            metrics["crop"] = crop.into();
        }
        let (kind, path) = (Kind::Dataset, dir.path().to_owned());
        let plan =
            Directory { kind, semantics: 1, params: Object::new(), inputs: vec![], dir: path, file: None };
        let Ok(Claim::Work(w)) = plan.claim(false, || ()) else { panic!("nothing is there yet") };
        let metrics = metrics.as_object().cloned().expect("an object");
        let manifest = w.publish(outputs, metrics, Object::new()).expect("published");
        let open = |split| Split::open(&manifest, split).expect("a split");
        Data { train: open("train"), test: open("test"), manifest, _dir: dir }
    }
}

fn write(file: &Path, shape: [usize; 3], labels: &[usize]) {
    let ([h, w, c], n) = (shape, labels.len());
    let len = n * h * w * c;
    let mut pixels: Vec<u32> = (0..).take(len).collect();
    shuffle(&mut stream(7, Purpose::Init, n as u64, 0), &mut pixels);
    let pixels: Vec<u8> = pixels.into_iter().map(|p| p as u8).collect();
    let labels: Vec<u8> = labels.iter().flat_map(|&l| (l as i64).to_le_bytes()).collect();
    let index: Vec<u8> = (0..n as u32).flat_map(u32::to_le_bytes).collect();
    let view = |dtype, shape, bytes| TensorView::new(dtype, shape, bytes).expect("sizes match");
    let tensors = [
        ("images", view(Dtype::U8, vec![n, h, w, c], &pixels)),
        ("labels", view(Dtype::I64, vec![n], &labels)),
        ("source_index", view(Dtype::U32, vec![n], &index)),
    ];
    let bytes = safetensors::serialize(tensors, None).expect("serialised");
    std::fs::write(file, bytes).expect("written");
}

/// Returns a configuration with mixing, Remix's labels and class weights.
pub fn config(precision: Precision, batch_size: usize) -> Config {
    let arch = "resnet20".parse().expect("a name");
    Config { arch, batch_size, precision, seed: 3, ..Config::new(preset("remix-rw").expect("a method")) }
}

/// Returns a freshly initialised network on the CPU.
pub fn network(config: &Config, data: &Data) -> Net {
    let dtype = config.precision.dtype();
    let info = Info::of(&data.manifest).expect("a data set");
    let params = Params::new(&config.network(), info.classes).expect("parameters");
    params.init(config.seed).expect("values");
    let criterion = config.loss.criterion(&info.cls_num_list);
    Net::new(params, criterion, data.train.shape(), config.batch_size, dtype).expect("a network")
}

/// Sets the batch norms of a network such that no value comes near a ReLU's kink: γ is small, and β, eight
/// times as large, is positive at the end of a block and alternates in sign elsewhere. Half of the channels
/// inside the blocks are then always off.
pub fn move_from_relus(net: &Net) {
    let net = &net.params;
    crate::tensor::write(&net.values, |params| {
        for (n, (slot, conv)) in net.slots().iter().zip(net.network().convs()).enumerate() {
            let channels = conv.cout;
            let (gamma, beta) = params[slot.gamma_beta..][..2 * channels].split_at_mut(channels);
            gamma.fill(0.25);
            let ends_block = n > 0 && n % 2 == 0;
            for (c, beta) in beta.iter_mut().enumerate() {
                *beta = if ends_block || c % 2 == 0 { 2.0 } else { -2.0 };
            }
        }
    })
    .expect("written");
}

fn length(values: &[f32]) -> f64 {
    values.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt()
}

fn apart(found: &[f32], truth: &[f32]) -> f64 {
    assert_eq!(found.len(), truth.len());
    length(&found.iter().zip(truth).map(|(a, b)| a - b).collect::<Vec<_>>())
}

/// Returns the largest relative error of a tensor, with its name. The error is relative to the tensor's norm,
/// or to `least` times the largest norm of all tensors if that is larger.
pub fn furthest(found: &files::StateDict, truth: &files::StateDict, least: f64) -> (f64, String) {
    let longest = truth.values().map(|v| length(&v.data)).fold(0.0, f64::max);
    let each = truth.iter().map(|(name, v)| {
        let scale = length(&v.data).max(least * longest).max(1e-15);
        (apart(&found[name].data, &v.data) / scale, name.clone())
    });
    each.max_by(|a, b| a.0.total_cmp(&b.0)).expect("some tensors")
}

/// Returns a trainer that keeps the images on the device if it can.
pub fn trainer(device: &Device, config: &Config, data: &Data, net: &Net) -> Trainer {
    let streamed = config.changes_images() || data.train.stored() != data.train.shape();
    trainer_of(device, config, data, net, streamed)
}

pub fn trainer_of(device: &Device, config: &Config, data: &Data, net: &Net, streamed: bool) -> Trainer {
    let levels = levels(&config.mean, &config.std);
    let images = Images { train: &data.train, judged: &[&data.test], levels: &levels, streamed };
    Trainer::new(device, &net.params, &net.criterion, images, config.batch_size, config.mix.mix_points())
        .expect("a trainer")
}

/// Runs one epoch of a trainer, and returns the losses.
pub fn epoch(trainer: &mut Trainer, plan: &Plan, data: &Data, epoch: u32) -> Vec<[f64; 2]> {
    let crops = data.train.stored() != data.train.shape();
    let held = trainer.steps_on_device().map(|steps| Held { steps, crops });
    let of = plan.epoch(epoch);
    let images = |steps| images(&data.train, &of, steps);
    trainer.epoch(|e| rows(plan, e, held), images, epoch, epoch, RATES).expect("an epoch")
}

/// Trains on a device for some epochs, and returns the state and the losses.
pub fn train(
    device: &Device,
    config: &Config,
    data: &Data,
    epochs: u32,
) -> (files::StateDict, Vec<[f64; 2]>) {
    let net = network(config, data);
    let mut trainer = trainer(device, config, data, &net);
    let plan = plan(config, data);
    let losses = (1..=epochs).flat_map(|e| epoch(&mut trainer, &plan, data, e)).collect();
    trainer.give(&net.params).expect("given");
    (net.params.training_state().expect("a state"), losses)
}

pub fn plan(config: &Config, data: &Data) -> Plan {
    let info = Info::of(&data.manifest).expect("a data set");
    let plan = Plan::new(config, data.train.labels(), data.train.shape(), &info.cls_num_list);
    plan.expect("a plan").cropping(data.train.stored())
}

/// Trains a network for one epoch on the CPU, and returns its loss and the number of correct predictions.
pub fn on_the_cpu(config: &Config, data: &Data, net: &Net) -> (f64, f64) {
    let levels = levels(&config.mean, &config.std);
    train_epoch(net, &data.train, &levels, &plan(config, data).epoch(1), RATES, 1, &mut |_| ())
        .expect("an epoch")
}

/// Trains a network for one epoch on a device, and returns its loss and the number of correct predictions.
/// The network then holds the result and the gradients of the last step.
pub fn on(device: &Device, config: &Config, data: &Data, net: &Net) -> (f64, f64) {
    let mut trainer = trainer(device, config, data, net);
    let plan = plan(config, data);
    let losses = epoch(&mut trainer, &plan, data, 1);
    trainer.give(&net.params).expect("given");
    let grads = &trainer.net.grads;
    let found = grads.read(0, grads.count()).expect("gradients");
    crate::tensor::write(net.grads(), |grads| grads.copy_from_slice(&found)).expect("written");
    let loss = losses.iter().enumerate().map(|(step, l)| l[0] * plan.images(step) as f64).sum();
    (loss, losses.iter().map(|l| l[1]).sum())
}

/// Returns the mix point of a step of the first epoch, counted from 1; 0 if there is no such step.
pub fn mix_point(config: &Config, data: &Data, step: usize) -> usize {
    let plan = plan(config, data);
    if step > plan.steps() { 0 } else { plan.epoch(1).step(step - 1).mix_point }
}

/// Returns a seed with which the first two steps have these mix points.
pub fn seed_of(config: &Config, mix_points: [usize; 2]) -> u64 {
    let data = Data::new([8, 8, 3], 11, 5);
    let config = Config { batch_size: 7, ..config.clone() };
    let of = |seed| [1, 2].map(|step| mix_point(&Config { seed, ..config.clone() }, &data, step));
    (0..1000).find(|&seed| of(seed) == mix_points).expect("one of nine has them")
}
