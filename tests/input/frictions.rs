//! What misled people who tried the crate, by case: each is now an error that says what to do.

use crate::checkpoint_files::*;
use crate::small_tokenizer::{message, mini};
use ndarray::arr2;
use patchlens::intervention::Values;
use patchlens::lens::TunedLens;
use patchlens::metric::{logit_diff_sets, logit_diffs, probability, probability_diff};
use patchlens::parameters::Parameters;
use patchlens::tasks::{FactPrompt, Repeated};
use patchlens::tracing::TracedFact;
use patchlens::{
    Config, Edit, Head, Intervention, Interventions, Prompt, Prompts, Selection, Site, Sweep,
    Tokenizer, Transformer, logit_diff,
};
use serde_json::{Map, Value};

fn tiny() -> Transformer {
    Transformer::random(tiny_config(), 0).unwrap()
}

#[test]
fn f4_repeated_sequences_without_a_tokenizer() {
    let repeated = Repeated::from_tokens(vec![3, 9, 5, 7, 5]).unwrap();
    let found = &repeated
        .clone()
        .with_bos_token(1)
        .prompts(2, 3, 2, 4)
        .unwrap();
    for sequence in found {
        let tokens = &sequence.prompt.tokens;
        assert_eq!((tokens[0], tokens.len(), sequence.start), (1, 7, 1));
        assert_eq!(tokens[1..4], tokens[4..]);
        assert!(tokens[1..].iter().all(|token| [3, 5, 7, 9].contains(token)));
        assert_eq!(sequence.prompt.labels[0], "1");
    }
    assert!(message(repeated.with_bos()).contains("or `with_bos_token`"));
    assert!(message(Repeated::from_tokens(vec![5, 5])).contains("1 tokens"));
    // The same sequences as with a tokenizer that has these tokens.
    let tokenizer = mini();
    let pool: Vec<u32> = (10..30).collect();
    let with = Repeated::from_pool(&tokenizer, pool.clone()).unwrap();
    let without = Repeated::from_tokens(pool).unwrap();
    let tokens = |of: Repeated<'_>| -> Vec<Vec<u32>> {
        let found = of.prompts(3, 5, 2, 7).unwrap().into_iter();
        found.map(|sequence| sequence.prompt.tokens).collect()
    };
    assert_eq!(tokens(with), tokens(without));
}

/// What signatures are made of can be had from this crate: its arrays, and what patching takes.
#[test]
fn f6_arrays_and_directions_are_where_one_looks() {
    let rows: patchlens::ndarray::Array2<f32> = patchlens::ndarray::Array2::zeros((1, 2));
    assert_eq!(rows.view(), arr2(&[[0.0, 0.0]]));
    assert_eq!(
        patchlens::patching::Direction::Noising,
        patchlens::report::Direction::Noising
    );
}

/// What a user of the library needs to know before the first line: README says what Cargo.toml has.
#[test]
fn f17_the_readme_says_what_one_needs() {
    let read = |name: &str| {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
        std::fs::read_to_string(path).unwrap()
    };
    let (readme, manifest) = (read("README.md"), read("Cargo.toml"));
    // `ndarray = { version = "0.17", .. }`, or a table of its own, as in a package's manifest.
    let at = manifest.find("\nndarray = ");
    let at = at
        .or_else(|| manifest.find("[dependencies.ndarray]"))
        .unwrap();
    let ndarray = manifest[at..].split("version = \"").nth(1).unwrap();
    let ndarray = ndarray.split('"').next().unwrap();
    let minor = |version: &str| {
        let parts: Vec<&str> = version.split('.').take(2).collect();
        parts.join(".")
    };
    for line in [
        format!("patchlens = \"{}\"", minor(env!("CARGO_PKG_VERSION"))),
        format!("ndarray = \"{}\"", minor(ndarray)),
        format!("Rust {} or later", env!("CARGO_PKG_RUST_VERSION")),
    ] {
        assert!(readme.contains(&line), "README.md lacks `{line}`");
    }
    assert!(readme.contains("first release build takes"));
    let migrating = read("guide/transformer_lens.md");
    assert!(readme.contains("guide/transformer_lens.md"));
    assert!(migrating.contains("begin-of-text") && migrating.contains("fold"));
}

#[test]
fn f8_the_maps_of_a_head_by_name_and_errors_for_a_head_that_is_not_there() {
    let model = tiny();
    let block = &model.parameters().h[1];
    let head = Head::new(1, 1);
    let all = &block.attn.c_attn.weight;
    let maps = [model.w_q(head), model.w_k(head), model.w_v(head)];
    for (i, map) in maps.into_iter().enumerate() {
        let map = map.unwrap();
        for (column, values) in map.columns().into_iter().enumerate() {
            assert_eq!(values, all.column(6 * i + 3 + column));
        }
        assert_eq!(map.dim(), (6, 3));
    }
    let w_o = model.w_o(head).unwrap();
    assert_eq!(w_o.dim(), (3, 6));
    assert_eq!(w_o.row(0), block.attn.c_proj.weight.row(3));
    for head in [Head::new(2, 0), Head::new(0, 2)] {
        for map in [
            model.w_q(head),
            model.w_k(head),
            model.w_v(head),
            model.w_o(head),
        ] {
            let found = message(map);
            assert!(
                found.contains("2 is out of range; expected 0..2"),
                "{found}"
            );
        }
    }
}

