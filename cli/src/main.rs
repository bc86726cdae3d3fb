//! The program `patchlens`: studies of GPT-2-style transformers, on built-in tasks or anyone's
//! prompts.

mod bytes;
mod facts;
mod interrupt;
mod options;
mod output;
mod progress;
mod prompts;
mod questions;
mod sequences;
mod session;
mod shell;
mod studies;
mod train_mini;
mod usage;

use std::io::ErrorKind;
use std::process::ExitCode;

use anyhow::Result;
use clap::{CommandFactory as _, Parser, Subcommand};

use interrupt::EndedEarly;
use options::Common;
use session::Session;
use usage::Usage;

/// Mechanistic interpretability of GPT-2-style transformers on the CPU.
///
/// Each subcommand is a study: it runs on a built-in task, or on prompts of your own, prints what
/// it finds, and saves pictures, tables and one page if asked to.
#[derive(Debug, Parser)]
#[command(
    name = "patchlens",
    version,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = EXAMPLES,
    after_long_help = LONG
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  patchlens patch
  patchlens patch --clean \"When Mary and John went to the store, John gave a drink to\" \\
      --corrupted \"When Mary and John went to the store, Mary gave a drink to\" \\
      --answer \" Mary\" --wrong \" John\" --out study
  patchlens heads --model weights/gpt2 --out atlas";

const LONG: &str = "\
Examples:
  patchlens patch
  patchlens patch --clean \"When Mary and John went to the store, John gave a drink to\" \\
      --corrupted \"When Mary and John went to the store, Mary gave a drink to\" \\
      --answer \" Mary\" --wrong \" John\" --out study
  patchlens heads --model weights/gpt2 --out atlas

Files of prompt pairs (--pairs):
  .json   {\"prompts\": [{\"clean\": .., \"corrupt\": .., \"answers\": [..], \"wrong_answers\": [..]}]},
          a list of such pairs, or a list of {\"input\": .., \"output\": ..}
  .jsonl  one pair a line
  .csv    columns clean,corrupted,correct_idx,incorrect_idx (token ids),
          or clean,corrupted,label (greater-than: the first year's last two digits)
  An answer may have several tokens where each pair has one right answer and no wrong one.
  Pairs that cannot be used are named on stderr and in the JSON, with the reason.

Results go to stdout, progress and messages to stderr.

Exit status:
  0    done
  1    failed; the reason is on stderr
  2    wrong usage
  3    ended early (Ctrl-C): what was found is printed and saved, marked as partial
  130  ended at once by a second Ctrl-C";

#[derive(Debug, Subcommand)]
enum Command {
    Patch(studies::Patch),
    Paths(studies::Paths),
    Trace(studies::Trace),
    Knockout(studies::Knockout),
    Interchange(studies::Interchanges),
    Patchscope(studies::Patchscope),
    Lens(studies::Lens),
    Attribute(studies::Attribute),
    Steer(studies::Steer),
    Ablate(studies::Ablate),
    Circuits(studies::Circuits),
    Heads(studies::Heads),
    Induction(studies::Induction),
    InContext(studies::InContext),
    TrainMini(train_mini::Arguments),
    Completions(shell::Completions),
    Man(shell::Man),
}

/// Exit statuses, see [`LONG`].
mod status {
    pub const FAILED: u8 = 1;
    pub const USAGE: u8 = 2;
    pub const ENDED_EARLY: u8 = 3;
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => tell(&error),
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Patch(study) => in_session("patch", &study.common, |s| study.run(s)),
        Command::Paths(study) => in_session("paths", &study.common, |s| study.run(s)),
        Command::Trace(study) => in_session("trace", &study.common, |s| study.run(s)),
        Command::Knockout(study) => in_session("knockout", &study.common, |s| study.run(s)),
        Command::Interchange(study) => in_session("interchange", &study.common, |s| study.run(s)),
        Command::Patchscope(study) => in_session("patchscope", &study.common, |s| study.run(s)),
        Command::Steer(study) => in_session("steer", &study.common, |s| study.run(s)),
        Command::Induction(study) => in_session("induction", &study.common, |s| study.run(s)),
        Command::Ablate(study) => in_session("ablate", &study.common, |s| study.run(s)),
        Command::Circuits(study) => in_session("circuits", &study.common, |s| study.run(s)),
        Command::Heads(study) => in_session("heads", &study.common, |s| study.run(s)),
        Command::InContext(study) => in_session("in-context", &study.common, |s| study.run(s)),
        Command::Lens(study) => in_session("lens", &study.common, |s| study.run(s)),
        Command::Attribute(study) => in_session("attribute", &study.common, |s| study.run(s)),
        Command::Completions(completions) => completions.run(Cli::command()),
        Command::Man(man) => man.run(Cli::command()),
        Command::TrainMini(arguments) => {
            interrupt::listen()?;
            arguments.run()
        }
    }
}

/// Runs a study, and saves what it has found, also if it ended early.
fn in_session(
    name: &'static str,
    common: &Common,
    study: impl FnOnce(&Session) -> Result<()>,
) -> Result<()> {
    interrupt::listen()?;
    let session = Session::open(name, common)?;
    let done = study(&session);
    let ended_early = done.as_ref().is_err_and(anyhow::Error::is::<EndedEarly>);
    if done.is_ok() || ended_early {
        session.output.finish(ended_early)?;
    }
    done
}

/// Says on stderr what went wrong, and why, as far as the message does not say that itself.
fn tell(error: &anyhow::Error) -> ExitCode {
    let closed = |cause: &(dyn std::error::Error + 'static)| {
        let io = cause.downcast_ref::<std::io::Error>();
        io.is_some_and(|io| io.kind() == ErrorKind::BrokenPipe)
    };
    // Nobody reads stdout any more, as in `... | head`: that is no failure.
    if error.chain().any(closed) {
        return ExitCode::SUCCESS;
    }
    if error.is::<EndedEarly>() {
        eprintln!("{error}");
        return ExitCode::from(status::ENDED_EARLY);
    }
    eprintln!("error: {error}");
    let mut said = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !said.contains(&cause) {
            eprintln!("  because: {cause}");
        }
        said = cause;
    }
    if error.is::<Usage>() {
        eprintln!("\nFor more information, try '--help'.");
        ExitCode::from(status::USAGE)
    } else {
        ExitCode::from(status::FAILED)
    }
}
