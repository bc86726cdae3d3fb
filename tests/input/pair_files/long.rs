//! Answers of several tokens in files of prompt pairs: case b33.

use patchlens::tasks::PromptPair;
use serde_json::json;

use super::{error, ids, mary_and_john, open};
use crate::small_tokenizer::mini;

const LONG: [(&str, &str); 2] = [
    ("When Mary and John went to", " the store"),
    ("When Mary and John went to the", " store"),
];

/// One right answer of several tokens: the prompts are continued by it, also beside answers of one.
#[test]
fn b33_one_answer_of_several_tokens_per_pair() {
    let tokenizer = mini();
    let list = LONG.map(|(clean, answer)| {
        json!({"clean": clean, "corrupt": clean.replace("Mary", "Tom"), "answers": [answer]})
    });
    let found = open("pairs.json", &json!(list).to_string());
    assert!(found.skipped.is_empty(), "{:?}", found.skipped);
    let [long, short] = &found.pairs[..] else {
        panic!("two pairs")
    };
    let text = format!("{} the", LONG[0].0);
    assert_eq!(long.clean, tokenizer.encode(&text).unwrap());
    let corrupted = tokenizer.encode(&text.replace("Mary", "Tom")).unwrap();
    assert_eq!(long.corrupted.as_ref(), Some(&corrupted));
    assert_eq!(long.text, LONG[0].0);
    let tokens = ids(&tokenizer, &[" the", " store"]);
    assert_eq!(long.long_answer.as_ref(), Some(&tokens));
    assert_eq!(long.answer(), Some(&tokens[..]));
    assert!(long.answers.is_empty() && long.wrong_answers.is_empty());
    assert_eq!(short.clean, tokenizer.encode(LONG[1].0).unwrap());
    assert_eq!(short.long_answer, None);
    assert_eq!(short.answer(), Some(&tokens[1..]));
    // The same by token ids, from a list of inputs and outputs, and alone.
    let prompt = tokenizer.encode(LONG[0].0).unwrap().tokens;
    let by_id = json!([{"clean": prompt, "answers": [tokens]}]).to_string();
    assert_eq!(open("x.json", &by_id).pairs[0].clean, long.clean);
    let output = json!([{"input": LONG[0].0, "output": "the store"}]).to_string();
    assert_eq!(open("x.json", &output).pairs[0].clean, long.clean);
    let answers = [LONG[0].1.to_string()];
    let alone = PromptPair::new(&tokenizer, LONG[0].0, None, &answers, &[], false).unwrap();
    assert_eq!(alone.clean, long.clean);
}

/// Beside wrong answers, or in a file that has some, longer answers are no usable pair.
#[test]
fn b33_a_difference_of_longer_answers_is_refused_with_its_reason() {
    let wrong = json!([
        mary_and_john(),
        {"clean": LONG[0].0, "answers": [" the store"], "wrong_answers": [" the school"]},
        {"clean": LONG[0].0, "answers": [" the", " the store"]},
        {"clean": LONG[0].0, "answers": [" the store"]},
    ]);
    let found = open("pairs.json", &wrong.to_string());
    assert_eq!(found.pairs.len(), 1);
    let told: Vec<String> = found.skipped.iter().map(ToString::to_string).collect();
    let reason = "right answer: 2 tokens [\" the\", \" store\"]; expected exactly one token beside \
         other answers: a difference of longer ones would need two runs";
    assert_eq!(told[0], format!("pair 1: tokenizer: {reason}"));
    assert_eq!(told[1], format!("pair 2: tokenizer: {reason}"));
    assert!(
        told[2].contains("pair 3: tokenizer: right answer: ` the store` is 2 tokens"),
        "{told:?}"
    );
    // A word without its space is a slip, not a longer answer; ids are checked.
    let message = error(
        "a.json",
        &json!([{"clean": "When", "answer": "Mary"}]).to_string(),
    );
    assert!(
        message.contains("exactly one token, as ` Mary` is"),
        "{message}"
    );
    let message = error(
        "a.json",
        &json!([{"clean": "When", "answers": [[1, 5000]]}]).to_string(),
    );
    assert!(message.contains("token 5000 is out of range"), "{message}");
}

/// The metric of such a file, by hand from the logits of `forward`.
#[cfg(feature = "mini")]
#[test]
fn b33_answers_of_a_file_have_the_probability_that_forward_says() {
    use patchlens::metric::answer_log_probability;
    use patchlens::{Base, Prompts, Transformer};
    let list = LONG.map(|(clean, answer)| json!({"clean": clean, "answers": [answer]}));
    let found = open("pairs.json", &json!(list).to_string());
    let model = Transformer::mini();
    let answers = found
        .pairs
        .iter()
        .map(|pair| pair.answer().unwrap().to_vec());
    let metric = answer_log_probability(&answers.collect::<Vec<_>>());
    let prompts = Prompts::new(found.pairs.iter().map(|pair| &pair.clean)).unwrap();
    let values = Base::new(&model, &prompts)
        .unwrap()
        .metric(&metric)
        .unwrap();
    let tokenizer = mini();
    for ((clean, answer), value) in LONG.iter().zip(values) {
        let whole = tokenizer.encode(&format!("{clean}{answer}")).unwrap();
        let from = tokenizer.encode(clean).unwrap().len();
        let logits = model.forward(&whole).unwrap();
        let log_p = |position: usize| {
            let row = logits.row(position - 1).mapv(f64::from);
            let sum: f64 = row.iter().map(|logit| logit.exp()).sum();
            row[whole.tokens[position] as usize] - sum.ln()
        };
        let by_hand: f64 = (from..whole.len()).map(log_p).sum();
        assert!(
            (f64::from(value) - by_hand).abs() < 1e-5,
            "{value} {by_hand}"
        );
    }
}
