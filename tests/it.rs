//! Integration tests, one module a tool.
#![allow(missing_docs)]
