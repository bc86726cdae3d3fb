//! Random cells.

use super::*;

/// A random cell: one to three interventions at any points, positions and heads.
fn cell_strategy() -> impl Strategy<Value = Vec<(usize, usize, usize, usize)>> {
    prop::collection::vec(
        (0_usize..1000, 0_usize..1000, 0_usize..1000, 0_usize..8),
        1..4,
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn random_models_prompts_and_cells_equal_full_passes(
        shape in (1_usize..4, 1_usize..4, 1_usize..7),
        seed in 0_u64..1000,
        lengths in prop::collection::vec(1_usize..9, 1..4),
        cells in prop::collection::vec(cell_strategy(), 1..8),
    ) {
        let (layers, heads, d_head) = shape;
        let model = model(config(layers, heads, d_head), seed);
        let tokens = |salt: usize| lengths.iter().enumerate().map(|(i, n)| {
            (0..*n).map(|p| ((p * 7 + i * 5 + salt * (p % 2) * 3) % 23) as u32).collect::<Vec<u32>>()
        }).collect::<Vec<_>>();
        let (clean, corrupted) = (Prompts::new(tokens(0)).unwrap(), Prompts::new(tokens(1)).unwrap());
        let donors = caches(&model, &clean);
        let points: Vec<HookPoint> = HookPoint::all(layers).collect();
        let shortest = *lengths.iter().min().unwrap();
        let cells: Vec<Cell> = cells.iter().map(|cell| cell.iter().map(|&(p, position, head, kind)| {
            let point = points[p % points.len()];
            let mut target = Target::new(point);
            if position % 3 > 0 {
                target = target.at_positions(position % shortest);
            }
            if point.axes().has_heads() && head % 2 == 0 {
                target = target.at_heads(head % heads);
            }
            let all = edits(&model, &donors, point);
            Intervention::new(target, all[kind % all.len()].clone())
        }).collect()).collect();
        let sweep = Sweep::new(&model, &corrupted).unwrap();
        assert_same(&sweep, &cells, &logit_diff(3, 5), "random");
    }
}
