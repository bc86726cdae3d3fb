//! Direct logit attribution: which parts of the model write the answer to the logits.

use anyhow::Result;
use clap::Args;
use patchlens::attribution::{Decomposition, DirectLogitAttribution, LogitAttribution, Part};
use patchlens::metric::{Metric, Reduce, logit, logit_diff_sets, logit_sums};
use patchlens::report::{Labelled, RankedCell, legible};

use crate::interrupt;
use crate::numbers;
use crate::options::{Common, PromptArgs, prompts_by_default};
use crate::questions::{Questions, Takes};
use crate::session::Session;
use crate::usage::usage;

/// Direct logit attribution: which heads, MLPs and neurons write the answer?
///
/// The residual stream at the last position is a sum of what each part of the model wrote; each
/// part's share of the logit of the right answers minus that of the wrong ones is exact, and the
/// shares sum to the whole. It says what is written there, not what caused it earlier on.
#[derive(Args, Clone, Debug)]
#[command(mut_arg("prompts", prompts_by_default(Takes::ANSWERS.prompts)))]
#[command(after_help = "\
Examples:
  patchlens attribute --out study
  patchlens attribute --clean \"When Mary and John went to the store, John gave a drink to\" \\
      --answer \" Mary\" --wrong \" John\"
  patchlens attribute --pairs pairs.csv --model weights/gpt2 --json")]
pub struct Attribute {
    #[command(flatten)]
    pub common: Common,
    #[command(flatten)]
    prompts: PromptArgs,
    /// How many neurons to list
    #[arg(long, value_name = "K", default_value_t = 8, value_parser = numbers::from_1::<usize>())]
    neurons: usize,
}

impl Attribute {
    /// Runs the study.
    ///
    /// # Errors
    /// For prompts that cannot run; `EndedEarly` after Ctrl-C.
    pub fn run(&self, session: &Session) -> Result<()> {
        let (output, model, tokenizer) = (&session.output, &session.model, &session.tokenizer);
        if self.prompts.metric.is_some() {
            return Err(usage(
                "--metric is not used here: logits are what is attributed",
            ));
        }
        let questions = Questions::new(&self.prompts, Takes::ANSWERS, tokenizer, output)?;
        questions.single_tokens()?;
        session.introduce(&questions)?;
        let metric = metric(&questions.answers);
        let attribute = |by| -> Result<Labelled> {
            interrupt::check()?;
            let study = LogitAttribution::new(model, &questions.clean)?
                .memory_limit(session.memory)
                .observe(session.progress.observer("direct logit attribution"));
            Ok(questions.seeded(&study.run(by, &metric)?.effect))
        };
        let layers = attribute(Decomposition::Layers)?;
        output.table(&layers)?;
        output.keep("dla_layers", &layers)?;
        let components = attribute(Decomposition::Components)?;
        output.table(&components)?;
        output.keep("dla_components", &components)?;
        let writers = attribute(Decomposition::Writers)?;
        output.say(format_args!(
            "Heads, neurons and biases:\n{}",
            writers.top(12)
        ))?;
        output.keep("dla_writers", &writers)?;
        interrupt::check()?;
        let sources = self.first_prompt(session, &questions)?;
        let parts = Decomposition::Writers.parts(model.config());
        output.say(findings(&writers, &parts, &sources))
    }

