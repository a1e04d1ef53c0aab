//! A model in this process against the engine driven by hand, one cache and one token at a time.

use std::ops::ControlFlow;
use std::path::Path;
use std::time::UNIX_EPOCH;

use lava::Budget;
use lava_engine::{Model, PagePool, PrefillRequest, Prefilled, RowFormat, Turn};
use lava_lab::local::{ModelFiles, WeightFormat};
use lava_lab::question::{Body, Question};
use lava_lab::results::Record;
use lava_lab::{Local, Metric, Prompt, Sample, Variant};
use lava_test_support::{Architecture, HfDtype, ToyModel};
use lava_text::{Message, TextFiles, encode_chat};

/// f32 sums of another batch size are taken in another order; what is compared is of the order of 1.
const TOLERANCE: f64 = 1e-4;

/// The same toy in the lab and as the engine has it.
struct Toy {
    folder: tempfile::TempDir,
    local: Local,
    model: Model,
}

fn toy() -> Toy {
    toy_with(&|_| {})
}

fn toy_with(change: &dyn Fn(&Path)) -> Toy {
    let toy = ToyModel {
        layers: 3,
        context: 1024,
        ..ToyModel::new(Architecture::Llama)
    };
    let folder = tempfile::tempdir().unwrap();
    toy.write_hf(folder.path(), HfDtype::F32, 1).unwrap();
    change(folder.path());
    let files = ModelFiles::Folder(folder.path().to_owned());
    let format = WeightFormat::Stored;
    let local = Local::load(&files, format, &mut |_, _| {}).unwrap();
    let model = Model::load(&files, format, &mut |_, _| {}).unwrap();
    Toy {
        folder,
        local,
        model,
    }
}

impl Toy {
    fn prefill(&self, tokens: &[u32], variant: &Variant) -> Prefilled {
        let config = self.model.config();
        let shape = lava::Shape {
            layers: config.layers,
            kv_heads: config.kv_heads,
            tokens: tokens.len(),
        };
        let request = PrefillRequest {
            tokens,
            method: variant.method,
            budget: variant.entries(shape, config).unwrap(),
            format: variant.format,
            appended_max: 64,
        };
        let page_bytes = config.page_bytes();
        let pool = PagePool::new(page_bytes, request.pages_max(&self.model, page_bytes));
        let never = &mut |_: lava_engine::LayerDone<'_>| ControlFlow::Continue(());
        self.model.prefill(&request, &pool, never).unwrap()
    }

    /// What the cache of a variant says after each of `fed`, alone: `[fed][V]`.
    fn stepped(&self, tokens: &[u32], variant: &Variant, fed: &[u32]) -> Vec<Vec<f32>> {
        let mut run = self.prefill(tokens, variant);
        let step = |&token: &u32| {
            let cache = &mut run.cache;
            let mut logits = self.model.step(&mut [Turn { token, cache }]).unwrap();
            logits.remove(0)
        };
        fed.iter().map(step).collect()
    }

    /// What the model says after each of `fed` when it reads everything at once: `[fed][V]`.
    fn read_at_once(&self, tokens: &[u32], fed: &[u32]) -> Vec<Vec<f32>> {
        let logits = |count: usize| {
            let all = [tokens, &fed[..count]].concat();
            self.prefill(&all, &Variant::full(RowFormat::F32)).logits
        };
        (1..=fed.len()).map(logits).collect()
    }

    /// The greedy answer of a fresh cache, without an id that ends it.
    fn greedy(&self, tokens: &[u32], variant: &Variant, most: usize) -> Vec<u32> {
        let text = TextFiles::from_folder(self.folder.path()).unwrap();
        let tokenizer = text.tokenizer().unwrap();
        let mut run = self.prefill(tokens, variant);
        let mut ids = vec![likeliest(&run.logits)];
        while ids.len() < most && !tokenizer.end_of_text().contains(&ids[ids.len() - 1]) {
            let (token, cache) = (ids[ids.len() - 1], &mut run.cache);
            let logits = self.model.step(&mut [Turn { token, cache }]).unwrap();
            ids.push(likeliest(&logits[0]));
        }
        ids.retain(|id| !tokenizer.end_of_text().contains(id));
        ids
    }
}

