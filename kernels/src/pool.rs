//! The threads of many short kernels in a row.

use std::sync::OnceLock;

use rayon::{ThreadPool, ThreadPoolBuilder};

/// Runs `work` on a thread of a pool of its own, so that each kernel starts at once instead of waking the pool first. For many short
/// kernels in a row. Kernels that are called elsewhere do not wait for it in the pool that they share: the system gives both their turns.
pub fn in_pool<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    static POOL: OnceLock<Option<ThreadPool>> = OnceLock::new();
    let pool = POOL.get_or_init(|| {
        let named = ThreadPoolBuilder::new().thread_name(|index| format!("decode-{index}"));
        named.build().ok()
    });
    match pool {
        Some(pool) => pool.install(work),
        // Without threads of its own.
        None => rayon::scope(|_| work()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::sync::{Condvar, Mutex};
    use std::thread::scope;
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_is_done_in_the_pool_holds_nobody_else_up() {
        let (done, wait) = (Mutex::new(false), Condvar::new());
        let threads = rayon::current_num_threads();
        scope(|scope| {
            let (began, begun) = mpsc::channel();
            for _ in 0..threads {
                let began = began.clone();
                let (done, wait) = (&done, &wait);
                scope.spawn(move || {
                    in_pool(|| {
                        began.send(()).unwrap();
                        let held = done.lock().unwrap();
                        drop(wait.wait_while(held, |done| !*done).unwrap());
                    });
                });
            }
            (0..threads).for_each(|_| begun.recv().unwrap());
            // No thread of that pool is left; a kernel elsewhere comes to its end all the same.
            let (ended, end) = mpsc::channel();
            scope.spawn(move || {
                rayon::join(|| (), || ());
                ended.send(()).unwrap();
            });
            let found = end.recv_timeout(Duration::from_secs(20));
            *done.lock().unwrap() = true;
            wait.notify_all();
            found.expect("a kernel waits for the pool");
        });
    }
}
