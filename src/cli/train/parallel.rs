//! Several runs side by side on one GPU, with a thread and a stream each: one uses what another leaves idle
//! between its kernels.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Error, Result};

/// Number of runs that train side by side unless `--parallel` says otherwise. Two or three have the highest
/// throughput on an H200; more have less.
pub const MOST: usize = 3;

struct State {
    waiting: VecDeque<usize>,
    running: usize,
    failed: Option<Error>,
}

/// Runs jobs 0 to `count - 1` on `threads` threads. A job for which there is not enough memory waits until
/// another one has ended, and from then on one thread fewer works. After any other error no further job is
/// started.
///
/// # Errors
/// Returns the first error of a job.
pub fn for_each(count: usize, threads: usize, job: impl Fn(usize) -> Result<()> + Sync) -> Result<()> {
    let state = Mutex::new(State { waiting: (0..count).collect(), running: 0, failed: None });
    // A job that panics leaves nothing half done here, so a poisoned lock is usable.
    let lock = || -> MutexGuard<State> { state.lock().unwrap_or_else(PoisonError::into_inner) };
    let work = || {
        loop {
            let next = {
                let mut state = lock();
                let next = if state.failed.is_none() { state.waiting.pop_front() } else { None };
                state.running += usize::from(next.is_some());
                next
            };
            let Some(n) = next else { return };
            let done = job(n);
            let mut state = lock();
            state.running -= 1;
            match done {
                Ok(()) => {}
                Err(e) if is_want_of_memory(&e) && state.running > 0 => {
                    log::info!(
                        "the GPU has memory for {} run{} at a time; the next one waits",
                        state.running,
                        if state.running == 1 { "" } else { "s" }
                    );
                    state.waiting.push_front(n);
                    return;
                }
                Err(e) => {
                    state.failed.get_or_insert(e);
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..threads.min(count) {
            scope.spawn(work);
        }
    });
    state.into_inner().unwrap_or_else(PoisonError::into_inner).failed.map_or(Ok(()), Err)
}

#[cfg(feature = "cuda")]
fn is_want_of_memory(e: &Error) -> bool {
    matches!(e.downcast_ref(), Some(crate::backend::cuda::Error::Memory { .. }))
}

#[cfg(not(feature = "cuda"))]
fn is_want_of_memory(_: &Error) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn every_job_is_done_once() {
        let done: Vec<AtomicUsize> = (0..20).map(|_| AtomicUsize::new(0)).collect();
        for_each(20, 3, |n| {
            done[n].fetch_add(1, Ordering::Relaxed);
            Ok(())
        })
        .expect("no job fails");
        assert!(done.iter().all(|n| n.load(Ordering::Relaxed) == 1));
    }

    #[test]
    fn an_error_ends_it() {
        let begun = AtomicUsize::new(0);
        let e = for_each(1000, 2, |n| {
            begun.fetch_add(1, Ordering::Relaxed);
            anyhow::bail!("job {n}")
        });
        assert!(e.expect_err("a job fails").to_string().starts_with("job "));
        assert!(begun.load(Ordering::Relaxed) <= 2);
    }

    #[cfg(feature = "cuda")]
    #[test]
    fn what_does_not_fit_beside_others_waits() {
        let (room, done) = (AtomicUsize::new(2), AtomicUsize::new(0));
        let take = || room.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
        for_each(9, 4, |_| {
            take().map_err(|_| crate::backend::cuda::Error::Memory { held: 0, needed: 1, free: 0 })?;
            std::thread::sleep(std::time::Duration::from_millis(10));
            done.fetch_add(1, Ordering::SeqCst);
            room.fetch_add(1, Ordering::SeqCst);
            Ok(())
        })
        .expect("all fit in the end");
        assert_eq!(done.load(Ordering::SeqCst), 9);
        let alone = for_each(1, 4, |_| {
            Err(crate::backend::cuda::Error::Memory { held: 0, needed: 1, free: 0 }.into())
        });
        assert!(alone.expect_err("does not fit at all").to_string().contains("out of memory"));
    }
}