/// Marks by the book, in f64.
struct Expected {
    nll: f64,
    kl: f64,
    accuracy: f64,
    top1: f64,
}

/// `reference` and `found` are `[truth][V]`.
fn expected(reference: &[Vec<f32>], found: &[Vec<f32>], truth: &[u32]) -> Expected {
    let softmax = |logits: &Vec<f32>| {
        let powers: Vec<f64> = logits.iter().map(|&x| f64::from(x).exp()).collect();
        let sum: f64 = powers.iter().sum();
        powers.iter().map(|x| x / sum).collect::<Vec<f64>>()
    };
    let mut sums = [0.0; 4];
    for ((full, ours), &true_token) in reference.iter().zip(found).zip(truth) {
        let (p, q) = (softmax(full), softmax(ours));
        sums[0] -= q[true_token as usize].ln();
        sums[1] += p.iter().zip(&q).map(|(p, q)| p * (p / q).ln()).sum::<f64>();
        sums[2] += f64::from(likeliest(ours) == true_token);
        sums[3] += f64::from(likeliest(ours) == likeliest(full));
    }
    assert!(truth.len() == found.len() && truth.len() == reference.len());
    let [nll, kl, accuracy, top1] = sums.map(|sum| sum / truth.len() as f64);
    Expected {
        nll,
        kl,
        accuracy,
        top1,
    }
}

fn likeliest(logits: &[f32]) -> u32 {
    let best = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
    best.unwrap().0 as u32
}

#[track_caller]
fn check(record: &Record, expected: &Expected) {
    let name = format!("{} at {:?}", record.policy, record.budget);
    let near = |found: Option<f64>, expected: f64| (found.unwrap() - expected).abs() < TOLERANCE;
    assert!(
        near(record.nll, expected.nll),
        "{name}: {record:?} {}",
        expected.nll
    );
    assert!(
        near(record.kl, expected.kl),
        "{name}: {record:?} {}",
        expected.kl
    );
    assert_eq!(record.accuracy, Some(expected.accuracy), "{name}");
    assert_eq!(record.top1, Some(expected.top1), "{name}");
}

/// Deterministic ids, none of them special.
fn ids(count: usize, seed: u64) -> Vec<u32> {
    let mut x = seed;
    let next = |_| {
        x = x.wrapping_mul(6364136223846793005).wrapping_add(seed | 1);
        3 + ((x >> 33) % 250) as u32
    };
    (0..count).map(next).collect()
}

fn text(prompt: Vec<u32>, continuation: Vec<u32>) -> Question {
    Question {
        task: "lm".to_owned(),
        id: "t".to_owned(),
        body: Body::Text {
            prompt,
            continuation,
        },
    }
}

fn variants() -> Vec<Variant> {
    let policies = ["lava", "full", "snapkv", "streaming-llm", "h2o", "cake"];
    let budgets = [40, 64].map(Budget::Entries);
    Variant::all(&policies.map(str::to_owned), &[RowFormat::F32], &budgets).unwrap()
}

fn sample(truth: &str) -> Question {
    let sample = Sample {
        id: "s".to_owned(),
        prompt: Prompt {
            context: "The river runs into the sea and the rain runs into the river. ".repeat(4),
            question: "Where does the river run?".to_owned(),
            lead: "It runs".to_owned(),
        },
        answers: vec!["sea".to_owned()],
        truth: truth.to_owned(),
        metric: Metric::AllOf,
        length: 0,
        depth: Some(0.5),
        max_tokens: 14,
    };
    Question {
        task: "needle".to_owned(),
        id: "s".to_owned(),
        body: Body::Sample {
            sample: Box::new(sample),
            chat: true,
        },
    }
}

