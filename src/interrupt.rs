//! Ctrl-C: at once while a tool waits for input or a lock, at the next safe point once it works.
//!
//! Only SIGINT is taken. What is on disk is safe at any moment, so other signals may do what they always do, and `nohup`
//! works.

use std::sync::atomic::{AtomicBool, Ordering};

static WORKING: AtomicBool = AtomicBool::new(false);
static REQUESTED: AtomicBool = AtomicBool::new(false);

/// The error of work that stopped because of a signal: exit code 130.
#[derive(Debug, thiserror::Error)]
#[error("interrupted; the same command goes on from what is finished")]
pub struct Interrupted;

/// Takes SIGINT. A second one ends the process at once.
pub fn install() {
    let handler = ctrlc::set_handler(|| {
        if REQUESTED.swap(true, Ordering::Relaxed) || !WORKING.load(Ordering::Relaxed) {
            std::process::exit(130);
        }
    });
    if let Err(e) = handler {
        log::debug!("no signal handler: {e}");
    }
}

/// From here on the work looks for [`requested`] at its safe points.
pub fn working() {
    WORKING.store(true, Ordering::Relaxed);
}

/// Whether SIGINT has come: long work stops at its next safe point with [`Interrupted`].
pub fn requested() -> bool {
    REQUESTED.load(Ordering::Relaxed)
}
