//! Stopping work early.
//!
//! On Ctrl-C and SIGTERM, a tool stops at once while it waits for input or a lock, and at its next safe point
//! while it works. For the tests, a tool can also be stopped as if the machine had lost power, between any
//! two changes to the disk.
//!
//! SIGHUP is left alone, so `nohup` works; what is on disk is safe at any moment.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use signal_hook::consts::{SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::iterator::Signals;

/// Number of results that are being made. This and [`REQUESTED`] are accessed in one total order (`SeqCst`), so
/// that a signal either ends the process or is seen by the next call of [`requested`].
static WORKING: AtomicUsize = AtomicUsize::new(0);
/// Whether a signal has arrived.
static REQUESTED: AtomicBool = AtomicBool::new(false);

/// The error of work that stopped because of a signal: exit code 130.
#[derive(Debug, thiserror::Error)]
#[error("interrupted; run the same command again to finish")]
pub struct Interrupted;

/// Installs the signal handlers for SIGINT and SIGTERM. A second signal ends the process at once. SIGXFSZ is
/// caught, so that a file that grows beyond the limit of `ulimit -f` is a write error and does not end the
/// process.
pub fn install() {
    if let Err(e) = signal_hook::flag::register(SIGXFSZ, Arc::default()) {
        log::debug!("cannot handle SIGXFSZ: {e}");
    }
    let mut signals = match Signals::new([SIGINT, SIGTERM]) {
        Ok(signals) => signals,
        Err(e) => return log::debug!("cannot handle SIGINT and SIGTERM: {e}"),
    };
    std::thread::spawn(move || {
        for _ in signals.forever() {
            if REQUESTED.swap(true, Ordering::SeqCst) || WORKING.load(Ordering::SeqCst) == 0 {
                std::process::exit(130);
            }
        }
    });
}

/// Declares that the work checks for signals at its safe points, until the returned guard is dropped.
#[must_use]
pub fn working() -> Working {
    WORKING.fetch_add(1, Ordering::SeqCst);
    Working(())
}

/// The guard of [`working`].
pub struct Working(());

impl Drop for Working {
    fn drop(&mut self) {
        WORKING.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Returns whether a signal has arrived, after which long work stops at its next safe point with
/// [`Interrupted`].
pub fn requested() -> bool {
    REQUESTED.load(Ordering::SeqCst)
}

/// Ends work at a safe point if a signal has arrived.
///
/// # Errors
/// Returns [`Interrupted`] after a signal.
pub fn check() -> Result<(), Interrupted> {
    if requested() { Err(Interrupted) } else { Ok(()) }
}

/// Ends the process without any cleanup, like `kill -9`, if this is the call whose number, counting from 1,
/// is in `$REMIX_KILL_AT`. There is a call before each change to the disk that others could see, so that the
/// tests can stop a tool at every one of them.
pub fn kill_point() {
    static AT: OnceLock<Option<u64>> = OnceLock::new();
    static PASSED: AtomicU64 = AtomicU64::new(0);
    let at = AT.get_or_init(|| std::env::var("REMIX_KILL_AT").ok()?.parse().ok());
    if let Some(at) = at
        && PASSED.fetch_add(1, Ordering::Relaxed) + 1 == *at
    {
        std::process::abort();
    }
}
