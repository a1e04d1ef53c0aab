//! One of the kernels, or a chain of them, over some size.

use lava_kernels::cuda::{DeviceError, Work};

use super::appending::Appending;
use super::decoding::Decoding;
use super::gathering::Gathering;
use super::memory::{Memory, Prepared};
use super::prefill::Prefill;
use super::ranking::Ranking;
use super::scoring::Scoring;
use super::stock::Stock;

#[derive(Clone, Copy)]
pub(crate) enum Task {
    Prefill(Prefill),
    Scoring(Scoring),
    Ranking(Ranking),
    Gathering(Gathering),
    Decoding(Decoding),
    Appending(Appending),
}

impl Task {
    /// What its launches have to do.
    pub(crate) fn work(&self) -> Work {
        match self {
            Task::Prefill(task) => task.work(),
            Task::Scoring(task) => task.work(),
            Task::Ranking(task) => task.work(),
            Task::Gathering(task) => task.work(),
            Task::Decoding(task) => task.work(),
            Task::Appending(task) => task.work(),
        }
    }

    /// About as much memory as it needs: most tasks have little that they do not move.
    pub(crate) fn memory_bytes(&self) -> usize {
        let unmoved = match self {
            Task::Gathering(task) => task.full_bytes(),
            _ => 0,
        };
        self.work().bytes as usize + unmoved
    }

    /// Takes its memory, fills it, and does what comes before its launches.
    pub(crate) fn prepare(&self, stock: &Stock) -> Result<Prepared, DeviceError> {
        let mut memory = Memory::new(stock);
        let launches = match self {
            Task::Prefill(task) => task.launches(&mut memory),
            Task::Scoring(task) => task.launches(&mut memory),
            Task::Ranking(task) => task.launches(&mut memory),
            Task::Gathering(task) => task.launches(&mut memory),
            Task::Decoding(task) => task.launches(&mut memory),
            Task::Appending(task) => task.launches(&mut memory),
        };
        Ok(memory.prepared(launches?))
    }
}
