//! The log on stderr.

use std::io::{self, IsTerminal};

use serde::Deserialize;
use tracing::Subscriber;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::ConfigError;

/// The section `[telemetry]` of a configuration file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TelemetryConfig {
    /// How a line looks.
    pub format: LogFormat,
    /// Which events are logged: a directive of [`EnvFilter`], such as `info` or `warn,lava=debug`.
    pub level: String,
}

/// How a line of the log looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people: time, level, spans with their fields, target, event.
    #[default]
    Pretty,
    /// For machines: one object a line. The event's fields are at the top, the innermost span's
    /// under `span`, those of all spans, outermost first, under `spans`.
    Json,
}

impl Default for TelemetryConfig {
    fn default() -> TelemetryConfig {
        TelemetryConfig {
            format: LogFormat::Pretty,
            level: "info".to_owned(),
        }
    }
}

/// Sends events to stderr from here on, for the whole process.
///
/// # Errors
///
/// The operator's level is no directive.
///
/// # Panics
///
/// If the process already has a subscriber: only `main` calls this, and once.
pub fn init(config: &TelemetryConfig) -> Result<(), ConfigError> {
    let colours = io::stderr().is_terminal();
    let subscriber = subscriber(config, colours, io::stderr)?;
    tracing::subscriber::set_global_default(subscriber)
        .expect("main installs the only subscriber, once");
    Ok(())
}

pub(crate) fn subscriber<W>(
    config: &TelemetryConfig,
    colours: bool,
    writer: W,
) -> Result<Box<dyn Subscriber + Send + Sync>, ConfigError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter(&config.level)?)
        // Where the log's disk is full, a word about it would fail too, and panic.
        .log_internal_errors(false)
        .with_writer(writer);
    Ok(match config.format {
        LogFormat::Pretty => Box::new(builder.with_ansi(colours).finish()),
        LogFormat::Json => Box::new(
            builder
                .json()
                .flatten_event(true)
                .with_current_span(true)
                .with_span_list(true)
                .finish(),
        ),
    })
}

fn filter(level: &str) -> Result<EnvFilter, ConfigError> {
    let refused = || ConfigError::Contradiction {
        key: "telemetry.level".to_owned(),
        found: format!("{level:?}"),
        expected: "off, error, warn, info, debug or trace, or a list such as warn,target=debug"
            .to_owned(),
    };
    let directives: Vec<&str> = level.split(',').map(str::trim).collect();
    // EnvFilter takes a word that is no level for the name of a target, and would then log nothing.
    let is_bare_word = |directive: &&str| {
        !directive.contains(['=', '[']) && directive.parse::<LevelFilter>().is_err()
    };
    if level.trim().is_empty() || directives.iter().any(is_bare_word) {
        return Err(refused());
    }
    // Joined without blanks: with one before it, EnvFilter cuts a target's name in the wrong places.
    EnvFilter::builder()
        .parse(directives.join(","))
        .map_err(|_| refused())
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Seek};
    use std::sync::Arc;

    use expect_test::expect;
    use serde_json::Value;

    use super::*;

    fn logged(config: &TelemetryConfig, events: impl FnOnce()) -> String {
        let file: Arc<File> = Arc::new(tempfile::tempfile().unwrap());
        let subscriber = subscriber(config, false, Arc::clone(&file)).unwrap();
        tracing::subscriber::with_default(subscriber, events);
        let mut text = String::new();
        (&*file).rewind().unwrap();
        (&*file).read_to_string(&mut text).unwrap();
        text
    }

    fn events() {
        let _request = tracing::info_span!("request", request = 7).entered();
        let _step = tracing::info_span!("step", layer = 2).entered();
        tracing::info!(tokens = 12, "planned");
        tracing::debug!("unseen");
    }

    #[test]
    fn a_json_line_carries_the_fields_of_the_event_and_of_every_span() {
        let config = TelemetryConfig {
            format: LogFormat::Json,
            ..TelemetryConfig::default()
        };
        let line: Value = serde_json::from_str(&logged(&config, events)).unwrap();
        assert_eq!(line["message"], "planned");
        assert_eq!(line["level"], "INFO");
        assert_eq!(line["tokens"], 12);
        assert_eq!(line["span"]["layer"], 2);
        assert_eq!(line["spans"][0]["request"], 7);
        assert_eq!(line["spans"][1]["name"], "step");
    }

    #[test]
    fn a_pretty_line_is_one_line_with_the_fields_of_every_span() {
        let text = logged(&TelemetryConfig::default(), events);
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(
            text.contains("INFO request{request=7}:step{layer=2}:"),
            "{text}"
        );
        assert!(text.trim_end().ends_with("planned tokens=12"), "{text}");
    }

    #[test]
    fn a_level_for_one_target_leaves_the_others_alone() {
        let config = TelemetryConfig {
            level: "warn, lava_node=debug".to_owned(),
            ..TelemetryConfig::default()
        };
        assert!(logged(&config, events).contains("unseen"));
    }

    #[test]
    fn a_bad_level_is_refused_by_name() {
        for level in ["loud", "", "info,lava=loud", "info,lava"] {
            let error = filter(level).unwrap_err().to_string();
            assert!(error.contains(&format!("{level:?}")), "{error}");
        }
        expect![[r#"`telemetry.level` is "loud", expected off, error, warn, info, debug or trace, or a list such as warn,target=debug"#]]
            .assert_eq(&filter("loud").unwrap_err().to_string());
        for level in [
            "off",
            "INFO",
            "info,lava=debug",
            "info, [request{request}]=debug",
        ] {
            filter(level).unwrap();
        }
    }

    #[test]
    fn an_unknown_format_is_refused_with_the_known_ones() {
        let error = toml::from_str::<TelemetryConfig>("format = 'xml'").unwrap_err();
        assert!(error.message().contains("`pretty` or `json`"), "{error}");
    }
}
