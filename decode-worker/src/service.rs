//! The service `Decode`.

use std::sync::Arc;

use lava_engine::PagePool;
use lava_kv::Ticket;
use lava_node::{Health, Held, State};
use lava_proto::worker::decode_event::Event;
use lava_proto::worker::decode_server::Decode;
use lava_proto::worker::{DecodeRequest, Reserved};
use lava_worker::{Attempt, Loaded, Refusal};
use tonic::{Request, Response, Status};

use crate::config::DecodeSection;
use crate::metrics::Counters;
use crate::output::{Output, OutputStream};
use crate::slot::Slot;
use crate::tickets::Tickets;

/// Makes reservations.
pub(crate) struct Service {
    pub(crate) section: DecodeSection,
    pub(crate) loaded: Arc<Loaded>,
    pub(crate) pool: PagePool,
    pub(crate) tickets: Tickets,
    pub(crate) health: Health,
    pub(crate) counters: Counters,
}

#[tonic::async_trait]
impl Decode for Service {
    type RunStream = OutputStream;

    async fn run(&self, request: Request<DecodeRequest>) -> Result<Response<OutputStream>, Status> {
        let reserved = self.reserve(request.into_inner());
        let stream = reserved.inspect_err(|refusal| {
            self.counters.refused.inc();
            tracing::info!(%refusal, "refused");
        })?;
        self.counters.reserved.inc();
        Ok(Response::new(stream))
    }
}

impl Service {
    fn reserve(&self, request: DecodeRequest) -> Result<OutputStream, Refusal> {
        if self.health.state() != State::Serving {
            return Err(Refusal::Draining);
        }
        let attempt = Attempt::check(request.attempt.unwrap_or_default(), &self.loaded)?;
        let rows_max = attempt.rows_grown_max() as u64;
        if request.rows_max != rows_max {
            return Err(Refusal::Field {
                field: "rows_max",
                found: request.rows_max.to_string(),
                expected: format!("{rows_max}, by the attempt's policy, budget and max_tokens"),
            });
        }
        let shown = self.slot()?;
        let (output, pending) = Output::new(self.section.output_max);
        let slot = Slot::reserve(
            attempt,
            ticket()?,
            &request.prompt_ids,
            &self.pool,
            &self.loaded,
            output,
            shown,
        )?;
        slot.output.send(Event::Reserved(Reserved {
            ticket: slot.header.ticket.0.to_vec().into(),
            link_address: String::new(),
            pages: slot.cache.pages_reserved() as u64,
        }));
        let claim = self.tickets.insert(slot, self.counters.clone());
        Ok(pending.stream(claim))
    }

    /// One of the slots.
    fn slot(&self) -> Result<Held, Refusal> {
        let most = self.section.slots_max as i64;
        let held = Held::new(self.counters.slots.clone(), 1);
        match self.counters.slots.get() {
            slots if slots > most => Err(Refusal::Full {
                what: "sequences on the decode worker",
                found: slots as u64,
                most: most as u64,
            }),
            _ => Ok(held),
        }
    }
}

fn ticket() -> Result<Ticket, Refusal> {
    let mut bytes = [0; 16];
    let stopped = |_| Refusal::Stopped {
        part: "random generator",
    };
    getrandom::fill(&mut bytes).map_err(stopped)?;
    Ok(Ticket(bytes))
}
