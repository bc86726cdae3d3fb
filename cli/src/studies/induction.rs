//! The induction circuit, found causally: which heads carry what the model gains from a repeated
//! random sequence, and which earlier heads their keys read.

use anyhow::Result;
use clap::Args;
use patchlens::Head;
use patchlens::ablation::Replacement;
use patchlens::heads::{InductionCircuit, InductionSearch, InductionThresholds};
use patchlens::in_context::{RepeatedLoss, repeated_loss};
use patchlens::report::Labelled;

use crate::interrupt;
use crate::options::Common;
use crate::output::Output;
use crate::sequences::Sequences;
use crate::session::Session;
use crate::usage::usage;
use crate::work::Kept;

/// The induction circuit: which heads carry what repetition gains, and what do they read?
///
/// Heads that attend to the token after an earlier copy of the current one are ablated, alone and
/// all but one; then earlier heads are cut out of their keys.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  patchlens induction --out study
  patchlens induction --sequences 32 --period 20 --min-share 0.02
  patchlens induction --model weights/gpt2 --json induction.json")]
pub struct Induction {
    #[command(flatten)]
    pub common: Common,
    #[command(flatten)]
    pub kept: Kept,
    #[command(flatten)]
    sequences: Sequences,
    /// Ablate with zeros instead of the head's mean output
    #[arg(long)]
    zero: bool,
    /// Attention to the induction pattern that makes a head a candidate, 0 to 1
    #[arg(long, value_name = "SHARE", default_value_t = 0.3)]
    min_attention: f32,
    /// Attention to the previous token that makes a head one of those that may stand in for each
    /// other, 0 to 1
    #[arg(long, value_name = "SHARE", default_value_t = 0.3)]
    min_previous_token: f32,
    /// Share of the gain that a head or an edge must remove, or alone keep, 0 to 1
    #[arg(long, value_name = "SHARE", default_value_t = 0.05)]
    min_share: f32,
}

impl Induction {
    /// Runs the study.
    ///
    /// # Errors
    /// For sequences that do not fit the context; `EndedEarly` after Ctrl-C.
    pub fn run(&self, session: &Session) -> Result<()> {
        for (option, value) in [
            ("--min-attention", self.min_attention),
            ("--min-previous-token", self.min_previous_token),
            ("--min-share", self.min_share),
        ] {
            if !(0.0..=1.0).contains(&value) {
                return Err(usage(format!("{option}: found {value}; expected 0 to 1")));
            }
        }
        let (output, model) = (&session.output, &session.model);
        let repeated = self.sequences.repeated(session)?;
        session.work.begin(model, &[])?;
        output.say(format_args!("model    {}\n", output.model()))?;
        let step = session.progress.step("loss of the repetition");
        let loss = repeated_loss(model, &repeated)?;
        drop(step);
        show_loss(&loss, session)?;
        session.show_attention("the first repeated sequence", &repeated[0].prompt)?;
        self.keep_loss(&loss, output)?;
        interrupt::check()?;
        let mut search = InductionSearch::new(model, &repeated)?
            .memory_limit(session.memory)
            .journal(session.work.journal())
            .observe(|_| interrupt::go_on())
            .thresholds(InductionThresholds {
                attention: self.min_attention,
                previous_token: self.min_previous_token,
                share: self.min_share,
            });
        if self.zero {
            search = search.replacement(Replacement::Zero);
        }
        let step = session.progress.step("ablation of heads, paths into keys");
        let found = search.run()?;
        drop(step);
        output.table(&found.removed)?;
        self.keep(&found, output)?;
        // Which heads pass is known only of a search that came to its end.
        interrupt::check()?;
        show(&found, output)
    }

    fn seeded(&self, table: &Labelled) -> Labelled {
        let mut table = table.clone();
        table.about.seed.get_or_insert(self.sequences.seed);
        table
    }

    fn keep_loss(&self, loss: &RepeatedLoss, output: &Output) -> Result<()> {
        output.number("first_loss", loss.first_loss)?;
        output.number("second_loss", loss.second_loss)?;
        output.number("second_accuracy", loss.second_accuracy)?;
        output.number("gain", loss.gain)?;
        output.number("loss", &loss.loss)?;
        output.number("accuracy", &loss.accuracy)?;
        output.picture("loss_by_position", &self.seeded(&loss.loss));
        output.picture("accuracy_by_position", &self.seeded(&loss.accuracy));
        Ok(())
    }

    fn keep(&self, found: &InductionCircuit, output: &Output) -> Result<()> {
        output.number("removed", &found.removed)?;
        output.number("induction_heads", &found.induction_heads)?;
        output.number("kept_alone", &found.kept_alone)?;
        output.number("key_paths", &found.key_paths)?;
        output.number("previous_token_heads", &found.previous_token_heads)?;
        output.number("previous_token_removed", found.previous_token_removed)?;
        output.number("edges", &found.edges)?;
        output.number("senders_removed", found.senders_removed)?;
        output.number("induction_removed", found.induction_removed)?;
        output.picture("gain_removed_by_head", &self.seeded(&found.removed));
        if let Some(paths) = &found.key_paths {
            output.picture("paths_into_keys", &self.seeded(paths));
        }
        Ok(())
    }
}

