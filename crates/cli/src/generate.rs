//! `lava generate`: one prompt, one answer, in this process.

use std::io::Write;
use std::time::{Instant, SystemTime};

use anyhow::{Context, Result, bail};
use lava_engine::{Model, ModelFiles, PrefillRequest, RaggedCache, Sampled, Sampler, Turn};
use lava_text::{Detokenizer, Message, StopStrings, TextFiles, Tokenizer, encode_chat};

use crate::options::Generate;
use crate::report::{FinishReason, Report};
use crate::{model, progress};

pub(crate) fn run(options: &Generate) -> Result<()> {
    // What can be refused without the weights is refused before they are read.
    let params = options.sampling.params();
    params.check()?;
    let mut stops = StopStrings::new(options.stop.clone())?;
    let prompt = prompt_text(options)?;

    let name = options.model.as_deref().context("give --model")?;
    let files = model::find(name)?;
    let (tokenizer, tokens) = encode(options, &files, prompt)?;
    let model = progress::load_at(&files, options.weights.into(), &options.place)?;
    let request = request(options, &model, &tokens)?;
    let pool = model.pool(request.pages_max(&model, model.config().page_bytes()))?;
    let vocabulary = model.config().vocabulary;
    let mut sampler = Sampler::new(params, &tokens, vocabulary)?;

    let mut bar = progress::prefill(model.config().layers);
    let mut prefilled = model.prefill(&request, &pool, &mut bar)?;
    let rows_kept = prefilled.cache.rows();
    let full_bytes = prefilled.cache.shape().full_bytes();
    let kept_bytes = prefilled.cache.stored_bytes();

    let began = Instant::now();
    let mut answer = Answer::new(options.json);
    let mut next = sampler.sample(&prefilled.logits)?;
    let finish = loop {
        if tokenizer.end_of_text().contains(&next.token) {
            break FinishReason::EndOfText;
        }
        if answer.push(&tokenizer, &mut stops, next)? {
            break FinishReason::StopString;
        }
        if answer.tokens.len() > request.appended_max {
            break match answer.tokens.len() < options.max_tokens as usize {
                true => FinishReason::Context,
                false => FinishReason::MaxTokens,
            };
        }
        let logits = step(&model, answer.last_token(), &mut prefilled.cache)?;
        next = sampler.sample(&logits)?;
    };
    answer.finish(&mut stops, finish)?;

    let report = Report {
        model: name.to_owned(),
        policy: options.policy.to_string(),
        budget_asked: options.budget,
        budget: request.budget,
        window: prefilled.cascade.window_rows(),
        prompt_tokens: tokens.len(),
        answer,
        finish,
        weight_bytes: model.weight_bytes(),
        row_format: request.format,
        full_bytes,
        kept_bytes,
        rows_kept,
        layer_rows: layer_rows(&prefilled.cascade, model.config().kv_heads),
        prefill: prefilled.stats.total,
        scoring: prefilled.stats.scoring,
        decode: began.elapsed(),
    };
    match options.json {
        true => report.print_json(),
        false => report.print_table(),
    }
}

pub(crate) fn prompt_text(options: &Generate) -> Result<String> {
    let text = match (&options.prompt, &options.prompt_file) {
        (Some(text), _) => text.clone(),
        (None, Some(file)) => std::fs::read_to_string(file)
            .with_context(|| format!("cannot read the prompt file {}", file.display()))?,
        (None, None) => bail!("give --prompt or --prompt-file"),
    };
    if text.trim().is_empty() {
        bail!("the prompt is empty: give at least one word");
    }
    Ok(text)
}

/// The prompt's ids, and the tokenizer for the answer.
fn encode(options: &Generate, files: &ModelFiles, prompt: String) -> Result<(Tokenizer, Vec<u32>)> {
    let files = TextFiles::open(files.path())?;
    let tokenizer = files.tokenizer()?;
    if options.raw {
        let tokens = tokenizer.encode(&prompt, true)?;
        return Ok((tokenizer, tokens));
    }
    let message = |role: &str, content: String| Message {
        role: role.into(),
        content,
    };
    let system = options.system.clone().map(|text| message("system", text));
    let messages: Vec<Message> = system
        .into_iter()
        .chain([message("user", prompt)])
        .collect();
    let template = files
        .chat_template()
        .context("pass --raw to feed the prompt as it is")?;
    let today = lava_text::date(SystemTime::now());
    let tokens = encode_chat(&tokenizer, &template, &messages, &today)?;
    Ok((tokenizer, tokens))
}

/// The answer's length is bounded by the request and by the model's positions; the last token is
/// never appended to the cache.
fn request<'a>(options: &Generate, model: &Model, tokens: &'a [u32]) -> Result<PrefillRequest<'a>> {
    let config = model.config();
    let room = config.positions_max().saturating_sub(tokens.len());
    let shape = lava::Shape {
        layers: config.layers,
        kv_heads: config.kv_heads,
        tokens: tokens.len(),
    };
    let format = options.row_format;
    let bytes = config.entry_bytes(format);
    Ok(PrefillRequest {
        tokens,
        method: options.policy,
        budget: options.budget.entries(&options.policy, shape, bytes)?,
        format,
        appended_max: (options.max_tokens as usize).min(room).saturating_sub(1),
    })
}

fn step(model: &Model, token: u32, cache: &mut RaggedCache) -> Result<Vec<f32>> {
    Ok(model.step(&mut [Turn { token, cache }])?.remove(0))
}

/// Rows kept per layer, window included.
fn layer_rows(cascade: &lava::Cascade, kv_heads: usize) -> Vec<usize> {
    (0..cascade.layers_done())
        .map(|layer| cascade.kept(layer).iter().sum::<usize>() + kv_heads * cascade.window_rows())
        .collect()
}

/// The tokens so far and their text, shown as it grows.
pub(crate) struct Answer {
    quiet: bool,
    pub(crate) tokens: Vec<Sampled>,
    pub(crate) text: String,
    detokenizer: Detokenizer,
}

impl Answer {
    fn new(quiet: bool) -> Self {
        Self {
            quiet,
            tokens: Vec::new(),
            text: String::new(),
            detokenizer: Detokenizer::new(),
        }
    }

    fn last_token(&self) -> u32 {
        self.tokens[self.tokens.len() - 1].token
    }

    /// Adds a token; true if a stop string ended the answer.
    fn push(
        &mut self,
        tokenizer: &Tokenizer,
        stops: &mut StopStrings,
        sampled: Sampled,
    ) -> Result<bool> {
        let piece = self.detokenizer.push(tokenizer, sampled.token);
        self.tokens.push(sampled);
        let checked = stops.push(&piece);
        self.show(&checked.text)?;
        Ok(checked.stopped_by.is_some())
    }

    /// Shows what was held back, unless a stop string ended the answer.
    fn finish(&mut self, stops: &mut StopStrings, reason: FinishReason) -> Result<()> {
        if reason == FinishReason::StopString {
            return Ok(());
        }
        let checked = stops.push(&self.detokenizer.finish());
        self.show(&checked.text)?;
        let held = stops.finish();
        self.show(&held)
    }

    fn show(&mut self, text: &str) -> Result<()> {
        self.text.push_str(text);
        if !self.quiet {
            print!("{text}");
            std::io::stdout().flush()?;
        }
        Ok(())
    }
}
