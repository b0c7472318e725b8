//! Learning image classifiers from class-imbalanced data: the library behind `mk-imbalance`, `train`, `eval`,
//! `embed` and `report`.
//!
//! The tools are the interface that is meant for use. For programs of your own:
//!
//! - [`nn`] has the networks as candle modules, which load the tools' checkpoints;
//! - [`net`] describes networks, and reads and writes files of weights;
//! - [`data`] and [`manifest`] open data sets and results;
//! - [`methods`] has the mixes, losses and rules, as numbers;
//! - [`metrics`] and [`train`] compute what `eval` reports and what `train` does.
//!
//! What is not listed here is public only for the programs, benchmarks and tests of this package.

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
