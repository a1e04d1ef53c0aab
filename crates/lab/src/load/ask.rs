//! One request, from sending to its end.

use std::future::pending;
use std::time::Duration;

use lava_proto::v1;
use lava_proto::v1::inference_client::InferenceClient;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use super::reader::Reader;
use super::record::{Answer, Failure, Left, Outcome};

/// A server ends a request at its deadline by itself. If it says nothing for so long after it, it is
/// given up.
const GRACE: Duration = Duration::from_secs(5);

/// Asks and measures. There are no retries: a refusal is an outcome.
pub(super) async fn ask(
    client: InferenceClient<Channel>,
    message: v1::GenerateRequest,
    time_allowed: Duration,
    reader: Reader,
) -> Outcome {
    let mut request = Request::new(message);
    request.set_timeout(time_allowed);
    let mut tokens = Tokens::new(Instant::now());
    let given_up = tokens.began + time_allowed + GRACE;
    let leaves_at = reader.leaves_after().map(|after| tokens.began + after);
    let leaving = async {
        match leaves_at {
            Some(at) => sleep_until(at).await,
            None => pending().await,
        }
    };
    let ended = tokio::select! {
        biased;
        ended = timeout_at(given_up, read(client, request, reader, &mut tokens)) => Some(ended),
        () = leaving => None,
    };
    let took = tokens.began.elapsed();
    let Some(ended) = ended else {
        return Outcome::Left(Left {
            took,
            output_tokens: tokens.count(),
        });
    };
    let silent = |_| Err(Status::deadline_exceeded("the server does not end it"));
    match ended.unwrap_or_else(silent) {
        Ok(finish) => Outcome::Answered(tokens.answer(finish, took)),
        Err(status) => tokens.failure(&status, took),
    }
}

async fn read(
    mut client: InferenceClient<Channel>,
    request: Request<v1::GenerateRequest>,
    reader: Reader,
    tokens: &mut Tokens,
) -> Result<v1::Finish, Status> {
    let mut stream = client.generate(request).await?.into_inner();
    let mut messages = 0;
    while let Some(message) = stream.message().await? {
        tokens.push(message.tokens.len(), Instant::now());
        if let Some(finish) = message.finish {
            return Ok(finish);
        }
        sleep(reader.pause_after(messages)).await;
        messages += 1;
    }
    Err(Status::internal(
        "the answer ended without its last message",
    ))
}

/// When tokens came.
struct Tokens {
    began: Instant,
    first: Option<Instant>,
    last: Instant,
    gaps: Vec<Duration>,
}

impl Tokens {
    fn new(began: Instant) -> Tokens {
        Tokens {
            began,
            first: None,
            last: began,
            gaps: Vec::new(),
        }
    }

    /// `count` tokens came at once.
    fn push(&mut self, count: usize, now: Instant) {
        for _ in 0..count {
            match self.first {
                None => self.first = Some(now),
                Some(_) => self.gaps.push(now - self.last),
            }
            self.last = now;
        }
    }

    fn count(&self) -> u32 {
        u32::from(self.first.is_some()) + self.gaps.len() as u32
    }

    fn answer(self, finish: v1::Finish, took: Duration) -> Answer {
        let transfer = finish.transfer.unwrap_or_default();
        Answer {
            // An answer without tokens has said all that it says when it ends.
            first_token: self.first.map_or(took, |first| first - self.began),
            took,
            output_tokens: self.count(),
            gaps: self.gaps,
            budget: finish.budget,
            row_format: finish.row_format,
            full_bytes: transfer.full_bytes,
            shipped_bytes: transfer.shipped_bytes,
            reused_tokens: transfer.reused_tokens,
            recomputes: transfer.recomputes,
        }
    }

    fn failure(&self, status: &Status, took: Duration) -> Outcome {
        let is_busy = matches!(status.code(), Code::ResourceExhausted | Code::Unavailable);
        let failure = Failure {
            code: format!("{:?}", status.code()),
            message: status.message().to_owned(),
            took,
            output_tokens: self.count(),
        };
        match is_busy && self.first.is_none() {
            true => Outcome::Refused(failure),
            false => Outcome::Failed(failure),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn tokens_of_one_message_come_together() {
        let began = Instant::now();
        let mut tokens = Tokens::new(began);
        tokens.push(0, began + MS);
        tokens.push(1, began + 30 * MS);
        tokens.push(2, began + 50 * MS);
        let answer = tokens.answer(v1::Finish::default(), 60 * MS);
        assert_eq!((answer.output_tokens, answer.took), (3, 60 * MS));
        assert_eq!(answer.first_token, 30 * MS);
        assert_eq!(answer.gaps, [20 * MS, Duration::ZERO]);
        assert_eq!(answer.per_token(), Some(10 * MS));
    }

    #[test]
    fn only_a_busy_server_without_a_token_refuses() {
        let began = Instant::now();
        let mut tokens = Tokens::new(began);
        let busy = Status::resource_exhausted("no pages");
        assert!(matches!(tokens.failure(&busy, MS), Outcome::Refused(_)));
        let wrong = Status::invalid_argument("no such policy");
        assert!(matches!(tokens.failure(&wrong, MS), Outcome::Failed(_)));
        tokens.push(1, began + MS);
        let Outcome::Failed(failure) = tokens.failure(&busy, 2 * MS) else {
            panic!("a broken answer is no refusal");
        };
        assert_eq!(
            (failure.code.as_str(), failure.output_tokens),
            ("ResourceExhausted", 1)
        );
    }
}
