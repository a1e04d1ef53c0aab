//! An open-loop load on a coordinator: every request starts at its planned time, whatever became of
//! the earlier ones, so a server that falls behind is seen to fall behind.
//!
//! A plan ([`Arrival`]s) comes from [`Poisson`] or from a trace of real requests ([`read_trace`]), is
//! cut to what the model takes ([`Fit`]) and asked of a [`Target`] ([`Load::run`]). [`Summary`] and
//! [`plot`] are pure functions over the [`Record`]s. `lava bench serve` calls it.

// In reading order.
mod arrival;

mod lengths;

mod poisson;

mod trace;

mod fit;

mod prompts;

mod reader;

mod target;

mod record;

mod ask;

mod board;

mod run;

mod percentiles;

mod summary;

mod plot;

pub use arrival::{Arrival, Blocks, compress};
pub use board::Progress;
pub use fit::{Fit, Fitted};
pub use lengths::{Lengths, ParseLengthsError};
pub use percentiles::Percentiles;
pub use plot::plot;
pub use poisson::Poisson;
pub use reader::{ParseShareError, Reader, Readers, Share};
pub use record::{Answer, Failure, Outcome, Record};
pub use run::{Load, Settings};
pub use summary::{Ended, Goodput, Limits, Summary};
pub use target::Target;
pub use trace::{BLOCK_TOKENS, TraceError, read_trace};
