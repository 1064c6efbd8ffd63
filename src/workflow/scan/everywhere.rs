//! This machine and other nodes, all looked at at the same time.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;

use rayon::prelude::*;

use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, Run, Silent};
use crate::model::evidence::Clock;
use crate::node::{RemoteOutput, SshOptions, Target, run_remote};
use crate::workflow::scan::collect::{Collected, Told};
use crate::workflow::scan::{ScanOptions, scan};

/// How many nodes are looked at at the same time; each is a process of ssh here.
const NODES_AT_ONCE: usize = 32;

/// What came of one node.
struct Answer {
    told: Told,
    clock: Clock,
    warnings: Vec<String>,
}

/// Looks at `paths` here and at `nodes` over ssh. A node that cannot be looked at is a finding.
///
/// # Errors
/// When interrupted, or when what is to be looked at here cannot be.
pub fn scan_everywhere(
    paths: &[PathBuf],
    nodes: &[Target],
    options: &ScanOptions,
    ssh: &SshOptions,
    run: &Run<'_>,
) -> Result<Collected> {
    let quiet = Run { observer: &Silent, cancel: run.cancel };
    let (answered, answers_come) = mpsc::channel();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(nodes.len().clamp(1, NODES_AT_ONCE)).build();
    let pool = pool.map_err(|e| Error::usage("cannot start threads").with_hint(e.to_string()))?;
    let (own, answers) = thread::scope(|scope| {
        let remote = scope.spawn(move || -> Vec<Result<Answer>> {
            let ask = |answered: &mut Sender<()>, node| {
                let answer = ask(node, options, ssh, &quiet);
                // Nobody waits any more when this machine's own part has failed.
                let _ = answered.send(());
                answer
            };
            pool.install(|| nodes.par_iter().map_with(answered, ask).collect())
        });
        let own = if paths.is_empty() { Ok(None) } else { scan(paths, options, run).map(Some) };
        wait(nodes.len(), &answers_come, run);
        let answers = remote.join().map_err(|_| Error::new(ErrorKind::External, "a thread has died"));
        (own, answers)
    });
    let mut collected = Collected::default();
    if let Some(scanned) = own? {
        collected.add_own(&options.node, scanned);
    }
    for (node, answer) in nodes.iter().zip(answers?) {
        match answer {
            Ok(Answer { told, clock, warnings }) => {
                collected.add_remote(node.host(), told, clock, warnings);
            }
            Err(e) if e.kind() == ErrorKind::Interrupted => return Err(e),
            Err(e) => collected.add_unreachable(node.host(), &e),
        }
    }
    Ok(collected)
}

/// Shows how many of the nodes have answered, until all have.
fn wait(nodes: usize, answers: &Receiver<()>, run: &Run<'_>) {
    for answered in 0..nodes {
        let name = format!("asking nodes, {answered} of {nodes} have answered");
        run.event(Event::Phase { name: &name, total_bytes: None });
        let goes_on = answers.recv().is_ok();
        run.event(Event::PhaseDone);
        if !goes_on {
            break;
        }
    }
}

fn ask(node: &Target, options: &ScanOptions, ssh: &SshOptions, run: &Run<'_>) -> Result<Answer> {
    let output = run_remote(node, &arguments(node, options), ssh, run)?;
    let fail = |what: String| {
        let said =
            if output.stderr.is_empty() { String::new() } else { format!("; it said: {}", output.stderr) };
        Error::new(ErrorKind::External, format!("node {}: {what}{said}", node.destination()))
            .with_hint("run `lhrecover scan --json` there by hand, and give what it prints to --from")
    };
    // Findings there are no failure.
    if output.exit_code > 1 {
        return Err(fail(format!("the scan there ended with exit code {}", output.exit_code)));
    }
    let told = Told::parse(&output.stdout).map_err(|why| fail(format!("its answer is no scan: {why}")))?;
    Ok(Answer { clock: clock(&output, &told), told, warnings: output.warnings })
}

fn arguments(node: &Target, options: &ScanOptions) -> Vec<OsString> {
    let mut args: Vec<OsString> = ["scan", "--json", "--node-name"].map(OsString::from).into();
    args.push(node.host().into());
    if options.deep {
        // Its lines of progress are signs of life.
        args.extend(["--deep", "--progress", "plain"].map(OsString::from));
    } else {
        args.push("--quiet".into());
    }
    if let Some(jobs) = options.jobs {
        args.extend(["--jobs".into(), jobs.to_string().into()]);
    }
    for volume in &options.volumes {
        args.extend(["--volume".into(), volume.into()]);
    }
    if let Some(path) = node.path() {
        args.extend(["--".into(), path.into()]);
    }
    args
}

/// The clock there beside ours: read by itself where that went well, otherwise when the scan was done.
fn clock(output: &RemoteOutput, told: &Told) -> Clock {
    match (output.clock, told.scanned_at()) {
        (Some(look), _) => Clock::read(look.read_at, look.sent_at, look.received_at),
        (None, Some(at)) => Clock::read(at, output.sent_at, output.received_at),
        (None, None) => Clock::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;

    #[test]
    fn a_node_is_told_all_that_was_asked_for_and_says_how_far_it_is_when_it_takes_long() {
        let node = Target::parse(OsStr::new("root@pi:/x y")).unwrap_or_else(|e| panic!("{e}"));
        let options =
            |deep, jobs| ScanOptions { volumes: vec!["v".into()], deep, jobs, ..ScanOptions::default() };
        let shallow = ["scan", "--json", "--node-name", "pi", "--quiet", "--volume", "v", "--", "/x y"];
        assert_eq!(arguments(&node, &options(false, None)), shallow);
        let deep = "scan --json --node-name pi --deep --progress plain --jobs 3 --volume v --".split(' ');
        let deep: Vec<_> = deep.chain(["/x y"]).collect();
        assert_eq!(arguments(&node, &options(true, Some(3))), deep);
    }
}