/// Ids of the prompt of [`sample`], by the text crate itself.
fn sample_ids(toy: &Toy) -> Vec<u32> {
    let Body::Sample { sample, .. } = sample("").body else {
        unreachable!("it is one")
    };
    let files = TextFiles::from_folder(toy.folder.path()).unwrap();
    let (tokenizer, template) = (files.tokenizer().unwrap(), files.chat_template().unwrap());
    let message = Message {
        role: "user".to_owned(),
        content: format!("{}\n\n{}", sample.prompt.context, sample.prompt.question),
    };
    let day = lava_text::date(UNIX_EPOCH);
    let mut ids = encode_chat(&tokenizer, &template, &[message], &day).unwrap();
    ids.extend(tokenizer.encode(&sample.prompt.lead, false).unwrap());
    ids
}

#[test]
fn the_full_cache_says_what_the_model_says_that_reads_everything_at_once() {
    let toy = toy();
    let (prompt, truth) = (ids(150, 1), ids(9, 2));
    let question = text(prompt.clone(), truth.clone());
    let records = toy
        .local
        .answer(&question, &[Variant::full(RowFormat::F32)])
        .unwrap();
    let [record] = records.as_slice() else {
        panic!("one variant, one record")
    };
    // The first token is fed and not marked.
    let model = toy.read_at_once(&prompt, &truth[..8]);
    check(record, &expected(&model, &model, &truth[1..]));
    assert!(record.kl.unwrap() < 1e-9, "{record:?}");
    assert_eq!(record.top1, Some(1.0));
    let lengths = (record.prompt_tokens, record.output_tokens, record.length);
    assert_eq!(lengths, (150, 8, Some(150)));
    assert_eq!(record.layer_rows, [2 * 150; 3]);
    assert_eq!(record.cache_bytes, 3 * 2 * 150 * 2 * 16 * 4);
}

#[test]
fn each_variant_says_what_its_cache_says_alone() {
    let toy = toy();
    let (prompt, truth) = (ids(200, 3), ids(12, 4));
    let variants = variants();
    let question = text(prompt.clone(), truth.clone());
    let together = toy.local.answer(&question, &variants).unwrap();
    assert_eq!(together.len(), variants.len());
    let full = toy.stepped(&prompt, &Variant::full(RowFormat::F32), &truth[..11]);
    for (variant, record) in variants.iter().zip(&together) {
        assert_eq!(record.key(), variant.key("lm", "t"));
        let found = toy.stepped(&prompt, variant, &truth[..11]);
        check(record, &expected(&full, &found, &truth[1..]));
        if let Some(Budget::Entries(budget)) = variant.budget {
            assert!(record.kl.unwrap() > 1e-3, "eviction is felt: {record:?}");
            let rows: u64 = record.layer_rows.iter().sum();
            assert!(rows <= 3 * 2 * u64::from(budget), "{record:?}");
            assert_eq!(record.cache_bytes, rows * 2 * 16 * 4);
        }
    }
}

#[test]
fn an_answer_after_the_teacher_is_that_of_a_fresh_cache() {
    let toy = toy();
    let tokens = sample_ids(&toy);
    let variants = variants();
    let taught = toy.local.answer(&sample(" the sea, they say."), &variants);
    let untaught = toy.local.answer(&sample(""), &variants).unwrap();
    let files = TextFiles::from_folder(toy.folder.path()).unwrap();
    let tokenizer = files.tokenizer().unwrap();
    for ((variant, taught), untaught) in variants.iter().zip(taught.unwrap()).zip(untaught) {
        let ids = toy.greedy(&tokens, variant, 14);
        let mut detokenizer = lava_text::Detokenizer::new();
        let mut text: String = ids
            .iter()
            .map(|&id| detokenizer.push(&tokenizer, id))
            .collect();
        text.push_str(&detokenizer.finish());
        assert_eq!(taught.prompt_tokens, tokens.len() as u64);
        assert_eq!(taught.output.as_deref(), Some(text.as_str()), "{taught:?}");
        assert_eq!(taught.output_tokens, ids.len() as u64);
        assert_eq!(taught.score, Some(f64::from(text.contains("sea"))));
        assert_eq!(untaught.output, taught.output);
        assert!(taught.nll.is_some() && untaught.nll.is_none());
    }
}

