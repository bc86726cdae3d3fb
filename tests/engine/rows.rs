//! Rows of caches and of logits, by themselves.

use ndarray::{Axis, arr1};
use patchlens::intervention::Values;
use patchlens::metric::top_tokens;
use patchlens::{Edit, HookPoint, Intervention, Interventions, Selection, Site, Target};

const FROM: [u32; 6] = [1, 2, 3, 4, 5, 6];
const TO: [u32; 4] = [9, 8, 7, 3];

/// Every row of a cache can be had as what it is, and moved to another position of another prompt:
/// the run has the bits of one whose closure writes the row.
#[test]
fn n10_a_row_moves_between_positions_and_prompts() {
    let model = crate::common::open("tiny-gelu-new");
    let everything = Selection::everything(model.config());
    let (_, cache) = model.run_with_cache(FROM, &everything).unwrap();
    let mut moved = 0;
    for point in cache.points() {
        let (whole, axes) = (cache.get(point).unwrap(), point.axes());
        for position in 0..FROM.len() {
            let of_position = whole.index_axis(Axis(axes.pos_axis()), position);
            if axes.has_heads() {
                for head in 0..model.config().n_heads {
                    let row = cache.head_row(point, position, head).unwrap();
                    assert_eq!(row.into_dyn(), of_position.index_axis(Axis(0), head));
                }
            } else {
                let row = cache.row(point, position).unwrap();
                assert_eq!(row.into_dyn(), of_position, "{point}");
            }
        }
        if axes.has_heads() || point == HookPoint::Logits {
            continue;
        }
        let row = cache.row(point, 5).unwrap().to_owned();
        let run = |edit| {
            let place = Target::new(point).at_positions(2);
            let edits = Interventions::new(vec![Intervention::new(place, edit)]);
            model.run_with_hooks(TO, edits).unwrap()
        };
        let set = run(Edit::Set(Values::array(row.clone())));
        let written = run(Edit::map(move |_, to: &mut [f32]| {
            to.copy_from_slice(row.as_slice().unwrap());
        }));
        assert!(
            set.iter()
                .map(|v| v.to_bits())
                .eq(written.iter().map(|v| v.to_bits()))
        );
        moved += usize::from(set != model.forward(TO).unwrap());
    }
    assert!(
        moved > 10,
        "{moved} places where the row changes the logits"
    );
}

#[test]
fn n10_rows_that_are_not_there_are_errors() {
    let model = crate::common::open("tiny-gelu-new");
    let points = [Site::MlpOut.at(1), Site::Z.at(1), Site::Pattern.at(0)];
    let (_, whole) = model
        .run_with_cache(FROM, &Selection::points(points))
        .unwrap();
    let some = Selection::points(points).at_positions([1, -1]);
    let (_, some) = model.run_with_cache(FROM, &some).unwrap();
    let [mlp, z, pattern] = points;
    assert_eq!(some.row(mlp, 5).unwrap(), whole.row(mlp, 5).unwrap());
    assert_eq!(
        some.head_row(z, 1, 0).unwrap(),
        whole.head_row(z, 1, 0).unwrap()
    );
    assert_eq!(whole.head_row(pattern, 3, 1).unwrap().len(), FROM.len());
    let errors = [
        whole.row(mlp, 6),
        some.row(mlp, 2),
        whole.head_row(pattern, 9, 0),
        whole.head_row(z, 0, 99),
        whole.row(z, 0),
        whole.head_row(mlp, 0, 0),
        whole.row(Site::ResidPre.at(0), 0),
    ];
    let found = errors.map(|row| row.unwrap_err().to_string());
    let expected = [
        "pos 6 is out of range; expected 0..6",
        "expected one of the positions that were kept, [1, 5]",
        "dest 9 is out of range; expected 0..6",
        "head 99 is out of range; expected 0..",
        "`head_row` for those with heads",
        "`row` for those without",
        "hook_resid_pre",
    ];
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.contains(expected), "{found} lacks {expected}");
    }
}

#[test]
fn n10_the_likeliest_tokens_of_plain_logits() {
    let model = crate::common::open("tiny-gelu-new");
    let logits = model.forward(FROM).unwrap();
    for row in logits.rows() {
        let best = top_tokens(row, 4);
        assert_eq!(best.len(), 4);
        let of = |token: &u32| row[*token as usize];
        assert!(best.is_sorted_by(|a, b| of(a) >= of(b)));
        let above = row.iter().filter(|v| **v > of(&best[3])).count();
        assert!(above <= 3, "{above} above the fourth");
    }
    let row = arr1(&[1.0, f32::NAN, 3.0, 3.0, f32::NEG_INFINITY]);
    assert_eq!(top_tokens(row.view(), 9), [2, 3, 0, 4]);
    assert_eq!(top_tokens(row.view(), 1), [2]);
    assert!(top_tokens(row.view(), 0).is_empty());
}
