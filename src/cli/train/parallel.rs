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
    /// Number of jobs that have been started so far.
    started: usize,
    failed: Option<Error>,
}

/// Runs jobs 0 to `count - 1` on `threads` threads. A job for which there is not enough memory beside others
/// waits until another one has ended, and from then on one thread fewer works, but never none. After any other
/// error no further job is started.
///
/// # Errors
/// Returns the first error of a job.
pub fn for_each(count: usize, threads: usize, job: impl Fn(usize) -> Result<()> + Sync) -> Result<()> {
    run(count, threads, job, is_want_of_memory)
}

/// Does the same as [`for_each`], with a function that tells which errors are a want of memory.
fn run(
    count: usize,
    threads: usize,
    job: impl Fn(usize) -> Result<()> + Sync,
    is_want_of_memory: fn(&Error) -> bool,
) -> Result<()> {
    let state = Mutex::new(State { waiting: (0..count).collect(), running: 0, started: 0, failed: None });
    // A job that panics leaves nothing half done here, so a poisoned lock is usable.
    let lock = || -> MutexGuard<State> { state.lock().unwrap_or_else(PoisonError::into_inner) };
    let work = || {
        loop {
            let (n, started, others) = {
                let mut state = lock();
                let next = if state.failed.is_none() { state.waiting.pop_front() } else { None };
                let Some(n) = next else { return };
                state.running += 1;
                state.started += 1;
                (n, state.started, state.running - 1)
            };
            let done = job(n);
            let mut state = lock();
            state.running -= 1;
            let was_alone = others == 0 && state.started == started;
            match done {
                Ok(()) => {}
                Err(e) if is_want_of_memory(&e) && !was_alone => {
                    let fit = state.running.max(1);
                    log::info!(
                        "the GPU has memory for {fit} run{} at a time; the next one waits",
                        if fit == 1 { "" } else { "s" }
                    );
                    state.waiting.push_front(n);
                    // Jobs side by side may all have failed, because each held a part of the memory. The last
                    // of these threads goes on, with one job at a time.
                    if state.running > 0 {
                        return;
                    }
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

fn is_want_of_memory(e: &Error) -> bool {
    matches!(e.downcast_ref(), Some(crate::backend::cuda::Error::Memory { .. }))
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
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

    const NO_ROOM: &str = "there is no room";

    fn is_want_of_room(e: &Error) -> bool {
        e.to_string() == NO_ROOM
    }

    #[test]
    fn what_does_not_fit_beside_others_waits() {
        let (room, done) = (AtomicUsize::new(2), AtomicUsize::new(0));
        let take = || room.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
        let job = |_: usize| -> Result<()> {
            take().map_err(|_| anyhow::anyhow!(NO_ROOM))?;
            std::thread::sleep(std::time::Duration::from_millis(10));
            done.fetch_add(1, Ordering::SeqCst);
            room.fetch_add(1, Ordering::SeqCst);
            Ok(())
        };
        run(9, 4, job, is_want_of_room).expect("all fit in the end");
        assert_eq!(done.load(Ordering::SeqCst), 9);
    }

    #[test]
    fn jobs_that_were_in_each_others_way_are_done_one_at_a_time() {
        let tries = [AtomicUsize::new(0), AtomicUsize::new(0)];
        // Each job holds one place and needs another one. At first both hold theirs until both have failed.
        let (room, both) = (AtomicUsize::new(2), Barrier::new(2));
        let job = |n: usize| -> Result<()> {
            let is_first = tries[n].fetch_add(1, Ordering::SeqCst) == 0;
            room.fetch_sub(1, Ordering::SeqCst);
            if is_first {
                both.wait();
            }
            let fits = room.load(Ordering::SeqCst) > 0;
            if is_first {
                both.wait();
            }
            room.fetch_add(1, Ordering::SeqCst);
            if fits { Ok(()) } else { Err(anyhow::anyhow!(NO_ROOM)) }
        };
        run(2, 2, job, is_want_of_room).expect("either fits alone");
        assert_eq!(tries.map(AtomicUsize::into_inner), [2, 2]);
    }

    #[test]
    fn what_does_not_fit_alone_is_an_error() {
        let tries = AtomicUsize::new(0);
        let job = |_: usize| -> Result<()> {
            tries.fetch_add(1, Ordering::SeqCst);
            Err(anyhow::anyhow!(NO_ROOM))
        };
        let e = run(1, 4, job, is_want_of_room).expect_err("does not fit at all");
        assert_eq!((e.to_string().as_str(), tries.into_inner()), (NO_ROOM, 1));
    }

    #[test]
    fn a_want_of_memory_is_known_by_its_error() {
        let memory = crate::backend::cuda::Error::Memory { held: 0, needed: 1, free: 0 };
        assert!(is_want_of_memory(&Error::new(memory).context("run")));
        assert!(!is_want_of_memory(&anyhow::anyhow!(NO_ROOM)));
    }
}
