//! Patchscopes: a state of one prompt, put into another that is to say what is in it.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use patchlens::generate::Generation;
use patchlens::patchscopes::Patchscopes;
use patchlens::report::{Labelled, legible};
use patchlens::{Base, Prompt, Transformer};

use crate::interrupt;
use crate::numbers;
use crate::options::Common;
use crate::prompts::TwoPrompts;
use crate::session::Session;
use crate::usage::usage;

/// Patchscopes: what is in a hidden state, if another prompt is made to say it?
///
/// The state of the source prompt after each layer is put into the target prompt after each layer;
/// what is shown is the likeliest next token (Ghandeharioun et al. 2024). Text is generated with
/// each layer's state in the same layer, or in --into-layer.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  patchlens patchscope --out study
  patchlens patchscope --source \"Ada Brown\" --target \"Leo Green plays the sport of\" --write-at 1
  patchlens patchscope --source \"The Eiffel Tower\" --model weights/gpt2 \\
      --target \"Syria: a country in the Middle East, Leonardo DiCaprio: an American actor, x\" \\
      --into-layer 2 --tokens 10")]
pub struct Patchscope {
    #[command(flatten)]
    pub common: Common,
    /// The prompt whose state is taken [default: a person of the shipped model's facts]
    #[arg(
        long,
        value_name = "TEXT",
        help_heading = "Prompts",
        requires = "target"
    )]
    source: Option<String>,
    /// The prompt that gets it [default: what another person plays]
    #[arg(
        long,
        value_name = "TEXT",
        help_heading = "Prompts",
        requires = "source"
    )]
    target: Option<String>,
    /// Begin both prompts with the begin-of-text token
    #[arg(long, help_heading = "Prompts")]
    bos: bool,
    /// Position of the source prompt; below 0 from its end [default: the last]
    #[arg(long, value_name = "POS", allow_hyphen_values = true)]
    read_at: Option<isize>,
    /// Position of the target prompt; below 0 from its end [default: the last; of the default
    /// prompts, the other person's]
    #[arg(long, value_name = "POS", allow_hyphen_values = true)]
    write_at: Option<isize>,
    /// The model that the source prompt runs in, of the same width and tokens [default: the same]
    #[arg(long, value_name = "DIR", help_heading = "Model and machine")]
    source_model: Option<PathBuf>,
    /// The layer after which the state is put where text is generated [default: the state's own]
    #[arg(long, value_name = "N", value_parser = numbers::from_0::<usize>())]
    into_layer: Option<usize>,
    /// Tokens to generate
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = numbers::from_1::<usize>())]
    tokens: usize,
}

impl Patchscope {
    /// Runs the study.
    ///
    /// # Errors
    /// For prompts that cannot run; `EndedEarly` after Ctrl-C.
    pub fn run(&self, session: &Session) -> Result<()> {
        let (output, tokenizer) = (&session.output, &session.tokenizer);
        let (source, target, person) = self.prompts(session)?;
        let other = self.source_model.as_deref().map(Transformer::open);
        let other = other.transpose().context("opening the source's model")?;
        let reader = other.as_ref().unwrap_or(&session.model);
        let [from, to] = [reader, &session.model].map(|model| model.config().d_vocab);
        if from != to {
            let why = "--source-model has other tokens: found";
            return Err(usage(format!("{why} {from}; expected {to}, the model's")));
        }
        let target = Base::new(&session.model, &target)?;
        let scope = Patchscopes::over(&Base::new(reader, &source)?, &target)?
            .read_at(self.read_at.unwrap_or(-1))
            .write_at(self.write_at.unwrap_or(person))
            .memory_limit(session.memory)
            .observe(session.progress.observer("putting states"));
        self.introduce(session, &scope)?;
        let likeliest = scope.likeliest(tokenizer)?;
        output.table(&likeliest)?;
        output.keep("likeliest", &likeliest)?;
        interrupt::check()?;
        self.generate(session, &scope)?;
        output.say(conclusion(&likeliest, &own_answer(session, &scope)?))?;
        interrupt::check()
    }

