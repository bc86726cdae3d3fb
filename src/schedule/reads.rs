//! What lanes read of the runs that they depart from: the table of stages tells.

use crate::cache::Selection;
use crate::config::Config;
use crate::hook::{HookPoint, Site};
use crate::model::stage::{Frozen, base_reads};

/// The points that lanes with interventions at `places` read from their base.
pub(crate) fn reads(
    config: &Config,
    places: impl IntoIterator<Item = HookPoint>,
    frozen: Frozen,
) -> Selection {
    let mut points = Selection::default();
    // The metric's rows that no lane changes.
    points.extend([Site::ResidPost.at(config.n_layers - 1)]);
    for place in places {
        points.extend([place]);
        points.extend(base_reads(place, config, frozen));
    }
    points
}

/// What lanes read whose tokens are not all the base's.
pub(crate) fn token_reads(config: &Config) -> Vec<HookPoint> {
    base_reads(HookPoint::Embed, config, Frozen::default())
}
