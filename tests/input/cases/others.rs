//! Metadata, layouts, tokenizers, activations, models without biases.

use super::*;

#[test]
fn b06_odd_metadata() {
    let with = |metadata: &str, first: bool| {
        let dir = copy();
        let path = dir.path().join("model.safetensors");
        let (mut header, data) = split(&path);
        header.remove("__metadata__");
        let text = Value::Object(header).to_string();
        let inner = &text[1..text.len() - 1];
        let text = match (metadata, first) {
            ("", _) => text,
            (metadata, true) => format!("{{{metadata},{inner}}}"),
            (metadata, false) => format!("{{{inner},{metadata}}}"),
        };
        join(&path, &text, &data);
        dir
    };
    for first in [true, false] {
        for good in [
            "",
            r#""__metadata__":{}"#,
            r#""__metadata__":null"#,
            r#""__metadata__":{"format":"pt","wte.weight":"lm_head.weight"}"#,
        ] {
            has_the_same_bits(&open(&with(good, first)));
        }
        for (bad, fragment) in [
            (
                r#""__metadata__":{"a":"\ud800"}"#,
                "header with `__metadata__`",
            ),
            (r#""__metadata__":{"a":"\x"}"#, "header with `__metadata__`"),
            (r#""__metadata__":{"a":1}"#, "header with `__metadata__`"),
            (r#""__metadata__":[]"#, "header with `__metadata__`"),
            (r#""__metadata__":{"a":"#, "header with `__metadata__`"),
            (
                r#""__metadata__x":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}"#,
                "`__metadata__x`: found an unknown tensor of shape [0]",
            ),
        ] {
            fails(&with(bad, first), &[fragment]);
        }
    }
    let dir = with("", true);
    let path = dir.path().join("model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let broken = b"\"__metadata__\":{\"a\":\"\xff\"},";
    bytes.splice(9..9, broken.iter().copied());
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) + broken.len() as u64;
    bytes[..8].copy_from_slice(&length.to_le_bytes());
    fs::write(&path, bytes).unwrap();
    fails(&dir, &["model.safetensors: header with `__metadata__`"]);
}

#[test]
fn b07_weights_of_linear_layers() {
    let dir = copy();
    edit_tensors(dir.path(), |tensors| {
        for tensor in tensors.iter_mut().filter(|t| {
            let matrix = ["c_attn.weight", "c_proj.weight", "c_fc.weight"];
            matrix.iter().any(|end| t.name.ends_with(end))
        }) {
            let [rows, columns] = tensor.shape[..] else {
                panic!("{:?}", tensor.shape);
            };
            let (values, _) = tensor.bytes.as_chunks::<4>();
            let value = |i: usize| values[i % rows * columns + i / rows];
            tensor.bytes = (0..rows * columns).flat_map(value).collect();
            tensor.shape.reverse();
        }
    });
    fails(
        &dir,
        &[
            "`transformer.h.0.attn.c_attn.weight`: found shape [72, 24]; expected shape [24, 72]",
            "stored as nn.Linear stores weights, [out, in]",
            "python weights-convert.py",
        ],
    );
    // Where values lie in the joint matrix: those of head 1 alone move z of head 1 alone.
    let config = tiny_config();
    let with = |column: Option<usize>| {
        let mut parameters = distinct_parameters(&config);
        let mut values = parameters.h[0]
            .attn
            .c_attn
            .weight
            .slice_axis_mut(ndarray::Axis(1), (12..).into());
        values.fill(0.0);
        if let Some(column) = column {
            values.column_mut(column).fill(0.1);
            values[[0, column]] = 3.0;
        }
        let model = Transformer::new(config.clone(), parameters).unwrap();
        let selection = Selection::points([Site::Z.at(0)]);
        let (_, cache) = model.run_with_cache([1, 2, 3], &selection).unwrap();
        cache.get(Site::Z.at(0)).unwrap().to_owned()
    };
    let without = with(None);
    for column in 0..6 {
        let moved = with(Some(column)) - &without;
        for ((_, head, _), delta) in moved
            .into_dimensionality::<ndarray::Ix3>()
            .unwrap()
            .indexed_iter()
        {
            assert!(
                head == column / 3 || *delta == 0.0,
                "column {column} moves head {head}"
            );
        }
    }
}

#[test]
fn b08_vocab_and_merges() {
    let tokenizer = Tokenizer::open(golden("bpe")).unwrap();
    let bpe = &reference()["bpe"];
    let texts: Vec<String> = serde_json::from_value(bpe["texts"].clone()).unwrap();
    assert!(texts.len() > 5);
    for (text, ids) in texts.iter().zip(bpe["ids"].as_array().unwrap()) {
        let found = tokenizer.encode(text).unwrap();
        assert_eq!(found.tokens, common::tokens(ids), "{text:?}");
        assert_eq!(tokenizer.decode(&found.tokens).unwrap(), *text);
    }
    assert_eq!(tokenizer.bos().unwrap(), 0);
    assert_eq!(tokenizer.token_label(262), "Ma");

    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let says = || message(Tokenizer::open(&dir));
    let found = says();
    assert!(
        found.contains("tokenizer.json: no such file, nor vocab.json and merges.txt"),
        "{found}"
    );
    assert!(found.contains("./weights-fetch.sh gpt2") && found.contains("save_pretrained(DIR)"));
    fs::copy(golden("bpe/vocab.json"), path("vocab.json")).unwrap();
    assert!(says().contains("vocab.json without merges.txt"));
    for (line, shown) in [
        ("a", "`a` in line 2"),
        ("a b c", "`a b c`"),
        ("a Ġzzz", "two tokens of"),
    ] {
        fs::write(path("merges.txt"), format!("#version: 0.2\n{line}\n")).unwrap();
        assert!(
            says().contains("merges.txt: `") && says().contains(shown),
            "{}",
            says()
        );
    }
    fs::copy(golden("bpe/merges.txt"), path("merges.txt")).unwrap();
    fs::write(path("vocab.json"), "{\"a\":0,\"a\":1}").unwrap();
    assert!(
        says().contains("vocab.json: `a` occurs twice"),
        "{}",
        says()
    );
    fs::copy(golden("bpe/vocab.json"), path("vocab.json")).unwrap();
    // Tokens that were added later, with their own ids.
    fs::write(path("added_tokens.json"), r#"{"<pad>": 340, "<x>": 341}"#).unwrap();
    let added = Tokenizer::open(&dir).unwrap();
    assert_eq!(
        added.encode("a<x>b<pad>").unwrap().tokens,
        [65, 341, 66, 340]
    );
    fs::write(path("added_tokens.json"), r#"{"<pad>": 400}"#).unwrap();
    assert!(
        says().contains("the added token `<pad>` with id 400; expected id 340"),
        "{}",
        says()
    );
}

/// GPT-2's own files.
#[test]
#[ignore = "needs vocab.json and merges.txt of GPT-2 in weights/gpt2"]
fn b08_and_b10_gpt2_tokens() {
    let weights = Path::new(env!("CARGO_MANIFEST_DIR")).join("weights/gpt2");
    let dir = tempfile::tempdir().unwrap();
    for file in ["vocab.json", "merges.txt"] {
        fs::copy(weights.join(file), dir.path().join(file)).unwrap();
    }
    let tokenizer = Tokenizer::open(&dir).unwrap();
    assert_eq!(tokenizer.vocab_size(), 50257);
    let text = "When Mary and John went to the store, John gave a drink to";
    let expected = [
        2215, 5335, 290, 1757, 1816, 284, 262, 3650, 11, 1757, 2921, 257, 4144, 284,
    ];
    assert_eq!(tokenizer.encode(text).unwrap().tokens, expected);
    let literal = tokenizer.encode("a<|endoftext|>b").unwrap();
    assert_eq!(literal.tokens, [64, 50256, 65]);
    assert_eq!(
        tokenizer.decode(&literal.tokens).unwrap(),
        "a<|endoftext|>b"
    );
}

#[test]
fn b09_which_gelu() {
    let x = expected("x");
    let name = |text: &str| {
        let dir = copy();
        set(dir.path(), "activation_function", json!(text));
        Config::open(&dir).map(|config| config.activation)
    };
    let found = |text: &str| {
        let column = Array1::from_iter(x.iter().copied());
        let mut values = column.insert_axis(ndarray::Axis(1));
        ops::activate(name(text).unwrap(), values.view_mut());
        values
    };
    let tanh = found("gelu_new");
    for same in ["gelu_pytorch_tanh", "gelu_fast"] {
        assert_eq!(bits(&found(same)), bits(&tanh));
    }
    let erf = found("gelu");
    for (values, reference) in [
        (&tanh, "gelu_new"),
        (&tanh, "gelu_pytorch_tanh"),
        (&tanh, "gelu_fast"),
        (&erf, "gelu"),
    ] {
        for (value, expected) in values.iter().zip(&expected(reference)) {
            assert!(
                (value - expected).abs() < 2e-6,
                "{reference}: {value} {expected}"
            );
        }
    }
    let apart = tanh.iter().zip(&erf).map(|(a, b)| (a - b).abs());
    let (worst, at) = apart.zip(&x).fold((0.0_f32, 0.0), |(worst, at), (d, x)| {
        if d > worst { (d, *x) } else { (worst, at) }
    });
    assert!((4.725e-4..4.735e-4).contains(&worst), "{worst}");
    assert!((at.abs() - 2.70).abs() < 0.025, "{at}");
    assert_eq!(name("gelu").unwrap(), Activation::Gelu);
    assert!(message(name("quick_gelu")).contains("found \"quick_gelu\"; expected `gelu_new`"));
}

#[test]
fn b10_a_literal_end_of_text() {
    let tokenizer = Tokenizer::open(golden("bpe")).unwrap();
    let text = "a<|endoftext|>b";
    let literal = tokenizer.encode(text).unwrap();
    assert_eq!(literal.labels, ["a", "<|endoftext|>", "b"]);
    assert_eq!(literal.tokens[1], tokenizer.bos().unwrap());
    assert_eq!(tokenizer.decode(&literal.tokens).unwrap(), text);
    let doubled = tokenizer.encode_with_bos("<|endoftext|>a").unwrap();
    assert_eq!(doubled.labels, ["<|endoftext|>", "<|endoftext|>", "a"]);
}

/// nanoGPT's `bias=False`, converted from its `ckpt.pt`.
#[test]
fn no_biases() {
    let model = Transformer::open(golden("no-biases")).unwrap();
    let found = logits(&model);
    assert!(difference(found.view().into_dyn(), expected("no-biases").view()) < 1e-5);
    let biases = |name: &str| name.ends_with(".bias");
    let tensors = model.parameters().tensors();
    assert_eq!(
        tensors.iter().filter(|(name, _)| biases(name)).count(),
        2 * 6 + 1
    );
    let zero =
        |(_, tensor): &(String, ndarray::ArrayViewD<'_, f32>)| tensor.iter().all(|v| *v == 0.0);
    assert!(
        tensors
            .iter()
            .all(|tensor| biases(&tensor.0) == zero(tensor))
    );
    let report = model.open_report().unwrap();
    assert!(report.assumed.contains(&Assumed::ZeroBiases));
    assert!(
        report
            .to_string()
            .contains("assumed  zeros for all biases, as there are none")
    );
    // Some biases and no others are a mistake.
    let dir = copy();
    edit_tensors(dir.path(), |tensors| {
        tensors.retain(|t| !t.name.ends_with("ln_1.bias"));
    });
    fails(&dir, &["`transformer.h.0.ln_1.bias`: found nothing"]);
    // Saved, they stand in the file.
    let dir = tempfile::tempdir().unwrap();
    model.save(&dir).unwrap();
    assert_eq!(bits(&logits(&open(&dir))), bits(&found));
    assert!(open(&dir).open_report().unwrap().assumed.is_empty());
}

#[test]
fn weights_in_pickles_are_named_with_what_to_run() {
    for file in ["pytorch_model.bin", "ckpt.pt", "model.pth"] {
        let dir = copy();
        fs::remove_file(dir.path().join("model.safetensors")).unwrap();
        fs::remove_file(dir.path().join("config.json")).unwrap();
        fs::write(dir.path().join("training_args.bin"), "").unwrap();
        fs::write(dir.path().join(file), "PK").unwrap();
        let run = format!("`python weights-convert.py {}`", dir.path().display());
        fails(
            &dir,
            &[&format!("{file}: weights as a Python pickle"), &run],
        );
    }
    // InterpBench's folders: beside the weights, other pickles.
    let dir = tempfile::tempdir().unwrap();
    for file in ["edges.pkl", "ll_model.pth", "ll_model_cfg.pkl", "meta.json"] {
        fs::write(dir.path().join(file), "PK").unwrap();
    }
    let run = format!("`python weights-convert.py {}`", dir.path().display());
    let pickle = "ll_model.pth: weights as a Python pickle";
    fails(&dir, &[pickle, &run]);
    // Weights of ours count, whatever else lies there.
    let dir = copy();
    fs::write(dir.path().join("pytorch_model.bin"), "PK").unwrap();
    has_the_same_bits(&open(&dir));
}

#[test]
fn an_ordinary_checkpoint_reports_what_it_is() {
    let model = common::open(MODEL);
    let report = model.open_report().unwrap();
    assert_eq!(report.wrapper, "");
    assert_eq!(report.tensors, [("F32".to_string(), 28)].into());
    assert!(report.skipped.iter().all(|s| s.reason == SkipReason::Mask));
    assert_eq!(report.skipped.len(), 4);
    assert!(report.assumed.is_empty(), "{report}");
    let file = common::dir(MODEL).join("model.safetensors");
    assert_eq!(report.files, std::slice::from_ref(&file));
    let expected = format!(
        "found    28 F32 tensors in {}\nskipped  4 tensors: transformer.h.0.attn.bias, … (causal masks)",
        file.display()
    );
    assert_eq!(report.to_string(), expected);
    // Its published config has only sizes.
    let report = common::open("tiny-bf16").open_report().unwrap().to_string();
    assert!(report.contains("28 BF16 tensors"), "{report}");
    assert!(
        report.contains("config.json: tie_word_embeddings = true (absent)"),
        "{report}"
    );
    let (config, parameters) = Parameters::load(common::dir(MODEL)).unwrap();
    assert!(
        Transformer::new(config, parameters)
            .unwrap()
            .open_report()
            .is_none()
    );
}
