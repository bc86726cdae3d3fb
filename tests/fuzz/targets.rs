//! The bodies of the fuzz targets, one for each kind of file or text that comes from outside.
//! Each takes any bytes, returns whether they were accepted, and panics where a promise is broken:
//! what is accepted has finite values, or reads back equal after it was written.
//!
//! `fuzz/` runs them under libFuzzer; `tests/input/fuzz_corpus.rs` runs `corpus/` on stable Rust.

use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use patchlens::circuits::{Graph, Orientation, Ranking, ScoredCircuit};
use patchlens::lens::TunedLens;
use patchlens::parameters::Parameters;
use patchlens::tasks::{KnownFacts, PairFile};
use patchlens::{ActivationCache, Config, Error, HookPoint, Labelled, Tokenizer};

/// `config.json`.
pub fn config(data: &[u8]) -> bool {
    let path = Path::new("config.json");
    let Ok(text) = str::from_utf8(data) else {
        return false;
    };
    Config::from_json(text, path).map_or_else(refused, |config| {
        assert_eq!(Config::from_json(&config.to_json(), path).unwrap(), config);
        true
    })
}

/// `model.safetensors` of a model with this config.
pub fn header(data: &[u8]) -> bool {
    const CONFIG: &str = r#"{"model_type": "gpt2", "n_layer": 1, "n_head": 1, "n_embd": 2,
        "n_inner": 2, "n_positions": 2, "vocab_size": 3}"#;
    Parameters::from_bytes(CONFIG, data).map_or_else(refused, |(config, parameters)| {
        assert_eq!(
            parameters.count(),
            Parameters::zeros(&config).unwrap().count()
        );
        for (name, tensor) in parameters.tensors() {
            assert!(tensor.iter().all(|value| value.is_finite()), "{name}");
        }
        true
    })
}

/// `model.safetensors.index.json` beside two good shards.
pub fn index(data: &[u8]) -> bool {
    const CONFIG: &str = include_str!("../golden/tiny-gelu/config.json");
    const SHARDS: [(&str, &[u8]); 2] = [
        (
            "model-00001-of-00002.safetensors",
            include_bytes!("../golden/tiny-gelu/model-00001-of-00002.safetensors"),
        ),
        (
            "model-00002-of-00002.safetensors",
            include_bytes!("../golden/tiny-gelu/model-00002-of-00002.safetensors"),
        ),
    ];
    const INDEX: &[u8] = include_bytes!("../golden/tiny-gelu/model.safetensors.index.json");
    let load = |index: &[u8]| {
        let dir = tempfile::tempdir().unwrap();
        for (name, bytes) in SHARDS {
            fs::write(dir.path().join(name), bytes).unwrap();
        }
        fs::write(dir.path().join("config.json"), CONFIG).unwrap();
        fs::write(dir.path().join("model.safetensors.index.json"), index).unwrap();
        Parameters::load(dir.path())
    };
    load(data).map_or_else(refused, |(_, found)| {
        let (_, expected) = load(INDEX).unwrap();
        assert!(found == expected, "the same shards, other parameters");
        true
    })
}

/// `tokenizer.json`.
pub fn tokenizer(data: &[u8]) -> bool {
    const TEXTS: [&str; 4] = [
        "When Mary and John",
        "",
        " a\u{301}\n\0",
        "<|endoftext|>ß 中",
    ];
    Tokenizer::from_bytes(data).map_or_else(refused, |tokenizer| {
        let size = tokenizer.vocab_size();
        for text in TEXTS {
            if let Ok(prompt) = tokenizer.encode(text) {
                assert_eq!(prompt.tokens.len(), prompt.labels.len());
                let _ = tokenizer.decode(&prompt.tokens);
            }
            let _ = (tokenizer.token(text), tokenizer.encode_with_bos(text));
        }
        for token in (0..size.min(300) as u32).chain([u32::MAX]) {
            tokenizer.token_text(token);
        }
        true
    })
}

