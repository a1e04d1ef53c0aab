//! The load itself.

use std::pin::pin;
use std::time::Duration;

use lava::{Budget, Method};
use lava_kv::RowFormat;
use lava_proto::v1;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::arrival::Arrival;
use super::ask::ask;
use super::board::{Board, Progress};
use super::prompts::Prompts;
use super::reader::{Reader, Readers};
use super::record::{Outcome, Record};
use super::target::Target;
use crate::dice::Dice;
use crate::served::budget_form;

/// Longest time between two reports of progress.
const TICK: Duration = Duration::from_millis(500);

/// Likeliest tokens that clients with pauses ask for: their messages are large, and what is on the way to
/// them fills up soon.
const LOGPROBS: u32 = 20;

/// What the requests of a load ask for. Of each list every request draws one; of an empty one it has what the
/// server is configured for.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Which rows are kept.
    pub methods: Vec<Method>,
    /// What caches are cut to.
    pub budgets: Vec<Budget>,
    /// How rows are stored.
    pub formats: Vec<RowFormat>,
    /// How their clients read.
    pub readers: Readers,
    /// Most requests under way; what is due beyond is not sent.
    pub in_flight_max: usize,
    /// Time for one request.
    pub time_allowed: Duration,
    /// The same seed gives the same prompts and draws.
    pub seed: u64,
}

/// A plan and who is asked.
#[derive(Debug)]
pub struct Load<'a> {
    /// Who.
    pub target: &'a Target,
    /// What and when; lengths fit the model.
    pub plan: &'a [Arrival],
    /// How.
    pub settings: Settings,
}

impl Load<'_> {
    /// Sends every request at its time and waits for all ends, or until `stop` is ready: then nothing
    /// more is sent and what is under way is cancelled. `watch` is called after every event, and about
    /// twice a second. Gives a record of every request whose time came, in the plan's order.
    ///
    /// Answers do not end at the model's end of text, so all have the length that was asked for.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub async fn run(
        &self,
        stop: impl Future<Output = ()>,
        watch: &mut dyn FnMut(&Progress),
    ) -> Vec<Record> {
        let prompts = Prompts::new(self.settings.seed, self.target.vocabulary());
        let mut stop = pin!(stop);
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut running = JoinSet::new();
        let mut board = Board::new(self.plan.len());
        let began = Instant::now();
        let mut plan = self.plan.iter().enumerate().map(|(index, arrival)| {
            let mut dice = Dice::new(self.settings.seed, &format!("request {index}"));
            let reader = self.settings.readers.draw(&mut dice);
            Next {
                index,
                arrival,
                reader,
                message: self.message(prompts.ids(index, arrival), arrival, reader, &mut dice),
            }
        });
        // A prompt is made before its time comes.
        let mut next = plan.next();
        while next.is_some() || !running.is_empty() {
            let due = next.as_ref().map_or(began, |next| began + next.arrival.at);
            tokio::select! {
                biased;
                () = &mut stop => break,
                () = sleep_until(due), if next.is_some() => {
                    while let Some(ended) = running.try_join_next() {
                        end(&mut board, ended);
                    }
                    if let Some(next) = next.take() {
                        self.start(next, due.elapsed(), &mut running, &mut board);
                    }
                    next = plan.next();
                }
                Some(ended) = running.join_next() => end(&mut board, ended),
                _ = ticks.tick() => (),
            }
            watch(board.progress());
        }
        while let Some(ended) = running.try_join_next() {
            end(&mut board, ended);
        }
        running.shutdown().await;
        board.into_records()
    }

    /// Sends a request, if there is room for it.
    fn start(
        &self,
        next: Next<'_>,
        late: Duration,
        running: &mut JoinSet<(usize, Outcome)>,
        board: &mut Board,
    ) {
        let Next {
            index,
            arrival,
            reader,
            message,
        } = next;
        let has_room = running.len() < self.settings.in_flight_max;
        board.add(Record {
            index,
            planned: arrival.at,
            late,
            prompt_tokens: arrival.prompt_tokens,
            output_tokens_asked: arrival.output_tokens,
            reader,
            outcome: match has_room {
                true => Outcome::Cancelled,
                false => Outcome::NotSent,
            },
        });
        if has_room {
            let client = self.target.client(index, reader.waits());
            let time_allowed = self.settings.time_allowed;
            running.spawn(async move { (index, ask(client, message, time_allowed, reader).await) });
        }
    }

    fn message(
        &self,
        ids: Vec<u32>,
        arrival: &Arrival,
        reader: Reader,
        dice: &mut Dice,
    ) -> v1::GenerateRequest {
        let text = |setting: Option<String>| setting.unwrap_or_default();
        let method = one(&self.settings.methods, dice);
        let budget = one(&self.settings.budgets, dice);
        let format = one(&self.settings.formats, dice);
        v1::GenerateRequest {
            model: self.target.model().to_owned(),
            prompt: Some(v1::Prompt {
                form: Some(v1::prompt::Form::Tokens(v1::TokenIds { ids })),
            }),
            max_tokens: Some(arrival.output_tokens),
            ignore_end_of_text: true,
            logprobs: reader.waits().then_some(LOGPROBS),
            policy: text(method.map(|method| method.to_string())),
            budget_form: budget.map(budget_form),
            row_format: text(format.map(|format| format.to_string())),
            ..Default::default()
        }
    }
}

/// A request that waits for its time.
struct Next<'a> {
    index: usize,
    arrival: &'a Arrival,
    reader: Reader,
    message: v1::GenerateRequest,
}

/// One of them, if there are any.
fn one<T: Copy>(list: &[T], dice: &mut Dice) -> Option<T> {
    (!list.is_empty()).then(|| *dice.pick(list))
}

fn end(board: &mut Board, ended: Result<(usize, Outcome), JoinError>) {
    match ended {
        Ok((index, outcome)) => board.end(index, outcome),
        Err(died) => std::panic::resume_unwind(died.into_panic()),
    }
}
