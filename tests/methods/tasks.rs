//! The task generators: positions, splits, seeds, and what they do with other vocabularies.

use std::collections::{HashMap, HashSet};

use crate::small_tokenizer::{bytes, differing, message, mini, name_pairs, word_level};
use patchlens::tasks::{
    Corpus, FactPrompt, Facts, GreaterThan, Ioi, Repeated, Split, Task, mini_tokenizer_json,
};

#[test]
fn the_committed_tokenizer_is_what_the_code_builds() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/mini/tokenizer.json");
    let committed = std::fs::read_to_string(path).unwrap();
    assert!(
        committed == mini_tokenizer_json().unwrap(),
        "rebuild {path}"
    );
    assert!((300..=500).contains(&mini().vocab_size()));
}

#[test]
fn the_same_seed_gives_the_same_prompts_everywhere() {
    let tokenizer = mini();
    let ioi = Ioi::new(&tokenizer).unwrap();
    let texts = |n, seed| -> Vec<String> {
        let prompts = ioi.prompts(n, seed).unwrap();
        prompts.into_iter().map(|prompt| prompt.text).collect()
    };
    assert_eq!(texts(8, 1), texts(8, 1));
    assert_eq!(texts(8, 1)[..3], texts(3, 1));
    assert_ne!(texts(8, 1), texts(8, 2));
    // Pinned: another machine, or another release of the generator, must not change them.
    assert_eq!(
        texts(2, 0),
        [
            "While Daniel and Peter were working at the station, Peter gave a bag to",
            "While Sarah and Sid were commuting to the house, Sarah gave a ring to"
        ]
    );
    let facts = Facts::new(&tokenizer).unwrap().prompts(5, 4).unwrap();
    assert_eq!(
        facts,
        Facts::new(&tokenizer).unwrap().prompts(5, 4).unwrap()
    );
    assert_eq!(facts[0].text, "For lunch, Iris White always has");
    assert_eq!(facts[0].attribute_text, " cake");
    let years = |seed| {
        GreaterThan::new(&tokenizer)
            .unwrap()
            .prompts(5, seed)
            .unwrap()
    };
    assert_eq!(years(4), years(4));
    assert_ne!(years(4), years(5));
    let random = |seed| {
        Repeated::new(&tokenizer)
            .unwrap()
            .prompts(5, 9, 2, seed)
            .unwrap()
    };
    assert_eq!(random(4), random(4));
    assert_ne!(random(4), random(5));
    assert_eq!(random(0)[0].prompt.tokens[..3], [254, 276, 284]);
}

#[test]
fn facts_know_their_subject_and_their_attribute() {
    let tokenizer = mini();
    let plain = Facts::new(&tokenizer).unwrap();
    let with_bos = plain.clone().with_bos().unwrap().all().unwrap();
    let all = plain.all().unwrap();
    assert_eq!(all.len(), 48 * 6 * 4);
    for (fact, bos) in all.iter().zip(&with_bos) {
        let subject = &fact.prompt.labels[fact.subject.clone()];
        assert_eq!(subject.len(), 2);
        assert_eq!(subject.concat().trim_start(), fact.subject_text);
        assert_eq!(
            tokenizer.token(&fact.attribute_text).unwrap(),
            fact.attribute
        );
        assert_eq!(
            bos.prompt.tokens[bos.subject.clone()],
            fact.prompt.tokens[fact.subject.clone()]
        );
        assert_eq!(bos.prompt.len(), fact.prompt.len() + 1);
    }
    // The same person and relation has one attribute, however it is phrased.
    let key = |f: &FactPrompt| (f.subject_text.clone(), f.relation.clone());
    let facts: HashSet<_> = all.iter().map(key).collect();
    let stated: HashSet<_> = all.iter().map(|f| (key(f), f.attribute)).collect();
    assert_eq!((facts.len(), stated.len()), (48 * 6, 48 * 6));
}

#[test]
fn neither_name_alone_gives_the_attribute_away() {
    let tokenizer = mini();
    let facts = Facts::new(&tokenizer).unwrap();
    let facts = facts.split(Split::HeldOut).all().unwrap();
    for part in 0..2 {
        // How often each attribute goes with a name, within a relation.
        let mut counts: HashMap<(&str, &str), HashMap<u32, usize>> = HashMap::new();
        for fact in &facts {
            let name = fact.subject_text.split(' ').nth(part).unwrap();
            let of_name = counts.entry((name, &fact.relation)).or_default();
            *of_name.entry(fact.attribute).or_default() += 1;
        }
        assert!(
            counts
                .values()
                .all(|of_name| of_name.values().sum::<usize>() == 4)
        );
        let guessed = counts
            .values()
            .map(|of_name| of_name.values().max().unwrap());
        let share = guessed.sum::<usize>() as f64 / facts.len() as f64;
        assert!(
            share < 0.5,
            "the best guess from name {part} alone: {share}"
        );
    }
}

