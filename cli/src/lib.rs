//! The program `patchlens`: studies of GPT-2-style transformers, on built-in tasks or anyone's
//! prompts. A library for programs that run the same studies on many machines, see [`parts`].

mod bytes;
mod clash;
mod facts;
mod interrupt;
mod merge;
mod missing;
mod numbers;
mod options;
mod outline;
mod output;
pub mod parts;
mod progress;
mod prompts;
mod questions;
mod sequences;
mod session;
mod shell;
mod studies;
mod train_mini;
mod usage;
mod work;

use std::io::ErrorKind;
use std::process::ExitCode;

use anyhow::Result;
use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use interrupt::{Again, EndedEarly};
use options::Common;
use outline::Outline;
use session::{Opened, Session};
use usage::Usage;
use work::{Divided, Kept, PartDone, Work};

/// Mechanistic interpretability of GPT-2-style transformers on the CPU.
///
/// Each subcommand is a study: it runs on a built-in task, or on prompts of your own, prints what
/// it finds, and saves pictures, tables and one page if asked to.
#[derive(Debug, Parser)]
#[command(
    name = "patchlens",
    version,
    propagate_version = true,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = EXAMPLES,
    after_long_help = format!("{EXAMPLES}\n\n{LONG}")
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
  3    ended early (Ctrl-C, SIGTERM): what was found is printed and saved, marked as partial
  75   the same with --journal, also on SIGUSR1: run again, the command goes on where it ended
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
    Merge(merge::Merge),
    TrainMini(train_mini::Arguments),
    Completions(shell::Completions),
    Man(shell::Man),
}

/// Exit statuses, see [`LONG`].
mod status {
    pub const FAILED: u8 = 1;
    pub const USAGE: u8 = 2;
    pub const ENDED_EARLY: u8 = 3;
    /// "Try again", as in `sysexits.h`.
    pub const AGAIN: u8 = 75;
}

/// Runs the program with the arguments of this process.
pub fn main() -> ExitCode {
    let (command, asked) = match parse() {
        Ok(parsed) => parsed,
        Err(error) => error.exit(),
    };
    match run(&command, asked) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => tell(&error),
    }
}

/// What the program takes.
fn program() -> clap::Command {
    // Of `--seed -1` people are told what is wrong with the number, rather than that there is no
    // option `-1`.
    let numbers = |argument: clap::Arg| {
        let takes = argument.get_action().takes_values() && !argument.is_positional();
        argument.allow_negative_numbers(takes)
    };
    Cli::command().mut_subcommands(|command| command.mut_args(numbers))
}

/// The command, and what its journal would be named.
fn parse() -> clap::error::Result<(Command, String)> {
    let program = program();
    let matches = program.clone().try_get_matches()?;
    clash::check(&program, &matches)?;
    let asked = work::study(&program, &matches);
    Ok((Cli::from_arg_matches(&matches)?.command, asked))
}

/// A subcommand that is a study.
struct Chosen<'c> {
    name: &'static str,
    common: &'c Common,
    long: Long<'c>,
    run: Box<RunIn<'c>>,
}

/// Runs a study in a session.
type RunIn<'c> = dyn Fn(&Session) -> Result<()> + 'c;

/// What a study does with long work.
enum Long<'c> {
    /// It takes seconds.
    None,
    Kept(&'c Kept),
    /// In steps, each of which depends on all of the one before.
    Divided(&'c Divided, usize),
}

impl Long<'_> {
    /// What a study named so does with its journal.
    fn work(&self, asked: String) -> Work {
        match self {
            Long::None => Work::default(),
            Long::Kept(kept) => Work::new(asked, Divided::whole((*kept).clone())),
            Long::Divided(divided, _) => Work::new(asked, (*divided).clone()),
        }
    }
}

