use super::*;
use crate::config::MlpKind;

fn gpt2() -> Kind {
    Kind::of(&Config::gpt2())
}

fn attention_only() -> Config {
    Config {
        mlp: MlpKind::None,
        ..Config::gpt2()
    }
}

#[test]
fn every_site_is_in_the_table_once_inputs_come_first() {
    for site in Site::ALL {
        assert_eq!(Stage::shown_at(*site).entry().cut.is_some(), {
            let mlp = [Site::MlpIn, Site::Ln2Scale, Site::Ln2Normalized];
            mlp.contains(site)
        });
    }
    for stage in Stage::ALL {
        let inputs = stage.inputs(gpt2(), Frozen::default());
        assert!(inputs.iter().all(|input| input.stage() < *stage));
        assert_eq!(inputs.is_empty(), *stage == Stage::ResidPre);
    }
}

#[test]
fn paths_follow_the_arrows() {
    let z = Site::Z.at(1);
    assert!(leads_to(gpt2(), z, Site::MlpIn.at(1)));
    assert!(leads_to(gpt2(), z, Site::QInput.at(2)));
    assert!(!leads_to(gpt2(), z, Site::QInput.at(1)));
    assert!(!leads_to(gpt2(), Site::Q.at(1), Site::K.at(1)));
    assert!(leads_to(gpt2(), HookPoint::Embed, z));
    assert!(!leads_to(gpt2(), HookPoint::Embed, HookPoint::PosEmbed));
    assert!(leads_to(gpt2(), z, HookPoint::LnFinalScale));
}

#[test]
fn a_change_reads_what_meets_it() {
    let config = Config {
        n_layers: 2,
        ..Config::gpt2()
    };
    let reads = |place, frozen| base_reads(place, &config, frozen);
    let at = |layer: usize, sites: &[Site]| -> Vec<HookPoint> {
        sites.iter().map(|s| s.at(layer)).collect()
    };
    // Some rows of the MLP's output meet the others in the next attention, which reads their
    // queries, keys and values, and in the sums.
    let found = reads(Site::MlpOut.at(0), Frozen::default());
    assert!(
        at(0, &[Site::MlpOut, Site::ResidMid])
            .iter()
            .all(|p| found.contains(p))
    );
    assert!(
        at(1, &[Site::Q, Site::K, Site::V, Site::ResidPre])
            .iter()
            .all(|p| found.contains(p))
    );
    assert!(!found.contains(&Site::AttnOut.at(1)));
    // A frozen attention's output is the base's.
    let frozen = Frozen {
        attention: true,
        mlps: false,
    };
    let found = reads(Site::MlpOut.at(0), frozen);
    assert!(found.contains(&Site::AttnOut.at(1)));
    assert!(!found.contains(&Site::K.at(1)));
}

#[test]
fn a_block_without_mlp_has_one_half() {
    let out = |kind: Kind| -> Vec<(Stage, Stage)> {
        kind.writes().map(|write| (write.out, write.sum)).collect()
    };
    let attention = (Stage::AttnOut, Stage::ResidMid);
    assert_eq!(out(gpt2()), [attention, (Stage::MlpOut, Stage::ResidPost)]);
    let kind = Kind::of(&attention_only());
    assert_eq!(out(kind), [(Stage::AttnOut, Stage::ResidPost)]);
    let inputs = |stage: Stage| stage.inputs(kind, Frozen::default());
    let from = [Stage::AttnOut, Stage::ResidPre].map(Input::Same);
    assert_eq!(inputs(Stage::ResidPost), from);
    assert!(inputs(Stage::MlpOut).is_empty());
    // A run reads only what such a model has.
    let config = attention_only();
    for point in HookPoint::of(&config).filter(|point| point.layer() == Some(0)) {
        for read in base_reads(point, &config, Frozen::default()) {
            assert_eq!(read.check(&config).ok(), Some(()), "{point} reads {read}");
        }
    }
}

#[test]
fn positions_of_their_own_reach_queries_and_keys() {
    let config = Config {
        positions: Positions::Shortformer,
        n_layers: 2,
        ..attention_only()
    };
    let kind = Kind::of(&config);
    let reached = |to: HookPoint| leads_to(kind, HookPoint::PosEmbed, to);
    for site in [Site::Q, Site::K, Site::Pattern, Site::Z, Site::ResidPost] {
        assert!(reached(site.at(0)), "{site:?}");
    }
    for site in [Site::ResidPre, Site::QInput, Site::Ln1Normalized, Site::V] {
        assert!(!reached(site.at(0)), "{site:?}");
        assert!(reached(site.at(1)), "{site:?}");
    }
    let reads = base_reads(Site::Z.at(0), &config, Frozen::default());
    assert!(reads.contains(&HookPoint::PosEmbed));
}
