//! The thread pool of the core. The core never uses rayon's global pool.

use std::sync::{Arc, Mutex, PoisonError, RwLock};

use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::error::CoreError;

static POOL: RwLock<Option<Pool>> = RwLock::new(None);

#[derive(Clone)]
struct Pool {
    /// The process that started the threads. A forked process does not have them and would wait for them forever.
    process: u32,
    count: usize,
    threads: Arc<ThreadPool>,
}

/// Far more threads than a machine has cores. A larger number is a typing error.
const MOST: usize = 1024;

fn build(count: usize) -> Result<Pool, CoreError> {
    let builder = ThreadPoolBuilder::new().num_threads(count).thread_name(|index| format!("cfp-core-{index}"));
    let threads =
        builder.build().map_err(|error| CoreError::Option(format!("cannot start {count} threads: {error}")))?;
    Ok(Pool { process: std::process::id(), count, threads: Arc::new(threads) })
}

fn pool() -> Result<Pool, CoreError> {
    let current = POOL.read().unwrap_or_else(PoisonError::into_inner).clone();
    let count = match current {
        Some(pool) if pool.process == std::process::id() => return Ok(pool),
        Some(parent) => parent.count,
        None => std::thread::available_parallelism().map_or(1, usize::from),
    };
    replace(count)
}

fn replace(count: usize) -> Result<Pool, CoreError> {
    let fresh = build(count)?;
    let old = POOL.write().unwrap_or_else(PoisonError::into_inner).replace(fresh.clone());
    // Do not end the threads of a parent process.
    if old.as_ref().is_some_and(|pool| pool.process != fresh.process) {
        std::mem::forget(old);
    }
    Ok(fresh)
}

/// Use `count` threads from now on.
///
/// # Errors
/// `count` is zero or more than 1,024, or the threads cannot be started.
pub fn set_threads(count: usize) -> Result<(), CoreError> {
    if count == 0 {
        return Err(CoreError::Option("cannot use 0 threads; use 1 or more".into()));
    }
    if count > MOST {
        return Err(CoreError::Option(format!("cannot use {count} threads; use at most {MOST}")));
    }
    if pool()?.count != count {
        replace(count)?;
    }
    Ok(())
}

/// Number of threads in use.
///
/// # Errors
/// The threads cannot be started.
pub fn threads() -> Result<usize, CoreError> {
    Ok(pool()?.count)
}

/// Run `work` inside the pool.
pub(crate) fn run<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, CoreError> {
    Ok(pool()?.threads.install(work))
}

/// Call `work` on every item, on this thread and the other threads of the pool.
///
/// The calling thread works too. If it waited, the first thread of the pool would take its core, and the others would share that
/// core until the system moved them, which for many taps is too late.
pub(crate) fn for_each<T: Send>(
    items: impl IntoIterator<Item = T, IntoIter: Send>,
    work: impl Fn(T) + Sync,
) -> Result<(), CoreError> {
    let pool = pool()?;
    let queue = Mutex::new(items.into_iter());
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
    let all = || {
        while let Some(item) = next() {
            work(item);
        }
    };
    pool.threads.in_place_scope(|scope| {
        for _ in 1..pool.count {
            scope.spawn(|_| all());
        }
        all();
    });
    Ok(())
}

/// Call `work` on every item as `for_each` does, or on this thread alone, where waking the others would take longer.
pub(crate) fn for_each_unless<T: Send>(
    alone: bool,
    items: impl IntoIterator<Item = T, IntoIter: Send>,
    work: impl Fn(T) + Sync,
) -> Result<(), CoreError> {
    if alone {
        items.into_iter().for_each(work);
        return Ok(());
    }
    for_each(items, work)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::for_each;

    #[test]
    fn each_item_is_processed_once() {
        for count in [0, 1, 2, 7, 1000] {
            let times: Vec<AtomicUsize> = (0..count).map(|_| AtomicUsize::new(0)).collect();
            for_each(&times, |item| {
                item.fetch_add(1, Ordering::Relaxed);
            })
            .expect("the pool starts");
            assert!(times.iter().all(|item| item.load(Ordering::Relaxed) == 1), "{count} items");
        }
    }
}
