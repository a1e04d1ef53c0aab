//! A model in this process: one prefill of a prompt serves all variants, and every step is one batch
//! over all of them.

mod encode;

use lava::Shape;
use lava_engine::{EngineError, Model, PrefillRequest, Prefilled, RaggedCache, Turn};
use lava_text::{ChatTemplate, Detokenizer, TextError, TextFiles, Tokenizer};
use thiserror::Error;

use crate::Variant;
use crate::cut::QuestionTooLong;
use crate::divergence::{Reference, likeliest};
use crate::question::{Body, Question};
use crate::results::Record;
use encode::Encoded;

pub use lava_engine::{LoadError, ModelFiles, WeightFormat};

/// A loaded model with its tokenizer.
#[derive(Debug)]
pub struct Local {
    model: Model,
    tokenizer: Tokenizer,
    /// Base models have none.
    template: Option<ChatTemplate>,
}

/// Why a question has no answer.
#[derive(Debug, Error)]
pub enum Error {
    /// The model cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A text cannot be encoded.
    #[error(transparent)]
    Text(#[from] TextError),
    /// The prompt cannot be run.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The question leaves no room for a context.
    #[error(transparent)]
    TooLong(#[from] QuestionTooLong),
    /// A budget is too small for the prompt.
    #[error(transparent)]
    Variant(#[from] crate::variant::Error),
}

impl Local {
    /// Loads a model.
    ///
    /// # Errors
    /// Its files cannot be read or are of no known kind.
    pub fn load(
        files: &ModelFiles,
        format: WeightFormat,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Self, Error> {
        let text = TextFiles::open(files.path())?;
        Ok(Self {
            model: Model::load(files, format, progress)?,
            tokenizer: text.tokenizer()?,
            template: text.chat_template().ok(),
        })
    }

    /// Fingerprint of the model, in hexadecimal.
    ///
    /// # Errors
    /// The weights cannot be read.
    pub fn digest(&self) -> Result<String, Error> {
        let digest = self.model.fingerprint();
        Ok(digest.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// Most tokens of a prompt and its answer together.
    pub fn context(&self) -> usize {
        self.model.config().positions_max()
    }

    /// Ids of a plain text.
    ///
    /// # Errors
    /// The tokenizer refuses it.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, Error> {
        Ok(self.tokenizer.encode(text, false)?)
    }

    /// Tokens that a chat template and the beginning of an answer add to a question, about.
    ///
    /// # Errors
    /// The template fails.
    pub fn overhead(&self) -> Result<usize, Error> {
        encode::overhead(self)
    }

    /// What each variant makes of a question, in their order.
    ///
    /// # Errors
    /// The question cannot be encoded or does not fit the model, or a variant cannot run.
    pub fn answer(&self, question: &Question, variants: &[Variant]) -> Result<Vec<Record>, Error> {
        let encoded = encode::encode(self, question)?;
        let mut run = self.prefill(&encoded, variants)?;
        let mut records: Vec<Record> = variants
            .iter()
            .zip(&run.places)
            .map(|(variant, &place)| record(question, &encoded, variant, &run.all[place]))
            .collect();
        self.teach(&encoded.truth, &mut run, &mut records)?;
        if let Body::Sample { sample, .. } = &question.body {
            let answers = self.generate(sample.max_tokens, &mut run)?;
            for (record, &place) in records.iter_mut().zip(&run.places) {
                let ids = &answers[place];
                let text = self.decode(ids);
                record.output_tokens = ids.len() as u64;
                record.score = Some(sample.score(&text));
                record.output = Some(text);
            }
        }
        Ok(records)
    }

    /// The reference comes first, then the variants that evict.
    fn prefill(&self, encoded: &Encoded, variants: &[Variant]) -> Result<Run, Error> {
        let tokens = &encoded.prompt;
        let config = self.model.config();
        let shape = Shape {
            layers: config.layers,
            kv_heads: config.kv_heads,
            tokens: tokens.len(),
        };
        let request = |variant: &Variant| -> Result<PrefillRequest<'_>, Error> {
            Ok(PrefillRequest {
                tokens,
                method: variant.method,
                budget: variant.entries(shape, config)?,
                format: variant.format,
                appended_max: encoded.appended_max(),
            })
        };
        // Packed rows are compared with what they are packed from.
        let reference = Variant::full(variants[0].format.wide());
        let mut requests = vec![request(&reference)?];
        let mut places = Vec::with_capacity(variants.len());
        for variant in variants {
            if *variant == reference {
                places.push(0);
            } else {
                places.push(requests.len());
                requests.push(request(variant)?);
            }
        }
        let page_bytes = config.page_bytes();
        let pages = requests
            .iter()
            .map(|r| r.pages_max(&self.model, page_bytes));
        let pool = self.model.pool(pages.sum())?;
        let all = self.model.prefill_each(&requests, &pool)?;
        Ok(Run { all, places })
    }

    /// Makes every cache read the true answer and marks what it would have said. The first token is
    /// not marked: it comes from the full prefill whatever is evicted.
    fn teach(&self, truth: &[u32], run: &mut Run, records: &mut [Record]) -> Result<(), Error> {
        let marks: Vec<_> = run.all.iter().map(|one| one.cache.mark()).collect();
        let mut sums = vec![Sums::default(); records.len()];
        for pair in truth.windows(2) {
            let mut caches: Vec<_> = run.all.iter_mut().map(|one| &mut one.cache).collect();
            let tokens = vec![pair[0]; caches.len()];
            let logits = self.step(&mut caches, &tokens)?;
            let reference = Reference::new(logits[0].clone());
            for (sums, &place) in sums.iter_mut().zip(&run.places) {
                let found = reference.compare(&logits[place], pair[1]);
                sums.nll += found.nll;
                sums.kl += found.kl;
                sums.right += f64::from(found.right);
                sums.agrees += f64::from(found.agrees);
            }
        }
        for (one, mark) in run.all.iter_mut().zip(&marks) {
            one.cache.rewind(mark);
        }
        let marked = truth.len().saturating_sub(1);
        if marked > 0 {
            for (record, sums) in records.iter_mut().zip(sums) {
                let mean = |sum: f64| Some(sum / marked as f64);
                record.output_tokens = marked as u64;
                record.nll = mean(sums.nll);
                record.kl = mean(sums.kl);
                record.accuracy = mean(sums.right);
                record.top1 = mean(sums.agrees);
            }
        }
        Ok(())
    }

    /// Greedy answers over the caches of variants, without the ids that end them.
    fn generate(&self, max_tokens: usize, run: &mut Run) -> Result<Vec<Vec<u32>>, Error> {
        let first = likeliest(&run.all[0].logits) as u32;
        let mut answers = vec![vec![first]; run.all.len()];
        let ended = |answer: &[u32]| {
            let last = answer[answer.len() - 1];
            answer.len() >= max_tokens || self.tokenizer.end_of_text().contains(&last)
        };
        loop {
            let caches = run.all.iter_mut().map(|one| &mut one.cache);
            let mut open: Vec<(&mut Vec<u32>, &mut RaggedCache)> = answers
                .iter_mut()
                .zip(caches)
                .enumerate()
                .filter(|(place, (answer, _))| run.places.contains(place) && !ended(answer))
                .map(|(_, pair)| pair)
                .collect();
            if open.is_empty() {
                break;
            }
            let tokens: Vec<u32> = open.iter().map(|(a, _)| a[a.len() - 1]).collect();
            let mut caches: Vec<_> = open.iter_mut().map(|(_, cache)| &mut **cache).collect();
            let logits = self.step(&mut caches, &tokens)?;
            for ((answer, _), logits) in open.iter_mut().zip(logits) {
                answer.push(likeliest(&logits) as u32);
            }
        }
        for answer in &mut answers {
            answer.retain(|id| !self.tokenizer.end_of_text().contains(id));
        }
        Ok(answers)
    }

    fn step(
        &self,
        caches: &mut [&mut RaggedCache],
        tokens: &[u32],
    ) -> Result<Vec<Vec<f32>>, Error> {
        let turns = caches.iter_mut().zip(tokens);
        let mut batch: Vec<Turn<'_>> = turns.map(|(cache, &token)| Turn { token, cache }).collect();
        Ok(self.model.step(&mut batch)?)
    }

    fn decode(&self, ids: &[u32]) -> String {
        let mut detokenizer = Detokenizer::new();
        let mut text = String::new();
        for &id in ids {
            text.push_str(&detokenizer.push(&self.tokenizer, id));
        }
        text + &detokenizer.finish()
    }
}

/// The caches of one prompt.
struct Run {
    /// The full one first.
    all: Vec<Prefilled>,
    /// Which of them is each variant's.
    places: Vec<usize>,
}

#[derive(Clone, Default)]
struct Sums {
    nll: f64,
    kl: f64,
    right: f64,
    agrees: f64,
}

fn record(
    question: &Question,
    encoded: &Encoded,
    variant: &Variant,
    prefilled: &Prefilled,
) -> Record {
    let key = variant.key(&question.task, &question.id);
    let (length, depth) = match &question.body {
        Body::Sample { sample, .. } => (sample.length, sample.depth),
        Body::Text { prompt, .. } => (prompt.len(), None),
    };
    let cascade = &prefilled.cascade;
    let layer_rows = |layer: usize| {
        let kept = cascade.kept(layer);
        (kept.iter().sum::<usize>() + kept.len() * cascade.window_rows()) as u64
    };
    Record {
        task: key.task,
        sample: key.sample,
        policy: key.policy,
        budget: key.budget,
        cache_bytes: prefilled.cache.stored_bytes() as u64,
        prompt_tokens: encoded.prompt.len() as u64,
        length: Some(length as u64),
        depth,
        layer_rows: (0..cascade.layers_done()).map(layer_rows).collect(),
        ..Record::default()
    }
}
