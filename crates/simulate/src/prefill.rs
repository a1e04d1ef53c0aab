//! A simulated prefill worker: prompts wait their turn, take their time, and are shipped as noise.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use lava_kv::{Outbound, Ticket};
use lava_node::{Held, World};
use lava_prefix::{BlockName, KeptBlocks};
use lava_proto::v1::{FinishReason, Token, TransferStats};
use lava_proto::worker::prefill_event::Event;
use lava_proto::worker::prefill_server::Prefill;
use lava_proto::worker::{FirstToken, Load, PrefillDone, PrefillEvent, PrefillRequest};
use lava_transfer::{Link, PAYLOAD_BYTES_MAX, Part, Sent, ship};
use lava_worker::{RecentTokens, Refusal, Stage, prompt_ids};
use tokio::sync::{Mutex, mpsc};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::attempt::Attempt;
use crate::fault::{Dice, FaultKind, FaultStage};
use crate::model::Model;
use crate::profile::{PrefillTimes, TransferTimes};
use crate::rows::Noise;
use crate::worker::Watch;

/// Tokens of a block of what is kept of prompts, as the engine's.
pub(crate) const BLOCK_TOKENS: usize = 512;
/// A token, an end.
const EVENTS_MAX: usize = 4;
/// Decode workers that are remembered: hundreds of workers share the files that a process may have open.
const LINKS_MAX: usize = 24;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// The service; cloning shares it.
#[derive(Clone, Debug)]
pub(crate) struct PrefillService {
    pub(crate) world: World,
    pub(crate) model: Arc<Model>,
    pub(crate) prefill: PrefillTimes,
    pub(crate) transfer: TransferTimes,
    pub(crate) dice: Arc<Dice>,
    pub(crate) busy: Arc<Busy>,
    /// Who has it computes.
    pub(crate) turn: Arc<Mutex<()>>,
    pub(crate) kept: Arc<std::sync::Mutex<KeptBlocks>>,
    pub(crate) links: Arc<std::sync::Mutex<std::collections::HashMap<String, Link>>>,
}

/// What waits or runs.
#[derive(Debug)]
pub(crate) struct Busy {
    requests: AtomicUsize,
    watch: Watch,
    recent: std::sync::Mutex<RecentTokens>,
}

/// A place in the queue; freed by drop.
#[derive(Debug)]
struct Place {
    busy: Arc<Busy>,
    tokens: usize,
    _shown: [Held; 2],
}

/// Blocks of a prompt that others may count on, until it is computed or given up.
struct Expected {
    kept: Arc<std::sync::Mutex<KeptBlocks>>,
    blocks: Vec<BlockName>,
}

impl Expected {
    fn new(kept: &Arc<std::sync::Mutex<KeptBlocks>>, blocks: Vec<BlockName>) -> Self {
        lock(kept).expect(&blocks);
        Self {
            kept: Arc::clone(kept),
            blocks,
        }
    }
}

impl Drop for Expected {
    fn drop(&mut self) {
        lock(&self.kept).expect_no_more(&self.blocks);
    }
}

impl Busy {
    pub(crate) fn new(watch: Watch) -> Self {
        Self {
            requests: AtomicUsize::new(0),
            watch,
            recent: RecentTokens::new(Instant::now()).into(),
        }
    }

    pub(crate) fn load(&self, queue_max: usize) -> Load {
        Load {
            queue: self.requests.load(Ordering::Relaxed) as u32,
            queue_max: queue_max as u32,
            queue_tokens: self.watch.queued_tokens.load(Ordering::Relaxed),
            recent_tokens: lock(&self.recent).get(Instant::now()),
            ..Default::default()
        }
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.requests.load(Ordering::Relaxed) == 0
    }

