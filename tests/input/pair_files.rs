//! Files of prompt pairs: case b35, in the layouts of auto-circuit, EAP-IG and function vectors.

mod long;

use std::fs;
use std::path::PathBuf;

use patchlens::Tokenizer;
use patchlens::metric::{Reduce, logit_diff_sets};
use patchlens::tasks::{PairFile, PromptPair, UnequalPair};
use serde_json::json;

use crate::small_tokenizer::mini;

/// A folder with one file of this name and text.
fn file(name: &str, text: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, text).unwrap();
    (folder, path)
}

fn open(name: &str, text: &str) -> PairFile {
    let (_folder, path) = file(name, text);
    PairFile::open(path, &mini(), false).unwrap()
}

fn error(name: &str, text: &str) -> String {
    let (_folder, path) = file(name, text);
    let message = PairFile::open(path, &mini(), false)
        .unwrap_err()
        .to_string();
    let after = message.split(&format!("{name}: ")).nth(1);
    after.unwrap_or(&message).to_string()
}

fn ids(tokenizer: &Tokenizer, words: &[&str]) -> Vec<u32> {
    let id = |word: &&str| tokenizer.token(word).unwrap();
    words.iter().map(id).collect()
}

const CLEAN: &str = "When Mary and John went to the store, John gave a drink to";
const CORRUPTED: &str = "When Mary and John went to the store, Mary gave a drink to";

fn mary_and_john() -> serde_json::Value {
    json!({ "clean": CLEAN, "corrupt": CORRUPTED, "answers": [" Mary"], "wrong_answers": [" John"] })
}

#[test]
fn b35_json_of_auto_circuit() {
    let long = "Then, Tom and James had a lot of fun at the school. Tom gave a ring to";
    let other = json!({
        "clean": long,
        "corrupt": long.replace(". Tom", ". Ruth"),
        "answers": [" James"],
        "wrong_answers": [" Tom", " Ruth"],
    });
    let text = json!({
        "word_idxs": {"S2": 9, "END": 13},
        "seq_labels": ["When", "IO", "and"],
        "made_by": "hand",
        "prompts": [mary_and_john(), other],
    });
    let found = open("pairs.json", &text.to_string());
    let tokenizer = mini();
    assert_eq!(found.pairs.len(), 2);
    assert!(found.skipped.is_empty());
    assert_eq!(found.ignored, ["made_by"]);
    assert_eq!(found.words["END"], 13);
    assert_eq!(found.labels.as_ref().unwrap()[1], "IO");
    let first = &found.pairs[0];
    assert_eq!(first.text, CLEAN);
    assert_eq!(first.clean, tokenizer.encode(CLEAN).unwrap());
    assert_eq!(
        first.corrupted.as_ref(),
        Some(&tokenizer.encode(CORRUPTED).unwrap())
    );
    let second = &found.pairs[1];
    assert_eq!(
        second.wrong_answers,
        ids(&tokenizer, &[" Tom", " Ruth"]),
        "several wrong answers are kept"
    );

    // With BOS, named positions move along.
    let (_folder, path) = file("pairs.json", &text.to_string());
    let with_bos = PairFile::open(path, &tokenizer, true).unwrap();
    assert_eq!(with_bos.words["END"], 14);
    assert_eq!(with_bos.labels.unwrap()[..2], ["<|endoftext|>", "When"]);
    assert_eq!(with_bos.pairs[0].clean.labels[0], "<|endoftext|>");
}

#[test]
fn b35_bare_lists_lines_and_token_ids_are_the_same_pairs() {
    let pairs = json!([mary_and_john(), mary_and_john()]);
    let from_list = open("pairs.json", &pairs.to_string());
    let line = mary_and_john().to_string();
    let from_lines = open("pairs.jsonl", &format!("{line}\n\n{line}\n"));
    assert_eq!(from_list.pairs, from_lines.pairs);
    let tokenizer = mini();
    let tokens = |text: &str| tokenizer.encode(text).unwrap().tokens;
    let by_id = json!([{
        "clean": tokens(CLEAN),
        "corrupted": tokens(CORRUPTED),
        "answer": tokenizer.token(" Mary").unwrap(),
        "wrong_answer": " John",
    }]);
    assert_eq!(
        open("x.json", &by_id.to_string()).pairs[0],
        from_list.pairs[0]
    );
}

