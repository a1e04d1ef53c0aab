//! How far a load is: on a terminal only.

use indicatif::{ProgressBar, ProgressStyle};
use lava_lab::load::Progress;

pub(super) struct Bar(ProgressBar);

/// indicatif draws on standard error, and hides itself where that is no terminal.
pub(super) fn bar(requests: usize) -> Bar {
    let style = ProgressStyle::with_template("{elapsed} {bar:20} {pos}/{len} sent, {msg}")
        .expect("the template is valid");
    Bar(ProgressBar::new(requests as u64).with_style(style))
}

impl Bar {
    pub(super) fn show(&self, progress: &Progress) {
        self.0.set_message(message(progress));
        self.0.set_position(progress.sent as u64);
    }

    pub(super) fn finish(&self) {
        self.0.finish_and_clear();
    }
}

fn message(progress: &Progress) -> String {
    let Progress {
        running,
        answered,
        refused,
        ..
    } = progress;
    let mut message = format!("{running} running, {answered} done, {refused} refused");
    for (count, what) in [
        (progress.failed, "failed"),
        (progress.left, "left"),
        (progress.not_sent, "not sent"),
    ] {
        if count > 0 {
            message.push_str(&format!(", {count} {what}"));
        }
    }
    if let Some(first_token) = progress.first_token_p50 {
        let ms = first_token.as_secs_f64() * 1e3;
        message.push_str(&format!(", first token p50 {ms:.0} ms"));
    }
    message
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_has_not_happened_is_not_shown() {
        let mut progress = Progress {
            planned: 9,
            sent: 5,
            running: 2,
            answered: 3,
            ..Progress::default()
        };
        assert_eq!(message(&progress), "2 running, 3 done, 0 refused");
        progress.not_sent = 1;
        progress.first_token_p50 = Some(Duration::from_micros(12_600));
        assert_eq!(
            message(&progress),
            "2 running, 3 done, 0 refused, 1 not sent, first token p50 13 ms"
        );
    }
}
