//! The networks of the [`zoo`](crate::net::zoo) as candle modules, for programs that run or fine-tune them
//! with candle.
//!
//! Tensors have the same names and layouts as in files, so all that is needed is a [`VarBuilder`] over a
//! checkpoint of `train`, or over torchvision weights saved as safetensors:
//!
//! ```no_run
//! use candle_core::{DType, Device, Tensor};
//! use candle_nn::{ModuleT, VarBuilder};
//! use remix::{net::Arch, nn::ResNet};
//!
//! # fn main() -> anyhow::Result<()> {
//! let arch: Arch = "resnet32".parse().map_err(anyhow::Error::msg)?;
//! // SAFETY: the file is not changed while it is mapped.
//! let weights = unsafe { VarBuilder::from_mmaped_safetensors(&["last.safetensors"], DType::F32, &Device::Cpu)? };
//! let net = ResNet::new(&arch.network(), 10, weights)?;
//! let logits = net.forward_t(&Tensor::zeros((1, 3, 32, 32), DType::F32, &Device::Cpu)?, false)?;
//! # Ok(())
//! # }
//! ```
//!
//! The code is written for clarity: `train`, `eval` and `embed` have engines of their own, which are tested
//! against it.

use candle_core::{D, Module, Result, Tensor};
use candle_nn::{BatchNorm, Conv2d, Conv2dConfig, Init, ModuleT, VarBuilder, batch_norm, conv2d_no_bias};

use crate::methods::loss::SCALE;
use crate::net::EPS;
use crate::net::{self, ClassifierKind, Network};

/// A network that maps normalised images (N, channels, height, width) to logits (N, classes).
#[derive(Debug)]
pub struct ResNet {
    stem: ConvNorm,
    pool: bool,
    stages: Vec<Vec<Block>>,
    classifier: Classifier,
}

impl ResNet {
    /// Creates a network with its tensors from `vb`: weights, biases, running means and running variances.
    ///
    /// # Errors
    /// Returns an error if a tensor is missing or has another shape.
    pub fn new(network: &Network, classes: usize, vb: VarBuilder) -> Result<ResNet> {
        let block = |block: &net::Block| Block::new(block, &vb);
        let stage = |blocks: &Vec<net::Block>| blocks.iter().map(block).collect::<Result<Vec<_>>>();
        Ok(ResNet {
            stem: ConvNorm::new(&network.stem, &vb)?,
            pool: network.pool,
            stages: network.stages.iter().map(stage).collect::<Result<_>>()?,
            classifier: Classifier::new(&network.classifier, network.features(), classes, &vb)?,
        })
    }

    /// Returns the features of images, (N, features): the last block's output, averaged over its pixels.
    ///
    /// # Errors
    /// Returns an error if a candle operation fails.
    pub fn features_t(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        self.features_mixed_t(x, train, |_, x| Ok(x))
    }

