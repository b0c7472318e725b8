//! Training of image classifiers on class-imbalanced data: the library behind `mk-imbalance`, `train`,
//! `eval`, `embed` and `report`.
//!
//! The command-line tools are the intended interface. Other programs can use these modules:
//!
//! - [`nn`] provides the networks as candle modules, which load the tools' checkpoints;
//! - [`net`] describes networks, and reads and writes files of weights;
//! - [`data`] and [`manifest`] open data sets and results;
//! - [`methods`] implements the mixes, losses and rules as functions of numbers;
//! - [`metrics`] and [`train`] compute what `eval` reports and what `train` does.
//!
//! Classifying images with a checkpoint, computing with candle alone:
//!
//! ```
//! use candle_core::{D, DType, Device, Tensor};
//! use candle_nn::{ModuleT, VarBuilder};
//! use remix::net::Arch;
//! use remix::nn::ResNet;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! # let file = dir.path().join("last.safetensors");
//! # let random = candle_nn::VarMap::new();
//! # let arch: Arch = "resnet20".parse()?;
//! # let builder = VarBuilder::from_varmap(&random, DType::F32, &Device::Cpu);
//! # ResNet::new(&arch.network(), 10, builder)?;
//! # random.save(&file)?;
//! let arch: Arch = "resnet20".parse()?;
//! // SAFETY: the file is not changed while it is mapped.
//! let weights = unsafe { VarBuilder::from_mmaped_safetensors(&[file], DType::F32, &Device::Cpu)? };
//! let net = ResNet::new(&arch.network(), 10, weights)?;
//! // Pixels (N, 3, H, W), normalised by the mean and standard deviation in the manifest's params.
//! let images = Tensor::zeros((2, 3, 32, 32), DType::F32, &Device::Cpu)?;
//! let classes = net.forward_t(&images, false)?.argmax(D::Minus1)?.to_vec1::<u32>()?;
//! assert_eq!(classes.len(), 2);
//! # Ok(())
//! # }
//! ```
//!
//! Everything that is not listed here is public only for the programs, benchmarks and tests of this package.

#[doc(hidden)]
pub mod backend;
#[doc(hidden)]
pub mod cli;
pub mod data;
#[doc(hidden)]
pub mod interrupt;
pub mod manifest;
pub mod methods;
pub mod metrics;
pub mod net;
pub mod nn;
mod pickle;
#[doc(hidden)]
pub mod project;
#[doc(hidden)]
pub mod report;
#[doc(hidden)]
pub mod rng;
#[doc(hidden)]
pub mod simd;
#[doc(hidden)]
pub mod tensor;
pub mod train;
