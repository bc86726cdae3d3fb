use super::*;

#[test]
fn every_site_is_in_the_table_once_inputs_come_first() {
    for site in Site::ALL {
        assert_eq!(Stage::shown_at(*site).entry().cut.is_some(), {
            let mlp = [Site::MlpIn, Site::Ln2Scale, Site::Ln2Normalized];
            mlp.contains(site)
        });
    }
    for stage in Stage::ALL {
        let inputs = stage.inputs(Frozen::default());
        assert!(inputs.iter().all(|input| input.stage() < *stage));
        assert_eq!(inputs.is_empty(), *stage == Stage::ResidPre);
    }
}

#[test]
fn paths_follow_the_arrows() {
    let z = Site::Z.at(1);
    assert!(leads_to(z, Site::MlpIn.at(1)));
    assert!(leads_to(z, Site::QInput.at(2)));
    assert!(!leads_to(z, Site::QInput.at(1)));
    assert!(!leads_to(Site::Q.at(1), Site::K.at(1)));
    assert!(leads_to(HookPoint::Embed, z));
    assert!(!leads_to(HookPoint::Embed, HookPoint::PosEmbed));
    assert!(leads_to(z, HookPoint::LnFinalScale));
}

#[test]
fn a_change_reads_what_meets_it() {
    let reads = |place, frozen| base_reads(place, 2, frozen);
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