impl Command {
    fn study(&self) -> Option<Chosen<'_>> {
        macro_rules! chosen {
            ($name:literal, $study:expr, $long:expr) => {
                Chosen {
                    name: $name,
                    common: &$study.common,
                    long: $long,
                    run: Box::new(move |session| $study.run(session)),
                }
            };
        }
        let divided = |divided, steps| Long::Divided(divided, steps);
        Some(match self {
            Command::Patch(s) => chosen!("patch", s, divided(&s.divided, 1)),
            Command::Paths(s) => chosen!("paths", s, divided(&s.divided, 3)),
            Command::Trace(s) => chosen!("trace", s, divided(&s.divided, 1)),
            Command::Knockout(s) => chosen!("knockout", s, divided(&s.divided, 1)),
            Command::Ablate(s) => chosen!("ablate", s, divided(&s.divided, 1)),
            Command::Circuits(s) => chosen!("circuits", s, divided(&s.divided, 1)),
            Command::Heads(s) => chosen!("heads", s, Long::Kept(&s.kept)),
            Command::Induction(s) => chosen!("induction", s, Long::Kept(&s.kept)),
            Command::Steer(s) => chosen!("steer", s, Long::Kept(&s.kept)),
            Command::Interchange(s) => chosen!("interchange", s, Long::None),
            Command::Patchscope(s) => chosen!("patchscope", s, Long::None),
            Command::InContext(s) => chosen!("in-context", s, Long::None),
            Command::Lens(s) => chosen!("lens", s, Long::None),
            Command::Attribute(s) => chosen!("attribute", s, Long::None),
            _ => return None,
        })
    }
}

/// Runs a command; `asked` is what its journal would be named.
fn run(command: &Command, asked: String) -> Result<()> {
    match command {
        Command::Patch(study) if study.plan => {
            return study.outline(Outline::open("patch", &study.common)?);
        }
        Command::Trace(study) if study.plan => {
            return study.outline(Outline::open("trace", &study.common)?);
        }
        _ => {}
    }
    if let Some(chosen) = command.study() {
        interrupt::listen()?;
        let work = chosen.long.work(asked);
        let opened = Opened::open(chosen.common)?;
        return in_session(&chosen, opened, work);
    }
    match command {
        Command::Merge(merge) => merge.run(),
        Command::Completions(completions) => completions.run(program()),
        Command::Man(man) => man.run(program()),
        Command::TrainMini(arguments) => {
            interrupt::listen()?;
            arguments.run()
        }
        _ => unreachable!("all others are studies"),
    }
}

/// Runs a study, and saves what it has found, also if it ended early.
fn in_session(chosen: &Chosen<'_>, opened: Opened, work: Work) -> Result<()> {
    let session = Session::new(chosen.name, chosen.common, opened, work)?;
    let done = match (chosen.run)(&session) {
        Err(error) if error.is::<PartDone>() => Ok(()),
        other => other,
    };
    if done.is_ok()
        && let Some(text) = session.work.finish()?
    {
        session.output.note(text);
    }
    let ended_early = done.as_ref().is_err_and(anyhow::Error::is::<EndedEarly>);
    let again = session.work.again().filter(|_| ended_early);
    if done.is_ok() || ended_early {
        let partial = ended_early || session.work.lacks_results();
        session.output.finish(partial)?;
    }
    match again {
        Some(again) => Err(Again(again).into()),
        None => done,
    }
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
    for (ended, status) in [
        (error.is::<EndedEarly>(), status::ENDED_EARLY),
        (error.is::<Again>(), status::AGAIN),
    ] {
        if ended {
            eprintln!("{error}");
            return ExitCode::from(status);
        }
    }
    eprintln!("error: {error}");
    let mut said = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !said.contains(&cause) {
            eprintln!("  because: {cause}");
        }
        said = cause;
    }
    let enough = |cause: &(dyn std::error::Error + 'static)| match cause.downcast_ref() {
        Some(patchlens::Error::MemoryLimit { least, .. }) => Some(*least),
        _ => None,
    };
    if let Some(least) = error.chain().find_map(enough) {
        eprintln!(
            "  it is set by --memory: {}M is enough",
            least.div_ceil(1 << 20)
        );
    }
    if error.is::<Usage>() {
        eprintln!("\nFor more information, try '--help'.");
        ExitCode::from(status::USAGE)
    } else {
        ExitCode::from(status::FAILED)
    }
}
