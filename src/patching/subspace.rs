//! Patching of what lies in a subspace.

use super::grid::targets;
use super::{ActivationPatching, Grid};
use crate::error::Result;
use crate::intervention::{Edit, Intervention, Select, Subspace, Target};
use crate::model::RunShape;

impl ActivationPatching<'_> {
    /// Patches only what lies in a subspace of the sites' last axis: `d_model` for the residual
    /// stream, `d_head` for heads.
    ///
    /// ```
    /// use ndarray::arr2;
    /// use patchlens::intervention::Subspace;
    /// use patchlens::patching::ActivationPatching;
    /// use patchlens::{Config, Grid, Prompt, Site, Transformer, logit_diff};
    /// let config = Config { n_layers: 2, n_heads: 2, d_model: 4, d_mlp: 16, d_vocab: 11,
    /// ..Config::gpt2() };
    /// let model = Transformer::random(config, 0)?;
    /// let direction = Subspace::new(arr2(&[[0.6], [0.8], [0.0], [0.0]]))?;
    /// let (clean, corrupted) = (Prompt::from([1, 2, 3]), Prompt::from([1, 4, 3]));
    /// let study = ActivationPatching::new(&model, &clean, &corrupted)?.in_subspace(direction);
    /// let found = study.run(Grid::Positions(Site::ResidPre), &logit_diff(2, 4))?;
    /// let title = "Activation patching of hook_resid_pre, in 1 of 4 dimensions";
    /// assert!(found.effect.about.title.starts_with(title));
    /// # Ok::<(), patchlens::Error>(())
    /// ```
    #[must_use]
    pub fn in_subspace(mut self, subspace: Subspace) -> Self {
        self.subspace = Some(subspace);
        self
    }

    /// The target of each cell of a grid, checked where a subspace may not fit it.
    pub(super) fn targets(&self, grid: Grid, shape: &[usize]) -> Result<Vec<Target>> {
        let targets = targets(grid, shape);
        let Some(subspace) = &self.subspace else {
            return Ok(targets);
        };
        let [base, _] = self.pairs.base_and_donor();
        let run = RunShape::whole(base.model(), base.prompts().lengths());
        let within = |target: Target| {
            let target = target.in_subspace(subspace.clone());
            // Positions of aligned prompts are columns of the alignment.
            let everywhere = target.clone().at_positions(Select::All);
            Intervention::new(everywhere, Edit::Zero).check(&run)?;
            Ok(target)
        };
        targets.into_iter().map(within).collect()
    }

    /// `, in 2 of 768 dimensions`, for a title.
    pub(super) fn of_subspace(&self) -> String {
        let subspace = self.subspace.as_ref();
        subspace.map_or_else(String::new, |subspace| format!(", {subspace}"))
    }
}
