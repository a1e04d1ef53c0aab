//! What faults cost: real processes around a real etcd of three nodes are killed, frozen, cut off, slowed down and robbed of
//! their disk, each role at each stage of a request. Clients must notice nothing but a pause, and nothing may stay held.

mod client;
mod cluster;
mod disk;
mod held;
mod network;
mod outcome;
mod report;
mod row;
mod stage;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use self::client::{Answer, Ask, Client};
use self::cluster::{Cluster, Setup};
use self::outcome::{Limits, Outcome};
use self::report::{Source, Tried};
use self::row::{Fault, Ground, HOLD_SECONDS, ROWS, Row, Side, Stage, Way};
use crate::cluster::command::Signal;
use crate::cluster::member::Kind;
use crate::performance::machine;
use crate::{binary, document, models, shell, tools};

/// The document with the table.
const DOCUMENT: &str = "docs/faults.md";

/// What is tried, and what it may cost.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Try this row only; may be repeated. Without it all are, which takes ten minutes.
    #[arg(long = "row", value_name = "ROW", value_parser = names())]
    rows: Vec<String>,
    /// List the rows and end.
    #[arg(long)]
    list: bool,
    /// Most milliseconds that a client may wait longer for a token after kill -9.
    #[arg(long, default_value_t = 2000)]
    kill_recovery_ms: u64,
    /// The same after SIGSTOP, and where the network loses packets or is slow.
    #[arg(long, default_value_t = 10_000)]
    stop_recovery_ms: u64,
    /// Most milliseconds that anything may be held once everything is well again.
    #[arg(long, default_value_t = 20_000)]
    held_ms: u64,
    /// Run workers on a small model instead of simulated ones, which speak the same protocol in modelled times. Rows that need
    /// its prompt or its cache to take a while are left out, and named.
    #[arg(long)]
    model: bool,
    /// Write the table into docs/faults.md; all changes outside of docs/ have to be committed.
    #[arg(long, conflicts_with = "rows")]
    write: bool,
}

fn names() -> clap::builder::PossibleValuesParser {
    clap::builder::PossibleValuesParser::new(ROWS.iter().map(|row| row.name))
}

/// Prints the table line by line, and fails if a row is bad.
pub(crate) fn run(options: &Options) -> Result<()> {
    if options.list {
        ROWS.iter().for_each(|row| println!("{}", row.name));
        return Ok(());
    }
    let commit = match options.write {
        true => document::clean_commit()?,
        false => document::commit()?,
    };
    let folder = std::path::absolute(shell::target().join("faults"))?;
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("cannot create {}", folder.display()))?;
    let model = models::smollm2()?;
    let workers = match options.model {
        true => vec!["--set".to_owned(), binary::model(&model)?],
        false => simulated(&model, &folder)?,
    };
    let setup = Setup {
        etcd: tools::ensure()?.join("bin/etcd"),
        lava: std::path::absolute(binary::build()?)?,
        workers,
        folder,
    };
    // The last one is the table's place in the document, and the name of its files.
    let (workers, command, table) = match options.model {
        true => (
            "workers on SmolLM2-135M",
            "cargo xtask faults --model",
            "faults-model",
        ),
        false => ("simulated workers", "cargo xtask faults", "faults"),
    };
    let source = Source {
        machine: machine::describe()?,
        busy: machine::busy()?,
        commit,
        workers,
        command,
    };
    let limits = Limits {
        kill: Duration::from_millis(options.kill_recovery_ms),
        stop: Duration::from_millis(options.stop_recovery_ms),
    };
    println!(
        "{}, {:.0} % busy with other things; {}\n{}",
        source.machine,
        100.0 * source.busy,
        source.workers,
        report::header()
    );
    let mut scene = Scene {
        setup,
        patience: Duration::from_millis(options.held_ms),
        current: None,
    };
    let mut tried = Vec::new();
    for row in ROWS {
        if !options.rows.is_empty() && options.rows.iter().all(|name| name != row.name) {
            continue;
        }
        if options.model && row::needs_modelled_times(row) {
            println!(
                "{:<30}  not with --model: its stage is over too soon to be hit",
                row.name
            );
            continue;
        }
        let result = scene.play(row).map_err(|error| format!("{error:#}"));
        let row = Tried::new(row, result, limits);
        if !row.wrong.is_empty() {
            // The next row has nothing to do with what this one left.
            scene.current = None;
        }
        println!("{}", report::row(&row, limits));
        tried.push(row);
    }
    let folder = scene.setup.folder.clone();
    drop(scene);
    let written = report::markdown(&source, &tried, limits);
    let file = |extension| folder.join(table).with_extension(extension);
    std::fs::write(file("md"), &written)?;
    let record = report::json(&source, &tried, limits);
    std::fs::write(file("json"), serde_json::to_string_pretty(&record)?)?;
    if options.write {
        document::fill(DOCUMENT, table, &written)?;
    }
    println!("the table and the logs are in {}", folder.display());
    let bad = tried.iter().filter(|row| !row.wrong.is_empty()).count();
    if bad > 0 {
        bail!("{bad} of {} rows are bad", tried.len());
    }
    Ok(())
}

