//! The one place that knows how many threads the core uses: its own pool, never the global one.

use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::CoreError;

static POOL: OnceLock<RwLock<Arc<ThreadPool>>> = OnceLock::new();

fn build(count: usize) -> Result<Arc<ThreadPool>, CoreError> {
    ThreadPoolBuilder::new()
        .num_threads(count)
        .thread_name(|index| format!("cfp-core-{index}"))
        .build()
        .map(Arc::new)
        .map_err(|error| CoreError::Option(format!("cannot start {count} threads: {error}")))
}

fn pool() -> Result<&'static RwLock<Arc<ThreadPool>>, CoreError> {
    if let Some(pool) = POOL.get() {
        return Ok(pool);
    }
    let fresh = build(std::thread::available_parallelism().map_or(1, usize::from))?;
    Ok(POOL.get_or_init(|| RwLock::new(fresh)))
}

/// Use `count` threads from now on.
///
/// # Errors
/// `count` is zero, or the threads cannot be started.
pub fn set_threads(count: usize) -> Result<(), CoreError> {
    if count == 0 {
        return Err(CoreError::Option("cannot use 0 threads; use 1 or more".into()));
    }
    let lock = pool()?;
    if lock.read().unwrap_or_else(PoisonError::into_inner).current_num_threads() != count {
        *lock.write().unwrap_or_else(PoisonError::into_inner) = build(count)?;
    }
    Ok(())
}

/// Number of threads in use.
///
/// # Errors
/// The threads cannot be started.
pub fn threads() -> Result<usize, CoreError> {
    Ok(pool()?.read().unwrap_or_else(PoisonError::into_inner).current_num_threads())
}

/// Run `work` in the pool.
pub(crate) fn run<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, CoreError> {
    let pool = Arc::clone(&pool()?.read().unwrap_or_else(PoisonError::into_inner));
    Ok(pool.install(work))
}