    /// The source, the target, and where the state goes.
    fn prompts(&self, session: &Session) -> Result<(Prompt, Prompt, isize)> {
        let prompts = TwoPrompts {
            given: [
                ("--source", self.source.as_deref()),
                ("--target", self.target.as_deref()),
            ],
            facts: ["Ada Brown", "Leo Green plays the sport of"],
            bos: self.bos,
        };
        let [source, target] = prompts.encode(session)?;
        let person = match self.source {
            Some(_) => -1,
            None => 1 + isize::from(self.bos),
        };
        Ok((source, target, person))
    }

    fn introduce(&self, session: &Session, scope: &Patchscopes<'_>) -> Result<()> {
        let line = |what: &str, base: &Base<'_>, at: isize| -> Result<String> {
            let prompt = &base.prompts()[0];
            let n = prompt.len() as isize;
            let place = usize::try_from(if at < 0 { at + n } else { at }).ok();
            let label = place.and_then(|place| prompt.labels.get(place));
            let label = label.map_or_else(String::new, |label| format!(" (`{}`)", legible(label)));
            let text = session.tokenizer.readable(&prompt.tokens)?;
            Ok(format!("  {what}  {text:?}, pos {at}{label}"))
        };
        let (_, _, person) = self.prompts(session)?;
        let lines = [
            format!("model    {}", session.output.model()),
            line("source", scope.source(), self.read_at.unwrap_or(-1))?,
            line("target", scope.target(), self.write_at.unwrap_or(person))?,
            format!(
                "  the target alone says `{}`\n",
                own_answer(session, scope)?
            ),
        ];
        session.output.say(lines.join("\n"))
    }

    /// Text with each layer's state in it.
    fn generate(&self, session: &Session, scope: &Patchscopes<'_>) -> Result<()> {
        let (output, tokenizer) = (&session.output, &session.tokenizer);
        let prompt = &scope.target().prompts()[0];
        let room = session.model.config().n_ctx + 1 - prompt.len();
        let generation = Generation::greedy(self.tokens.min(room));
        let [from, to] = [scope.source(), scope.target()].map(|b| b.model().config().n_layers);
        let mut texts = Vec::new();
        for layer in 0..from {
            let into = self.into_layer.unwrap_or(layer.min(to - 1));
            let found = scope.generate(layer, into, &generation)?;
            let text = tokenizer.readable(found[0].new_tokens())?;
            output.say(format_args!("  L{layer} into L{into}:{text}"))?;
            texts.push(
                serde_json::json!({"source_layer": layer, "target_layer": into, "text": text}),
            );
            interrupt::check()?;
        }
        output.number("generated", texts)
    }
}

/// What the target prompt says by itself.
fn own_answer(session: &Session, scope: &Patchscopes<'_>) -> Result<String> {
    let token = scope.target().likeliest()?[0];
    Ok(session.tokenizer.token_text(token))
}

/// Where the state makes the prompt say something else.
fn conclusion(likeliest: &Labelled, own: &str) -> String {
    let (values, own) = (likeliest.values(), legible(own));
    let Some(texts) = likeliest.texts() else {
        return String::new();
    };
    let other = |at: &[usize; 2]| values[*at].is_finite() && legible(&texts[*at]) != own;
    let cells = (0..values.len()).map(|i| [i / values.shape()[1], i % values.shape()[1]]);
    let others: Vec<[usize; 2]> = cells.filter(other).collect();
    let surest = others
        .iter()
        .max_by(|a, b| values[**a].total_cmp(&values[**b]));
    let Some(at) = surest else {
        return format!("No state makes the prompt say anything but `{own}`.");
    };
    let cell = likeliest.cell(at);
    format!(
        "With the state, the prompt says something else than `{own}` in {} of {} pairs of layers, \
         most surely `{}` ({:.2}), with the state of {} in {}.",
        others.len(),
        values.len(),
        legible(&texts[*at]),
        cell.value,
        cell.labels[0],
        cell.labels[1]
    )
}
