//! The worker threads a step runs on.
//!
//! One job at a time; the calling thread takes part. Each thread begins with a run of neighbouring tasks of its own, so that
//! what it reads lies in one stream and the same thread meets the same rows in the next op; who is done takes over
//! the later half of what another has left.
//! A worker that wakes late finds the job closed and never delays it: [`Pool::run`] waits for those that entered, no more.
//! Workers spin for [`SPIN`] after a job (the next op of a forward pass comes within microseconds), then park.

use std::any::Any;
use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::Thread;
use std::time::{Duration, Instant};

use crate::affinity;
use crate::error::KernelError;

/// How long an idle worker looks for work before it sleeps.
const SPIN: Duration = Duration::from_micros(50);
/// More threads than this are a mistake in `ENGRAM_THREADS`.
const MAX_THREADS: usize = 1024;

// Layout of `Shared::state`: bit 0 the job takes workers, bits 1..=15 workers inside, the rest the job's number.
const OPEN: u64 = 1;
const ENTERED: u64 = 1 << 1;
const ENTERED_MASK: u64 = (1 << 16) - 2;
const JOB: u64 = 1 << 16;

type Task<'a> = &'a (dyn Fn(usize) + Sync);

/// The job being run. The lifetime of `f` is erased: it outlives the job because `run` returns after the last worker left.
struct Job {
    f: Option<Task<'static>>,
}

struct Shared {
    state: AtomicU64,
    job: UnsafeCell<Job>,
    /// What each thread still has to do, the caller first.
    runs: Vec<Run>,
    busy: AtomicBool,
    stop: AtomicBool,
    // A mutex because it is touched only after a panic.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    asleep: Vec<AtomicBool>,
}

// SAFETY: `job` is written only by the holder of `busy` while `state` is closed and nobody is inside;
// workers read it only between entering (acquire) and leaving (release). All else is Sync by itself.
unsafe impl Sync for Shared {}

/// Tasks of one thread, the first and the one past the last in a word; on a cache line pair of its own.
#[repr(align(128))]
struct Run(AtomicU64);

impl Run {
    fn set(&self, first: u32, end: u32) {
        self.0.store(u64::from(first) << 32 | u64::from(end), Ordering::Release);
    }

    /// The next task of the thread that owns this run.
    fn next(&self) -> Option<u32> {
        let (taken, _) = self.shrink(|first, end| (first + 1, end))?;
        Some(taken)
    }

    /// The later half of it, for a thread that has nothing left.
    fn half(&self) -> Option<(u32, u32)> {
        let (first, end) = self.shrink(|first, end| (first, end - (end - first).div_ceil(2)))?;
        Some((end - (end - first).div_ceil(2), end))
    }

    /// Makes a run that is not empty smaller, and gives what it was. No task is in two runs or comes back to one, so a run
    /// that is found unchanged was not touched in between.
    fn shrink(&self, smaller: impl Fn(u32, u32) -> (u32, u32)) -> Option<(u32, u32)> {
        let mut run = self.0.load(Ordering::Acquire);
        loop {
            let (first, end) = ((run >> 32) as u32, run as u32);
            if first >= end {
                return None;
            }
            let (new_first, new_end) = smaller(first, end);
            let new = u64::from(new_first) << 32 | u64::from(new_end);
            match self.0.compare_exchange_weak(run, new, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Some((first, end)),
                Err(now) => run = now,
            }
        }
    }
}

/// A fixed set of threads for data-parallel loops of microseconds.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<Thread>,
}

impl Pool {
    /// A pool of `threads` (at least one), the caller of [`Pool::run`] included.
    ///
    /// Where the system refuses a thread, the pool is smaller: [`Pool::threads`] tells.
    pub fn new(threads: usize) -> Self {
        Self::on(threads, &[])
    }

    /// The same, worker `i` bound to `cores[i]` where there are as many cores as threads.
    fn on(threads: usize, cores: &[usize]) -> Self {
        let wanted = threads.clamp(1, MAX_THREADS) - 1;
        let shared = Arc::new(Shared {
            state: AtomicU64::new(0),
            job: UnsafeCell::new(Job { f: None }),
            runs: (0..=wanted).map(|_| Run(AtomicU64::new(0))).collect(),
            busy: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            panic: Mutex::new(None),
            asleep: (0..wanted).map(|_| AtomicBool::new(false)).collect(),
        });
        let mut workers = Vec::with_capacity(wanted);
        for index in 0..wanted {
            let for_worker = Arc::clone(&shared);
            let core = cores.get(index + 1).copied();
            let spawned = std::thread::Builder::new().name(format!("engram-kernel-{}", index + 1)).spawn(move || {
                if let Some(core) = core {
                    affinity::bind(core);
                }
                work(&for_worker, index);
            });
            match spawned {
                Ok(handle) => workers.push(handle.thread().clone()),
                Err(_) => break,
            }
        }
        Self { shared, workers }
    }

