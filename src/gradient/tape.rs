//! What the forward has to keep for the backward pass.

use crate::cache::Selection;
use crate::component::Qkv;
use crate::config::Config;
use crate::gradient::Backward;
use crate::hook::{HookPoint, Site};
use crate::model::stage::Kind;

/// The inputs of attention by head.
pub(super) const SPLIT_INPUTS: [Site; 4] = [Site::AttnIn, Site::QInput, Site::KInput, Site::VInput];

/// Whether the backward pass has to reach a point.
pub(super) fn reaches(want: &Backward<'_>, point: HookPoint) -> bool {
    let first = want.gradients.and_then(|selection| selection.iter().next());
    want.parameters || first.is_some_and(|first| first <= point)
}

/// The activations that the backward pass reads; `hooked` says where hooks are.
pub(super) fn points(
    config: &Config,
    want: &Backward<'_>,
    hooked: impl Fn(HookPoint) -> bool,
) -> Selection {
    let mut points = Vec::new();
    if reaches(want, HookPoint::LnFinalNormalized) {
        let last = Site::ResidPost.at(config.n_layers - 1);
        points.extend([last, HookPoint::LnFinalScale]);
    }
    if want.parameters {
        points.push(HookPoint::LnFinalNormalized);
        let own = Kind::of(config).reads_positions();
        points.extend(own.then_some(HookPoint::PosEmbed));
    }
    for layer in 0..config.n_layers {
        let at = |site: Site| site.at(layer);
        if reaches(want, at(Site::MlpPost)) {
            points.extend([Site::MlpIn, Site::Ln2Scale, Site::MlpPre].map(at));
            points.extend([Site::MlpMid, Site::MlpNormScale].map(at));
        }
        if reaches(want, at(Site::Pattern)) {
            let sites = [Site::Q, Site::K, Site::V, Site::Pattern];
            points.extend(sites.map(at));
            points.extend([Site::ResidPre, Site::Ln1Scale].map(at));
            points.extend(hooked(at(Site::Pattern)).then(|| at(Site::AttnScores)));
            if SPLIT_INPUTS.iter().any(|site| hooked(at(*site))) {
                points.extend(Qkv::ALL.map(|reader| at(reader.input_site())));
            }
        }
        if want.parameters {
            let sites = [Site::Ln1Normalized, Site::Z, Site::Ln2Normalized];
            points.extend(sites.map(at));
            points.extend([Site::MlpNormNormalized, Site::MlpPost].map(at));
        }
    }
    let there = |point: &HookPoint| point.lacking(config).is_none();
    Selection::points(points.into_iter().filter(there))
}
