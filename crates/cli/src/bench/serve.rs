//! `lava bench serve`: latencies and throughput of a server under an open-loop load.

mod embedded;
mod options;
mod shown;
mod table;

use anyhow::{Context, Result, bail};
use lava_lab::load::{self, Arrival, Fitted, Load, Record, Summary, Target};
use lava_node::Shutdown;
use serde_json::json;

use crate::files;
use crate::process::block_on;
use embedded::Embedded;
pub(super) use options::Serve;

pub(super) fn run(options: &Serve) -> Result<()> {
    // What can be refused without a server is refused before one is started or asked.
    let plan = options.plan()?;
    files::check(&options.files())?;
    block_on(async {
        let Some(address) = &options.addr else {
            let server = Embedded::start(options).await?;
            let result = bench(options, plan, &server.target, &server.stop).await;
            let ended = server.end().await;
            return result.and(ended);
        };
        let stop = Shutdown::new();
        stop.on_signals()?;
        let in_flight_max = options.in_flight_max.into();
        let target = Target::connect(address, options.model.as_deref(), in_flight_max).await?;
        bench(options, plan, &target, &stop).await
    })
}

/// Runs the load until its end or `stop`, and tells what came of it.
async fn bench(
    options: &Serve,
    mut plan: Vec<Arrival>,
    target: &Target,
    stop: &Shutdown,
) -> Result<()> {
    let context = target.context_tokens();
    if context < 2 {
        bail!("the model's context is {context} tokens, expected at least 2");
    }
    let fitted = options.fit(context).apply(&mut plan);
    let load = Load {
        target,
        plan: &plan,
        settings: options.settings(),
    };
    let bar = shown::bar(plan.len());
    let records = load
        .run(stop.triggered(), &mut |progress| bar.show(progress))
        .await;
    bar.finish();
    let done = Done {
        options,
        target,
        fitted,
        planned: plan.len(),
        summary: Summary::new(&records, options.limits()),
        records,
    };
    table::print(options, target, &done.fitted, &done.summary);
    done.write()?;
    done.check(stop)
}

/// A load that has ended.
struct Done<'a> {
    options: &'a Serve,
    target: &'a Target,
    fitted: Fitted,
    planned: usize,
    summary: Summary,
    records: Vec<Record>,
}

impl Done<'_> {
    fn write(&self) -> Result<()> {
        if let Some(file) = &self.options.json {
            let settings = self
                .options
                .described(self.target, &self.fitted, self.planned);
            let document = json!({
                "settings": settings,
                "summary": self.summary,
                "requests": self.records,
            });
            files::save(file, &serde_json::to_string_pretty(&document)?)?;
        }
        if let Some(file) = &self.options.plot {
            let svg = load::plot(&self.records).map_err(|error| anyhow::anyhow!(error));
            files::save(file, &svg.context("cannot draw")?)?;
        }
        Ok(())
    }

    /// Fails if the numbers are not those of the load that was asked for, or there are none.
    fn check(&self, stop: &Shutdown) -> Result<()> {
        let (answered, planned) = (self.summary.answered, self.planned);
        let is_cut = self.records.len() < planned || self.summary.cancelled > 0;
        if stop.is_triggered() && is_cut {
            bail!("stopped by a signal with {answered} of {planned} requests answered");
        }
        if answered == 0 {
            bail!("none of {planned} requests was answered");
        }
        Ok(())
    }
}