/// What the repetition gains.
fn show_loss(loss: &RepeatedLoss, session: &Session) -> Result<()> {
    let output = &session.output;
    output.say(format_args!(
        "loss in the first repeat   {} nats",
        loss.first_loss
    ))?;
    let uniform = (session.model.config().d_vocab as f32).ln();
    if loss.first_loss.mean > uniform {
        output.say(format_args!(
            "  above ln(vocabulary) = {uniform:.2}, what equal probabilities would give: random tokens are \
             unlike the text the model expects{}",
            if session.shipped {
                " (its training gave the first repeat of random sequences no weight)"
            } else {
                ""
            }
        ))?;
    }
    output.say(format_args!(
        "loss in the second repeat  {} nats",
        loss.second_loss
    ))?;
    output.say(format_args!(
        "accuracy in the second     {}",
        loss.second_accuracy
    ))?;
    output.say(format_args!(
        "gain of the repetition     {} nats\n",
        loss.gain
    ))
}

fn show(found: &InductionCircuit, output: &Output) -> Result<()> {
    let (attention, least) = (found.thresholds.attention, 100.0 * found.thresholds.share);
    if found.induction_heads.is_empty() {
        output.say(format_args!(
            "no head passes: none has prefix matching of {attention} or more and removes or keeps alone \
             {least:.1} % of the gain or more (--min-attention, --min-share)"
        ))?;
    } else if found.edges.is_empty() {
        output.say(format_args!(
            "no earlier head passes: none removes {least:.1} % of the gain or more when cut from the keys \
             of the induction heads, or keeps that much when the other previous-token heads are cut \
             (--min-share)"
        ))?;
    }
    let score = |pattern: usize, h: &Head| found.patterns.values()[[pattern, h.layer, h.head]];
    for (head, kept) in found.induction_heads.iter().zip(&found.kept_alone) {
        output.say(format_args!(
            "induction head {head}: prefix matching {:.3}, copying {:.3}; its ablation removes {:.1} % of \
             the gain; the other heads that attend so ablated, it alone keeps {:.1} %",
            score(2, head),
            found.copying.values()[[head.layer, head.head]],
            100.0 * found.removed.values()[[head.layer, head.head]],
            100.0 * kept
        ))?;
    }
    if let Some(removed) = found.previous_token_removed {
        let names: Vec<_> = found
            .previous_token_heads
            .iter()
            .map(Head::to_string)
            .collect();
        output.say(format_args!(
            "heads with a previous-token score of {} or more: {}; all of them cut out of the keys of all \
             induction heads: {:.1} % of the gain removed",
            found.thresholds.previous_token,
            names.join(", "),
            100.0 * removed
        ))?;
    }
    for from in found.senders() {
        show_sender(found, from, output)?;
    }
    show_joint(found, output)
}

/// An earlier head, and its edges.
fn show_sender(found: &InductionCircuit, from: Head, output: &Output) -> Result<()> {
    let edges: Vec<_> = found.edges.iter().filter(|e| e.from == from).collect();
    let kept = edges[0].share_kept_alone;
    output.say(format_args!(
        "head {from}, previous-token score {:.3}: cut out of the keys of all induction heads, it removes \
         {:.1} % of the gain{}",
        edges[0].previous_token,
        100.0 * edges[0].share_removed_from_all,
        if kept.is_nan() {
            String::new()
        } else {
            format!("; the others of its kind cut, it alone keeps {:.1} %", 100.0 * kept)
        }
    ))?;
    for edge in edges {
        let [whole, cut] = edge.attention;
        let [none, alone] = edge.attention_alone;
        let mut line = format!(
            "  → keys of {}: prefix matching {whole:.3} → {cut:.3} with this edge cut",
            edge.to
        );
        if !none.is_nan() {
            line += &format!(", {none:.3} → {alone:.3} with it alone instead of none");
        }
        output.say(format_args!(
            "{line}; K-composition {:.3}",
            edge.k_composition
        ))?;
    }
    Ok(())
}

/// What goes with all heads of the circuit.
fn show_joint(found: &InductionCircuit, output: &Output) -> Result<()> {
    for (what, share) in [
        ("senders", found.senders_removed),
        ("induction heads", found.induction_removed),
    ] {
        if let Some(share) = share {
            output.say(format_args!(
                "all {what} ablated at once: {:.1} % of the gain removed",
                100.0 * share
            ))?;
        }
    }
    if found.senders_removed.is_some() {
        output.say(format_args!(
            "(ablated: for every later part of the model, so that queries, values and MLPs change as well, and \
             may make up for it or add to it; cut from the keys: for the induction heads' keys alone)"
        ))?;
    }
    Ok(())
}
