//! Learning image classifiers from class-imbalanced data: the library behind `mk-imbalance`, `train`, `eval`, `embed` and
//! `report`.

pub mod cli;
pub mod data;
pub mod manifest;
