//! Learning image classifiers from class-imbalanced data: the library behind `mk-imbalance`, `train`, `eval`, `embed` and
//! `report`.

pub mod backend;
pub mod cli;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod data;
pub mod device;
pub mod interrupt;
pub mod manifest;
pub mod methods;
pub mod metrics;
pub mod net;
pub mod nn;
pub mod ops;
pub mod project;
pub mod report;
pub mod rng;
pub mod train;
