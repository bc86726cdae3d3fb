//! The induction circuit, found causally: which heads carry what the model gains from a repeated
//! random sequence, and which earlier heads their keys read.
//!
//!     cargo run --release --example induction_circuit

mod heads_common;

use anyhow::{Result, bail};
use clap::Parser;
use heads_common::{Common, pm};
use patchlens::{
    Head, InductionCircuit, InductionSearch, Replacement, induction_circuit, repeated_loss,
};
use serde_json::json;

/// Finds the induction circuit; --out takes .json, or .html, .svg, .png, .csv (heads' ablation)
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    common: Common,
    /// Ablate with zeros instead of the head's mean output
    #[arg(long)]
    zero: bool,
    /// Attention to the induction pattern that makes a head a candidate
    #[arg(long, default_value_t = 0.3)]
    min_attention: f32,
    /// Share of the gain that an ablation or an edge must remove
    #[arg(long, default_value_t = 0.05)]
    min_share: f32,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let (model, tokenizer) = args.common.open()?;
    let repeated = args.common.repeated(&model, &tokenizer)?;
    let loss = repeated_loss(&model, &repeated)?;
    let search = InductionSearch {
        ablation: if args.zero {
            Replacement::Zero
        } else {
            Replacement::Mean
        },
        min_attention: args.min_attention,
        min_share: args.min_share,
        ..InductionSearch::default()
    };
    let found = induction_circuit(&model, &repeated, search)?;
    let json = serde_json::to_string_pretty(&json!({
        "first_loss": loss.first_loss,
        "second_loss": loss.second_loss,
        "second_accuracy": loss.second_accuracy,
        "gain": loss.gain,
        "removed": found.removed,
        "induction_heads": found.induction_heads,
        "edges": found.edges,
        "senders_removed": found.senders_removed,
        "induction_removed": found.induction_removed,
    }))?;
    match args
        .common
        .out
        .as_deref()
        .and_then(|path| path.extension()?.to_str())
    {
        Some("json") => args.common.write(|_| Ok(json.clone()))?,
        Some(_) => found
            .removed
            .save(args.common.out.as_deref().unwrap_or("".as_ref()))?,
        None if args.common.out.is_some() => bail!("--out: a file without extension"),
        None => {}
    }
    if args.common.json {
        println!("{json}");
        return Ok(());
    }
    println!("loss in the first repeat   {} nats", pm(loss.first_loss));
    println!("loss in the second repeat  {} nats", pm(loss.second_loss));
    println!("accuracy in the second     {}", pm(loss.second_accuracy));
    println!("gain of the repetition     {} nats\n", pm(loss.gain));
    println!("{}", found.removed);
    show(&found);
    Ok(())
}

fn show(found: &InductionCircuit) {
    let score = |pattern: usize, h: &Head| found.patterns.values()[[pattern, h.layer, h.head]];
    for head in &found.induction_heads {
        println!(
            "induction head {head}: prefix matching {:.3}, copying {:.3}, its ablation removes {:.1} % of the gain",
            score(2, head),
            found.copying.values()[[head.layer, head.head]],
            100.0 * found.removed.values()[[head.layer, head.head]]
        );
    }
    for edge in &found.edges {
        println!(
            "  {} → keys of {}: cutting it removes {:.1} % of the gain; prefix matching {:.3} → {:.3}; \
             previous-token score {:.3}, K-composition {:.3}",
            edge.from,
            edge.to,
            100.0 * edge.share_removed,
            edge.attention[0],
            edge.attention[1],
            edge.previous_token,
            edge.k_composition
        );
    }
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
}
