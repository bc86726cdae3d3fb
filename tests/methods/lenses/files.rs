//! Caches as files.

use ndarray::ArrayD;
use patchlens::lens::{LensFit, LogitLens, TunedLens};
use patchlens::{ActivationCache, Config, Prompts, Selection, Site, Transformer};

#[test]
fn caches_are_saved_under_the_hook_names_and_opened_equal() {
    let model = crate::common::open("tiny-relu");
    let tokens = crate::common::tokens(&crate::common::metadata("tiny-relu")["prompts"][0]);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cache.safetensors");
    let everything = Selection::everything(model.config());
    for selection in [everything.clone(), everything.at_positions([1, 4])] {
        let (_, cache) = model.run_with_cache(&tokens, &selection).unwrap();
        cache.save(&path).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let z = file.tensor("blocks.1.attn.hook_z").unwrap();
        assert_eq!(z.shape(), [cache.positions().len(), 2, 9]);
        let opened = ActivationCache::open(&path).unwrap();
        assert_eq!(opened.tokens(), cache.tokens());
        assert_eq!(opened.positions(), cache.positions());
        assert_eq!(
            opened.points().collect::<Vec<_>>(),
            cache.points().collect::<Vec<_>>()
        );
        for point in cache.points() {
            let bits =
                |c: &ActivationCache| -> ArrayD<u32> { c.get(point).unwrap().mapv(f32::to_bits) };
            assert_eq!(bits(&opened), bits(&cache), "{point}");
        }
    }
}

#[test]
fn files_that_are_no_caches_are_rejected() {
    let model = crate::common::open("tiny-relu");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lens.safetensors");
    let points = [Site::ResidPre.at(1)];
    TunedLens::identity(model.config(), &points)
        .unwrap()
        .save(&path)
        .unwrap();
    let message = ActivationCache::open(&path).unwrap_err().to_string();
    assert!(message.contains("no I64 tensor `tokens`"), "{message}");
    std::fs::write(&path, b"not a tensor in sight").unwrap();
    assert!(ActivationCache::open(&path).is_err());
    assert!(TunedLens::open(&path).is_err());
    let (_, cache) = model
        .run_with_cache([1, 2, 3], &Selection::points([Site::Z.at(0)]))
        .unwrap();
    cache.save(&path).unwrap();
    let message = TunedLens::open(&path).unwrap_err().to_string();
    assert!(message.contains("no tuned lens, but tensor"), "{message}");
    // The error for a model's file names the file and what a lens has.
    let message = TunedLens::open(crate::common::dir("tiny-relu").join("model.safetensors"));
    let message = message.unwrap_err().to_string();
    assert!(
        message.contains("model.safetensors: no tuned lens, but tensor"),
        "{message}"
    );
    assert!(message.contains("expected `{hook}.weight`"), "{message}");
    // The same file with another name, then with one position fewer than it says to hold.
    let bytes = std::fs::read(&path).unwrap();
    let find = |text: &[u8]| bytes.windows(text.len()).position(|w| w == text).unwrap();
    let mut renamed = bytes.clone();
    renamed[find(b"hook_z")..][..6].copy_from_slice(b"hook_y");
    std::fs::write(&path, renamed).unwrap();
    let message = ActivationCache::open(&path).unwrap_err().to_string();
    assert!(message.contains("did you mean"), "{message}");
    let mut reshaped = bytes.clone();
    reshaped[find(b"[3,2,9]")..][..7].copy_from_slice(b"[2,3,9]");
    std::fs::write(&path, reshaped).unwrap();
    let message = ActivationCache::open(&path).unwrap_err().to_string();
    assert!(message.contains("3 positions kept of 3"), "{message}");
}

/// t2: a lens knows its model, in files too.
#[test]
fn t2_a_lens_of_another_model_is_rejected() {
    let config = Config {
        n_layers: 2,
        n_heads: 2,
        d_model: 8,
        d_mlp: 16,
        d_vocab: 11,
        ..Config::gpt2()
    };
    let [own, other] = [0, 1].map(|seed| Transformer::random(config.clone(), seed).unwrap());
    let prompts = Prompts::new([[1, 2, 3, 4], [5, 6, 7, 8]]).unwrap();
    let lens = LensFit::new(&own, &prompts)
        .unwrap()
        .run(1e-3)
        .unwrap()
        .lens;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lens.safetensors");
    lens.save(&path).unwrap();
    let opened = TunedLens::open(&path).unwrap();
    assert_eq!(opened, lens);
    assert!(LogitLens::tuned(&own, &opened).is_ok());
    let error = LogitLens::tuned(&other, &opened).unwrap_err().to_string();
    assert!(error.contains("tuned lens: found one of model"), "{error}");
    assert!(LogitLens::tuned(&other, &opened.of_other_model()).is_ok());
}
