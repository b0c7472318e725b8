//! Integration tests, one module a tool. `common` has what they share.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;
mod fetch_cifar;
mod mk_imbalance;
mod mk_imbalance_real;