    /// Threads that take part in a job, the caller included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `f(0) .. f(tasks - 1)`, each once, in any order, on all threads; returns when all are done.
    ///
    /// A call from inside a task, or while another thread runs a job, does its tasks on its own thread.
    /// A panic in a task is passed on to the caller once the other threads have left; the pool stays usable.
    pub fn run(&self, tasks: usize, f: &(dyn Fn(usize) + Sync)) {
        let shared = &*self.shared;
        let count = u32::try_from(tasks).unwrap_or(0); // more are not worth handing out
        if count <= 1 || self.workers.is_empty() || shared.busy.swap(true, Ordering::Acquire) {
            (0..tasks).for_each(f);
            return;
        }
        // SAFETY: only the lifetime changes. Workers use the reference between entering and leaving the job,
        // and this function closes the job and waits for all who entered before it returns.
        let f: Task<'static> = unsafe { std::mem::transmute::<Task<'_>, Task<'static>>(f) };
        // SAFETY: `busy` is ours, the last job is closed and empty, so nobody else reads or writes the cell.
        unsafe { *shared.job.get() = Job { f: Some(f) } };
        let threads = self.threads() as u64;
        let cut = |index: u64| (u64::from(count) * index / threads) as u32;
        for (index, run) in (0..threads).zip(&shared.runs) {
            run.set(cut(index), cut(index + 1));
        }
        let last = shared.state.load(Ordering::Relaxed);
        shared.state.store((last & !(OPEN | ENTERED_MASK)).wrapping_add(JOB) | OPEN, Ordering::SeqCst);
        for (asleep, worker) in shared.asleep.iter().zip(&self.workers) {
            if asleep.load(Ordering::SeqCst) {
                worker.unpark();
            }
        }

        claim(shared, f, 0);

        shared.state.fetch_and(!OPEN, Ordering::AcqRel);
        let mut spins = 0u32;
        while shared.state.load(Ordering::Acquire) & ENTERED_MASK != 0 {
            spins += 1;
            // A worker may have lost its core to another process: then ours is better given away.
            if spins.is_multiple_of(4096) { std::thread::yield_now() } else { std::hint::spin_loop() }
        }
        let panic = shared.panic.lock().unwrap_or_else(|e| e.into_inner()).take();
        shared.busy.store(false, Ordering::Release);
        if let Some(payload) = panic {
            resume_unwind(payload);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.workers.iter().for_each(Thread::unpark);
    }
}

/// Takes tasks until none is left: its own, then halves of others'. A panic ends the job early and is kept for the caller.
fn claim(shared: &Shared, f: Task<'_>, index: usize) {
    let own = &shared.runs[index];
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        loop {
            while let Some(task) = own.next() {
                f(task as usize);
            }
            let others = shared.runs[index + 1..].iter().chain(&shared.runs[..index]);
            let Some((first, end)) = others.map(Run::half).find_map(|half| half) else { break };
            own.set(first, end);
        }
    }));
    if let Err(payload) = outcome {
        shared.runs.iter().for_each(|run| run.set(0, 0));
        shared.panic.lock().unwrap_or_else(|e| e.into_inner()).get_or_insert(payload);
    }
}

/// A worker's life: enter each open job once, else spin, else sleep.
fn work(shared: &Shared, index: usize) {
    let mut last_job = 0;
    let mut idle_since = Instant::now();
    let mut looks = 0u32;
    loop {
        let state = shared.state.load(Ordering::Acquire);
        if is_new(state, last_job) {
            let entered =
                shared.state.compare_exchange_weak(state, state + ENTERED, Ordering::AcqRel, Ordering::Relaxed);
            if entered.is_ok() {
                // SAFETY: we are counted inside an open job, so its caller neither changes the cell nor returns.
                if let Some(f) = unsafe { (*shared.job.get()).f } {
                    claim(shared, f, index + 1);
                }
                shared.state.fetch_sub(ENTERED, Ordering::Release);
                last_job = state / JOB;
                idle_since = Instant::now();
                looks = 0;
            }
            continue;
        }
        looks += 1;
        if !looks.is_multiple_of(64) || idle_since.elapsed() < SPIN {
            std::hint::spin_loop();
            continue;
        }
        shared.asleep[index].store(true, Ordering::SeqCst);
        // Both sides store first and look second (SeqCst), so a job opened now is seen here or wakes us.
        while !is_new(shared.state.load(Ordering::SeqCst), last_job) {
            if shared.stop.load(Ordering::SeqCst) {
                return;
            }
            std::thread::park();
        }
        shared.asleep[index].store(false, Ordering::SeqCst);
        idle_since = Instant::now();
    }
}