#[test]
fn a_right_answer_is_marked_behind_the_prompt_and_its_lead() {
    let toy = toy();
    let tokens = sample_ids(&toy);
    let files = TextFiles::from_folder(toy.folder.path()).unwrap();
    let truth = files
        .tokenizer()
        .unwrap()
        .encode(" the sea.", false)
        .unwrap();
    let fed = &truth[..truth.len() - 1];
    let full = toy.stepped(&tokens, &Variant::full(RowFormat::F32), fed);
    let variants = variants();
    let records = toy.local.answer(&sample(" the sea."), &variants).unwrap();
    for (variant, record) in variants.iter().zip(&records) {
        let found = toy.stepped(&tokens, variant, fed);
        check(record, &expected(&full, &found, &truth[1..]));
    }
}

#[test]
fn an_answer_does_not_depend_on_who_else_is_asked() {
    let toy = toy();
    let variants = variants();
    for question in [text(ids(200, 5), ids(12, 6)), sample(" the sea, they say.")] {
        let together = toy.local.answer(&question, &variants).unwrap();
        for (variant, together) in variants.iter().zip(&together) {
            let alone = toy.local.answer(&question, &[*variant]).unwrap().remove(0);
            let near = |a: Option<f64>, b: Option<f64>| (a.unwrap() - b.unwrap()).abs() < TOLERANCE;
            assert!(near(alone.nll, together.nll), "{alone:?} {together:?}");
            assert!(near(alone.kl, together.kl), "{alone:?} {together:?}");
            let rounded = |record: &Record| Record {
                nll: None,
                kl: None,
                ..record.clone()
            };
            assert_eq!(rounded(&alone), rounded(together));
        }
    }
}

#[test]
fn a_text_begins_as_the_tokenizer_begins_every_text() {
    let begin = |folder: &Path| {
        let file = folder.join("tokenizer.json");
        let content = std::fs::read_to_string(&file).unwrap();
        let mut document: serde_json::Value = serde_json::from_str(&content).unwrap();
        let first = "<|im_start|>";
        let pieces = serde_json::json!([
            {"SpecialToken": {"id": first, "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
        ]);
        document["post_processor"] = serde_json::json!({
            "type": "TemplateProcessing",
            "single": pieces,
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {first: {"id": first, "ids": [1], "tokens": [first]}},
        });
        std::fs::write(&file, document.to_string()).unwrap();
    };
    let (plain, beginning) = (toy(), toy_with(&begin));
    let (prompt, truth) = (ids(60, 7), ids(5, 8));
    let mut begun = prompt.clone();
    begun[0] = 1;
    let answer = |toy: &Toy, prompt: &[u32]| {
        let question = text(prompt.to_vec(), truth.clone());
        toy.local
            .answer(&question, &[Variant::full(RowFormat::F32)])
            .unwrap()
    };
    assert_eq!(answer(&beginning, &prompt), answer(&plain, &begun));
    assert_ne!(answer(&beginning, &prompt), answer(&plain, &prompt));
}

#[test]
fn a_prompt_beyond_the_context_loses_its_middle_and_a_question_is_never_cut() {
    let toy = toy();
    let mut question = sample(" the sea.");
    let Body::Sample { sample, .. } = &mut question.body else {
        unreachable!("it is one")
    };
    sample.prompt.context = "The river runs into the sea. ".repeat(100);
    let record = toy
        .local
        .answer(&question, &[Variant::full(RowFormat::F32)])
        .unwrap()
        .remove(0);
    // 1024 positions, 14 tokens of an answer, and one that is left.
    assert!((1000..=1009).contains(&record.prompt_tokens), "{record:?}");
    let Body::Sample { sample, .. } = &mut question.body else {
        unreachable!("it is one")
    };
    sample.prompt.question = "Where does the river run? ".repeat(100);
    let refusal = toy
        .local
        .answer(&question, &[Variant::full(RowFormat::F32)])
        .unwrap_err();
    let message = refusal.to_string();
    assert!(message.contains("the model has room for 1009"), "{message}");
}