    /// Returns the features of images, where `mix` transforms the input of each stage.
    ///
    /// Stages are numbered from 0. This is the blending of hidden states of Manifold Mixup.
    ///
    /// # Errors
    /// Returns an error if a candle operation or `mix` fails.
    fn features_mixed_t(
        &self,
        x: &Tensor,
        train: bool,
        mix: impl Fn(usize, Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let mut x = self.stem.forward_t(x, train)?.relu()?;
        if self.pool {
            x = max_pool(&x)?;
        }
        for (n, stage) in self.stages.iter().enumerate() {
            x = mix(n, x)?;
            for block in stage {
                x = block.forward_t(&x, train)?;
            }
        }
        x.mean(D::Minus1)?.mean(D::Minus1)
    }

    /// Returns the logits of features.
    ///
    /// # Errors
    /// Returns an error if a candle operation fails.
    pub fn classify(&self, features: &Tensor) -> Result<Tensor> {
        self.classifier.forward(features)
    }
}

impl ModuleT for ResNet {
    fn forward_t(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        self.classify(&self.features_t(x, train)?)
    }
}

/// A convolution and its batch norm.
#[derive(Debug)]
struct ConvNorm {
    conv: Conv2d,
    norm: BatchNorm,
}

impl ConvNorm {
    fn new(conv: &net::Conv, vb: &VarBuilder) -> Result<ConvNorm> {
        let net::Conv { name, norm, kernel, stride, cin, cout } = conv;
        let config = Conv2dConfig { stride: *stride, padding: kernel / 2, ..Conv2dConfig::default() };
        Ok(ConvNorm {
            conv: conv2d_no_bias(*cin, *cout, *kernel, config, vb.pp(name))?,
            norm: batch_norm(*cout, EPS, vb.pp(norm))?,
        })
    }
}

impl ModuleT for ConvNorm {
    fn forward_t(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        self.norm.forward_t(&self.conv.forward(x)?, train)
    }
}

#[derive(Debug)]
struct Block {
    convs: Vec<ConvNorm>,
    shortcut: Shortcut,
}

#[derive(Debug)]
enum Shortcut {
    Identity,
    /// Subsampled by 2, and padded with zeros to this number of channels.
    Padded(usize),
    Projected(ConvNorm),
}

impl Block {
    fn new(block: &net::Block, vb: &VarBuilder) -> Result<Block> {
        Ok(Block {
            convs: block.convs.iter().map(|conv| ConvNorm::new(conv, vb)).collect::<Result<_>>()?,
            shortcut: match &block.shortcut {
                net::Shortcut::Identity => Shortcut::Identity,
                net::Shortcut::Padded => Shortcut::Padded(block.convs.last().map_or(0, |conv| conv.cout)),
                net::Shortcut::Projected(conv) => Shortcut::Projected(ConvNorm::new(conv, vb)?),
            },
        })
    }
}

impl ModuleT for Block {
    fn forward_t(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        let mut y = x.clone();
        for (n, conv) in self.convs.iter().enumerate() {
            y = conv.forward_t(&y, train)?;
            if n + 1 < self.convs.len() {
                y = y.relu()?;
            }
        }
        let shortcut = match &self.shortcut {
            Shortcut::Identity => x.clone(),
            Shortcut::Padded(channels) => {
                let new = (channels - x.dim(1)?) / 2;
                every_second(&every_second(x, 2)?, 3)?.pad_with_zeros(1, new, new)?
            }
            Shortcut::Projected(conv) => conv.forward_t(x, train)?,
        };
        (y + shortcut)?.relu()
    }
}

/// Returns every second row (`dim` 2) or column (`dim` 3), starting with the first.
fn every_second(x: &Tensor, dim: usize) -> Result<Tensor> {
    x.contiguous()?.index_select(&Tensor::arange_step(0u32, x.dim(dim)? as u32, 2, x.device())?, dim)
}

/// Max-pools values that are not negative, with a 3×3 kernel, stride 2 and padding 1.
///
/// As no value is negative, padding with zeros does not change a maximum. Candle has no gradient for
/// overlapping windows, so this computes the maximum of nine shifted images.
fn max_pool(x: &Tensor) -> Result<Tensor> {
    let (height, width) = (x.dim(2)?, x.dim(3)?);
    let padded = x.pad_with_zeros(2, 1, 1)?.pad_with_zeros(3, 1, 1)?;
    let mut largest: Option<Tensor> = None;
    for row in 0..3 {
        for col in 0..3 {
            let shifted = padded.narrow(2, row, height)?.narrow(3, col, width)?;
            let shifted = every_second(&every_second(&shifted, 2)?, 3)?;
            largest = Some(match largest {
                Some(largest) => largest.maximum(&shifted)?,
                None => shifted,
            });
        }
    }
    largest.map_or_else(|| candle_core::bail!("a window has nine pixels"), Ok)
}

#[derive(Debug)]
enum Classifier {
    /// Weight (classes, features) and bias.
    Linear(Tensor, Tensor),
    /// Weight (features, classes).
    Cosine(Tensor),
}

impl Classifier {
    fn new(of: &net::Classifier, features: usize, classes: usize, vb: &VarBuilder) -> Result<Classifier> {
        let (vb, zero) = (vb.pp(&of.name), Init::Const(0.0));
        Ok(match of.kind {
            ClassifierKind::Linear => Classifier::Linear(
                vb.get_with_hints((classes, features), "weight", candle_nn::init::DEFAULT_KAIMING_NORMAL)?,
                vb.get_with_hints(classes, "bias", zero)?,
            ),
            ClassifierKind::Cosine => Classifier::Cosine(vb.get_with_hints(
                (features, classes),
                "weight",
                candle_nn::init::DEFAULT_KAIMING_NORMAL,
            )?),
        })
    }
}

impl Module for Classifier {
    fn forward(&self, features: &Tensor) -> Result<Tensor> {
        match self {
            Classifier::Linear(weight, bias) => features.matmul(&weight.t()?)?.broadcast_add(bias),
            Classifier::Cosine(weight) => unit(features, 1)?.matmul(&unit(weight, 0)?)? * f64::from(SCALE),
        }
    }
}

/// Scales the vectors along a dimension to length 1; the norm is at least 1e-12, as in PyTorch.
fn unit(x: &Tensor, dim: usize) -> Result<Tensor> {
    let norm = x.sqr()?.sum_keepdim(dim)?.sqrt()?;
    x.broadcast_div(&norm.maximum(1e-12)?)
}

#[cfg(test)]
mod tests;