    /// What only one prompt can tell: positions, sources, neurons. Returns the sources.
    fn first_prompt(&self, session: &Session, questions: &Questions) -> Result<Labelled> {
        let output = &session.output;
        let prompt = &questions.clean[0];
        let metric = metric(&questions.answers[..1]);
        let one = DirectLogitAttribution::new(&session.model, prompt, &metric)?;
        let last = prompt.len() - 1;
        let [right, wrong] = questions.answer_texts(0, &session.tokenizer);
        let about = format!("Prompt 1 alone: answer {right}, rival {wrong}.");
        let of_one = |mut table: Labelled| {
            table.about.title += ", prompt 1";
            table.about.caption = format!("{about} {}", table.about.caption);
            questions.seeded(&table)
        };
        let mut by_position = of_one(one.decompose(Decomposition::Components)?);
        by_position.about.title += ", by position";
        let sources = of_one(one.head_sources(last)?);
        let accumulated = of_one(one.accumulated()?);
        let neurons = of_one(one.neurons(last, self.neurons)?);
        output.say(format_args!(
            "{about}\nIts heads by source position:\n{}",
            sources.top(8)
        ))?;
        output.say(format_args!("Its neurons:\n{}", neurons.top(self.neurons)))?;
        output.keep("dla_by_position", &by_position)?;
        output.keep("dla_head_sources", &sources)?;
        output.keep("dla_accumulated", &accumulated)?;
        output.keep("dla_neurons", &neurons)?;
        Ok(sources)
    }
}

/// The mean logit of the right answers minus that of the wrong ones, where there are any.
fn metric(answers: &[(Vec<u32>, Vec<u32>)]) -> Metric {
    if answers.iter().all(|(_, wrong)| !wrong.is_empty()) {
        return logit_diff_sets(answers, Reduce::Mean);
    }
    if let Some(one) = answers.iter().map(only_right).collect::<Option<Vec<u32>>>() {
        return logit(&one);
    }
    let share = |of: &[u32], sign: f32| -> Vec<(u32, f32)> {
        of.iter().map(|t| (*t, sign / of.len() as f32)).collect()
    };
    let weights = answers
        .iter()
        .map(|(right, wrong)| [share(right, 1.0), share(wrong, -1.0)].concat());
    logit_sums(&weights.collect::<Vec<_>>())
}

/// The one right answer, where there are no wrong ones.
fn only_right((right, wrong): &(Vec<u32>, Vec<u32>)) -> Option<u32> {
    match (&right[..], wrong.is_empty()) {
        ([one], true) => Some(*one),
        _ => None,
    }
}

/// What the tables say, in words; `parts` are the rows of the first.
fn findings(writers: &Labelled, parts: &[Part], sources: &Labelled) -> String {
    let truth = writers.about.baselines.values().next().copied();
    let (truth, sum) = (truth.unwrap_or(f32::NAN), writers.values().sum());
    let cells = writers.top(usize::MAX).cells;
    let is_head = |c: &&RankedCell| parts[c.index[0]].head().is_some();
    let is_bias = |c: &&RankedCell| parts[c.index[0]].is_bias();
    // What could be chance is not called a finding.
    let clear = |c: &&RankedCell| c.value.abs() > 2.0 * c.std_error.unwrap_or(0.0);
    let list = |sign: f32| {
        let heads = cells.iter().filter(is_head).filter(clear);
        let heads = heads.filter(|c| c.value * sign > 0.0);
        let named = heads.map(|c| format!("{} ({c:+.2})", c.labels[0]));
        let named: Vec<String> = named.collect();
        if named.is_empty() {
            "none by more than two standard errors".to_string()
        } else {
            named.join(", ")
        }
    };
    let total: f32 = cells.iter().filter(is_head).map(|c| c.value).sum();
    let biases: f32 = cells.iter().filter(is_bias).map(|c| c.value).sum();
    let source = match sources.top(1).cells.first() {
        Some(c) => format!(
            "{} reading `{}` ({c:+.2})",
            c.labels[0],
            legible(&c.labels[1])
        ),
        None => "nothing".to_string(),
    };
    let unit = &writers.about.unit;
    format!(
        "The mean {unit} is {truth:.3}; the parts sum to {sum:.3}: heads {total:+.2}, biases \
         {biases:+.2}, neurons and embeddings {:+.2}.\n\
         Heads that raise the {unit}: {}.\n\
         Heads that lower it (inhibitory): {}.\n\
         In the first prompt the largest single contribution of a head is {source}.",
        sum - total - biases,
        list(1.0),
        list(-1.0),
    )
}
