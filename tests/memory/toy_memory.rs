//! The memory of a sweep stays under its stated bound in models of other kinds than GPT-2.

use patchlens::config::{Activation, MlpKind, Norm, Positions};
use patchlens::sweep::Cell;
use patchlens::{
    Config, Edit, Grid, HookPoint, Intervention, Prompts, Site, Target, Transformer, logit_diff,
};

use crate::alone;
use crate::phases::{Measured, measure};

/// Two layers of GPT-2 small's widths, made of other parts.
fn kinds() -> [(&'static str, Config); 3] {
    let config = Config {
        n_layers: 2,
        n_ctx: 64,
        d_vocab: 500,
        ..Config::gpt2()
    };
    [
        (
            "attention only",
            Config {
                mlp: MlpKind::None,
                norm: Norm::None,
                positions: Positions::Shortformer,
                ..config.clone()
            },
        ),
        (
            "SoLU",
            Config {
                mlp: MlpKind::Normed,
                activation: Activation::Solu,
                norm: Norm::LayerPre,
                positions: Positions::None,
                ..config.clone()
            },
        ),
        (
            "wide heads",
            Config {
                head_width: Some(96),
                positions: Positions::Shortformer,
                ..config
            },
        ),
    ]
}

#[test]
fn planned_is_no_less_than_used() {
    let _alone = alone();
    let prompt = |i: u32| (0..24).map(|p| (p * 31 + i * 7) % 500).collect();
    let prompts = Prompts::new((0..4).map(prompt).collect::<Vec<Vec<u32>>>()).unwrap();
    for (kind, config) in kinds() {
        let model = Transformer::random(config, 1).unwrap();
        let grids = [
            Grid::Positions(Site::ResidPre),
            Grid::Positions(Site::MlpPre),
            Grid::Positions(Site::MlpMid),
            Grid::Heads(Site::Z),
            Grid::HeadPositions(Site::QInput),
        ];
        let targets = grids.map(|grid| grid.targets(model.config(), 24));
        let positions = (0..24).map(|i| Target::new(HookPoint::PosEmbed).at_positions(i));
        for targets in targets.into_iter().chain([positions.collect()]) {
            let there = |t: &Target| t.point.check(model.config()).is_ok();
            let cell = |t: Target| vec![Intervention::new(t, Edit::Scale(0.5))];
            let cells: Vec<Cell> = targets.into_iter().filter(there).map(cell).collect();
            let Some(first) = cells.first() else {
                continue;
            };
            let place = first[0].target.point;
            for limit in [150_u64 << 20, 1 << 30] {
                let found = measure(&model, &prompts, &cells, &logit_diff(1, 2), limit).unwrap();
                let Measured { planned, used } = found;
                println!("{kind}, {place}, {limit}: planned {planned}, used {used}");
                assert!(used <= planned, "{kind}, {place}: {used} of {planned}");
            }
        }
    }
}