#[test]
fn one_phrasing_of_each_fact_is_held_out() {
    let tokenizer = mini();
    let texts = |split| -> HashSet<String> {
        let facts = Facts::new(&tokenizer).unwrap().split(split).all().unwrap();
        facts.into_iter().map(|fact| fact.text).collect()
    };
    let [all, train, held_out] = [Split::All, Split::Train, Split::HeldOut].map(texts);
    assert_eq!((train.len(), held_out.len()), (48 * 6 * 3, 48 * 6));
    assert!(train.is_disjoint(&held_out));
    assert_eq!(&train | &held_out, all);
    // Which one it is differs from person to person: about a quarter each.
    let plays = held_out
        .iter()
        .filter(|text| text.ends_with(" plays the sport of"));
    assert!((6..=20).contains(&plays.count()));
    let drawn = Facts::new(&tokenizer)
        .unwrap()
        .split(Split::HeldOut)
        .prompts(200, 0)
        .unwrap();
    assert!(drawn.iter().all(|fact| held_out.contains(&fact.text)));
}

#[test]
fn facts_of_ones_own() {
    let tokenizer = bytes();
    let text = "The Space Needle is in";
    let fact = FactPrompt::new(&tokenizer, text, "Space Needle", "S", "city").unwrap();
    assert_eq!(fact.subject, 3..16);
    let wrong = |subject| message(FactPrompt::new(&tokenizer, text, subject, "S", "city"));
    assert_eq!(
        wrong("Louvre"),
        "`The Space Needle is in`: no such subject; expected the subject `Louvre` as whole tokens"
    );
    assert!(wrong("").contains("no such subject"));
    let long = FactPrompt::new(&tokenizer, text, "Space", "Seattle", "city");
    assert!(message(long).contains("`Seattle` is 7 tokens"));
    let words = mini();
    let inside = FactPrompt::new(&words, "Ada Brown likes to eat", "Ada Bro", " rice", "food");
    assert!(inside.is_err());
    let merged = word_level(&["Ada", " Brown", " Bro", " likes", " rice"]);
    let beyond = FactPrompt::new(&merged, "Ada Brown likes", "Ada Bro", " rice", "food");
    assert_eq!(
        message(beyond),
        "`Ada Brown likes`: a token that goes beyond `Ada Bro`; \
         expected the subject `Ada Bro` as whole tokens"
    );
    let few = word_level(&["Ada", " Ada", " Brown", " tennis"]);
    assert_eq!(
        message(Facts::new(&few)),
        "tokenizer: 1 of 10 attributes of the relation `sport` can be used with this vocabulary; \
         expected at least 4"
    );
}

#[test]
fn greater_than_years() {
    let tokenizer = mini();
    let of = |split| GreaterThan::new(&tokenizer).unwrap().split(split).unwrap();
    let [all, train, held_out] = [Split::All, Split::Train, Split::HeldOut].map(of);
    assert_eq!(all.cases(), 28 * 7 * 97);
    assert_eq!(train.cases() + held_out.cases(), all.cases());
    assert!(held_out.cases() * 12 > all.cases() && held_out.cases() * 8 < all.cases());
    for [clean, other] in all.with_bos().unwrap().pairs(200, 0).unwrap() {
        let labels = &clean.prompt.labels;
        assert_eq!(labels[clean.year_position], format!("{:02}", clean.year));
        assert_eq!(labels[clean.year_position - 1], labels[labels.len() - 1]);
        assert_eq!(other.year, 1);
        let found = differing(&clean.prompt.tokens, &other.prompt.tokens);
        assert_eq!(found, [clean.year_position]);
        assert_eq!([clean.not_later(), clean.later()].concat(), clean.digits);
        let next = tokenizer.token_text(clean.later()[0]);
        assert_eq!(next, format!("{:02}", clean.year + 1));
    }
    let texts = |task: &GreaterThan<'_>| -> HashSet<String> {
        let prompts = task.prompts(3000, 0).unwrap();
        prompts.into_iter().map(|prompt| prompt.text).collect()
    };
    assert!(texts(&train).is_disjoint(&texts(&held_out)));
    let no_digits = word_level(&["The", " war", "17"]);
    assert!(message(GreaterThan::new(&no_digits)).contains("unknown word `00`"));
    assert!(message(GreaterThan::new(&bytes())).contains("0 of 28 greater-than nouns"));
}

