//! The hidden command `manual`: writes man pages and completions for shells, from the same definitions as the help.
//!
//! Only with the feature `manual`; `cargo xtask manual` calls it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::CommandFactory;
use clap_complete::Shell;

use crate::args::Cli;

/// What stands behind the options in the help: the generator puts it here, and would fill its lines.
const EXTRA: &str = ".SH EXTRA\nExamples:\n";

const SHELLS: [Shell; 4] = [Shell::Bash, Shell::Zsh, Shell::Fish, Shell::PowerShell];

/// Write man pages and completions for shells.
#[derive(Debug, clap::Args)]
#[command(hide = true)]
pub(crate) struct Args {
    /// The directory to write to; `man1` and `completions` are made in it
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let (pages, completions) = (args.directory.join("man1"), args.directory.join("completions"));
    for directory in [&pages, &completions] {
        fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    }
    write_pages(&pages)?;
    for shell in SHELLS {
        clap_complete::generate_to(shell, &mut Cli::command(), "certsource", &completions)
            .with_context(|| format!("cannot write completions for {shell}"))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// `certsource.1`, and `certsource-get.1` for each command.
fn write_pages(directory: &Path) -> anyhow::Result<()> {
    let command = Cli::command().disable_help_subcommand(true);
    clap_mangen::generate_to(command, directory).context("cannot write man pages")?;
    for entry in fs::read_dir(directory).context("cannot list the man pages")? {
        let path = entry.context("cannot list the man pages")?.path();
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        fs::write(&path, with_examples(&text)).with_context(|| format!("cannot write {}", path.display()))?;
    }
    // What is hidden here is no part of the manual.
    let hidden = directory.join("certsource-manual.1");
    if hidden.exists() {
        fs::remove_file(&hidden).with_context(|| format!("cannot remove {}", hidden.display()))?;
    }
    Ok(())
}

/// The examples as a section of their own, line by line as they were written.
fn with_examples(page: &str) -> String {
    let Some((before, after)) = page.split_once(EXTRA) else { return page.to_owned() };
    let (examples, rest) = match after.find("\n.SH ") {
        Some(end) => after.split_at(end + 1),
        None => (after, ""),
    };
    format!("{before}.SH EXAMPLES\n.nf\n{}\n.fi\n{rest}", examples.trim_end())
}