/// Arguments of simulated workers.
fn simulated(text: &Path, folder: &Path) -> Result<Vec<String>> {
    let file = folder.join("profile.toml");
    std::fs::write(&file, cluster::profile(&std::path::absolute(text)?))
        .with_context(|| format!("cannot write {}", file.display()))?;
    Ok(vec!["--simulate".to_owned(), file.display().to_string()])
}

/// Where rows are played, one after another.
struct Scene {
    setup: Setup,
    /// Time for everything that was held to be given back.
    patience: Duration,
    current: Option<Stand>,
}

/// A cluster, and what its answers are without faults.
struct Stand {
    ground: Ground,
    cluster: Cluster,
    usual: BTreeMap<(Stage, usize, usize), Vec<Answer>>,
}

impl Scene {
    fn play(&mut self, row: &Row) -> Result<Outcome> {
        let ground = row.ground();
        if self
            .current
            .as_ref()
            .is_none_or(|stand| stand.ground != ground)
        {
            // Two clusters would disturb each other.
            self.current = None;
            let cluster = Cluster::start(&self.setup, ground)?;
            let usual = BTreeMap::new();
            self.current = Some(Stand {
                ground,
                cluster,
                usual,
            });
        }
        let stand = self.current.as_mut().expect("it was made above");
        let rounds = 1 + usize::from(row.is_held());
        let key = (row.stage, row.first(), row.after() * rounds);
        if !stand.usual.contains_key(&key) {
            let undisturbed = Row {
                must_hit: false,
                ..*row
            };
            let answers = ask_around(&self.setup, &mut stand.cluster, &undisturbed, None)?;
            let answers: Result<Vec<Answer>, String> = answers.into_iter().collect();
            let answers = answers.map_err(anyhow::Error::msg);
            let answers = answers.context("a request failed without any fault")?;
            stand.usual.insert(key, answers);
        }
        let Stand { cluster, usual, .. } = stand;
        let answers = ask_around(&self.setup, cluster, row, Some(row.fault))?;
        let mut outcome = Outcome::of(answers, &usual[&key]);
        cluster.heal()?;
        let (held, freed) = cluster.until_free(self.patience)?;
        outcome.held = held;
        outcome.freed_ms = freed.as_secs_f64() * 1e3;
        Ok(outcome)
    }
}

/// Starts requests, makes the fault when one of them is at its stage, starts more, and waits for all of them. Faults of the
/// network and the disk are over when this returns; processes are as the fault left them.
fn ask_around(
    setup: &Setup,
    cluster: &mut Cluster,
    row: &Row,
    fault: Option<Fault>,
) -> Result<Vec<Result<Answer, String>>> {
    let mut clients = Vec::new();
    let mut asked = 0;
    let mut ask = |cluster: &Cluster, clients: &mut Vec<Client>, count: usize| -> Result<()> {
        for number in asked..asked + count {
            let mut coordinators = cluster.coordinators();
            // Every second one begins with the other.
            if number % 2 == 1 {
                coordinators.reverse();
            }
            let ask = Ask {
                number,
                max_tokens: ANSWER_TOKENS,
            };
            let guard = cluster.guard();
            clients.push(Client::start(
                &setup.lava,
                &coordinators,
                ask,
                &setup.folder,
                guard,
            )?);
        }
        asked += count;
        Ok(())
    };
    ask(cluster, &mut clients, row.first())?;
    let hit = cluster.until_at(row.stage)?;
    let made = Instant::now();
    let undo = match fault {
        Some(fault) => make(cluster, fault, &hit)?,
        None => Undo::Nothing,
    };
    ask(cluster, &mut clients, row.after())?;
    let mut answers = Vec::new();
    if row.is_held() {
        // By then those before have their answers, if all is well.
        match fault {
            Some(_) => {
                let hold = Duration::from_secs(HOLD_SECONDS);
                std::thread::sleep(hold.saturating_sub(made.elapsed()));
            }
            None => answers = finish(&mut clients)?,
        }
        ask(cluster, &mut clients, row.after())?;
    }
    answers.extend(finish(&mut clients)?);
    undo.run(cluster)?;
    Ok(answers)
}

