//! All edges ranked by an estimate, the best and a sample of the others computed exactly.

use anyhow::Result;
use patchlens::circuits::{Approximation, EdgeScores, ScreenedEdges, Steps, Verify};

use super::Study;
use crate::interrupt;

impl Study<'_> {
    /// Exact effects of the `n` best edges by receiver-exact scores, and of as many others as far
    /// as there are; printed and saved. Returns exact scores where there are, or else approximate
    /// ones.
    pub(super) fn screened(&self, n: usize, steps: Steps) -> Result<EdgeScores> {
        let study = ScreenedEdges::over(self.runs[0], self.runs[1])?
            .memory_limit(self.session.memory)
            .journal(self.session.work.journal())
            .observe(self.session.progress.observer("screened edges"));
        let total = study.graph().n_edges();
        let verify = Verify {
            top: n.min(total),
            sample: n.min(total.saturating_sub(n)),
            seed: self.questions.seed.unwrap_or(0),
        };
        let found = study.run(Approximation::ReceiverExactIg(steps), verify, self.metric)?;
        let output = &self.session.output;
        output.keep("screened", &self.questions.seeded(&found.effect))?;
        output.say(format_args!(
            "Screened by receiver-exact scores, verified exactly:\n{found}\n"
        ))?;
        if let Ok(agreement) = found.top_agreement() {
            let exact = format!("exact effect ({})", found.effect.about.unit);
            output.scatter("screened_top", &agreement.scatter("receiver-exact", &exact));
        }
        interrupt::check()?;
        Ok(found.scores()?)
    }
}