    fn enter(self: &Arc<Self>, tokens: usize, queue_max: usize) -> Result<Place, Refusal> {
        let requests = self.requests.fetch_add(1, Ordering::Relaxed) + 1;
        let place = Place {
            busy: Arc::clone(self),
            tokens,
            _shown: [
                Held::new(self.watch.gauges.queue.clone(), 1),
                Held::new(self.watch.gauges.queue_tokens.clone(), tokens as i64),
            ],
        };
        let watch = &self.watch;
        watch
            .queued_tokens
            .fetch_add(tokens as u64, Ordering::Relaxed);
        match requests > queue_max {
            true => Err(Refusal::Full {
                what: "requests in the prefill queue",
                found: requests as u64,
                most: queue_max as u64,
            }),
            false => {
                watch
                    .given_tokens
                    .fetch_add(tokens as u64, Ordering::Relaxed);
                lock(&self.recent).add(tokens, Instant::now());
                Ok(place)
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.busy.requests.fetch_sub(1, Ordering::Relaxed);
        let queued = &self.busy.watch.queued_tokens;
        queued.fetch_sub(self.tokens as u64, Ordering::Relaxed);
    }
}

type Events = mpsc::Sender<Result<PrefillEvent, Status>>;

/// A prompt on its way.
struct Job {
    attempt: Attempt,
    expected: Expected,
    last: u32,
    ticket: Ticket,
    link: Link,
    events: Events,
    place: Place,
    queued: Instant,
}

#[tonic::async_trait]
impl Prefill for PrefillService {
    type RunStream = ReceiverStream<Result<PrefillEvent, Status>>;

    async fn run(
        &self,
        request: Request<PrefillRequest>,
    ) -> Result<Response<Self::RunStream>, Status> {
        let request = request.into_inner();
        let attempt = Attempt::check(request.attempt.unwrap_or_default(), &self.model)?;
        let tokens = attempt.shape.tokens;
        let prompt = prompt_ids(&request.prompt, attempt.prompt_digest, tokens)?;
        let blocks = BlockName::of_prompt(&prompt, BLOCK_TOKENS);
        let missing = tokens - lock(&self.kept).count_expected(&blocks) * BLOCK_TOKENS;
        let place = self.busy.enter(missing, self.prefill.queue_max)?;
        let expected = Expected::new(&self.kept, blocks);
        self.dice
            .meet_until(attempt.deadline, FaultStage::Accept, Stage::Queue)
            .await?;
        let (events, stream) = mpsc::channel(EVENTS_MAX);
        let job = Job {
            attempt,
            expected,
            last: prompt[tokens - 1],
            ticket: lava_worker::Attempt::ticket(&request.ticket)?,
            link: self.link(&request.link_address)?,
            events,
            place,
            queued: Instant::now(),
        };
        tokio::spawn(self.clone().follow(job));
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

impl PrefillService {
    fn link(&self, address: &str) -> Result<Link, Refusal> {
        let mut links = lock(&self.links);
        if let Some(link) = links.get(address) {
            return Ok(link.clone());
        }
        let link = Link::in_world(&self.world, address, CONNECT_TIMEOUT, None)?;
        if links.len() == LINKS_MAX {
            links.clear();
        }
        links.insert(address.to_owned(), link.clone());
        Ok(link)
    }

    /// To the end, its caller's departure or its deadline, whatever comes first.
    async fn follow(self, job: Job) {
        let (events, deadline) = (job.events.clone(), job.attempt.deadline);
        let ended = tokio::select! {
            biased;
            ended = self.work(job) => ended,
            () = events.closed() => return,
            () = sleep_until(deadline) => {
                let stage = Stage::Prefill;
                Err(Refusal::Deadline { stage }.into())
            }
        };
        if let Err(status) = ended {
            let _ = events.try_send(Err(status));
        }
    }

    async fn work(&self, job: Job) -> Result<(), Status> {
        let attempt = &job.attempt;
        let tokens = attempt.shape.tokens;
        let began;
        let reused;
        {
            let _turn = self.turn.lock().await;
            began = Instant::now();
            self.dice.meet(FaultStage::Prefill).await?;
            reused = lock(&self.kept).count(&job.expected.blocks) * BLOCK_TOKENS;
            pass(self.prefill.of(tokens - reused)).await;
            lock(&self.kept).keep(&job.expected.blocks);
        }
        let prefilled = Instant::now();
        let first = self.model.next(job.last, tokens);
        let finish = attempt.finish(first, 1);
        send(
            &job.events,
            Event::FirstToken(FirstToken {
                token: Some(Token {
                    id: first,
                    ..Default::default()
                }),
                finish: finish.unwrap_or(FinishReason::Unspecified).into(),
            }),
        );
        let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
        let mut stats = TransferStats {
            queue_ms: milliseconds(began - job.queued),
            prefill_ms: milliseconds(prefilled - began),
            full_bytes: attempt.shape.full_bytes() as u64,
            reused_tokens: reused as u64,
            ..Default::default()
        };
        if finish.is_none() {
            stats.shipped_bytes = self.ship(&job, first).await?;
            stats.stored_bytes = attempt.cache_bytes() as u64;
            stats.rows_kept = attempt.kept_max as u64;
            stats.receipt_ms = milliseconds(prefilled.elapsed());
            stats.transfer_ms = stats.receipt_ms;
        }
        drop(job.place);
        send(&job.events, Event::Done(PrefillDone { stats: Some(stats) }));
        Ok(())
    }

    /// Payload bytes that were sent.
    async fn ship(&self, job: &Job, first: u32) -> Result<u64, Status> {
        let attempt = &job.attempt;
        let fault = self.dice.throw(FaultStage::Transfer);
        let is_corrupt = fault.is_some_and(|fault| fault.kind == FaultKind::Corrupt);
        if !is_corrupt {
            self.dice.go_through(fault).await?;
        }
        let header = attempt.header(job.ticket, self.model.fingerprint);
        let mut outbound = Outbound::new(header, PAYLOAD_BYTES_MAX);
        let rows = attempt.rows_sent(self.transfer.row_bytes_max);
        let mut frames = outbound.ship(&vec![rows; attempt.shape.tables()], &Noise(attempt.shape));
        if let (true, Some(frame)) = (is_corrupt, frames.first_mut()) {
            let mut payload = frame.payload.to_vec();
            let middle = payload.len() / 2;
            payload[middle] ^= 1;
            frame.payload = payload.into();
        }
        let bytes = outbound.payload_bytes();
        let (queue, parts) = mpsc::channel(frames.len() + 1);
        let sealed = Part::Seal(outbound.seal(first));
        let time = self.transfer.of(attempt.cache_bytes());
        // What takes time arrives meanwhile, so that its receiver has a transfer under way.
        let feed = async move {
            for frame in frames {
                let _ = queue.try_send(Part::Frame(frame));
            }
            pass(time).await;
            let _ = queue.try_send(sealed);
        };
        let _shown = Held::new(self.busy.watch.gauges.transfers.clone(), 1);
        let sent = Sent::default();
        let shipping = ship(&job.link, &header, parts, &sent, attempt.deadline);
        tokio::pin!(shipping);
        // A transfer that broke does not wait for its time.
        let shipped = tokio::select! {
            shipped = &mut shipping => shipped,
            () = feed => shipping.await,
        };
        shipped.map_err(|error| Status::from(Refusal::from(error)))?;
        Ok(bytes)
    }
}

fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Lets time pass; none is not even a turn of the timer.
pub(crate) async fn pass(time: Duration) {
    if !time.is_zero() {
        sleep(time).await;
    }
}

fn send(events: &Events, event: Event) {
    // One who left is noticed elsewhere.
    let _ = events.try_send(Ok(PrefillEvent { event: Some(event) }));
}
