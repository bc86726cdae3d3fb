//! The tokenizer: what it refuses, and that it adds, drops and replaces nothing silently.

use crate::small_tokenizer::{bytes, from_json, message, mini, word_level, word_level_json};
use patchlens::{Error, Tokenizer};
use serde_json::json;

const SENTENCE: &str = "When Mary and John went to the store, John gave a drink to";

#[test]
fn labels_are_the_words_with_their_spaces() {
    let prompt = mini().encode(SENTENCE).unwrap();
    assert_eq!(
        prompt.labels,
        [
            "When", " Mary", " and", " John", " went", " to", " the", " store", ",", " John",
            " gave", " a", " drink", " to"
        ]
    );
    assert_eq!(prompt.tokens[3], prompt.tokens[9]);
    assert_eq!(mini().decode(&prompt.tokens).unwrap(), SENTENCE);
}

#[test]
fn years_are_two_tokens() {
    let labels = mini()
        .encode("The war lasted from the year 1732")
        .unwrap()
        .labels;
    assert_eq!(labels[5..], [" year", " 17", "32"]);
}

#[test]
fn bos_is_added_on_demand_only_and_shows() {
    let tokenizer = mini();
    let plain = tokenizer.encode(SENTENCE).unwrap();
    let with_bos = tokenizer.encode_with_bos(SENTENCE).unwrap();
    let bos = tokenizer.bos().unwrap();
    assert!(!plain.tokens.contains(&bos));
    assert_eq!(with_bos.tokens[0], bos);
    assert_eq!(with_bos.labels[0], "<|endoftext|>");
    assert_eq!(with_bos.tokens[1..], plain.tokens);
    assert_eq!(with_bos.labels[1..], plain.labels);
    assert_eq!(tokenizer.encode_with_bos("").unwrap().tokens, [bos]);
}

#[test]
fn nothing_that_the_file_asks_for_is_done_unasked() {
    let mut json = word_level_json(&["[CLS]", "[PAD]", "a", " b", " c"]);
    json["truncation"] = json!({
        "direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0
    });
    json["padding"] = json!({
        "strategy": {"Fixed": 8}, "direction": "Right", "pad_to_multiple_of": null,
        "pad_id": 1, "pad_type_id": 0, "pad_token": "[PAD]"
    });
    json["post_processor"] = json!({
        "type": "TemplateProcessing",
        "single": [
            {"SpecialToken": {"id": "[CLS]", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}}
        ],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {"[CLS]": {"id": "[CLS]", "ids": [0], "tokens": ["[CLS]"]}}
    });
    assert_eq!(from_json(&json).encode("a b c").unwrap().tokens, [2, 3, 4]);
}

#[test]
fn an_empty_text_is_no_prompt() {
    assert_eq!(
        message(mini().encode("")),
        "tokenizer: an empty text; expected at least one token"
    );
}

#[test]
fn unknown_words_are_named_never_replaced() {
    let expected = "tokenizer: unknown word ` Zorg` in `a Zorg b`; \
                    expected words among the vocabulary's ";
    let without_unk = word_level(&["a", " b"]);
    assert_eq!(
        message(without_unk.encode("a Zorg b")),
        format!("{expected}2, nearest ` b`")
    );
    let with_unk = word_level(&["[UNK]", "a", " b"]);
    assert_eq!(
        message(with_unk.encode("a Zorg b")),
        format!("{expected}3, nearest ` b`")
    );
    assert!(message(without_unk.encode_with_bos("a")).contains("no begin-of-text token"));
    let found = message(mini().encode("Mary went"));
    assert!(found.contains("unknown word `Mary`") && found.ends_with("nearest ` Mary`"));
}

#[test]
fn one_token_or_an_error_that_lists_them() {
    let tokenizer = mini();
    let [mary, john] = [" Mary", " John"].map(|name| tokenizer.token(name).unwrap());
    assert_eq!(tokenizer.token_text(mary), " Mary");
    assert_eq!(
        message(tokenizer.token(" Mary John")),
        format!(
            "tokenizer: ` Mary John` is 2 tokens: ` Mary` ({mary}), ` John` ({john}); \
             expected exactly one token"
        )
    );
    assert!(message(tokenizer.token("")).contains("an empty text"));
}

#[test]
fn ids_beyond_the_vocabulary_are_shown_as_such_and_never_decoded() {
    let tokenizer = word_level(&["a", " b"]);
    let expected = "tokenizer: token 2 is out of range; expected one of the vocabulary's 2 tokens";
    assert_eq!(message(tokenizer.decode(&[0, 2])), expected);
    assert_eq!(tokenizer.readable(&[0, 1, 2, 0, 3]).unwrap(), "a b#2a#3");
    assert_eq!(tokenizer.readable(&[0, 1]).unwrap(), "a b");
    assert_eq!(tokenizer.token_text(2), "#2");
    assert_eq!(tokenizer.prompt(vec![1, 2]).labels, [" b", "#2"]);
}

