//! Tasks and threads that must not end badly unnoticed.

use std::any::Any;
use std::future::{self, Future};
use std::panic::{self, AssertUnwindSafe};
use std::task::Poll;
use std::{io, thread};

use tokio::task::JoinHandle;

use crate::Health;

type Panic = Box<dyn Any + Send>;

/// Spawns `task`. If it returns an error or panics, `health` becomes failed with `name` as the
/// reason, and the log gets one error with the details; a normal end does nothing. Aborting the
/// handle aborts the task, which is no failure.
///
/// # Panics
///
/// If called outside a tokio runtime.
pub fn supervise(
    name: &'static str,
    health: &Health,
    task: impl Future<Output = anyhow::Result<()>> + Send + 'static,
) -> JoinHandle<()> {
    let health = health.clone();
    tokio::spawn(async move {
        let mut task = Box::pin(task);
        // The future is not polled again after a panic, so nobody sees what the panic left torn.
        let ended = future::poll_fn(|context| {
            match panic::catch_unwind(AssertUnwindSafe(|| task.as_mut().poll(context))) {
                Ok(Poll::Pending) => Poll::Pending,
                Ok(Poll::Ready(result)) => Poll::Ready(Ok(result)),
                Err(panic) => Poll::Ready(Err(panic)),
            }
        })
        .await;
        judge(name, &health, ended);
    })
}

/// The same for a thread of its own, which gets `name` as its name.
///
/// # Errors
///
/// The system has no thread left.
pub fn supervise_thread(
    name: &'static str,
    health: &Health,
    body: impl FnOnce() -> anyhow::Result<()> + Send + 'static,
) -> io::Result<thread::JoinHandle<()>> {
    let health = health.clone();
    thread::Builder::new().name(name.to_owned()).spawn(move || {
        // The closure is gone after a panic, with all that it owned.
        judge(name, &health, panic::catch_unwind(AssertUnwindSafe(body)));
    })
}

fn judge(name: &'static str, health: &Health, ended: Result<anyhow::Result<()>, Panic>) {
    let (how, details) = match ended {
        Ok(Ok(())) => return,
        Ok(Err(error)) => ("failed", format!("{error:#}")),
        Err(panic) => ("panicked", message(&panic).to_owned()),
    };
    tracing::error!(
        part = name,
        how,
        details,
        "a part of the process ended badly"
    );
    health.failed(format!("{name} {how}"));
}

/// What `panic!` was given; it boxes a literal as `&str` and anything formatted as `String`.
fn message(panic: &Panic) -> &str {
    if let Some(text) = panic.downcast_ref::<&str>() {
        return text;
    }
    panic.downcast_ref::<String>().map_or("", String::as_str)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Seek};
    use std::sync::Arc;
    use std::time::Duration;

    use anyhow::{Context, anyhow};
    use tokio::time::timeout;

    use super::*;
    use crate::{State, TelemetryConfig, telemetry};

    fn failed(reason: &str) -> State {
        State::Failed {
            reason: reason.to_owned(),
        }
    }

    async fn check_task(
        task: impl Future<Output = anyhow::Result<()>> + Send + 'static,
        expected: State,
    ) {
        let health = Health::new();
        let handle = supervise("listener", &health, task);
        timeout(Duration::from_secs(10), handle)
            .await
            .expect("an end in time")
            .expect("the supervisor itself does not panic");
        assert_eq!(health.state(), expected);
    }

    fn check_thread(body: impl FnOnce() -> anyhow::Result<()> + Send + 'static, expected: State) {
        let health = Health::new();
        let handle = supervise_thread("engine", &health, body).unwrap();
        handle.join().expect("the supervisor itself does not panic");
        assert_eq!(health.state(), expected);
    }

    #[tokio::test]
    async fn a_task_that_ends_well_changes_nothing() {
        check_task(async { Ok(()) }, State::Starting).await;
    }

    #[tokio::test]
    async fn a_task_that_returns_an_error_fails_the_process() {
        check_task(
            async { Err(anyhow!("no route")) },
            failed("listener failed"),
        )
        .await;
    }

    #[tokio::test]
    async fn a_task_that_panics_fails_the_process_at_any_poll() {
        check_task(async { panic!("at once") }, failed("listener panicked")).await;
        let late = async {
            tokio::task::yield_now().await;
            panic!("late")
        };
        check_task(late, failed("listener panicked")).await;
    }

    #[tokio::test]
    async fn aborting_a_task_drops_it_and_is_no_failure() {
        let health = Health::new();
        let (held, dropped) = tokio::sync::oneshot::channel::<()>();
        let handle = supervise("listener", &health, async move {
            let _held = held;
            future::pending().await
        });
        handle.abort();
        timeout(Duration::from_secs(10), dropped)
            .await
            .expect("the task is dropped in time")
            .unwrap_err();
        assert_eq!(health.state(), State::Starting);
    }

    #[test]
    fn a_thread_is_judged_like_a_task() {
        check_thread(|| Ok(()), State::Starting);
        check_thread(|| Err(anyhow!("no memory")), failed("engine failed"));
        check_thread(|| panic!("layer {}", 3), failed("engine panicked"));
    }

    #[tokio::test]
    async fn a_bad_end_is_one_error_in_the_log_with_its_causes() {
        let file: Arc<File> = Arc::new(tempfile::tempfile().unwrap());
        let config = TelemetryConfig::default();
        let subscriber = telemetry::subscriber(&config, false, Arc::clone(&file)).unwrap();
        let _installed = tracing::subscriber::set_default(subscriber);

        let task = async { Err(anyhow!("connection refused")).context("cannot register") };
        check_task(task, failed("listener failed")).await;

        let mut text = String::new();
        (&*file).rewind().unwrap();
        (&*file).read_to_string(&mut text).unwrap();
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(text.contains("ERROR"), "{text}");
        assert!(
            text.contains(r#"details="cannot register: connection refused""#),
            "{text}"
        );
    }
}
