//! Interchange interventions: a base prompt gets states of a source prompt.

use anyhow::Result;
use clap::{Args, ValueEnum};
use patchlens::interchange::{Interchange, Part};
use patchlens::metric::probability;
use patchlens::patching::Alignment;
use patchlens::report::{Labelled, legible};
use patchlens::{Base, Prompt, Site};

use crate::interrupt;
use crate::missing::not_run;
use crate::options::Common;
use crate::prompts::{Role, TwoPrompts, aligned};
use crate::session::Session;
use crate::usage::usage;

/// Interchange interventions: which states make one prompt say what another one would?
///
/// The base prompt gets the source prompt's states, a layer and a position or role at a time
/// (Geiger et al. 2021). What is shown is by how much likelier it then makes what the source prompt
/// says. The prompts may differ in length: positions correspond that both begin or end with, or
/// those of --role.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  patchlens interchange --out study
  patchlens interchange --base \"Leo Green plays the sport of\" \\
      --source \"Ada Brown plays the sport of\" --role subject=0,1:0,1 --role end=-1:-1
  patchlens interchange --site mlp_post --columns 3,17")]
pub struct Interchanges {
    #[command(flatten)]
    pub common: Common,
    /// The prompt that gets states [default: one of the shipped model's facts]
    #[arg(
        long,
        value_name = "TEXT",
        help_heading = "Prompts",
        requires = "source"
    )]
    base: Option<String>,
    /// The prompt whose states they are [default: another fact of the same kind]
    #[arg(long, value_name = "TEXT", help_heading = "Prompts", requires = "base")]
    source: Option<String>,
    /// Begin both prompts with the begin-of-text token
    #[arg(long, help_heading = "Prompts")]
    bos: bool,
    /// A role, its positions in the base prompt and in the source prompt, below 0 from the end; may
    /// be given several times
    #[arg(
        long,
        value_name = "NAME=B,B:S,S",
        value_parser = Role::parse,
        help_heading = "Prompts",
        allow_hyphen_values = true
    )]
    role: Vec<Role>,
    /// Which states
    #[arg(long, value_enum, value_name = "SITE", default_value_t = States::ResidPost)]
    site: States,
    /// Only these columns of the states: neurons of mlp_post, dimensions of the others
    #[arg(long, value_name = "N,N,...", value_delimiter = ',')]
    columns: Vec<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
enum States {
    /// Residual stream after each layer
    ResidPost,
    /// Attention outputs
    AttnOut,
    /// MLP outputs
    MlpOut,
    /// MLPs' hidden layers after the activation function
    MlpPost,
    /// Outputs of all heads, side by side
    Z,
}

impl States {
    fn site(self) -> Site {
        match self {
            States::ResidPost => Site::ResidPost,
            States::AttnOut => Site::AttnOut,
            States::MlpOut => Site::MlpOut,
            States::MlpPost => Site::MlpPost,
            States::Z => Site::Z,
        }
    }
}

impl Interchanges {
    /// Runs the study.
    ///
    /// # Errors
    /// For prompts that cannot run; `EndedEarly` after Ctrl-C.
    pub fn run(&self, session: &Session) -> Result<()> {
        let output = &session.output;
        let [base, source] = self.prompts(session)?;
        let alignment = self.alignment(&base, &source)?;
        let [base, source] = [
            Base::new(&session.model, &base)?,
            Base::new(&session.model, &source)?,
        ];
        let [own, answer] = [base.likeliest()?[0], source.likeliest()?[0]];
        introduce(session, [&base, &source], [own, answer])?;
        if own == answer {
            let text = session.tokenizer.token_text(own);
            return Err(usage(format!(
                "both prompts say `{text}`; expected a source prompt that says something else"
            )));
        }
        let part = if self.columns.is_empty() {
            Part::Whole
        } else {
            Part::Columns(self.columns.clone().into())
        };
        let study = Interchange::over(&base, &source, alignment)?
            .site(self.site.site())
            .part(part)
            .memory_limit(session.memory)
            .observe(session.progress.observer("exchanging states"));
        let found = study.run(&probability(&[answer]))?;
        output.table(&found.effect)?;
        output.say(format_args!("{}\n", found.effect.top(5)))?;
        output.keep("effect", &found.effect)?;
        output.number("raw", found.raw())?;
        output.say(conclusion(
            &found.effect,
            &session.tokenizer.token_text(answer),
        ))?;
        interrupt::check()
    }

    fn prompts(&self, session: &Session) -> Result<[Prompt; 2]> {
        let prompts = TwoPrompts {
            given: [
                ("--base", self.base.as_deref()),
                ("--source", self.source.as_deref()),
            ],
            facts: [
                "Leo Green plays the sport of",
                "Ada Brown plays the sport of",
            ],
            bos: self.bos,
        };
        prompts.encode(session)
    }

    fn alignment(&self, base: &Prompt, source: &Prompt) -> Result<Alignment> {
        if self.role.is_empty() {
            return Ok(Alignment::common_ends(base, source)?);
        }
        Ok(aligned(&self.role))
    }
}

/// The two prompts, and what they say.
fn introduce(session: &Session, runs: [&Base<'_>; 2], says: [u32; 2]) -> Result<()> {
    let mut lines = vec![format!("model    {}", session.output.model())];
    for ((what, run), token) in ["base  ", "source"].into_iter().zip(runs).zip(says) {
        let text = session.tokenizer.readable(&run.prompts()[0].tokens)?;
        let says = session.tokenizer.token_text(token);
        lines.push(format!("  {what}  {text:?} says `{}`", legible(&says)));
    }
    session.output.say(lines.join("\n") + "\n")
}

/// Where the base prompt says what the source prompt would.
fn conclusion(effect: &Labelled, answer: &str) -> String {
    let top = effect.top(1);
    let answer = legible(answer);
    match top.cells.first() {
        Some(cell) if cell.value > 0.1 => format!(
            "With the source's state at {} {}, the base prompt makes `{answer}` likelier by {:.2}, \
             more than anywhere else.",
            cell.labels[0],
            legible(&cell.labels[1]),
            cell.value
        ),
        _ => not_run(effect).map_or_else(
            || format!("No state makes `{answer}` likelier by more than 0.1."),
            |missing| format!("{missing}: whether a state makes `{answer}` likelier is not known."),
        ),
    }
}
