//! The generator of key → value prompts.

use patchlens::tasks::{KeyValue, KeyValueRole};

const ARROW: u32 = 100;
const END: u32 = 101;

fn task() -> KeyValue<'static> {
    KeyValue::new((0..6).collect(), (10..16).collect(), vec![ARROW], vec![END]).unwrap()
}

/// The value that a prompt shows for a key.
fn shown(tokens: &[u32], key: u32) -> Option<u32> {
    tokens
        .windows(4)
        .find(|w| w[0] == key && w[1] == ARROW && w[3] == END)
        .map(|w| w[2])
}

#[test]
fn each_prompt_has_its_own_mapping() {
    let pairs = task().with_bos(99).pairs(30, 3, 0).unwrap();
    for pair in &pairs {
        let (clean, corrupted) = (&pair.clean.tokens, &pair.corrupted.tokens);
        assert_eq!((clean.len(), clean[0]), (1 + 3 * 4 + 2, 99));
        let query = clean[clean.len() - 2];
        assert_eq!(shown(clean, query), Some(pair.answer));
        assert_eq!(shown(corrupted, query), Some(pair.other));
        assert_ne!(pair.answer, pair.other);
        // Only values differ.
        for (i, (a, b)) in clean.iter().zip(corrupted).enumerate() {
            assert_eq!(a != b, i > 0 && i < 13 && (i - 1) % 4 == 2, "position {i}");
        }
    }
    let of_key_0: Vec<_> = pairs
        .iter()
        .filter_map(|p| shown(&p.clean.tokens, 0))
        .collect();
    assert!(of_key_0.iter().any(|v| *v != of_key_0[0]), "{of_key_0:?}");
    assert_eq!(pairs, task().with_bos(99).pairs(30, 3, 0).unwrap());
}

#[test]
fn roles_tell_the_queried_example_apart() {
    let pairs = task().with_bos(99).pairs(30, 3, 0).unwrap();
    let mut queried = Vec::new();
    for pair in &pairs {
        let (tokens, other) = (&pair.clean.tokens, &pair.corrupted.tokens);
        assert_eq!(pair.roles.len(), tokens.len());
        let at = |role| -> Vec<usize> {
            let all = 0..tokens.len();
            all.filter(|i| pair.roles[*i] == role).collect()
        };
        let (key, value) = (at(KeyValueRole::QueriedKey), at(KeyValueRole::QueriedValue));
        let query = at(KeyValueRole::Query);
        assert_eq!([&key, &value, &query].map(Vec::len), [1, 1, 1]);
        assert_eq!(tokens[key[0]], tokens[query[0]]);
        assert_eq!(
            (tokens[value[0]], other[value[0]]),
            (pair.answer, pair.other)
        );
        for i in at(KeyValueRole::OtherKey) {
            assert!(tokens[i] < 6 && tokens[i] != tokens[query[0]]);
        }
        for i in at(KeyValueRole::OtherValue) {
            assert!((10..16).contains(&tokens[i]) && tokens[i] != pair.answer);
        }
        for i in at(KeyValueRole::Between) {
            assert!([ARROW, END].contains(&tokens[i]));
        }
        assert_eq!(
            (at(KeyValueRole::Bos), at(KeyValueRole::AfterQuery)),
            (vec![0], vec![14])
        );
        queried.push(value[0]);
    }
    // One position in all prompts would need no roles.
    assert!(queried.iter().any(|i| *i != queried[0]), "{queried:?}");
}

#[test]
fn a_function_keeps_its_mapping_and_hides_the_query() {
    let prompts = task().function_prompts(20, 4, 1).unwrap();
    for (i, clean) in prompts.clean.iter().enumerate() {
        let query = clean.tokens[clean.len() - 2];
        assert_eq!(shown(&clean.tokens, query), None);
        assert_eq!(prompts.answers[i], query + 10);
        assert_eq!(prompts.zero_shot[i].tokens, [query, ARROW]);
        let keys = (0..6).filter(|key| *key != query);
        let examples = keys.filter_map(|key| Some((key, shown(&clean.tokens, key)?)));
        assert!(examples.into_iter().all(|(key, value)| value == key + 10));
        let sorted = |tokens: &[u32]| {
            let mut tokens = tokens.to_vec();
            tokens.sort_unstable();
            tokens
        };
        assert_eq!(sorted(&clean.tokens), sorted(&prompts.shuffled[i].tokens));
    }
    assert!(prompts.clean != prompts.shuffled);
}

#[test]
fn what_makes_no_task_is_an_error() {
    let error = KeyValue::new(vec![1, 1], vec![2, 3], vec![], vec![]).unwrap_err();
    assert!(
        error.to_string().contains("2 tokens, 1 different"),
        "{error}"
    );
    let error = task().pairs(1, 7, 0).unwrap_err().to_string();
    assert!(error.contains("shots: found 7; expected 2 to 6"), "{error}");
    let error = task().function_prompts(1, 6, 0).unwrap_err().to_string();
    assert!(error.contains("2 to 5"), "{error}");
}
