//! Integration tests, one module a tool. `common` has what they share.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;
mod eval;
mod fabricate;
mod faults;
mod fetch_cifar;
mod figure;
mod figures;
mod foreign;
mod html;
mod install;
mod makefile;
mod many_classes;
mod mk_imbalance;
mod mk_imbalance_real;
mod pipeline;
mod project;
mod readme;
mod report;
mod schema;
mod select;
mod streams;
mod tensorboard;
mod train;
mod weights;