#[test]
fn b35_csv_of_eap_ig() {
    let tokenizer = mini();
    let [mary, john] = ids(&tokenizer, &[" Mary", " John"])[..] else {
        unreachable!("two words")
    };
    let hard = CORRUPTED;
    let text = format!(
        "\u{feff},clean,corrupted,corrupted_hard,correct_idx,incorrect_idx\r\n\
         470,\"{CLEAN}\",\"{CORRUPTED}\",\"{hard}\",{mary},{john}\r\n"
    );
    let found = open("pairs.csv", &text);
    assert_eq!(found.ignored, ["", "corrupted_hard"]);
    let from_json = open("pairs.json", &json!([mary_and_john()]).to_string());
    assert_eq!(found.pairs, from_json.pairs);
}

#[test]
fn b35_a_label_is_the_number_of_greater_than() {
    let text = "clean,corrupted,label\n\
        The war lasted from the year 1732 to the year 17,\
        The war lasted from the year 1701 to the year 17,32\n\
        The trial lasted from the year 1604 to the year 16,\
        The trial lasted from the year 1601 to the year 16,4\n";
    let found = open("greater_than.csv", text);
    let tokenizer = mini();
    let digits = |range: std::ops::Range<u32>| -> Vec<u32> {
        let token = |n: u32| tokenizer.token(&format!("{n:02}")).unwrap();
        range.map(token).collect()
    };
    for (pair, year) in found.pairs.iter().zip([32, 4]) {
        assert_eq!(pair.answers, digits(year + 1..100));
        assert_eq!(pair.wrong_answers, digits(0..year + 1));
    }
}

#[test]
fn b35_inputs_and_outputs_of_function_vectors() {
    let text = json!([
        {"input": " Ada Brown plays the sport of", "output": "tennis"},
        {"input": " Ada", "output": " Brown"},
    ]);
    let found = open("words.json", &text.to_string());
    let answers: Vec<u32> = found.pairs.iter().flat_map(|p| p.answers.clone()).collect();
    assert_eq!(answers, ids(&mini(), &[" tennis", " Brown"]));
    assert!(found.pairs.iter().all(|pair| pair.corrupted.is_none()));
    assert!(found.unequal().is_empty());
}

/// Each pair that does not fit is named by its place, with what was found and expected.
#[test]
fn b35_pairs_that_do_not_fit_are_named() {
    let lines = [
        mary_and_john().to_string(),
        "not json".to_string(),
        json!({"corrupt": CORRUPTED, "answers": [" Mary"]}).to_string(),
        json!({"clean": CLEAN, "answers": []}).to_string(),
        json!({"clean": CLEAN, "answers": ["Mary"]}).to_string(),
        json!({"clean": CLEAN, "answers": [" Mary Brown"]}).to_string(),
        json!({"clean": "When Zaphod went", "answers": [" Mary"]}).to_string(),
        json!({"clean": CLEAN, "answers": [5000]}).to_string(),
        json!({"clean": CLEAN, "answers": [" Mary"], "wrong_answers": [" Mary"]}).to_string(),
        json!({"clean": 7, "answers": [" Mary"]}).to_string(),
        json!({"clean": [], "answers": [" Mary"]}).to_string(),
        r#"{"clean": "When", "clean": "Then", "answers": [" Mary"]}"#.to_string(),
    ];
    let found = open("pairs.jsonl", &lines.join("\n"));
    assert_eq!(found.pairs.len(), 1);
    let told: Vec<String> = found.skipped.iter().map(ToString::to_string).collect();
    let expected = [
        "pair 1 (line 2): expected ident at line 1 column 2",
        "pair 2 (line 3): no `clean` among the fields [answers, corrupt]",
        "pair 3 (line 4): right answers: found none; expected at least one",
        "pair 4 (line 5): tokenizer: right answer `Mary` is not one token; expected exactly one \
         token, as ` Mary` is",
        "pair 5 (line 6): tokenizer: right answer: ` Mary Brown` is 2 tokens: ` Mary` (101), \
         ` Brown` (214); expected exactly one token",
        "pair 6 (line 7): tokenizer: clean: unknown word ` Zaphod` in `When Zaphod went`; expected \
         words among the vocabulary's 396, nearest ` David`",
        "pair 7 (line 8): right answer: token 5000 is out of range; expected one of the \
         vocabulary's 396 tokens",
        "pair 8 (line 9): answers: found ` Mary` as right and as wrong; expected one or the other",
        "pair 9 (line 10): `clean`: found 7; expected a text or a list of token ids",
        "pair 10 (line 11): clean: no tokens; expected at least one token",
        "pair 11 (line 12): `clean` occurs twice at line 1 column 33",
    ];
    assert_eq!(told.len(), expected.len(), "{told:#?}");
    for (told, expected) in told.iter().zip(expected) {
        assert_eq!(told, expected);
    }
    let text = "clean,corrupted,correct_idx,incorrect_idx\nWhen,When,101,x\nWhen,When\n\
        When,When,101,102\n";
    let found = open("pairs.csv", text);
    let told: Vec<String> = found.skipped.iter().map(ToString::to_string).collect();
    assert_eq!(
        told[0],
        "pair 0 (line 2): `incorrect_idx`: found \"x\"; expected a token id"
    );
    assert!(
        told[1].starts_with("pair 1 (line 3): CSV error"),
        "{told:?}"
    );
    assert_eq!(found.pairs[0].index, 2);
}

