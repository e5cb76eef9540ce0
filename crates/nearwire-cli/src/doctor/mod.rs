//! `nearwire doctor`: whether this machine gives what Nearwire needs, and what to do where it does
//! not.

#[cfg(unix)]
mod call;
#[cfg(target_os = "linux")]
mod cgroup;
mod clock;
#[cfg(target_os = "linux")]
mod container;
mod directory;
mod finding;
#[cfg(target_os = "linux")]
mod kernel;
#[cfg(unix)]
mod limits;
#[cfg(target_os = "linux")]
mod memory;
mod processors;
#[cfg(target_os = "linux")]
mod system;

use anyhow::{Result, bail};

use finding::{Finding, Report};

/// Look at this machine: does it give what Nearwire needs, and if not, what is to be done?
///
/// Each line is ok, warn (works, but slower or for fewer than asked for) or fail (does not work),
/// followed by what to do. Most checks try the thing itself instead of reading a version. Exit code
/// 1 if any check failed. Nothing is left behind or changed.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  nearwire doctor
  nearwire doctor --connections 5000 --workers 4    # is there room for so many?
  nearwire doctor --json | jq '.checks[] | select(.level != \"ok\")'")]
pub struct Doctor {
    /// Connections that a server here is to have at a time.
    #[arg(long, value_name = "COUNT", default_value_t = 128,
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    connections: u32,
    /// Worker threads that a server here is to have [default: one per four CPUs].
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=1024))]
    workers: Option<u16>,
    /// Print JSON instead of lines.
    #[arg(long)]
    json: bool,
}

/// What is planned for this machine.
#[derive(Debug, Clone, Copy)]
struct Plan {
    /// Connections of one server at a time.
    #[cfg_attr(windows, expect(dead_code, reason = "no limit there depends on it"))]
    connections: u64,
    /// Its worker threads, if not the usual number.
    workers: Option<usize>,
}

impl Doctor {
    /// Looks, and prints.
    ///
    /// # Errors
    /// If a check failed, or the output cannot be written.
    pub fn run(&self) -> Result<()> {
        let plan = Plan {
            connections: self.connections.into(),
            workers: self.workers.map(usize::from),
        };
        let report = Report::new(examine(plan));
        report.print(self.json)?;
        match report.failed {
            0 => Ok(()),
            1 => bail!("1 check failed"),
            many => bail!("{many} checks failed"),
        }
    }
}

fn examine(plan: Plan) -> Vec<Finding> {
    let mut findings = Vec::new();
    #[cfg(target_os = "linux")]
    let system = system::System::this();
    #[cfg(target_os = "linux")]
    findings.extend(kernel::examine());
    #[cfg(target_os = "linux")]
    findings.extend(processors::examine(&system, plan));
    #[cfg(not(target_os = "linux"))]
    findings.extend(processors::examine(plan));
    findings.push(clock::examine(
        #[cfg(target_os = "linux")]
        &system,
    ));
    #[cfg(target_os = "linux")]
    findings.extend(memory::examine(&system, plan));
    #[cfg(unix)]
    findings.extend(limits::examine(plan));
    #[cfg(target_os = "linux")]
    findings.extend(container::examine(&system));
    findings.push(directory::examine());
    #[cfg(unix)]
    findings.push(call::examine());
    findings
}
