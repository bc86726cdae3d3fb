//! Ablation: what the model loses without some of its parts.

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use patchlens::ablation::{Ablation, CircuitNode, Each, KnockOut, Replacement};
use patchlens::report::RankedCell;

use crate::interrupt;
use crate::missing::not_run;
use crate::options::{Common, PromptArgs, prompts_by_default};
use crate::questions::{Questions, Takes};
use crate::session::{Session, costs};
use crate::usage::usage;
use crate::work::Divided;

/// Ablation: what does the model lose without these heads?
///
/// Each head's output is replaced by its mean over all positions of all prompts (or by zeros), at
/// all positions; what is shown is by how much that changes the metric. Parts named with --without
/// are taken out together, and each alone for comparison: heads can stand in for each other.
#[derive(Args, Clone, Debug)]
#[command(mut_arg("prompts", prompts_by_default(Takes::ANSWERS.prompts)))]
#[command(after_help = "\
Examples:
  patchlens ablate --out study
  patchlens ablate --without 3.0,3.2 --without mlp0
  patchlens ablate --clean \"When Mary and John went to the store, John gave a drink to\" \\
      --answer \" Mary\" --wrong \" John\" --replace zero
  patchlens ablate --pairs pairs.json --without 9.9,10.0 --model weights/gpt2")]
pub struct Ablate {
    #[command(flatten)]
    pub common: Common,
    #[command(flatten)]
    pub divided: Divided,
    #[command(flatten)]
    prompts: PromptArgs,
    /// Parts to take out together, such as 3.0,3.2,mlp1; may be given several times
    #[arg(long, value_name = "PARTS")]
    without: Vec<String>,
    /// What takes the place of a part's output
    #[arg(long, value_enum, value_name = "KIND", default_value_t = Replace::Mean)]
    replace: Replace,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Replace {
    /// Its mean over all positions of all prompts
    Mean,
    /// Zeros
    Zero,
}

impl Ablate {
    /// Runs the study.
    ///
    /// # Errors
    /// For parts that the model lacks and prompts that cannot run; `EndedEarly` after Ctrl-C.
    pub fn run(&self, session: &Session) -> Result<()> {
        let output = &session.output;
        let sets = self.sets()?;
        let questions = Questions::new(&self.prompts, Takes::ANSWERS, &session.tokenizer, output)?;
        let metric = questions.metric(self.prompts.metric)?;
        // The mean is over all prompts, whatever part of the work is done here.
        let costs = costs(questions.clean.lengths(), false);
        session.work.begin_together(&session.model, &costs)?;
        session.introduce(&questions)?;
        let replacement = match self.replace {
            Replace::Mean => Replacement::OverallMean,
            Replace::Zero => Replacement::Zero,
        };
        let study = Ablation::new(&session.model, &questions.clean, replacement)?
            .memory_limit(session.memory)
            .journal(session.work.journal());
        let run = |each, name: &str| -> Result<KnockOut> {
            let observer = session.progress.observer(name);
            Ok(study.clone().observe(observer).run(each, &metric)?)
        };
        // First, as a part that the model lacks is told before anything runs.
        let together = if sets.is_empty() {
            None
        } else {
            Some(run(Each::Set(&sets), "parts together")?)
        };
        let heads = run(Each::Head, "every head")?;
        session.work.last_step()?;
        let found = [("heads", Some(&heads)), ("together", together.as_ref())];
        for (name, found) in found {
            let Some(found) = found else { continue };
            let shown = questions.seeded(&found.effect);
            output.table(&shown)?;
            output.keep(name, &shown)?;
            output.number(&format!("{name}_raw"), questions.seeded(found.raw()))?;
        }
        output.say(format_args!("{}\n", heads.effect.top(5)))?;
        output.say(conclusion(&heads, together.as_ref(), metric.name()))?;
        interrupt::check()
    }

    /// Each set that is asked for, and each of its members alone, once.
    fn sets(&self) -> Result<Vec<Vec<CircuitNode>>> {
        let mut sets: Vec<Vec<CircuitNode>> = Vec::new();
        for parts in &self.without {
            let nodes: Vec<CircuitNode> = parts
                .split(',')
                .map(|part| node(part.trim()).with_context(|| format!("--without {parts}")))
                .collect::<Result<_>>()?;
            let twice = |(i, part): (usize, &CircuitNode)| nodes[..i].contains(part);
            if let Some((_, part)) = nodes.iter().enumerate().find(|entry| twice(*entry)) {
                let part = &part.node;
                return Err(usage(format!(
                    "--without {parts}: found {part} twice; expected each part once"
                )));
            }
            let alone = nodes.iter().map(|node| vec![node.clone()]);
            for set in alone.collect::<Vec<_>>().into_iter().chain([nodes]) {
                if !sets.contains(&set) {
                    sets.push(set);
                }
            }
        }
        Ok(sets)
    }
}

/// A head or an MLP by its name; other parts are rejected by the study.
fn node(part: &str) -> Result<CircuitNode> {
    Ok(CircuitNode {
        node: part.parse()?,
        class: None,
    })
}

/// What was lost, in words.
fn conclusion(heads: &KnockOut, together: Option<&KnockOut>, metric: &str) -> String {
    let whole = heads.clean.mean().unwrap_or(f32::NAN);
    let mut lines = vec![format!("The {metric} of the whole model is {whole:.3}.")];
    // What could be chance is not called a finding.
    let clear = |cell: &&RankedCell| cell.value.abs() > 2.0 * cell.std_error.unwrap_or(0.0);
    let told = |cell: &RankedCell| format!("{} ({cell:+.2})", cell.names.join(" "));
    let missing = not_run(&heads.effect);
    let cells = heads.effect.top(3).cells;
    let most: Vec<String> = cells.iter().filter(clear).map(told).collect();
    if !most.is_empty() {
        let most = most.join(", ");
        lines.push(format!("Heads that change it most, each alone: {most}."));
    } else if missing.is_none() {
        lines.push("No head alone changes it by more than two standard errors.".to_string());
    }
    lines.extend(missing.map(|missing| format!("Heads alone: {missing}.")));
    if let Some(found) = together {
        let sets = found.effect.top(usize::MAX).cells;
        let told = |set: &RankedCell| format!("Without {}: {set:+.2}.", set.names.join(" "));
        lines.extend(sets.iter().map(told));
        lines.extend(not_run(&found.effect).map(|missing| format!("Parts together: {missing}.")));
    }
    lines.join("\n")
}
