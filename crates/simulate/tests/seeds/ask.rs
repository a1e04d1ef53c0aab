//! One request as its client sees it, message by message.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use lava_proto::v1::inference_client::InferenceClient;
use lava_proto::v1::{self, FinishReason, GenerateRequest, GenerateResponse};
use lava_simulate::Model;
use tokio::time::{Instant, sleep, timeout};
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use crate::plan::{Ask, Plan};
use crate::story::Story;

/// How late an answer may end: the coordinator's last word has to arrive.
const LATE_MAX: Duration = Duration::from_millis(1100);
/// By how much a deadline may be missed by those who round it, and whose clocks drift.
const EARLY: f64 = 0.9;

/// What the client knows of one request.
pub(crate) struct Asking {
    pub(crate) number: usize,
    pub(crate) plan: Rc<Plan>,
    pub(crate) story: Rc<RefCell<Story>>,
    /// Of the whole answer, which every choice has to have.
    expected: Vec<u32>,
    reason: FinishReason,
    stop: Option<u32>,
    choices: Vec<Choice>,
    recomputes: u32,
}

#[derive(Clone, Default)]
struct Choice {
    tokens: usize,
    has_ended: bool,
}

impl Asking {
    pub(crate) fn new(
        number: usize,
        plan: &Rc<Plan>,
        story: &Rc<RefCell<Story>>,
        model: &Model,
    ) -> Asking {
        let ask = &plan.asks[number];
        let (mut expected, mut last) = (Vec::new(), ask.prompt[ask.prompt.len() - 1]);
        for made in 0..ask.max_tokens as usize {
            last = model.next(last, ask.prompt.len() + made);
            expected.push(last);
        }
        let stop = ask.stop_at.and_then(|index| expected.get(index).copied());
        let mut reason = FinishReason::MaxTokens;
        if let Some(first) = expected.iter().position(|token| Some(*token) == stop) {
            expected.truncate(first + 1);
            reason = FinishReason::StopToken;
        }
        Asking {
            number,
            plan: Rc::clone(plan),
            story: Rc::clone(story),
            expected,
            reason,
            stop,
            choices: vec![Choice::default(); ask.choices as usize],
            recomputes: 0,
        }
    }

    /// Asks, and tells what came of it.
    pub(crate) async fn ask(mut self, mut client: InferenceClient<Channel>, model: &str) {
        let plan = Rc::clone(&self.plan);
        let ask = &plan.asks[self.number];
        let began = Instant::now();
        self.tell(&format!("asks {} of {}", ask.prompt.len(), ask.coordinator));
        let request = self.request(ask, model);
        // What was sent in time is read at the client's own pace.
        let reading = ask.pause * (ask.max_tokens * ask.choices + 4);
        let patience = ask.cancel_after.unwrap_or(ask.time + LATE_MAX + reading);
        let call = async {
            let mut answer = client.generate(request).await?.into_inner();
            while let Some(message) = answer.message().await? {
                self.take(message);
                if !ask.pause.is_zero() {
                    sleep(ask.pause).await;
                }
            }
            Ok::<(), Status>(())
        };
        match timeout(patience, call).await {
            Ok(Ok(())) => self.answered(),
            Ok(Err(status)) => self.failed(&status, began.elapsed()),
            Err(_) if ask.cancel_after.is_some() => {
                self.tell("was cancelled");
                self.story.borrow_mut().counts.cancelled += 1;
            }
            // A host that is down takes connections and says nothing until it is back.
            Err(_) if plan.ends_coordinator(ask.coordinator) => {
                self.tell("gave its coordinator up");
                self.story.borrow_mut().counts.failed += 1;
            }
            Err(_) => self.violated("has not ended in time"),
        }
    }

    fn request(&self, ask: &Ask, model: &str) -> Request<GenerateRequest> {
        let ids = ask.prompt.clone();
        let form = v1::prompt::Form::Tokens(v1::TokenIds { ids });
        let mut request = Request::new(GenerateRequest {
            model: model.to_owned(),
            prompt: Some(v1::Prompt { form: Some(form) }),
            max_tokens: Some(ask.max_tokens),
            n: Some(ask.choices),
            stop_token_ids: self.stop.into_iter().collect(),
            ..GenerateRequest::default()
        });
        request.set_timeout(ask.time);
        request
    }

    fn take(&mut self, message: GenerateResponse) {
        let index = message.choice as usize;
        let ids: Vec<u32> = message.tokens.iter().map(|token| token.id).collect();
        self.tell(&format!("has {ids:?} in {index}"));
        let Some(choice) = self.choices.get_mut(index) else {
            return self.violated("has a message of a choice that it did not ask for");
        };
        let had_ended = choice.has_ended;
        let rest = self.expected.get(choice.tokens..).unwrap_or_default();
        let follows = rest.starts_with(&ids);
        choice.tokens += ids.len();
        let tokens = choice.tokens;
        if let Some(finish) = message.finish {
            choice.has_ended = true;
            self.recomputes += finish.transfer.unwrap_or_default().recomputes;
            if tokens != self.expected.len() || finish.reason() != self.reason {
                let (expected, reason) = (self.expected.len(), self.reason);
                let found = finish.reason();
                self.violated(&format!(
                    "ended after {tokens} tokens by {found:?} and not after {expected} by {reason:?}"
                ));
            }
        }
        if had_ended {
            self.violated("has a message after its end");
        }
        if !follows {
            self.violated("has other tokens than the model makes: lost, repeated or another's");
        }
    }

    fn answered(&mut self) {
        self.tell("is answered");
        if self.choices.iter().any(|choice| !choice.has_ended) {
            self.violated("has ended without an end of every choice");
        }
        let counts = &mut self.story.borrow_mut().counts;
        counts.answered += 1;
        counts.recomputed += u64::from(self.recomputes > 0);
    }

    fn failed(&mut self, status: &Status, after: Duration) {
        self.tell(&format!("failed: {:?} {}", status.code(), status.message()));
        self.story.borrow_mut().counts.failed += 1;
        let ask = &self.plan.asks[self.number];
        let is_late = (after + self.plan.jumps).as_secs_f64() >= ask.time.as_secs_f64() * EARLY;
        let excused = match status.code() {
            Code::DeadlineExceeded => is_late,
            // Whatever broke, others were there.
            _ if self.plan.spared => false,
            // The connection to the coordinator broke, and not one behind it.
            Code::Unknown | Code::Internal | Code::Cancelled => {
                self.plan.ends_coordinator(ask.coordinator)
            }
            // Those that cannot be were not sent.
            Code::InvalidArgument | Code::OutOfRange | Code::Unimplemented => false,
            _ => true,
        };
        if !excused {
            let (code, message) = (status.code(), status.message());
            self.violated(&format!("failed without an excuse: {code:?} {message}"));
        }
    }

    fn tell(&self, what: &str) {
        let at = turmoil::sim_elapsed().unwrap_or_default();
        let line = format!("request {} {what}", self.number);
        self.story.borrow_mut().tell(at, &line);
    }

    fn violated(&self, what: &str) {
        let at = turmoil::sim_elapsed().unwrap_or_default();
        let line = format!("request {} {what}", self.number);
        self.story.borrow_mut().violated(at, &line);
    }
}
