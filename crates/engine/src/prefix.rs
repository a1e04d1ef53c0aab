//! Keys and values of the fronts of recent prompts, so that a system prompt or an earlier turn that many
//! prompts share is computed once.
//!
//! What is kept are whole blocks of a prefill, uncompressed, as attention saw them. A prompt that begins with
//! the same blocks takes them as they are and computes the rest exactly as it would have, so its answer and
//! its cache are the same to the bit. Scores are always its own: they depend on its last tokens.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::{Device, Result as CandleResult, Tensor};
use lava_prefix::{BlockName, Changes, Journal};

use crate::config::ModelConfig;
use crate::full_kv::FullKv;
use crate::host::Projected;
use crate::model::Model;
use crate::ops;
use crate::prefill::BLOCK_TOKENS;

/// Blocks of recent prompts, the least recently used of which go first. Cloning shares it.
#[derive(Clone, Debug)]
pub struct PrefixCache {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    block_bytes: usize,
    blocks_max: usize,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// By what is in front of a block, and its tokens: compared in full, so that no prompt is ever taken for
    /// another.
    blocks: HashMap<(BlockId, Vec<u32>), Kept>,
    /// Blocks that prompts which are being computed will add.
    growing: usize,
    next_id: u64,
    clock: u64,
    journal: Journal,
}

/// Names a block that is kept, by when it was added; nothing is in front of a prompt's first block.
type BlockId = Option<u64>;

#[derive(Debug)]
struct Kept {
    block: Block,
    used: u64,
}

#[derive(Clone, Debug)]
struct Block {
    id: u64,
    name: BlockName,
    rows: Arc<BlockRows>,
}

/// The keys and values of a block in each layer, `[BLOCK_TOKENS, Hkv, D]`.
type BlockRows = Vec<[Vec<f32>; 2]>;

/// Changes that are remembered for those who follow them.
const CHANGES_MAX: usize = 4096;

impl PrefixCache {
    /// Tokens of a block.
    pub const BLOCK_TOKENS: usize = BLOCK_TOKENS;

    /// A cache of at most `bytes` bytes for blocks of this model. Less than a block holds nothing.
    pub fn new(model: &Model, bytes: usize) -> Self {
        let block_bytes = block_bytes(model.config());
        Self {
            inner: Arc::new(Inner {
                block_bytes,
                blocks_max: bytes / block_bytes,
                state: Mutex::new(State {
                    blocks: HashMap::new(),
                    growing: 0,
                    next_id: 0,
                    clock: 0,
                    journal: Journal::new(CHANGES_MAX),
                }),
            }),
        }
    }

    /// Bytes of the blocks that are kept.
    pub fn bytes(&self) -> usize {
        self.inner.state().blocks.len() * self.inner.block_bytes
    }

    /// Most of its bytes.
    pub fn bytes_max(&self) -> usize {
        self.inner.blocks_max * self.inner.block_bytes
    }

    /// What changed since a version that an earlier answer gave, or everything, for 0.
    pub fn changes(&self, known: u64) -> Changes {
        self.inner.state().journal.since(known)
    }

    /// Tokens of the blocks that a prompt begins with, those of prompts that are still to be computed
    /// included. By their names, which is enough to say how long a queue is.
    pub fn expected_tokens(&self, tokens: &[u32]) -> usize {
        let names = BlockName::of_prompt(tokens, BLOCK_TOKENS);
        self.inner.state().journal.count(&names) * BLOCK_TOKENS
    }

    /// A prompt waits to be computed. Until the drop [`changes`](Self::changes) tell of its blocks as if they
    /// were kept: what is sent after it is computed after it.
    pub fn expect(&self, tokens: &[u32]) -> ExpectedBlocks {
        let mut names = BlockName::of_prompt(tokens, BLOCK_TOKENS);
        names.truncate(self.inner.blocks_max);
        let mut state = self.inner.state();
        names.iter().for_each(|&name| state.journal.add(name));
        drop(state);
        ExpectedBlocks {
            cache: self.clone(),
            names,
        }
    }

    /// The blocks that a prompt begins with.
    pub(crate) fn find(&self, tokens: &[u32]) -> Reused {
        let mut state = self.inner.state();
        let found = state.find(tokens);
        state.touch(&found);
        found
    }

    /// Makes room for the blocks of a prompt that are not there yet: those behind `reused`, as many as fit.
    pub(crate) fn grow<'a>(
        &self,
        config: &ModelConfig,
        tokens: &'a [u32],
        reused: &Reused,
    ) -> Growing<'a> {
        let first = reused.tokens();
        let missing = (tokens.len() - first) / BLOCK_TOKENS;
        let mut state = self.inner.state();
        let taken = state.growing + reused.blocks.len();
        let room = self.inner.blocks_max.saturating_sub(taken);
        let blocks = missing.min(room);
        state.growing += blocks;
        while state.blocks.len() + state.growing > self.inner.blocks_max {
            state.forget_oldest();
        }
        drop(state);
        Growing {
            cache: self.clone(),
            front: reused.clone(),
            tokens: &tokens[first..first + blocks * BLOCK_TOKENS],
            first,
            blocks: vec![Vec::with_capacity(config.layers); blocks],
        }
    }
}

