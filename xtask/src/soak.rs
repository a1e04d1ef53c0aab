//! Whether a server that works for long stays as it was. A server gets thousands of requests in rounds: prompts, answers,
//! budgets, policies and row formats at random, and clients that leave at any moment, read slowly or stop reading. After
//! each round nothing may be held, and after the last one memory is as large as after the first.

mod load;
mod look;
mod round;

use std::fs::File;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use self::load::{Came, Load};
use self::look::Look;
use self::round::{Peak, Round};
use crate::process::{Places, Process};
use crate::{binary, http, models, shell};

const ROUNDS: usize = 4;
/// Time between two looks at the server.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// Time for everything to be given back after a round.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// Time for connections of a round to be forgotten, before memory is read.
const REST: Duration = Duration::from_secs(1);
/// Time that the server grants a client which takes nothing.
const STALL_TIMEOUT: Duration = Duration::from_secs(3);

/// How much of it.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// All requests together.
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(100..))]
    requests: u32,
    /// Requests per second; a machine that is too slow for it has to refuse some, which fails.
    #[arg(long, default_value_t = 4.0)]
    rate: f64,
    /// The same seed asks the same.
    #[arg(long, default_value_t = 1)]
    seed: u32,
}

/// Prints a line for each round, and fails if anything was lost, held or leaked.
pub(crate) fn run(options: &Options) -> Result<()> {
    let model = binary::model(&models::smollm2()?)?;
    let lava = binary::build()?;
    let folder = shell::target().join("soak");
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("cannot create {}", folder.display()))?;
    let log = folder.join("serve.log");
    let in_log = || format!("the log is {}", log.display());
    let file = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
    let places = Places::free()?;
    // Buffers that few messages fill, and a queue that takes in what a slow machine is behind with.
    let settings = [
        model,
        "decode.output_max=3".to_owned(),
        "limits.answer_messages_max=1".to_owned(),
        format!("decode.stall_timeout_ms={}", STALL_TIMEOUT.as_millis()),
        "prefill.queue_max=256".to_owned(),
    ];
    let mut serve = binary::role(&lava, "serve", places, &settings);
    let mut serve = Process::start("serve", serve.stderr(file))?;
    let ready = serve.wait_until_ready(places.http, "/readyz");
    ready.with_context(in_log)?;

    let soak = Soak {
        lava,
        address: places.address.to_string(),
        http: places.http,
        server: serve.id(),
        folder,
    };
    println!(
        "{} requests at {}/s in {ROUNDS} rounds, seed {}\n{}",
        options.requests,
        options.rate,
        options.seed,
        round::HEADER
    );
    let mut rounds = Vec::new();
    for number in 0..ROUNDS {
        let round = soak.round(options, number).with_context(in_log)?;
        println!("{}", round.row(number));
        rounds.push(round);
    }
    println!("{}", look::cancels(&soak.page().with_context(in_log)?));
    serve.signal("TERM")?;
    let ended = serve.wait()?;
    if !ended.success() {
        bail!("the server ended with {ended} after SIGTERM; {}", in_log());
    }
    let wrong = round::judge(&rounds, STALL_TIMEOUT);
    if !wrong.is_empty() {
        bail!("{}; {}", wrong.join("; "), in_log());
    }
    println!("nothing was lost, nothing is held, and memory is flat");
    Ok(())
}

/// A server under test.
struct Soak {
    lava: PathBuf,
    address: String,
    http: SocketAddr,
    /// Its process id.
    server: u32,
    /// Where loads write their records.
    folder: PathBuf,
}

impl Soak {
    /// Runs all loads of a round at once, watches meanwhile, and looks at what is left.
    fn round(&self, options: &Options, number: usize) -> Result<Round> {
        let began = Instant::now();
        let loads = load::round(options, number);
        let (came, peak) = std::thread::scope(|scope| {
            let running: Vec<_> = loads
                .iter()
                .map(|load| scope.spawn(move || self.load(load)))
                .collect();
            let mut peak = Peak::default();
            while running.iter().any(|load| !load.is_finished()) {
                // A server without a core to answer with is looked at the next time.
                if let Ok(look) = self.look() {
                    peak.add(&look);
                }
                std::thread::sleep(LOOK_INTERVAL);
            }
            let ended = running.into_iter().map(|load| load.join());
            let came: Result<Vec<Came>> = ended
                .map(|came| came.expect("a load reports its errors"))
                .collect();
            came.map(|came| (came, peak))
        })?;
        let took = began.elapsed();
        Ok(Round {
            took,
            came: came.into_iter().fold(Came::default(), Came::plus),
            peak,
            rest: self.rest()?,
        })
    }

    fn load(&self, load: &Load) -> Result<Came> {
        let json = self.folder.join(format!("{}.json", load.name));
        let mut bench = std::process::Command::new(&self.lava);
        bench.args(["bench", "serve", "--addr", &self.address]);
        bench.args(load.arguments.split_whitespace());
        shell::output(bench.arg("--json").arg(&json))?;
        Came::read(&json)
    }

    /// Waits until nothing is held, or too long.
    fn rest(&self) -> Result<Look> {
        let began = Instant::now();
        loop {
            let look = self.look();
            let is_idle = look.as_ref().is_ok_and(|look| look.held.is_empty());
            if is_idle {
                std::thread::sleep(REST);
                return self.look();
            }
            if began.elapsed() > IDLE_TIMEOUT {
                return look;
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
    }

    fn look(&self) -> Result<Look> {
        Look::new(&self.page()?, look::resident_bytes(self.server)?)
    }

    fn page(&self) -> Result<String> {
        http::get(self.http, "/metrics").context("the server does not answer")
    }
}