fn is_new(state: u64, last_job: u64) -> bool {
    state & OPEN != 0 && state / JOB != last_job
}

/// How many threads `ENGRAM_THREADS` asks for; unset, what affinity and cgroup quota allow this process.
///
/// Errors: [`KernelError::BadThreads`].
pub fn threads_from_setting(value: Option<&str>) -> Result<usize, KernelError> {
    match value {
        // The standard library reads the affinity mask and the cgroup quotas (v1 and v2), rounded down.
        None | Some("") => Ok(std::thread::available_parallelism().map_or(1, |n| n.get()).min(MAX_THREADS)),
        Some(text) => match text.trim().parse() {
            Ok(n) if (1..=MAX_THREADS).contains(&n) => Ok(n),
            _ => Err(KernelError::BadThreads { value: text.to_owned(), max: MAX_THREADS }),
        },
    }
}

/// The size the process's pool has, or why `ENGRAM_THREADS` cannot be followed; ask at start and tell the user.
pub fn checked_threads() -> Result<usize, KernelError> {
    threads_from_setting(std::env::var("ENGRAM_THREADS").ok().as_deref())
}

/// The process's pool, started on first use; sized by [`checked_threads`], by the machine where that fails.
pub fn pool() -> &'static Pool {
    static POOL: OnceLock<Pool> = OnceLock::new();
    POOL.get_or_init(|| {
        let threads = checked_threads().or_else(|_| threads_from_setting(None)).unwrap_or(1);
        Pool::on(threads, cores(threads))
    })
}

/// Binds the calling thread, which is to run all of [`pool`]'s jobs, to the core that its workers leave free; nothing where
/// they are not bound.
pub fn bind_caller() {
    if let Some(&core) = cores(pool().threads()).first() {
        affinity::bind(core);
    }
}

static BIND: AtomicBool = AtomicBool::new(false);

/// Binds each thread of [`pool`] to a core of its own, where all cores that this process may use are the pool's; with fewer
/// threads than cores the system's scheduler knows better which are free. To be called before the pool's first use.
pub fn bind_threads(on: bool) {
    BIND.store(on, Ordering::Relaxed);
}

fn cores(threads: usize) -> &'static [usize] {
    static CORES: OnceLock<Vec<usize>> = OnceLock::new();
    let cores = CORES.get_or_init(affinity::allowed);
    if cores.len() == threads && BIND.load(Ordering::Relaxed) { cores } else { &[] }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[test]
    fn each_task_runs_once() {
        let pool = Pool::new(4);
        for tasks in [0, 1, 2, 3, 7, 64, 1000] {
            for _ in 0..50 {
                let counts: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                pool.run(tasks, &|i| {
                    counts[i].fetch_add(1, Ordering::Relaxed);
                });
                assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1), "{tasks} tasks");
            }
        }
    }

    #[test]
    fn jobs_after_a_sleep_still_run() {
        let pool = Pool::new(3);
        for round in 0..20 {
            let sum = AtomicUsize::new(0);
            pool.run(100, &|i| {
                sum.fetch_add(i, Ordering::Relaxed);
            });
            assert_eq!(sum.into_inner(), 4950, "round {round}");
            std::thread::sleep(Duration::from_micros(40 * round));
        }
    }

    #[test]
    fn nested_and_concurrent_calls_finish() {
        let pool = Pool::new(3);
        let sum = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        pool.run(5, &|_| {
                            pool.run(3, &|_| {
                                sum.fetch_add(1, Ordering::Relaxed);
                            });
                        });
                    }
                });
            }
        });
        assert_eq!(sum.into_inner(), 4 * 100 * 5 * 3);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let pool = Pool::new(3);
        for bad in [0, 5, 99] {
            let caught = catch_unwind(AssertUnwindSafe(|| {
                pool.run(100, &|i| assert!(i != bad, "task {i} fails"));
            }));
            assert!(caught.is_err(), "task {bad}");
            let sum = AtomicUsize::new(0);
            pool.run(10, &|_| {
                sum.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(sum.into_inner(), 10);
        }
    }

    #[test]
    fn thread_settings_are_followed_or_refused() {
        assert_eq!(threads_from_setting(Some("3")), Ok(3));
        assert!(threads_from_setting(None).is_ok_and(|n| n >= 1));
        for bad in ["0", "-1", "two", "99999999"] {
            let refused = KernelError::BadThreads { value: bad.into(), max: MAX_THREADS };
            assert_eq!(threads_from_setting(Some(bad)), Err(refused));
        }
    }
}
