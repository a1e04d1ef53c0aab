//! Memory and output of one sequence, from its reservation to its last token.

use lava_engine::{PagePool, RaggedCache, Sampler};
use lava_kv::{Header, Ticket};
use lava_node::Held;
use lava_worker::{Attempt, Loaded, Refusal};

use crate::output::Output;

/// A reserved place. Dropping it frees everything.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) attempt: Attempt,
    /// What its transfer must begin with.
    pub(crate) header: Header,
    /// Rows that the transfer may bring.
    pub(crate) rows_max: u64,
    /// Empty until the transfer; unreachable for the batch until the seal.
    pub(crate) cache: RaggedCache,
    /// Of the answer, without its first token.
    pub(crate) sampler: Sampler,
    pub(crate) output: Output,
    pub(crate) span: tracing::Span,
    pub(crate) shown: Held,
}

impl Slot {
    /// Sets the worst case aside: the kept rows, and one row per table for every token but the last.
    ///
    /// # Errors
    /// The pool has no room, now or ever, or the sampling parameters are out of range.
    pub(crate) fn reserve(
        attempt: Attempt,
        ticket: Ticket,
        prompt_bitmap: &[u8],
        pool: &PagePool,
        loaded: &Loaded,
        output: Output,
        shown: Held,
    ) -> Result<Self, Refusal> {
        let vocabulary = loaded.model.config().vocabulary;
        let sampler =
            Sampler::with_prompt_bitmap(attempt.sampling.clone(), prompt_bitmap, vocabulary)?;
        let sampler = sampler.resume(&attempt.answered);
        let rows_max = attempt.rows_max();
        let reservation = pool.reserve(attempt.pages_max(pool.page_bytes()))?;
        let cache = RaggedCache::new(attempt.shape, reservation);
        let span =
            tracing::info_span!("decode", request = %attempt.request_id, attempt = attempt.number);
        Ok(Self {
            header: attempt.header(ticket, loaded.fingerprint),
            attempt,
            rows_max: rows_max as u64,
            cache,
            sampler,
            output,
            span,
            shown,
        })
    }
}