#[test]
fn b35_files_that_are_none_are_errors() {
    let starts = |name: &str, text: &str, start: &str| {
        let message = error(name, text);
        assert!(message.starts_with(start), "{name} {text:?}: {message}");
        assert!(
            message.contains("expected prompt pairs as JSON"),
            "{message}"
        );
    };
    starts("a.json", "", "EOF while parsing");
    starts("a.json", "[]", "no pairs");
    starts("a.json", "{\"prompts\": []}", "no pairs");
    starts("a.json", "{\"pairs\": []}", "missing field `prompts`");
    starts("a.json", "[1]", "invalid type: integer `1`");
    // BOS before it would wrap around.
    let far = json!({"word_idxs": {"S2": usize::MAX}, "prompts": [mary_and_john()]});
    starts(
        "a.json",
        &far.to_string(),
        "`S2`: invalid value: integer `18446744073709551615`, expected u32",
    );
    starts("a.jsonl", "\n\n", "no pairs");
    starts("a.csv", "clean,corrupted,label\n", "no pairs");
    starts(
        "a.csv",
        "clean,dirty,label\n",
        "no `corrupted` in the columns",
    );
    starts(
        "a.csv",
        "clean,corrupted,correct_idx\n",
        "neither `correct_idx,incorrect_idx` nor `label` in the columns",
    );
    starts(
        "a.csv",
        "clean,clean,corrupted,label\n",
        "two columns `clean`",
    );
    starts(
        "a.csv",
        "clean,corrupted,label\nWhen,When,99\n",
        "no usable pair among 1: pair 0 (line 2): `label`: found \"99\"; expected a year's last \
         digits, 0 to 98",
    );
    let folder = tempfile::tempdir().unwrap();
    let message = PairFile::open(folder.path(), &mini(), false).unwrap_err();
    assert!(
        message
            .to_string()
            .contains("a folder; expected a regular file"),
        "{message}"
    );
    let path = folder.path().join("large.json");
    let large = fs::File::create(&path).unwrap();
    large.set_len(1 << 32).unwrap();
    let message = PairFile::open(&path, &mini(), false).unwrap_err();
    assert!(
        message.to_string().contains("at most 67108864 bytes"),
        "{message}"
    );
}

fn pair(clean: &str, corrupted: &str) -> serde_json::Value {
    json!({ "clean": clean, "corrupt": corrupted, "answers": [" Mary"], "wrong_answers": [" John"] })
}

#[test]
fn b35_pairs_of_unequal_length_are_listed_by_index() {
    let text = json!([
        pair(CLEAN, CORRUPTED),
        pair(CLEAN, "When Mary went to the store"),
        pair("The war", "The war"),
        pair("The war", "The war lasted"),
    ]);
    let found = open("pairs.json", &text.to_string());
    let unequal = |index, clean, corrupted| UnequalPair {
        index,
        clean,
        corrupted,
    };
    assert_eq!(found.unequal(), [unequal(1, 14, 6), unequal(3, 2, 3)]);
    assert_eq!(
        found.unequal()[0].to_string(),
        "pair 1: 14 tokens clean, 6 corrupted"
    );
}

