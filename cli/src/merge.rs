//! Joins the journals of a study's parts.

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use patchlens::journal::merge;

/// Merge: join the journals of all parts of a study
///
/// Afterwards, the study's command with `--journal FILE`, without `--shard`, finds every result
/// there and prints what one machine would have printed, to the bit.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  patchlens circuits --prompts 100 --journal part1 --shard 1/2
  patchlens circuits --prompts 100 --journal part2 --shard 2/2
  patchlens merge --into whole part1 part2
  patchlens circuits --prompts 100 --journal whole --out study")]
pub struct Merge {
    /// The journals of the parts, and the merged journal of earlier steps; a part may be given
    /// twice, if both agree to the bit
    #[arg(value_name = "JOURNAL", required = true)]
    journals: Vec<PathBuf>,
    /// The joined journal
    #[arg(long, value_name = "FILE")]
    into: PathBuf,
    /// Go on if parts are missing or unfinished: what they would hold stays without a value, and
    /// results are marked as partial
    #[arg(long)]
    partial: bool,
}

impl Merge {
    /// Merges.
    ///
    /// # Errors
    /// For journals that do not belong together, and for missing parts.
    pub fn run(&self) -> Result<()> {
        let merged = merge(&self.journals, &self.into, self.partial)?;
        let mut stdout = std::io::stdout().lock();
        writeln!(stdout, "study    {}", merged.study)?;
        writeln!(stdout, "merged   {merged}")?;
        writeln!(stdout, "saved    {}", self.into.display())?;
        Ok(())
    }
}