/// A file of [`ActivationCache::save`].
pub fn cache(data: &[u8]) -> bool {
    let dir = tempfile::tempdir().unwrap();
    let [found, again] = ["found", "again.safetensors"].map(|name| dir.path().join(name));
    fs::write(&found, data).unwrap();
    ActivationCache::open(&found).map_or_else(refused, |cache| {
        cache.save(&again).unwrap();
        let reread = ActivationCache::open(&again).unwrap();
        assert_eq!(reread.tokens(), cache.tokens());
        assert_eq!(reread.positions(), cache.positions());
        assert!(reread.points().eq(cache.points()));
        for point in cache.points() {
            let [a, b] = [&cache, &reread].map(|cache| cache.get(point).unwrap());
            let same = a.iter().zip(&b).all(|(a, b)| a.to_bits() == b.to_bits());
            assert!(same && a.shape() == b.shape(), "{point}");
        }
        true
    })
}

/// A file of [`TunedLens::save`].
pub fn lens(data: &[u8]) -> bool {
    let dir = tempfile::tempdir().unwrap();
    let [found, again] = ["found", "again.safetensors"].map(|name| dir.path().join(name));
    fs::write(&found, data).unwrap();
    TunedLens::open(&found).map_or_else(refused, |lens| {
        lens.save(&again).unwrap();
        assert!(TunedLens::open(&again).unwrap() == lens);
        true
    })
}

/// A file of [`Labelled::save`] in JSON.
pub fn result(data: &[u8]) -> bool {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("result.json");
    fs::write(&path, data).unwrap();
    Labelled::open_json(&path).map_or_else(refused, |result| {
        let json = result.to_json().unwrap();
        fs::write(&path, &json).unwrap();
        assert_eq!(Labelled::open_json(&path).unwrap().to_json().unwrap(), json);
        let _ = (result.to_string(), result.to_csv(), result.to_html());
        let _ = (result.top(3), result.normalized());
        true
    })
}

/// The shipped model's tokenizer.
static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(|| {
    let json = patchlens::tasks::mini_tokenizer_json().unwrap();
    Tokenizer::from_bytes(json.as_bytes()).unwrap()
});

/// A list of facts as [`KnownFacts::open`] reads it.
pub fn facts(data: &[u8]) -> bool {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("facts.json");
    fs::write(&path, data).unwrap();
    let accepted = [false, true].map(|bos| {
        KnownFacts::open(&path, &TOKENIZER, bos).map_or_else(refused, |known| {
            let skipped = known.skipped.iter().map(|fact| fact.index);
            assert!(skipped.is_sorted_by(|a, b| a < b));
            for fact in &known.facts {
                let subject = fact.subject.clone();
                assert!(subject.end <= fact.prompt.tokens.len() && !subject.is_empty());
            }
            true
        })
    });
    assert_eq!(accepted[0], accepted[1], "with and without BOS");
    accepted[0]
}

/// Prompt pairs as [`PairFile::open`] reads them, under each name that decides on the layout.
pub fn pairs(data: &[u8]) -> bool {
    let dir = tempfile::tempdir().unwrap();
    let names = ["pairs.json", "pairs.jsonl", "pairs.csv"];
    let accepted = names.map(|name| {
        let path = dir.path().join(name);
        fs::write(&path, data).unwrap();
        PairFile::open(&path, &TOKENIZER, false).map_or_else(refused, |file| {
            check_pairs(&file);
            // BOS makes room for itself, and fits before any prompt.
            let with_bos = PairFile::open(&path, &TOKENIZER, true).unwrap();
            for (name, position) in &file.words {
                assert_eq!(with_bos.words[name], position + 1, "{name}");
            }
            for pair in &file.pairs {
                let same = with_bos.pairs.iter().find(|p| p.index == pair.index);
                assert_eq!(same.unwrap().clean.tokens[1..], pair.clean.tokens);
            }
            true
        })
    });
    accepted.contains(&true)
}

