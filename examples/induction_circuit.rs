//! The induction circuit, found causally: which heads carry what the model gains from a repeated
//! random sequence, and which earlier heads their keys read.
//!
//!     cargo run --release --example induction_circuit

mod support;

use anyhow::{Result, ensure};
use clap::Parser;
use patchlens::{
    Head, InductionCircuit, InductionSearch, RepeatedLoss, Replacement, repeated_loss,
};
use serde_json::json;
use support::heads::{Sequences, stage};
use support::options::Common;

/// Finds the induction circuit
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    sequences: Sequences,
    /// Ablate with zeros instead of the head's mean output
    #[arg(long)]
    zero: bool,
    /// Attention to the induction pattern that makes a head a candidate, 0 to 1
    #[arg(long, default_value_t = 0.3, allow_negative_numbers = true)]
    min_attention: f32,
    /// Attention to the previous token that makes a head one of those that may stand in for each
    /// other, 0 to 1
    #[arg(long, default_value_t = 0.3, allow_negative_numbers = true)]
    min_previous_token: f32,
    /// Share of the gain that a head or an edge must remove, or alone keep, 0 to 1
    #[arg(long, default_value_t = 0.05, allow_negative_numbers = true)]
    min_share: f32,
}

fn main() -> Result<()> {
    let args = Args::parse();
    for (option, value) in [
        ("--min-attention", args.min_attention),
        ("--min-previous-token", args.min_previous_token),
        ("--min-share", args.min_share),
    ] {
        ensure!(
            (0.0..=1.0).contains(&value),
            "{option}: found {value}; expected 0 to 1"
        );
    }
    let (model, tokenizer) = args.common.open()?;
    let repeated = args
        .sequences
        .repeated(&model, &tokenizer, args.common.seed)?;
    let working = stage("loss, ablation of heads, paths into keys");
    let loss = repeated_loss(&model, &repeated)?;
    let mut search = InductionSearch::new(&model, &repeated)?;
    if args.zero {
        search.replacement = Replacement::Zero;
    }
    search.min_attention = args.min_attention;
    search.min_previous_token = args.min_previous_token;
    search.min_share = args.min_share;
    let found = search.run()?;
    drop(working);
    show_loss(&loss, model.config().d_vocab, args.common.model.is_none());
    println!("{}", found.removed);
    show(&found, &search);
    args.common.save_json(&json!({
        "first_loss": loss.first_loss,
        "second_loss": loss.second_loss,
        "second_accuracy": loss.second_accuracy,
        "gain": loss.gain,
        "loss": loss.loss,
        "accuracy": loss.accuracy,
        "removed": found.removed,
        "induction_heads": found.induction_heads,
        "kept_alone": found.kept_alone,
        "key_paths": found.key_paths,
        "previous_token_heads": found.previous_token_heads,
        "previous_token_removed": found.previous_token_removed,
        "edges": found.edges,
        "senders_removed": found.senders_removed,
        "induction_removed": found.induction_removed,
    }))?;
    if let Some(dir) = &args.common.out {
        args.common
            .save_result(&found.removed, dir, "gain_removed_by_head")?;
        args.common
            .save_result(&loss.loss, dir, "loss_by_position")?;
        args.common
            .save_result(&loss.accuracy, dir, "accuracy_by_position")?;
        if let Some(paths) = &found.key_paths {
            args.common.save_result(paths, dir, "paths_into_keys")?;
        }
    }
    Ok(())
}

/// What the repetition gains.
fn show_loss(loss: &RepeatedLoss, d_vocab: usize, shipped: bool) {
    println!("loss in the first repeat   {} nats", loss.first_loss);
    let uniform = (d_vocab as f32).ln();
    if loss.first_loss.mean > uniform {
        println!(
            "  above ln(vocabulary) = {uniform:.2}, what equal probabilities would give: random tokens are \
             unlike the text the model expects{}",
            if shipped {
                " (its training gave the first repeat of random sequences no weight)"
            } else {
                ""
            }
        );
    }
    println!("loss in the second repeat  {} nats", loss.second_loss);
    println!("accuracy in the second     {}", loss.second_accuracy);
    println!("gain of the repetition     {} nats\n", loss.gain);
}

fn show(found: &InductionCircuit, search: &InductionSearch<'_>) {
    let (attention, least) = (search.min_attention, 100.0 * search.min_share);
    if found.induction_heads.is_empty() {
        println!(
            "no head passes: none has prefix matching of {attention} or more and removes or keeps alone \
             {least:.1} % of the gain or more (--min-attention, --min-share)"
        );
    } else if found.edges.is_empty() {
        println!(
            "no earlier head passes: none removes {least:.1} % of the gain or more when cut from the keys \
             of the induction heads, or keeps that much when the other previous-token heads are cut \
             (--min-share)"
        );
    }
    let score = |pattern: usize, h: &Head| found.patterns.values()[[pattern, h.layer, h.head]];
    for (head, kept) in found.induction_heads.iter().zip(&found.kept_alone) {
        println!(
            "induction head {head}: prefix matching {:.3}, copying {:.3}; its ablation removes {:.1} % of \
             the gain; the other heads that attend so ablated, it alone keeps {:.1} %",
            score(2, head),
            found.copying.values()[[head.layer, head.head]],
            100.0 * found.removed.values()[[head.layer, head.head]],
            100.0 * kept
        );
    }
    if let Some(removed) = found.previous_token_removed {
        let names: Vec<_> = found
            .previous_token_heads
            .iter()
            .map(Head::to_string)
            .collect();
        println!(
            "heads with a previous-token score of {} or more: {}; all of them cut out of the keys of all \
             induction heads: {:.1} % of the gain removed",
            search.min_previous_token,
            names.join(", "),
            100.0 * removed
        );
    }
    for from in found.senders() {
        show_sender(found, from);
    }
    show_joint(found);
}

/// An earlier head, and its edges.
fn show_sender(found: &InductionCircuit, from: Head) {
    let edges: Vec<_> = found.edges.iter().filter(|e| e.from == from).collect();
    let kept = edges[0].share_kept_alone;
    println!(
        "head {from}, previous-token score {:.3}: cut out of the keys of all induction heads, it removes \
         {:.1} % of the gain{}",
        edges[0].previous_token,
        100.0 * edges[0].share_removed_from_all,
        if kept.is_nan() {
            String::new()
        } else {
            let share = 100.0 * kept;
            format!("; the others of its kind cut, it alone keeps {share:.1} %")
        }
    );
    for edge in edges {
        let [whole, cut] = edge.attention;
        let [none, alone] = edge.attention_alone;
        print!(
            "  → keys of {}: prefix matching {whole:.3} → {cut:.3} with this edge cut",
            edge.to
        );
        if !none.is_nan() {
            print!(", {none:.3} → {alone:.3} with it alone instead of none");
        }
        println!("; K-composition {:.3}", edge.k_composition);
    }
}

/// What goes with all heads of the circuit.
fn show_joint(found: &InductionCircuit) {
    for (what, share) in [
        ("senders", found.senders_removed),
        ("induction heads", found.induction_removed),
    ] {
        if let Some(share) = share {
            println!(
                "all {what} ablated at once: {:.1} % of the gain removed",
                100.0 * share
            );
        }
    }
    if found.senders_removed.is_some() {
        println!(
            "(ablated: for every later part of the model, so that queries, values and MLPs change as well, and \
             may make up for it or add to it; cut from the keys: for the induction heads' keys alone)"
        );
    }
}
