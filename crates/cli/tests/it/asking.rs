//! Requests and answers of a client, in short.

use std::time::Duration;

use lava_proto::v1;
use lava_proto::v1::generate_request::BudgetForm;
use lava_proto::v1::inference_client::InferenceClient;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

/// Longest time without a message.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);

/// A greedy request for `tokens`.
pub(crate) fn tokens(
    model: &str,
    ids: Vec<u32>,
    max_tokens: u32,
    budget: u32,
) -> v1::GenerateRequest {
    v1::GenerateRequest {
        model: model.into(),
        prompt: Some(v1::Prompt {
            form: Some(v1::prompt::Form::Tokens(v1::TokenIds { ids })),
        }),
        max_tokens: Some(max_tokens),
        budget_form: Some(BudgetForm::Budget(budget)),
        ..Default::default()
    }
}

/// A greedy request for a plain text.
pub(crate) fn text(model: &str, text: &str, max_tokens: u32, budget: u32) -> v1::GenerateRequest {
    v1::GenerateRequest {
        prompt: Some(v1::Prompt {
            form: Some(v1::prompt::Form::Text(text.into())),
        }),
        ..tokens(model, Vec::new(), max_tokens, budget)
    }
}

/// A whole answer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answer {
    pub(crate) text: String,
    pub(crate) tokens: Vec<v1::Token>,
    pub(crate) finish: Option<v1::Finish>,
}

impl Answer {
    pub(crate) fn ids(&self) -> Vec<u32> {
        self.tokens.iter().map(|token| token.id).collect()
    }

    /// Reads on until there are this many tokens, or else to the end.
    pub(crate) async fn read(
        &mut self,
        stream: &mut Streaming<v1::GenerateResponse>,
        tokens: usize,
    ) -> Result<(), Status> {
        while self.tokens.len() < tokens {
            let Some(message) = next(stream).await? else {
                assert!(
                    self.finish.is_some(),
                    "an answer ends with its last message"
                );
                return Ok(());
            };
            assert!(self.finish.is_none(), "nothing follows the last message");
            self.text.push_str(&message.text);
            self.tokens.extend(message.tokens);
            self.finish = message.finish;
        }
        Ok(())
    }

    pub(crate) fn transfer(&self) -> v1::TransferStats {
        let finish = self
            .finish
            .as_ref()
            .expect("the answer has its last message");
        finish.transfer.expect("the last message has the stats")
    }
}

/// The next message, within bounds.
pub(crate) async fn next(
    stream: &mut Streaming<v1::GenerateResponse>,
) -> Result<Option<v1::GenerateResponse>, Status> {
    let message = tokio::time::timeout(PATIENCE, stream.message()).await;
    message.expect("an answer goes on or ends")
}

/// Sends a request and waits for all of its answer.
pub(crate) async fn ask(
    client: &mut InferenceClient<Channel>,
    request: v1::GenerateRequest,
) -> Result<Answer, Status> {
    let mut stream = client.generate(request).await?.into_inner();
    let mut answer = Answer::default();
    answer.read(&mut stream, usize::MAX).await?;
    Ok(answer)
}
