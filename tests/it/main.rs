//! Integration tests, one module a tool. `common` has what they share.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;
mod eval;
mod fabricate;
mod faults;
mod fetch_cifar;
mod makefile;
mod mk_imbalance;
mod mk_imbalance_real;
mod pipeline;
mod readme;
mod report;
mod schema;
mod train;