#[test]
fn repeated_sequences() {
    let tokenizer = mini();
    let repeated = Repeated::new(&tokenizer).unwrap();
    for prompt in repeated.prompts(20, 30, 3, 1).unwrap() {
        let tokens = &prompt.prompt.tokens;
        assert_eq!((tokens.len(), prompt.start, prompt.period), (90, 0, 30));
        assert!(!tokens.contains(&tokenizer.bos().unwrap()));
        assert_eq!(tokens[..60], tokens[30..]);
        assert_eq!(tokens[..30].iter().collect::<HashSet<_>>().len(), 30);
        assert_eq!(prompt.predictable(), 30..89);
        assert!(
            prompt
                .predictable()
                .all(|i| tokens[i + 1] == tokens[i + 1 - 30])
        );
    }
    let pool = Repeated::from_pool(&tokenizer, vec![7, 5, 7, 6]).unwrap();
    let mut tokens = pool.prompts(1, 3, 1, 0).unwrap().remove(0).prompt.tokens;
    tokens.sort_unstable();
    assert_eq!(tokens, [5, 6, 7]);
    assert_eq!(
        message(pool.prompts(1, 4, 2, 0)),
        "period: found 4; expected 1 to 3, the number of tokens to draw from"
    );
    assert!(message(pool.prompts(1, 0, 2, 0)).starts_with("period: found 0;"));
    assert!(message(pool.prompts(1, 2, 0, 0)).starts_with("repeats: found 0;"));
    assert_eq!(
        message(pool.prompts(1, 2, usize::MAX, 0)),
        format!(
            "repeats: found {}; expected 1 to 500000, at most 1000000 tokens",
            usize::MAX
        )
    );
    let once = &pool.prompts(1, 2, 1, 0).unwrap()[0];
    assert!(once.prompt.tokens[once.predictable()].is_empty());
    assert!(message(Repeated::from_pool(&tokenizer, vec![7, 7])).contains("1 tokens"));
    assert!(message(Repeated::from_pool(&tokenizer, vec![7, 9999])).contains("token 9999"));
}

#[test]
fn training_items_are_weighted_where_the_answer_is() {
    let tokenizer = mini();
    let corpus = Corpus::new(&tokenizer, 0).unwrap();
    let bos = tokenizer.bos().unwrap();
    let mut counts = HashMap::new();
    let mut with_bos = 0;
    for index in 0..2000 {
        let item = corpus.item(index).unwrap();
        assert_eq!(item, corpus.item(index).unwrap());
        *counts.entry(item.task).or_insert(0) += 1;
        with_bos += usize::from(item.tokens[0] == bos);
        assert_eq!(item.weights.len(), item.tokens.len() - 1);
        assert!(item.tokens.len() <= 64);
        if item.task == Task::Repeated {
            // No token stands twice in a period, so the first one's return ends it.
            let start = usize::from(item.tokens[0] == bos);
            let again = item.tokens[start + 1..]
                .iter()
                .position(|t| *t == item.tokens[start]);
            let period = again.unwrap() + 1;
            let begin = start + period;
            for (i, &weight) in item.weights.iter().enumerate() {
                assert_eq!(weight, f32::from(u8::from(i >= begin)), "{item:?}");
                assert!(weight == 0.0 || item.tokens[i + 1] == item.tokens[i + 1 - period]);
            }
        } else {
            let answer = item.weights.iter().position(|&w| w == 5.0).unwrap();
            let end = tokenizer.decode(&item.tokens[answer + 2..]).unwrap();
            assert_eq!(end, ".<|endoftext|>");
        }
    }
    assert!((900..1100).contains(&with_bos), "{with_bos}");
    for (task, share) in [
        (Task::Ioi, 400),
        (Task::Facts, 800),
        (Task::GreaterThan, 400),
        (Task::Repeated, 400),
    ] {
        assert!(
            counts[&task] * 10 > share * 8 && counts[&task] * 8 < share * 10,
            "{counts:?}"
        );
    }
    assert_ne!(corpus.item(0).unwrap(), corpus.item(1).unwrap());
    let other = Corpus::new(&tokenizer, 1).unwrap();
    assert_ne!(corpus.item(0).unwrap(), other.item(0).unwrap());
}

#[test]
fn nothing_held_out_is_trained_on() {
    let tokenizer = mini();
    let corpus = Corpus::new(&tokenizer, 0).unwrap();
    let ioi = Ioi::new(&tokenizer).unwrap();
    let held_out = ioi.clone().split(Split::HeldOut).unwrap();
    let held_out_names = name_pairs(&held_out.prompts(3000, 0).unwrap());
    let names: HashSet<u32> = ioi.name_tokens().into_iter().collect();
    let facts = Facts::new(&tokenizer)
        .unwrap()
        .split(Split::HeldOut)
        .all()
        .unwrap();
    let held_out_facts: HashSet<String> = facts.into_iter().map(|fact| fact.text).collect();
    let years = GreaterThan::new(&tokenizer)
        .unwrap()
        .split(Split::HeldOut)
        .unwrap();
    let years = years.prompts(5000, 0).unwrap();
    let held_out_years: HashSet<String> = years.into_iter().map(|year| year.text).collect();
    for index in 0..10_000 {
        let item = corpus.item(index).unwrap();
        let Some(answer) = item.weights.iter().position(|&w| w == 5.0) else {
            continue;
        };
        let text = tokenizer.decode(&item.tokens[..=answer]).unwrap();
        let text = text.trim_start_matches("<|endoftext|>");
        assert!(
            !held_out_facts.contains(text) && !held_out_years.contains(text),
            "{text}"
        );
        let mut people: Vec<u32> = item
            .tokens
            .iter()
            .copied()
            .filter(|t| names.contains(t))
            .collect();
        people.sort_unstable();
        people.dedup();
        if item.task == Task::Ioi {
            let people = <[u32; 2]>::try_from(people).unwrap();
            assert!(!held_out_names.contains(&people), "{text}");
        }
    }
}
