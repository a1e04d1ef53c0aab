//! Who answers.

use std::path::Path;

use anyhow::{Context, Result};
use lava_lab::question::Question;
use lava_lab::results::Record;
use lava_lab::{Local, Served, Variant};

use super::options::{Eval, file_name};
use crate::{model, progress};

pub(super) enum Subject {
    /// A model in this process, and the name of its file or folder.
    Local(Box<Local>, String),
    /// A model behind a coordinator.
    Served(Box<Served>),
}

impl Subject {
    pub(super) fn open(options: &Eval) -> Result<Self> {
        let name = options.model.as_deref();
        if let Some(address) = &options.addr {
            let served = Served::connect(address, name, options.concurrency.into())?;
            return Ok(Subject::Served(Box::new(served)));
        }
        let name = name.context("give --model")?;
        let files = model::find(name)?;
        let format = options.weights.into();
        let local = progress::with_bar(&mut |bar| Ok(Local::load(&files, format, bar)?))?;
        Ok(Subject::Local(Box::new(local), file_name(Path::new(name))))
    }

    /// As reports call it.
    pub(super) fn name(&self) -> &str {
        match self {
            Subject::Local(_, name) => name,
            Subject::Served(served) => served.model(),
        }
    }

    /// Most tokens of a prompt and its answer together.
    pub(super) fn context(&self) -> usize {
        match self {
            Subject::Local(local, _) => local.context(),
            Subject::Served(served) => served.context(),
        }
    }

    /// Tells models apart; a server keeps its weights to itself.
    pub(super) fn digest(&self) -> Result<String> {
        match self {
            Subject::Local(local, _) => Ok(local.digest()?),
            Subject::Served(served) => Ok(format!("served as {}", served.model())),
        }
    }

    pub(super) fn overhead(&self) -> Result<usize> {
        match self {
            Subject::Local(local, _) => Ok(local.overhead()?),
            Subject::Served(served) => Ok(served.overhead()?),
        }
    }

    pub(super) fn encode(&self, text: &str) -> Result<Vec<u32>> {
        match self {
            Subject::Local(local, _) => Ok(local.encode(text)?),
            Subject::Served(served) => Ok(served.encode(text)?),
        }
    }

    pub(super) fn answer(&self, question: &Question, variants: &[Variant]) -> Result<Vec<Record>> {
        match self {
            Subject::Local(local, _) => Ok(local.answer(question, variants)?),
            Subject::Served(served) => Ok(served.answer(question, variants)?),
        }
    }
}
