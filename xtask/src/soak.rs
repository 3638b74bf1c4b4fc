//! `cargo xtask soak`: the long run, and the proofs in a size that no daily run has time for.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use clap::Args;

use self::proofs::Proof;
use crate::workspace::Workspace;
use crate::{bench, machine};

mod proofs;

/// Where the report goes.
const REPORT: &str = "docs/SOAK.md";
/// A user without rights, and without a name: root reads what nobody may read, so faults need another one. The run uses up the
/// watches of this one, so it is not the `nobody` as whom tests and other programs run.
const USER: u32 = 65_533;
/// The heap of the run: one for all threads, that gives back what is free, and keeps nothing aside for a thread. As it is
/// usual, with several heaps, memory that lies free in them counts as held, and grows for hours although nothing is lost.
const HEAP: [(&str, &str); 3] = [
    ("MALLOC_ARENA_MAX", "1"),
    ("MALLOC_TRIM_THRESHOLD_", "0"),
    ("GLIBC_TUNABLES", "glibc.malloc.tcache_count=0"),
];
/// Small enough to be full soon, large enough for three files twice.
const SMALL: &str = "256k";

/// What is run.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Clients, writers and faults for so long
    #[arg(long, default_value_t = 60.0)]
    minutes: f64,
    /// Instead: so many random histories for each property of the simulator; 100,000 is the full size
    #[arg(long, value_name = "N", conflicts_with = "minutes")]
    cases: Option<u32>,
    /// Instead: a proof in its full size
    #[arg(long, value_name = "PROOF", conflicts_with_all = ["minutes", "cases"])]
    proof: Option<Proof>,
    /// Print the report and write nothing
    #[arg(long)]
    dry: bool,
    /// Leave the heap as the system has it: several, and what lies free in them counts as held
    #[arg(long)]
    own_heap: bool,
}

/// Runs what was asked for.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let workspace = Workspace::members_only()?;
    match (options.proof, options.cases) {
        (Some(proof), _) => proofs::run(&workspace, &proof.lines()),
        (None, Some(cases)) => proofs::run(&workspace, &proofs::histories(cases)),
        (None, None) => clients(&workspace, options),
    }
}

fn clients(workspace: &Workspace, options: &Options) -> Result<ExitCode> {
    let commit = machine::commit(&workspace.workspace_root);
    let facts = machine::facts();
    let programs = bench::build(workspace)?;
    let place = Place::new(&programs)?;
    let mut command = Command::new(place.folder.join("certsource-soak"));
    command.args(["--minutes", &options.minutes.to_string()]).env("TMPDIR", place.folder.join("tmp"));
    if !options.own_heap {
        command.envs(HEAP);
    }
    if place.is_small_disk_there {
        command.arg("--small-disk").arg(place.folder.join("disk"));
    }
    #[cfg(unix)]
    if place.is_root {
        use std::os::unix::process::CommandExt as _;
        command.uid(USER).gid(USER);
    }
    command.stderr(std::process::Stdio::inherit());
    let output = command.output().context("starting the soak")?;
    let report = String::from_utf8_lossy(&output.stdout);
    print!("{report}");
    if report.trim().is_empty() {
        bail!("the soak ended without a report");
    }
    if !options.dry {
        let path = workspace.workspace_root.join(REPORT);
        fs::write(path, page(options, &report, &commit, &facts))
            .with_context(|| format!("writing {REPORT}"))?;
    }
    Ok(if output.status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn page(options: &Options, report: &str, commit: &str, facts: &[(&'static str, String)]) -> String {
    let mut page = String::from(
        "# A long run\n\n\
         Written by `cargo xtask soak`. Clients send requests all the time, writers of six kinds rotate authorities and\n\
         identities under them, and between two rotations something breaks: files, permissions, the disk, the watches of\n\
         the operating system. Short-lived sources and clients come and go. What is run is in `benches/src/bin/soak`.\n\n",
    );
    for (name, value) in facts {
        page.push_str(&format!("- {name}: {value}\n"));
    }
    let heap = if options.own_heap {
        String::from("as the system has it: several, and what lies free in them counts as held")
    } else {
        let set = HEAP.map(|(name, value)| format!("`{name}={value}`"));
        format!("one that gives back what is free ({}), so that what counts is what is held", set.join(", "))
    };
    page.push_str(&format!("- heap: {heap}\n- commit: {commit}\n\n## Result\n\n{}\n", report.trim_end()));
    page
}

/// A folder for the run that the user without rights can use, with a copy of the program: so a build that goes on
/// meanwhile does not disturb the run. All of it goes when this is dropped.
struct Place {
    folder: PathBuf,
    is_root: bool,
    is_small_disk_there: bool,
}

impl Place {
    fn new(programs: &Path) -> Result<Self> {
        let folder = env::temp_dir().join(format!("certsource-soak-{}", std::process::id()));
        let mut place = Self { folder, is_root: is_root()?, is_small_disk_there: false };
        for name in ["disk", "tmp"] {
            fs::create_dir_all(place.folder.join(name)).context("making a folder for the run")?;
        }
        let program = "certsource-soak";
        fs::copy(programs.join(program), place.folder.join(program)).context("copying the program")?;
        #[cfg(unix)]
        if place.is_root {
            std::os::unix::fs::chown(place.folder.join("tmp"), Some(USER), Some(USER))
                .context("handing the folder to the user without rights")?;
            place.is_small_disk_there = mount(&place.folder.join("disk"));
        }
        if !place.is_small_disk_there {
            eprintln!("xtask: no small disk can be mounted here, so none is filled");
        }
        Ok(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.is_small_disk_there {
            // What is still mounted is told by the removal below.
            let _ = Command::new("umount").arg(self.folder.join("disk")).status();
        }
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            eprintln!("xtask: removing {}: {error}", self.folder.display());
        }
    }
}

fn mount(at: &Path) -> bool {
    let options = format!("size={SMALL},uid={USER},gid={USER},mode=700");
    let status = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(at).status();
    status.is_ok_and(|status| status.success())
}

fn is_root() -> Result<bool> {
    let output = Command::new("id").arg("-u").output().context("starting id")?;
    Ok(String::from_utf8_lossy(&output.stdout).trim() == "0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_opens_with_what_it_is_and_where_it_was_run() {
        let of = |own_heap| {
            let options = Options { minutes: 60.0, cases: None, proof: None, dry: false, own_heap };
            page(&options, "Nothing grew.\n\n## Counts\n", "abc", &[("cores", "2".to_owned())])
        };
        let one = of(false);
        assert!(one.starts_with("# A long run\n"));
        assert!(one.contains("- cores: 2\n- heap: one that gives back"), "{one}");
        assert!(one.contains("- commit: abc\n\n## Result\n\nNothing grew."), "{one}");
        assert!(of(true).contains("- heap: as the system has it"));
    }
}
