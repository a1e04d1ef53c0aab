//! What a load came to, for people.

use lava_lab::load::{Fitted, Goodput, Percentiles, Summary, Target};

use super::options::Serve;
use crate::report::bytes;

pub(super) fn print(options: &Serve, target: &Target, fitted: &Fitted, summary: &Summary) {
    println!("model             {}", target.model());
    println!("requests          {}", options.source());
    println!("cache             {}", options.cache());
    if let Some(clients) = options.clients() {
        println!("clients           {clients}");
    }
    for line in lines(fitted, summary, target.context_tokens()) {
        println!("{line}");
    }
}

fn lines(fitted: &Fitted, summary: &Summary, context_tokens: u32) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(cuts) = cuts(fitted, context_tokens) {
        lines.push(format!("cut               {cuts}"));
    }
    lines.push(format!("outcome           {}", outcome(summary)));
    for ended in &summary.ended_by_status {
        let word = if ended.refused { "refused" } else { "failed" };
        lines.push(format!(
            "{word:<17} {} with {}, the first: {}",
            ended.count, ended.code, ended.message
        ));
    }
    if summary.short_answers > 0 {
        lines.push(format!(
            "short answers     {} have fewer tokens than were asked for",
            summary.short_answers
        ));
    }
    lines.push(format!("took              {:.1} s", summary.seconds));
    lines.push(format!(
        "throughput        {:.2} requests/s, {:.1} prompt tokens/s, {:.1} output tokens/s",
        summary.requests_per_second,
        summary.prompt_tokens_per_second,
        summary.output_tokens_per_second
    ));
    if let Some(goodput) = &summary.goodput {
        lines.push(format!("goodput           {}", good(goodput)));
    }
    lines.push(format!(
        "shipped           {} of {} that full caches have: {:.1} %",
        bytes(summary.shipped_bytes as usize),
        bytes(summary.full_bytes as usize),
        100.0 * summary.shipped_bytes as f64 / summary.full_bytes.max(1) as f64
    ));
    lines.push(format!("recomputes        {}", summary.recomputes));
    lines.push(format!(
        "{:<17} {:>9} {:>9} {:>9} {:>9} {:>9}",
        "milliseconds", "p50", "p90", "p99", "max", "of"
    ));
    for (name, of) in [
        ("first token", summary.first_token_ms),
        ("between tokens", summary.gap_ms),
        ("per token, mean", summary.per_token_ms),
        ("whole answer", summary.took_ms),
        ("sent late by", summary.late_ms),
    ] {
        lines.push(row(name, of));
    }
    lines
}

fn row(name: &str, of: Option<Percentiles>) -> String {
    match of {
        None => format!("{name:<17} {:>9}", "-"),
        Some(Percentiles {
            count,
            p50,
            p90,
            p99,
            max,
        }) => format!("{name:<17} {p50:>9.1} {p90:>9.1} {p99:>9.1} {max:>9.1} {count:>9}"),
    }
}

/// Zeros are left out, but for the answers.
fn outcome(summary: &Summary) -> String {
    let mut text = format!("{} due, {} answered", summary.due, summary.answered);
    for (count, what) in [
        (summary.refused, "refused"),
        (summary.failed, "failed"),
        (
            summary.not_sent,
            "not sent (as many as allowed were under way)",
        ),
        (summary.cancelled, "cancelled"),
        (summary.left, "left by their clients"),
    ] {
        if count > 0 {
            text.push_str(&format!(", {count} {what}"));
        }
    }
    text
}

fn cuts(fitted: &Fitted, context_tokens: u32) -> Option<String> {
    let Fitted {
        prompts_cut,
        prompt_tokens_cut,
        outputs_cut,
        output_tokens_cut,
    } = *fitted;
    if prompts_cut + outputs_cut == 0 {
        return None;
    }
    Some(format!(
        "{prompts_cut} prompts by {prompt_tokens_cut} tokens, {outputs_cut} answers by {output_tokens_cut}, to what was allowed and to a context of {context_tokens}"
    ))
}

fn good(goodput: &Goodput) -> String {
    let mut limits = Vec::new();
    if let Some(ms) = goodput.first_token_ms_max {
        limits.push(format!("first token within {ms} ms"));
    }
    if let Some(ms) = goodput.per_token_ms_max {
        limits.push(format!("{ms} ms per token"));
    }
    format!(
        "{:.2} requests/s: {:.1} % ({}) of those due kept {}",
        goodput.requests_per_second,
        100.0 * goodput.share,
        goodput.requests,
        limits.join(" and ")
    )
}

#[cfg(test)]
mod tests {
    use lava_lab::load::Ended;

    use super::*;

    #[test]
    fn cuts_refusals_and_limits_are_named() {
        let percentiles = Percentiles {
            count: 3,
            p50: 10.0,
            p90: 20.0,
            p99: 30.04,
            max: 123_456.0,
        };
        let summary = Summary {
            due: 6,
            answered: 3,
            refused: 2,
            failed: 0,
            not_sent: 1,
            cancelled: 0,
            left: 0,
            ended_by_status: vec![Ended {
                refused: true,
                code: "ResourceExhausted".into(),
                count: 2,
                message: "no pages".into(),
            }],
            seconds: 2.04,
            late_ms: None,
            first_token_ms: Some(percentiles),
            gap_ms: None,
            per_token_ms: None,
            took_ms: None,
            requests_per_second: 1.5,
            prompt_tokens_per_second: 150.0,
            output_tokens_per_second: 15.0,
            goodput: Some(Goodput {
                first_token_ms_max: Some(500.0),
                per_token_ms_max: Some(20.0),
                requests: 2,
                requests_per_second: 1.0,
                share: 1.0 / 3.0,
            }),
            output_tokens: 30,
            short_answers: 0,
            full_bytes: 3_000_000,
            shipped_bytes: 300_000,
            recomputes: 0,
        };
        let fitted = Fitted {
            prompts_cut: 2,
            prompt_tokens_cut: 70,
            ..Fitted::default()
        };
        let text = lines(&fitted, &summary, 512).join("\n");
        for line in [
            "cut               2 prompts by 70 tokens, 0 answers by 0, to what was allowed and to a context of 512",
            "outcome           6 due, 3 answered, 2 refused, 1 not sent (as many as allowed were under way)",
            "refused           2 with ResourceExhausted, the first: no pages",
            "goodput           1.00 requests/s: 33.3 % (2) of those due kept first token within 500 ms and 20 ms per token",
            "shipped           300.0 kB of 3.00 MB that full caches have: 10.0 %",
            "first token            10.0      20.0      30.0  123456.0         3",
            "between tokens            -",
        ] {
            assert!(text.contains(line), "{line:?} is not in\n{text}");
        }
        assert!(!text.contains("short answers"));
    }
}
