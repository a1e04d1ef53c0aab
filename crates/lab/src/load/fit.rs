//! Cutting a plan to what a model takes.

use serde::Serialize;

use super::arrival::Arrival;

/// What lengths become, in the order of the fields.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fit {
    /// All lengths, blocks included, are multiplied by this.
    pub scale: f64,
    /// Longer prompts are cut.
    pub prompt_tokens_max: Option<u32>,
    /// Longer answers are cut.
    pub output_tokens_max: Option<u32>,
    /// Most tokens of a prompt and its answer together, at least 2. An answer keeps its length up to
    /// half of them, and the prompt gets what is left.
    pub context_tokens: u32,
}

/// What was changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Fitted {
    /// Prompts that lost tokens.
    pub prompts_cut: usize,
    /// Tokens that they lost.
    pub prompt_tokens_cut: u64,
    /// Answers that lost tokens.
    pub outputs_cut: usize,
    /// Tokens that they lost.
    pub output_tokens_cut: u64,
}

impl Fit {
    /// Changes a plan and counts what was cut. Scaling is not counted: it is of all requests.
    pub fn apply(&self, plan: &mut [Arrival]) -> Fitted {
        let mut fitted = Fitted::default();
        for arrival in plan {
            let scaled_prompt = self.scaled(arrival.prompt_tokens);
            let scaled_output = self.scaled(arrival.output_tokens);
            let output = scaled_output
                .min(self.output_tokens_max.unwrap_or(u32::MAX))
                .min(self.context_tokens / 2)
                .max(1);
            let prompt = scaled_prompt
                .min(self.prompt_tokens_max.unwrap_or(u32::MAX))
                .min(self.context_tokens.saturating_sub(output))
                .max(1);
            fitted.prompts_cut += usize::from(prompt < scaled_prompt);
            fitted.prompt_tokens_cut += u64::from(scaled_prompt - prompt);
            fitted.outputs_cut += usize::from(output < scaled_output);
            fitted.output_tokens_cut += u64::from(scaled_output - output);
            arrival.prompt_tokens = prompt;
            arrival.output_tokens = output;
            if let Some(blocks) = &mut arrival.blocks {
                blocks.tokens = self.scaled(blocks.tokens);
            }
        }
        fitted
    }

    fn scaled(&self, tokens: u32) -> u32 {
        // A float that is too large for the type becomes its largest value.
        ((f64::from(tokens) * self.scale).round() as u32).max(1)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::load::arrival::Blocks;

    const AS_IT_IS: Fit = Fit {
        scale: 1.0,
        prompt_tokens_max: None,
        output_tokens_max: None,
        context_tokens: 1000,
    };

    fn arrival(prompt_tokens: u32, output_tokens: u32) -> Arrival {
        Arrival {
            at: Duration::ZERO,
            prompt_tokens,
            output_tokens,
            blocks: Some(Blocks {
                tokens: 512,
                ids: vec![1],
            }),
        }
    }

    #[track_caller]
    fn check(fit: Fit, (prompt, output): (u32, u32), expected: (u32, u32), cut: [u64; 2]) {
        let mut plan = [arrival(prompt, output)];
        let fitted = fit.apply(&mut plan);
        assert_eq!((plan[0].prompt_tokens, plan[0].output_tokens), expected);
        assert_eq!([fitted.prompt_tokens_cut, fitted.output_tokens_cut], cut);
        assert_eq!(fitted.prompts_cut, usize::from(cut[0] > 0));
        assert_eq!(fitted.outputs_cut, usize::from(cut[1] > 0));
    }

    #[test]
    fn what_is_cut_is_counted_and_what_fits_stays() {
        check(AS_IT_IS, (900, 100), (900, 100), [0, 0]);
        check(AS_IT_IS, (950, 100), (900, 100), [50, 0]);
        check(AS_IT_IS, (950, 700), (500, 500), [450, 200]);
        let bounded = Fit {
            prompt_tokens_max: Some(300),
            output_tokens_max: Some(10),
            ..AS_IT_IS
        };
        check(bounded, (301, 11), (300, 10), [1, 1]);
        let tenth = Fit {
            scale: 0.1,
            ..AS_IT_IS
        };
        check(tenth, (4000, 4), (400, 1), [0, 0]);
        let mut plan = [arrival(4000, 4)];
        tenth.apply(&mut plan);
        assert_eq!(plan[0].blocks.as_ref().unwrap().tokens, 51);
    }

    proptest! {
        #[test]
        fn everything_fits_afterwards(
            prompt in 1_u32.., output in 1_u32.., scale in 1e-6_f64..1e6, context in 2_u32..100_000,
        ) {
            let mut plan = [arrival(prompt, output)];
            let fit = Fit { scale, context_tokens: context, ..AS_IT_IS };
            fit.apply(&mut plan);
            let Arrival { prompt_tokens, output_tokens, .. } = plan[0];
            prop_assert!(prompt_tokens >= 1 && output_tokens >= 1);
            prop_assert!(u64::from(prompt_tokens) + u64::from(output_tokens) <= u64::from(context));
        }
    }
}
