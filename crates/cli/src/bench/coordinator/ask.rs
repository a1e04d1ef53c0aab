//! One request: to the coordinator, or straight to two workers as a coordinator would.

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use lava_proto::v1::inference_client::InferenceClient;
use lava_proto::v1::{self, GenerateRequest, Sampling};
use lava_proto::worker::decode_client::DecodeClient;
use lava_proto::worker::decode_event::Event as Decoded;
use lava_proto::worker::prefill_client::PrefillClient;
use lava_proto::worker::{Attempt, DecodeRequest, PrefillRequest};
use lava_simulate::Model;
use tonic::transport::Channel;

use crate::bench::fleet::Fleet;

/// What every request asks for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ask {
    pub(super) prompt_tokens: usize,
    pub(super) max_tokens: u32,
}

/// b.
const BUDGET: u32 = 64;
const POLICY: &str = "lava-peaks";
const ROW_FORMAT: &str = "int4";

impl Ask {
    pub(super) fn request(&self, model: &Model) -> GenerateRequest {
        let ids = self.ids();
        let form = v1::prompt::Form::Tokens(v1::TokenIds { ids });
        GenerateRequest {
            model: model.name().to_owned(),
            prompt: Some(v1::Prompt { form: Some(form) }),
            max_tokens: Some(self.max_tokens),
            budget_form: Some(v1::generate_request::BudgetForm::Budget(BUDGET)),
            policy: POLICY.to_owned(),
            row_format: ROW_FORMAT.to_owned(),
            ..Default::default()
        }
    }

    fn ids(&self) -> Vec<u32> {
        (0..self.prompt_tokens as u32).map(|i| 1 + i % 97).collect()
    }

    /// Tokens that came.
    pub(super) async fn coordinator(
        client: &mut InferenceClient<Channel>,
        request: GenerateRequest,
    ) -> Result<u64> {
        let mut answer = client.generate(request).await?.into_inner();
        let mut tokens = 0;
        while let Some(message) = answer.message().await? {
            tokens += message.tokens.len() as u64;
        }
        Ok(tokens)
    }
}

/// Two workers, without a coordinator.
pub(super) struct Direct {
    prefill: PrefillClient<Channel>,
    decode: DecodeClient<Channel>,
    attempt: Attempt,
    rows_max: u64,
    prompt: Bytes,
    link_address: String,
}

impl Direct {
    pub(super) async fn new(fleet: &Fleet, ask: Ask) -> Result<Self> {
        let prompt = ask.ids();
        let attempt = Attempt {
            request_id: "bench".to_owned(),
            fingerprint: fleet.model.fingerprint().to_vec().into(),
            prompt_digest: lava_proto::prompt_digest(&prompt).to_vec().into(),
            tokens: prompt.len() as u32,
            policy: POLICY.to_owned(),
            budget: BUDGET,
            row_format: ROW_FORMAT.to_owned(),
            sampling: Some(Sampling::default()),
            max_tokens: ask.max_tokens,
            deadline_ms: 60_000,
            ..Default::default()
        };
        let (prefill, decode) = (&fleet.prefill[0].address, &fleet.decode[0].address);
        Ok(Self {
            prefill: PrefillClient::connect(format!("http://{prefill}")).await?,
            decode: DecodeClient::connect(format!("http://{decode}")).await?,
            rows_max: fleet.model.rows_grown_max(attempt.clone())?,
            attempt,
            prompt: lava_proto::ids_to_bytes(&[&prompt]).into(),
            link_address: decode.clone(),
        })
    }

    /// Tokens that came.
    pub(super) async fn ask(&mut self) -> Result<u64> {
        let reserve = DecodeRequest {
            attempt: Some(self.attempt.clone()),
            rows_max: self.rows_max,
            ..Default::default()
        };
        let mut decoded = self.decode.run(reserve).await?.into_inner();
        let first = decoded.message().await?.and_then(|event| event.event);
        let Some(Decoded::Reserved(reserved)) = first else {
            bail!("the decode worker does not begin with a reservation");
        };
        let run = PrefillRequest {
            attempt: Some(self.attempt.clone()),
            prompt: self.prompt.clone(),
            ticket: reserved.ticket,
            link_address: self.link_address.clone(),
        };
        let mut prefilled = self.prefill.run(run).await?.into_inner();
        prefilled.message().await?.context("no first token")?;
        let mut tokens = 1;
        while let Some(event) = decoded.message().await? {
            if let Some(Decoded::Tokens(more)) = event.event {
                tokens += more.tokens.len() as u64;
            }
        }
        while prefilled.message().await?.is_some() {}
        Ok(tokens)
    }
}