/// With pairs of several lengths, by head is fine; by position is refused with a list.
#[test]
fn b35_lengths_that_differ_from_pair_to_pair() {
    let texts = [
        CLEAN,
        "When Mary and John got a drink at the store, John decided to give it to",
        "Then, Mary and John had a long argument, and afterwards John said to",
    ];
    let swapped = |text: &str| {
        let (before, after) = text.rsplit_once(" John").unwrap();
        format!("{before} Mary{after}")
    };
    let list: Vec<_> = texts
        .iter()
        .map(|text| pair(text, &swapped(text)))
        .collect();
    let found = open("pairs.json", &json!(list).to_string());
    assert!(found.unequal().is_empty());
    assert_eq!(
        found.common_len().unwrap_err().to_string(),
        "prompt pairs by position: 14 tokens (pair 0), 15 tokens (pair 2), 17 tokens (pair 1); \
         expected one length, so that positions correspond; by head, lengths may differ from pair \
         to pair"
    );
    let one = open("pairs.json", &json!([pair(CLEAN, CORRUPTED)]).to_string());
    assert_eq!(one.common_len().unwrap(), 14);
}

#[cfg(feature = "mini")]
#[test]
fn b35_lengths_that_differ_from_pair_to_pair_are_patched_by_head() {
    use patchlens::{Grid, Prompts, Site, Transformer, activation_patching};
    let text = json!([
        pair(CLEAN, CORRUPTED),
        pair(
            "After Mary and John went to the house, John gave a book to",
            "After Mary and John went to the house, Mary gave a book to"
        ),
        pair(
            "Then, Mary and John had a long argument, and afterwards John said to",
            "Then, Mary and John had a long argument, and afterwards Mary said to"
        ),
    ]);
    let found = open("pairs.json", &text.to_string());
    let clean = Prompts::new(found.pairs.iter().map(|p| &p.clean)).unwrap();
    let corrupted = found.pairs.iter().map(|p| p.corrupted.clone().unwrap());
    let corrupted = Prompts::new(corrupted).unwrap();
    let sets = |p: &PromptPair| (p.answers.clone(), p.wrong_answers.clone());
    let sets: Vec<_> = found.pairs.iter().map(sets).collect();
    let metric = logit_diff_sets(&sets, Reduce::Mean);
    let model = Transformer::mini();
    let heads = activation_patching(&model, &clean, &corrupted, Grid::Heads(Site::Z), &metric);
    assert_eq!(heads.unwrap().effect.values().shape(), [4, 4]);
    let positions = Grid::Positions(Site::ResidPre);
    let refused = activation_patching(&model, &clean, &corrupted, positions, &metric);
    assert!(refused.is_err());
}

/// One right answer against 13 wrong ones: which number is meant is said by name.
#[test]
fn b35_right_minus_max_and_right_minus_mean() {
    let names = [
        " John", " Tom", " James", " Dan", " Sid", " Martin", " Amy", " Alice", " David", " Sarah",
        " Robert", " Emily", " Daniel",
    ];
    let entry = json!([{ "clean": CLEAN, "answers": [" Mary"], "wrong_answers": names }]);
    let found = open("pairs.json", &entry.to_string());
    let pair = &found.pairs[0];
    assert_eq!(pair.wrong_answers.len(), 13);
    let mut logits = ndarray::Array2::zeros((1, mini().vocab_size()));
    logits[[0, pair.answers[0] as usize]] = 10.0;
    for (i, token) in pair.wrong_answers.iter().enumerate() {
        logits[[0, *token as usize]] = i as f32;
    }
    let sets = [(pair.answers.clone(), pair.wrong_answers.clone())];
    let value = |reduce| {
        let metric = logit_diff_sets(&sets, reduce);
        metric.evaluate(0, logits.view()).unwrap()
    };
    assert_eq!(value(Reduce::Mean), 10.0 - 6.0);
    assert_eq!(value(Reduce::Max), 10.0 - 12.0);
    let sum: f64 = (0..13).map(|i| f64::from(i).exp()).sum();
    assert!((f64::from(value(Reduce::LogSumExp)) - (10.0 - sum.ln())).abs() < 1e-6);
    let empty = logit_diff_sets(&[(pair.answers.clone(), Vec::new())], Reduce::Mean);
    let message = empty.evaluate(0, logits.view()).unwrap_err().to_string();
    assert_eq!(
        message,
        "logit difference: wrong tokens of prompt 0: found none; expected at least one"
    );
}
