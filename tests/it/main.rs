//! Integration tests, one module a tool. `common` has what they share.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;
mod eval;
mod fabricate;
mod report;
mod schema;
