//! IOI prompts: where the roles stand, what the corruptions change, and what the splits hold.

use std::collections::HashSet;

use crate::small_tokenizer::{bytes, differing, message, mini, name_pairs, word_level};
use patchlens::tasks::{Corruption, Ioi, IoiPrompt, Order, Split};
use patchlens::{Prompts, Tokenizer};

const CORRUPTIONS: [Corruption; 4] = [
    Corruption::Aba,
    Corruption::Abc,
    Corruption::OtherNames,
    Corruption::RandomNames,
];

/// The words and punctuation marks of a text: one per token of the small tokenizer.
fn words(text: &str) -> Vec<String> {
    let spaced = text.replace(',', " ,").replace('.', " .");
    spaced.split(' ').map(str::to_string).collect()
}

fn check_roles(tokenizer: &Tokenizer, ioi: &IoiPrompt) {
    let words = words(&ioi.text);
    assert_eq!(words.len(), ioi.prompt.len(), "{}", ioi.text);
    let at = |position: usize| tokenizer.token(&format!(" {}", words[position])).unwrap();
    let p = ioi.positions;
    assert_eq!([at(p.io), at(p.s1), at(p.s2)], [ioi.io, ioi.s, ioi.s2]);
    assert_eq!(p.end, words.len() - 1);
    assert!(p.s2 > p.io.max(p.s1) && p.end > p.s2);
    assert_eq!(p.io < p.s1, ioi.order == Order::Abba);
    assert_eq!(words[p.io.min(p.s1) + 1], "and");
    let names = tokenizer.prompt(vec![ioi.io, ioi.s, ioi.s2]).labels;
    assert!(
        names
            .iter()
            .all(|name| name.as_bytes()[1].is_ascii_uppercase())
    );
}

#[test]
fn ioi_roles_stand_where_they_are_said_to_stand() {
    let tokenizer = mini();
    let all = Ioi::new(&tokenizer).unwrap();
    assert_eq!(all.templates().len(), 16);
    assert_eq!(all.name_tokens().len(), 50);
    for template in 0..16 {
        let ioi = all.clone().template(template).unwrap();
        for corruption in CORRUPTIONS {
            let pairs = ioi.pairs(6, corruption, 7).unwrap();
            for (i, pair) in pairs.iter().enumerate() {
                check_roles(&tokenizer, &pair.clean);
                check_roles(&tokenizer, &pair.corrupted);
                assert_eq!(pair.clean.order, [Order::Abba, Order::Baba][i % 2]);
                assert_eq!(pair.clean.template, template);
                assert_eq!(pair.clean.s, pair.clean.s2);
                assert_ne!(pair.clean.s, pair.clean.io);
            }
            let clean = Prompts::new(pairs.iter().map(|pair| &pair.clean)).unwrap();
            assert_eq!(clean.common_len(), Some(clean[0].len()));
        }
    }
}

#[test]
fn ioi_pairs_differ_where_the_corruption_says() {
    let tokenizer = mini();
    let ioi = Ioi::new(&tokenizer).unwrap().with_bos().unwrap();
    for corruption in CORRUPTIONS {
        for pair in ioi.pairs(100, corruption, 3).unwrap() {
            let (clean, other) = (&pair.clean, &pair.corrupted);
            let p = clean.positions;
            assert_eq!(p, other.positions);
            assert_eq!(clean.prompt.tokens[0], tokenizer.bos().unwrap());
            assert_eq!(clean.prompt.tokens[p.io], clean.io);
            let mut places = vec![p.s2];
            if matches!(corruption, Corruption::OtherNames | Corruption::RandomNames) {
                places.extend([p.io, p.s1]);
            }
            places.sort_unstable();
            let found = differing(&clean.prompt.tokens, &other.prompt.tokens);
            assert_eq!(
                found, places,
                "{corruption:?}: {} / {}",
                clean.text, other.text
            );
            let names: HashSet<u32> = [clean.io, clean.s, other.io, other.s, other.s2].into();
            let (different, repeated) = match corruption {
                Corruption::Aba => (2, Some(other.io)),
                Corruption::Abc => (3, None),
                Corruption::OtherNames => (4, Some(other.s)),
                Corruption::RandomNames => (5, None),
            };
            assert_eq!(names.len(), different);
            let again = [other.io, other.s]
                .into_iter()
                .find(|&name| name == other.s2);
            assert_eq!(again, repeated);
        }
    }
}

#[test]
fn held_out_pairs_of_names_are_a_tenth_and_never_trained_on() {
    let tokenizer = mini();
    let of = |split| Ioi::new(&tokenizer).unwrap().split(split).unwrap();
    let [all, train, held_out] = [Split::All, Split::Train, Split::HeldOut].map(of);
    assert_eq!(all.name_pairs(), 50 * 49 / 2);
    assert_eq!(train.name_pairs() + held_out.name_pairs(), all.name_pairs());
    // Pinned: a model is trained on the others, so which ones these are must never change.
    assert_eq!(held_out.name_pairs(), 114);
    let kept = name_pairs(&held_out.prompts(3000, 0).unwrap());
    assert_eq!(kept.len(), held_out.name_pairs());
    assert!(kept.is_disjoint(&name_pairs(&train.prompts(20_000, 0).unwrap())));
    let pairs = held_out.pairs(50, Corruption::Aba, 0).unwrap();
    assert!(
        pairs
            .iter()
            .all(|p| kept.contains(&[p.clean.io.min(p.clean.s), p.clean.io.max(p.clean.s)]))
    );
}

#[test]
fn ioi_keeps_what_the_vocabulary_has() {
    let frame = [
        "When", "Then", "After", " and", " went", " to", " the", " gave", " a", ",", ".",
    ];
    let people = [" Mary", " John", " Tom", " James", " Dan", " Sid"];
    let list = [&frame[..], &people, &[" store", " ring"]].concat();
    let tokenizer = word_level(&list);
    let ioi = Ioi::new(&tokenizer).unwrap();
    assert_eq!(ioi.name_tokens().len(), 6);
    assert_eq!(ioi.templates(), [0, 1, 2, 7]);
    let prompts = ioi.prompts(40, 0).unwrap();
    assert!(
        prompts
            .iter()
            .all(|p| p.text.contains(" store") && p.text.contains(" ring"))
    );
    assert_eq!(
        message(ioi.template(3)),
        "IOI: template 3 is out of range; expected one of [0, 1, 2, 7]"
    );

    let without = |words: &[&str]| {
        let rest: Vec<&str> = list
            .iter()
            .copied()
            .filter(|w| !words.contains(w))
            .collect();
        message(Ioi::new(&word_level(&rest)))
    };
    let few = |what: &str, least| {
        format!("tokenizer: {what} can be used with this vocabulary; expected at least {least}")
    };
    assert_eq!(without(&[" Mary", " Sid"]), few("4 of 50 IOI names", 6));
    assert_eq!(without(&[" store"]), few("0 of 11 IOI places", 1));
    assert_eq!(without(&[" ring"]), few("0 of 11 IOI objects", 1));
    assert_eq!(without(&[" and"]), few("0 of 16 IOI templates", 1));
    assert_eq!(message(Ioi::new(&bytes())), few("0 of 50 IOI names", 6));
    assert!(message(Ioi::new(&tokenizer).unwrap().with_bos()).contains("no begin-of-text token"));
}
