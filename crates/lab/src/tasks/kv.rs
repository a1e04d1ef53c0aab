//! Key-value retrieval.

use super::ask::{Ask, Draft, Error, depth_in_range};
use crate::{Metric, Prompt, Sample};

const TASK: &str = "kv";

/// As many pairs of UUIDs as fit, in JSON, and one key is asked for: the form of InfiniteBench's
/// `Retrieve.KV`. Nothing in the text tells which pair matters, so it is the hardest task for a
/// policy that does not see the question.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct KeyValue {
    /// Of the pair that is asked for, 0 to 1.
    pub depth: f64,
}

impl KeyValue {
    /// # Errors
    /// A depth out of range, or a length that one pair and the question exceed.
    pub fn sample(&self, ask: &Ask<'_>) -> Result<Sample, Error> {
        let depth = depth_in_range(TASK, self.depth)?;
        let percent = (depth * 100.0).round();
        let id = format!("kv-{}-{percent:03}-{}", ask.length, ask.index);
        let mut dice = ask.dice(&id, "asked");
        let (key, value) = (dice.uuid(), dice.uuid());
        let question =
            format!("What is the value of the key \"{key}\"? Answer with the value only.");
        let build = |pairs: usize| {
            let mut dice = ask.dice(&id, "others");
            let mut lines: Vec<String> = (1..pairs)
                .map(|_| format!("\"{}\": \"{}\"", dice.uuid(), dice.uuid()))
                .collect();
            let place = (depth * lines.len() as f64).round() as usize;
            lines.insert(place.min(lines.len()), format!("\"{key}\": \"{value}\""));
            Draft {
                prompt: Prompt {
                    context: format!("A JSON object:\n{{{}}}", lines.join(",\n ")),
                    question: question.clone(),
                    lead: "The value is \"".to_owned(),
                },
                answers: vec![value.clone()],
                truth: format!("{value}\"."),
                depth: Some(depth),
            }
        };
        // A pair is two words.
        let most = ask.units_max() / 2;
        ask.fit(TASK, id.clone(), Metric::Word, 64, (1, most.max(1)), build)
    }
}
