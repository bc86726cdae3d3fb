//! The head report keeps to its memory: a model of GPT-2 small's shape. Alone in its binary, because
//! it counts every allocation of the process.

use crate::{ALLOCATOR, alone};
use patchlens::heads::{HeadReporter, HeadTask, Role};
use patchlens::{Config, Prompt, Transformer, logit_diff};

#[test]
fn report_stays_below_one_and_a_half_times_the_weights() {
    let _alone = alone();
    let model = Transformer::random(Config::gpt2(), 0).unwrap();
    let weights = 4 * model.parameters().count();
    let half: Vec<u32> = (0..20).map(|i| 400 + 977 * i).collect();
    let repeated = Prompt::from(half.repeat(2));
    let reporter = HeadReporter::new(&model, &repeated).unwrap();
    let reporter = reporter.copy_tokens(half[..4].to_vec(), None);
    let reporter = reporter.task(HeadTask {
        prompts: vec![Prompt::from(&half[..15]); 2],
        metric: logit_diff(5, 6),
        end: Role::new("END", [14, 14]),
        roles: vec![Role::new("IO", [3, 3])],
        answer: Some("IO".to_string()),
        rival: None,
    });
    ALLOCATOR.reset_peak_usage();
    let report = reporter.run().unwrap();
    let peak = ALLOCATOR.peak_usage();
    let ratio = peak as f64 / weights as f64;
    println!("peak {peak} bytes, weights {weights}: {ratio:.3}");
    assert_eq!(report.cards.len(), 144);
    assert!(ratio < 1.5, "{ratio}");
}