/// Blocks of a prompt that waits to be computed.
#[derive(Debug)]
pub struct ExpectedBlocks {
    cache: PrefixCache,
    names: Vec<BlockName>,
}

impl Drop for ExpectedBlocks {
    fn drop(&mut self) {
        let mut state = self.cache.inner.state();
        for &name in &self.names {
            state.journal.remove(name);
        }
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        // Every critical section leaves the state whole, so a poisoned lock is still good.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn find(&self, tokens: &[u32]) -> Reused {
        let mut found = Reused::default();
        for tokens in tokens.chunks_exact(BLOCK_TOKENS) {
            let Some(kept) = self.blocks.get(&(found.last(), tokens.to_vec())) else {
                break;
            };
            found.blocks.push(kept.block.clone());
        }
        found
    }

    /// The front of a prompt counts as used later than what is behind it, so that those go first that nothing
    /// else leads to.
    fn touch(&mut self, reused: &Reused) {
        let ids: Vec<u64> = reused.blocks.iter().map(|block| block.id).collect();
        for kept in self.blocks.values_mut() {
            if let Some(at) = ids.iter().position(|&id| id == kept.block.id) {
                kept.used = self.clock + (ids.len() - at) as u64;
            }
        }
        self.clock += ids.len() as u64;
    }

    fn forget_oldest(&mut self) {
        let oldest = self.blocks.iter().min_by_key(|(_, kept)| kept.used);
        let key = oldest.map(|(key, _)| key.clone());
        let removed = key.and_then(|key| self.blocks.remove(&key));
        let removed = removed.expect("only what is there takes room");
        self.journal.remove(removed.block.name);
    }
}

/// Blocks at the front of a prompt that are there.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reused {
    blocks: Vec<Block>,
}

impl Reused {
    pub(crate) fn tokens(&self) -> usize {
        self.blocks.len() * BLOCK_TOKENS
    }

    fn last(&self) -> BlockId {
        self.blocks.last().map(|block| block.id)
    }

    fn name(&self) -> BlockName {
        self.blocks
            .last()
            .map_or(BlockName::START, |block| block.name)
    }

    /// Writes the rows of a layer.
    pub(crate) fn write(&self, layer: usize, full: &FullKv<'_>) -> CandleResult<()> {
        let (_n, kv_heads, d) = full.key().dims3()?;
        for (index, block) in self.blocks.iter().enumerate() {
            let [key, value] = &block.rows[layer];
            let tensor = |rows: &Vec<f32>| {
                Tensor::from_slice(rows, (BLOCK_TOKENS, kv_heads, d), &Device::Cpu)
            };
            full.write(index * BLOCK_TOKENS, &tensor(key)?, &tensor(value)?)?;
        }
        Ok(())
    }
}

/// Blocks of a prompt that is being computed. They count against the cache's bytes; dropping it gives those
/// back.
#[derive(Debug)]
pub(crate) struct Growing<'a> {
    cache: PrefixCache,
    /// What is there in front of them.
    front: Reused,
    /// Of all its blocks.
    tokens: &'a [u32],
    /// Position of the first of them.
    first: usize,
    blocks: Vec<BlockRows>,
}

impl Growing<'_> {
    /// Takes the rows of some positions in the next layer, if they are one of its blocks.
    pub(crate) fn push(&mut self, positions: Range<usize>, rows: &Projected) -> CandleResult<()> {
        let index = (positions.start - self.first) / BLOCK_TOKENS;
        if positions.len() == BLOCK_TOKENS
            && let Some(block) = self.blocks.get_mut(index)
        {
            let copy = |x: &Tensor| ops::with_values(x, <[f32]>::to_vec);
            block.push([copy(&rows.key)?, copy(&rows.value)?]);
        }
        Ok(())
    }

    /// Adds the blocks, which have the rows of all layers now.
    pub(crate) fn keep(mut self) {
        let blocks = std::mem::take(&mut self.blocks);
        let mut guard = self.cache.inner.state();
        let state = &mut *guard;
        state.growing -= blocks.len();
        let mut all = self.front.clone();
        for (tokens, rows) in self.tokens.chunks_exact(BLOCK_TOKENS).zip(blocks) {
            let name = all.name().then(tokens);
            // Another prompt may have added the same block since.
            let key = (all.last(), tokens.to_vec());
            let kept = state.blocks.entry(key).or_insert_with(|| {
                state.journal.add(name);
                state.next_id += 1;
                let block = Block {
                    id: state.next_id,
                    name,
                    rows: Arc::new(rows),
                };
                Kept { block, used: 0 }
            });
            all.blocks.push(kept.block.clone());
        }
        state.touch(&all);
    }
}

impl Drop for Growing<'_> {
    fn drop(&mut self) {
        self.cache.inner.state().growing -= self.blocks.len();
    }
}

fn block_bytes(config: &ModelConfig) -> usize {
    let values = BLOCK_TOKENS * config.kv_heads * config.head_dim;
    config.layers * 2 * values * size_of::<f32>()
}