/// Every entry is there once, and what is used is sound.
fn check_pairs(file: &PairFile) {
    let used = file.pairs.iter().map(|pair| pair.index);
    let mut entries: Vec<usize> = used.chain(file.skipped.iter().map(|s| s.index)).collect();
    entries.sort_unstable();
    assert!(entries.iter().copied().eq(0..entries.len()), "{entries:?}");
    let known = |token: &u32| (*token as usize) < TOKENIZER.vocab_size();
    for pair in &file.pairs {
        assert!(!pair.clean.is_empty() && (pair.answers.is_empty() == pair.long_answer.is_some()));
        if let Some(long) = &pair.long_answer {
            assert!(pair.clean.tokens.ends_with(&long[..long.len() - 1]) && long.iter().all(known));
        }
        for prompt in [Some(&pair.clean), pair.corrupted.as_ref()] {
            let sound =
                prompt.is_none_or(|p| p.labels.len() == p.len() && p.tokens.iter().all(known));
            assert!(sound, "{pair:?}");
        }
        assert!(pair.answers.iter().chain(&pair.wrong_answers).all(known));
        assert!(
            !pair
                .answers
                .iter()
                .any(|token| pair.wrong_answers.contains(token))
        );
    }
    for skipped in &file.skipped {
        assert!(!skipped.reason.is_empty());
    }
    let _ = (file.unequal(), file.common_len());
}

/// Scores of edges and a circuit, as [`ScoredCircuit::open`] reads them, for one layer of one head.
pub fn circuit(data: &[u8]) -> bool {
    let graph = Graph::new(&Config {
        n_layers: 1,
        n_heads: 1,
        d_model: 8,
        ..Config::gpt2()
    });
    let dir = tempfile::tempdir().unwrap();
    let [found, again] = ["found.json", "again.json"].map(|name| dir.path().join(name));
    fs::write(&found, data).unwrap();
    let accepted = [Orientation::UsefulIsPositive, Orientation::UsefulIsNegative].map(|sign| {
        ScoredCircuit::open(&found, graph, sign).map_or_else(refused, |read| {
            assert!(read.scores.values().iter().all(|score| score.is_finite()));
            read.save(&again).unwrap();
            // Files have the useful edges positive.
            let expected = read.scores.clone().oriented(Orientation::UsefulIsPositive);
            let reread = ScoredCircuit::open(&again, graph, Orientation::UsefulIsPositive).unwrap();
            assert!(reread.scores == expected && reread.circuit == read.circuit);
            let top = read.scores.top_n(3, Ranking::Signed).unwrap();
            assert_eq!(top.len(), 3);
            assert!(read.circuit.pruned().len() <= read.circuit.len());
            true
        })
    });
    assert_eq!(accepted[0], accepted[1], "whatever the sign means");
    accepted[0]
}

/// A journal of one shard.
pub fn journal(data: &[u8]) -> bool {
    let dir = tempfile::tempdir().unwrap();
    let [path, merged] = ["shard", "merged"].map(|name| dir.path().join(name));
    fs::write(&path, data).unwrap();
    patchlens::journal::merge(&[&path], &merged, true).map_or_else(refused, |found| {
        // Read back, its results are those that were read.
        let more = [&path, &merged];
        let again = patchlens::journal::merge(&more, dir.path().join("again"), true).unwrap();
        assert_eq!(again.results, found.results);
        true
    })
}

/// A hook point's name; those that are accepted print back as they were.
pub fn hook_names(data: &[u8]) -> bool {
    let Ok(name) = str::from_utf8(data) else {
        return false;
    };
    name.parse::<HookPoint>().map_or_else(refused, |point| {
        assert_eq!(point.to_string(), name);
        true
    })
}

/// An error has a message.
fn refused(error: Error) -> bool {
    assert!(!error.to_string().is_empty());
    false
}
