//! What lanes read of the runs that they depart from.

use crate::cache::Selection;
use crate::config::Config;
use crate::hook::{HookPoint, Site};
use crate::model::lane::Held;

/// What lanes with frozen halves read of the base run in every layer.
const HELD_READS: [Site; 6] = [
    Site::ResidPre,
    Site::Z,
    Site::AttnOut,
    Site::ResidMid,
    Site::MlpOut,
    Site::ResidPost,
];

/// The points that lanes with interventions at `places` read from their base.
pub(crate) fn reads(
    config: &Config,
    places: impl IntoIterator<Item = HookPoint>,
    held: Held,
) -> Selection {
    let n_layers = config.n_layers;
    let mut points = Selection::default();
    points.extend((0..n_layers).flat_map(|l| [Site::K.at(l), Site::V.at(l)]));
    // The metric's rows that no lane changes.
    points.extend([Site::ResidPost.at(n_layers - 1)]);
    if held != Held::default() {
        points.extend((0..n_layers).flat_map(|l| HELD_READS.map(|site| site.at(l))));
    }
    for place in places {
        points.extend([place]);
        // A change that reaches only some rows meets the others in the next attention.
        let next = match place {
            HookPoint::Embed | HookPoint::PosEmbed => 0,
            HookPoint::Block(layer, site) => {
                points.extend(fallbacks(site).iter().map(|s| s.at(layer)));
                layer + 1
            }
            _ => n_layers,
        };
        if next < n_layers {
            points.extend(entry_reads(next));
        }
    }
    points
}

/// What lanes read whose tokens are not all the base's.
pub(crate) fn token_reads() -> [HookPoint; 2] {
    entry_reads(0)
}

/// What a change read in a layer's entry meets there in other rows.
fn entry_reads(layer: usize) -> [HookPoint; 2] {
    [Site::ResidPre.at(layer), Site::Q.at(layer)]
}

/// What the rest of a layer reads from the base after a change at a site.
fn fallbacks(site: Site) -> &'static [Site] {
    if site <= Site::Pattern {
        &[Site::ResidPre, Site::Q, Site::Z]
    } else if site <= Site::AttnOut {
        &[Site::ResidPre, Site::Z]
    } else {
        &[Site::ResidMid]
    }
}