/// Waits for all of them.
fn finish(clients: &mut Vec<Client>) -> Result<Vec<Result<Answer, String>>> {
    clients.drain(..).map(Client::finish).collect()
}

/// Tokens of an answer. A simulated worker takes 20 ms for each.
const ANSWER_TOKENS: usize = 100;

/// What ends a fault that is none of a process.
enum Undo {
    Nothing,
    Join(Vec<(String, String)>),
    Hasten(String),
    /// Nothing can be undone, but it must have been so.
    SeeFull,
}

/// Makes the fault to those that were at the stage.
fn make(cluster: &mut Cluster, fault: Fault, hit: &[String]) -> Result<Undo> {
    match fault {
        Fault::Kill(kind) => cluster.send(Signal::Kill, &one(cluster, kind, hit)?)?,
        Fault::Stop(kind) => cluster.send(Signal::Stop, &one(cluster, kind, hit)?)?,
        Fault::KillLeader => cluster.send(Signal::Kill, &cluster.leader()?)?,
        Fault::StopLeader => cluster.send(Signal::Stop, &cluster.leader()?)?,
        Fault::EtcdOutage => {
            for node in cluster.side(Side::All(Kind::Etcd), hit) {
                cluster.send(Signal::Kill, &node)?;
            }
        }
        Fault::Cut { ways, .. } => {
            let pairs = pairs(cluster, ways, hit);
            for (from, to) in &pairs {
                cluster.network()?.cut(from, to)?;
            }
            return Ok(Undo::Join(pairs));
        }
        Fault::Slow => {
            let worker = one(cluster, Kind::Prefill, hit)?;
            cluster.network()?.slow(&worker)?;
            return Ok(Undo::Hasten(worker));
        }
        Fault::FullDisk => {
            cluster.disk()?.fill()?;
            return Ok(Undo::SeeFull);
        }
    }
    Ok(Undo::Nothing)
}

fn one(cluster: &Cluster, kind: Kind, hit: &[String]) -> Result<String> {
    let mut of_kind = cluster.side(Side::Hit(kind), hit);
    of_kind
        .pop()
        .with_context(|| format!("no {kind:?} was at the stage"))
}

/// All pairs of processes that the ways go between.
fn pairs(cluster: &Cluster, ways: &[Way], hit: &[String]) -> Vec<(String, String)> {
    let of_way = |way: &Way| {
        let to = cluster.side(way.to, hit);
        let from = cluster.side(way.from, hit).into_iter();
        from.flat_map(move |from| to.clone().into_iter().map(move |to| (from.clone(), to)))
            .collect::<Vec<_>>()
    };
    ways.iter().flat_map(of_way).collect()
}

impl Undo {
    fn run(self, cluster: &Cluster) -> Result<()> {
        match self {
            Undo::Nothing => Ok(()),
            Undo::Join(pairs) => {
                let network = cluster.network()?;
                pairs
                    .iter()
                    .try_for_each(|(from, to)| network.join(from, to))
            }
            Undo::Hasten(worker) => cluster.network()?.hasten(&worker),
            Undo::SeeFull if cluster.disk()?.is_full() => Ok(()),
            Undo::SeeFull => bail!("the disk was not full"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_has_a_place_for_both_tables() {
        let text = std::fs::read_to_string(shell::root().join(DOCUMENT)).unwrap();
        for table in ["faults", "faults-model"] {
            document::filled(&text, table, "x").unwrap();
        }
    }
}