#[test]
fn bytes_are_shown_legibly() {
    let tokenizer = bytes();
    assert_eq!(tokenizer.vocab_size(), 257);
    let text = "é\n \u{7f}ok";
    let prompt = tokenizer.encode(text).unwrap();
    assert_eq!(
        prompt.labels,
        ["\\xc3", "\\xa9", "\n", " ", "\u{7f}", "o", "k"]
    );
    // Shown on an axis and in a sentence alike: with one backslash.
    let escapes = ["\\xc3", "\\xa9", "\\n"];
    for (i, shown) in escapes.into_iter().enumerate() {
        assert_eq!(patchlens::report::legible(&prompt.labels[i]), shown);
        assert_eq!(tokenizer.token_text(prompt.tokens[i]), shown);
    }
    assert_eq!(tokenizer.decode(&prompt.tokens).unwrap(), text);
    assert_eq!(tokenizer.decode(&prompt.tokens[1..2]).unwrap(), "\u{fffd}");
    assert_eq!(tokenizer.token_text(256), "<|endoftext|>");
    let mut seen: Vec<String> = (0..256).map(|t| tokenizer.token_text(t)).collect();
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 256);
}

#[test]
fn bos_comes_from_the_configuration_beside_it() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    let words = word_level_json(&["<s>", "a", "<|endoftext|>"]);
    write("tokenizer.json", &words.to_string());
    let bos = || Tokenizer::open(dir.path()).and_then(|tokenizer| tokenizer.bos());
    assert_eq!(bos().unwrap(), 2);
    write("tokenizer_config.json", r#"{"bos_token": "<s>"}"#);
    assert_eq!(bos().unwrap(), 0);
    write(
        "tokenizer_config.json",
        r#"{"bos_token": {"content": "<s>"}}"#,
    );
    assert_eq!(bos().unwrap(), 0);
    write("tokenizer_config.json", r#"{"bos_token": "<bos>"}"#);
    assert!(message(bos()).contains("no begin-of-text token `<bos>`"));
    write("tokenizer_config.json", "{");
    assert!(
        matches!(bos(), Err(Error::Format { path, .. }) if path.ends_with("tokenizer_config.json"))
    );
}

#[test]
fn files_that_are_missing_or_wrong_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokenizer.json");
    let missing = Tokenizer::open(dir.path());
    assert!(matches!(missing, Err(Error::Format { path: p, .. }) if p == path));
    std::fs::write(&path, "{}").unwrap();
    let wrong = Tokenizer::open(dir.path());
    assert!(matches!(wrong, Err(Error::Format { path: p, .. }) if p == path));
    assert!(message(Tokenizer::from_bytes(b"")).starts_with("tokenizer.json: "));
}

/// Reference ids of the published tokenizer.
#[test]
#[ignore = "needs weights/gpt2: ./weights-fetch.sh gpt2"]
fn gpt2_reference() {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("weights/gpt2");
    let tokenizer = Tokenizer::open(dir).unwrap();
    assert_eq!(tokenizer.vocab_size(), 50257);
    assert_eq!(tokenizer.bos().unwrap(), 50256);
    assert_eq!(
        tokenizer.encode("Hello world!").unwrap().tokens,
        [15496, 995, 0]
    );
    assert_eq!(tokenizer.token(" Mary").unwrap(), 5335);
    assert_eq!(
        message(tokenizer.token(" Mary John")),
        "tokenizer: ` Mary John` is 2 tokens: ` Mary` (5335), ` John` (1757); \
         expected exactly one token"
    );
    let labels = tokenizer.encode_with_bos(SENTENCE).unwrap().labels;
    assert_eq!(labels[..3], ["<|endoftext|>", "When", " Mary"]);
    let ioi = patchlens::tasks::Ioi::new(&tokenizer).unwrap();
    assert_eq!((ioi.name_tokens().len(), ioi.templates().len()), (50, 16));
    assert!(
        patchlens::tasks::Facts::new(&tokenizer)
            .unwrap()
            .all()
            .unwrap()
            .len()
            > 1000
    );
    assert!(
        patchlens::tasks::GreaterThan::new(&tokenizer)
            .unwrap()
            .cases()
            > 10_000
    );
    assert!(
        patchlens::tasks::Corpus::new(&tokenizer, 0)
            .unwrap()
            .item(0)
            .is_ok()
    );
}