#[test]
fn f10_counts_are_said_once_where_there_is_one_prompt() {
    let model = tiny();
    let sweep = |prompts: &[Prompt]| {
        let metric = logit_diffs(&[(1, 2), (1, 3), (1, 4)]);
        let sweep = Sweep::new(&model, Prompts::new(prompts).unwrap()).unwrap();
        message(sweep.run(&[], &metric))
    };
    let one = sweep(&[Prompt::from([1, 2])]);
    assert_eq!(
        one,
        "logit difference: number of targets: found 3; expected 1"
    );
    let two = sweep(&[Prompt::from([1, 2]), Prompt::from([3])]);
    assert_eq!(
        two,
        "logit difference: number of targets: found 3; expected 1 or 2, one per prompt"
    );
    let values = Values::arrays(vec![arr2(&[[0.0; 6]]).into_dyn(); 2]);
    let list = [Intervention::new(Site::ResidPre.at(0), Edit::Set(values))];
    let found = message(model.run_with_hooks([1, 2], Interventions::new(&list[..])));
    assert!(
        found.ends_with("number of arrays: found 2; expected 1"),
        "{found}"
    );
}

/// It could only ever be 0.
#[test]
fn f20_a_token_on_both_sides_of_a_difference_is_an_error() {
    let logits = arr2(&[[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]]);
    let expected = "logit difference: tokens of prompt 0: found token 5 on both sides; \
                    expected each token on one side of the difference";
    assert_eq!(
        message(logit_diff(5, 5).evaluate(0, logits.view())),
        expected
    );
    let sets = [(vec![1, 2], vec![3, 2])];
    let found = message(logit_diff_sets(&sets, Default::default()).evaluate(0, logits.view()));
    assert!(found.contains("found token 2 on both sides"), "{found}");
    let found = message(probability_diff(&sets).evaluate(0, logits.view()));
    assert!(found.contains("found token 2 on both sides"), "{found}");
    assert!(logit_diff(4, 5).evaluate(0, logits.view()).is_ok());
    assert!(probability(&[2]).evaluate(0, logits.view()).is_ok());
}

/// They were GPT-2 small's, whatever the weights.
#[test]
fn f20_a_missing_size_is_an_error() {
    let text = std::fs::read_to_string(tiny_checkpoint().path().join("config.json")).unwrap();
    let complete: Map<String, Value> = serde_json::from_str(&text).unwrap();
    for field in ["n_layer", "n_head", "n_embd", "n_positions", "vocab_size"] {
        let mut fields = complete.clone();
        fields.remove(field).unwrap();
        fields.remove("n_ctx").unwrap();
        let text = Value::Object(fields).to_string();
        let found = message(Config::from_json(&text, "config.json".as_ref()));
        let expected = format!("config.json: config field `{field}`: found nothing");
        assert!(found.starts_with(&expected), "{found}");
    }
}

/// What a clone without Git LFS has in the place of large files.
#[test]
fn f20_a_pointer_of_git_lfs_is_named() {
    let pointer = "version https://git-lfs.github.com/spec/v1\n\
                   oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\n\
                   size 548105171\n";
    for file in ["model.safetensors", "config.json"] {
        let dir = tiny_checkpoint();
        std::fs::write(dir.path().join(file), pointer).unwrap();
        let found = message(Parameters::load(&dir));
        let expected = format!(
            "{}: a pointer of Git LFS; expected the file that it stands for (`git lfs pull` \
             fetches it)",
            dir.path().join(file).display()
        );
        assert_eq!(found, expected);
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("tokenizer.json"), pointer).unwrap();
    assert!(message(Tokenizer::open(&dir)).contains("`git lfs pull`"));
}

#[test]
fn f20_caches_and_lenses_are_saved_as_safetensors_only() {
    let model = tiny();
    let points = [Site::ResidPre.at(1)];
    let (_, cache) = model
        .run_with_cache([1, 2], &Selection::points(points))
        .unwrap();
    let lens = TunedLens::identity(model.config(), &points).unwrap();
    let dir = tempfile::tempdir().unwrap();
    for name in ["cache.npy", "cache", "cache.safetensors.bak"] {
        let path = dir.path().join(name);
        for result in [cache.save(&path), lens.save(&path)] {
            let found = message(result);
            assert!(found.contains("expected `safetensors`"), "{found}");
            assert!(!path.exists());
        }
    }
    cache.save(dir.path().join("cache.safetensors")).unwrap();
}

#[test]
fn f20_the_error_for_a_subject_that_occurs_twice_names_the_way_out() {
    let tokenizer = mini();
    let text = "Ada Brown plays the sport of Ada Brown";
    let fact = FactPrompt::new(&tokenizer, text, "Ada Brown", " tennis", "sport");
    assert_eq!(
        message(fact),
        format!(
            "`{text}`: the subject twice, at bytes 0 and 29; expected the subject `Ada Brown` \
             once; `TracedFact::new` takes the positions of the one that is meant"
        )
    );
    let prompt = tokenizer.encode(text).unwrap();
    assert_eq!(TracedFact::new(prompt, 6..8).unwrap().subject, 6..8);
}

/// `fn main() -> patchlens::Result<()>` prints the error's Debug form: it is the message.
#[test]
fn n5_what_a_main_prints_is_the_message() {
    let error = patchlens::Prompts::new([Vec::<u32>::new()]).unwrap_err();
    assert_eq!(format!("{error:?}"), error.to_string());
    assert!(error.to_string().contains("expected"), "{error}");
    let printed = format!("{:?}", anyhow::Error::from(error));
    assert!(!printed.contains("Prompt {"), "{printed}");
}
