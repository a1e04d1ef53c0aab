//! One cache on its way: cut into frames on the engine's thread, sent by a task.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use lava_engine::{EngineError, LayerDone, RowReader};
use lava_kv::{Header, Outbound, Receipt, RowSource};
use lava_node::Held;
use lava_transfer::{Link, PAYLOAD_BYTES_MAX, Part, Sent, ShipError, ship};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// A transfer whose rows become certain layer by layer.
#[derive(Debug)]
pub(crate) struct Shipment {
    outbound: Outbound,
    parts: mpsc::Sender<Part>,
    sent: Arc<Sent>,
    began: Option<Instant>,
    packing: Duration,
    early: Option<Early>,
    sending: Sending,
}

/// What was on its way when the last layer began.
#[derive(Clone, Copy, Debug)]
struct Early {
    /// Payload bytes that the link had taken, and those handed to it right then.
    bytes: u64,
    /// Bytes of the elements of rows that were certain.
    elements: u64,
}

/// The task that sends; it ends with this value.
#[derive(Debug)]
pub(crate) struct Sending(JoinHandle<Result<Receipt, ShipError>>);

/// A whole cache on its way.
#[derive(Debug)]
pub(crate) struct Sealed {
    pub(crate) sending: Sending,
    pub(crate) checksum: u64,
    pub(crate) rows: u64,
    pub(crate) payload_bytes: u64,
    /// Of the elements of its rows.
    pub(crate) element_bytes: u64,
    /// Of its rows with their scales, and of mean keys.
    pub(crate) stored_bytes: u64,
    /// When the first frame was made.
    pub(crate) began: Option<Instant>,
    /// Share of the payload that the link had taken when the last layer began, and the most it could.
    pub(crate) early_share: f64,
    pub(crate) early_share_bound: f64,
}

impl Shipment {
    /// Opens the transfer; `shown` is dropped when it ended.
    pub(crate) fn start(
        runtime: &Handle,
        link: Link,
        header: Header,
        frames_queued_max: usize,
        deadline: Instant,
        shown: Held,
    ) -> Self {
        let (parts, queue) = mpsc::channel(frames_queued_max);
        let sent = Arc::new(Sent::default());
        let counted = Arc::clone(&sent);
        let task = runtime.spawn(async move {
            let _shown = shown;
            ship(&link, &header, queue, &counted, deadline).await
        });
        Self {
            outbound: Outbound::new(header, PAYLOAD_BYTES_MAX),
            parts,
            sent,
            began: None,
            packing: Duration::ZERO,
            early: None,
            sending: Sending(task),
        }
    }

    /// Ships what `done` made certain. Waits while too many frames are queued; `false` if the
    /// transfer has ended.
    ///
    /// # Errors
    /// Rows could not be copied off a GPU.
    pub(crate) fn layer(&mut self, done: LayerDone<'_>) -> Result<bool, EngineError> {
        let began = Instant::now();
        let goes_on = self.pack(done);
        self.packing += began.elapsed();
        goes_on
    }

    /// Time that [`layer`](Self::layer) took so far. It is the engine's thread that spent it.
    pub(crate) fn packing(&self) -> Duration {
        self.packing
    }

    fn pack(&mut self, done: LayerDone<'_>) -> Result<bool, EngineError> {
        let window = done.cascade.window_rows();
        let certain: Vec<usize> = (0..=done.layer)
            .flat_map(|layer| done.cascade.certain(layer).iter().map(|rows| window + rows))
            .collect();
        let kv_heads = self.outbound.header().shape.kv_heads;
        let shipped = self.outbound.table_rows().iter();
        let ranges = shipped
            .zip(&certain)
            .map(|(shipped, certain)| *shipped..*certain);
        let rows = Rows {
            done,
            reader: done.cache.reader(done.layer, ranges.enumerate())?,
            kv_heads,
        };
        self.began.get_or_insert_with(Instant::now);
        let (taken, before) = (self.sent.bytes(), self.outbound.payload_bytes());
        for frame in self.outbound.ship(&certain, &rows) {
            if self.parts.blocking_send(Part::Frame(frame)).is_err() {
                return Ok(false);
            }
        }
        if done.layer + 2 == self.outbound.header().shape.layers {
            self.early = Some(Early {
                bytes: taken + (self.outbound.payload_bytes() - before),
                elements: self.element_bytes(),
            });
        }
        Ok(true)
    }

    fn element_bytes(&self) -> u64 {
        let rows = self.outbound.table_rows().iter().copied();
        self.outbound.header().shape.element_bytes(rows) as u64
    }

    /// Ends the transfer with the answer's first token; the receipt comes later.
    pub(crate) fn seal(self, first_token: u32) -> Sealed {
        let rows = self.outbound.rows();
        let payload_bytes = self.outbound.payload_bytes();
        let element_bytes = self.element_bytes();
        let table_rows = self.outbound.table_rows().iter().copied();
        let stored_bytes = self.outbound.header().shape.stored_bytes(table_rows) as u64;
        let seal = self.outbound.seal(first_token);
        let checksum = seal.checksum;
        // If the transfer has ended already, its error says why.
        let _ = self.parts.blocking_send(Part::Seal(seal));
        let share = |part: u64, whole: u64| part as f64 / whole.max(1) as f64;
        let early = self.early;
        Sealed {
            sending: self.sending,
            checksum,
            rows,
            payload_bytes,
            element_bytes,
            stored_bytes,
            began: self.began,
            early_share: early.map_or(0.0, |early| share(early.bytes, payload_bytes)),
            early_share_bound: early.map_or(0.0, |early| share(early.elements, element_bytes)),
        }
    }

    /// Why the transfer ended early. Called when [`layer`](Self::layer) said so.
    pub(crate) fn failure(self, runtime: &Handle) -> ShipError {
        drop(self.parts);
        match runtime.block_on(self.sending.receipt()) {
            Err(error) => error,
            Ok(_) => ShipError::Unexpected {
                found: "a receipt",
                expected: "the seal first",
            },
        }
    }
}

impl Sending {
    /// Waits for the receipt.
    pub(crate) async fn receipt(mut self) -> Result<Receipt, ShipError> {
        (&mut self.0).await.unwrap_or(Err(ShipError::Unfinished))
    }
}

impl Drop for Sending {
    /// A transfer that nobody waits for is given up, and the receiver drops what it has.
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The rows of the finished layers, in the order in which they are kept.
struct Rows<'a> {
    done: LayerDone<'a>,
    reader: RowReader<'a>,
    kv_heads: usize,
}

impl RowSource for Rows<'_> {
    fn position(&self, table: usize, row: usize) -> u32 {
        let (layer, head) = (table / self.kv_heads, table % self.kv_heads);
        let cascade = self.done.cascade;
        cascade.head_order(layer, head)[row - cascade.window_rows()]
    }

    fn copy_means(&self, layer: usize, out: &mut Vec<u8>) {
        self.reader.copy_means(layer, out);
    }

    fn copy_rows(&self, table: usize, rows: Range<usize>, out: &mut Vec<u8>) {
        self.reader.copy_rows(table, rows, out);
    }
}
