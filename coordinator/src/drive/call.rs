//! A call to a worker.

use std::future::pending;
use std::pin::Pin;

use tonic::{Response, Status, Streaming};

use crate::snapshot::Role;
use crate::status::WorkerFailure;

/// A call to a worker, answered or not yet.
pub(super) enum Call<T> {
    Opening(Opening<T>),
    Open(Box<Streaming<T>>),
}

pub(super) type Opening<T> =
    Pin<Box<dyn Future<Output = Result<Response<Streaming<T>>, Status>> + Send>>;

/// What a call brings.
pub(super) enum News<T> {
    Accepted,
    Message(T),
}

/// Waits for what a call brings; forever if there is none. Nothing is lost if this is dropped.
pub(super) async fn next<T>(
    call: &mut Option<Call<T>>,
    role: Role,
) -> Result<News<T>, WorkerFailure> {
    let Some(call) = call else {
        return pending().await;
    };
    let of_status = |status: Status| WorkerFailure::of_status(role, &status);
    match call {
        Call::Opening(opening) => {
            let answer = opening.await.map_err(of_status)?;
            *call = Call::Open(Box::new(answer.into_inner()));
            Ok(News::Accepted)
        }
        Call::Open(stream) => match stream.message().await.map_err(of_status)? {
            Some(message) => Ok(News::Message(message)),
            None => Err(WorkerFailure::ended_early(role)),
        },
    }
}
