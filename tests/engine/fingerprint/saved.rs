//! t2: what files of caches say.

use super::*;

/// The file again, with some tensors left out or replaced.
fn rewritten(path: &Path, keep: impl Fn(&str) -> bool, replace: Option<(&str, &[i64])>) {
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors = file.tensors();
    tensors.retain(|(name, _)| keep(name));
    let data: Vec<u8>;
    if let Some((name, values)) = replace {
        data = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let view = safetensors::tensor::TensorView::new(
            safetensors::Dtype::I64,
            vec![values.len()],
            &data,
        );
        tensors.retain(|(other, _)| other != name);
        tensors.push((name.to_string(), view.unwrap()));
    }
    let bytes = serialize(tensors, None).unwrap();
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn t2_saved_caches_know_their_model() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cache.safetensors");
    let (own, other) = (model(0), model(1));
    let plain = cached(&own, ());
    for cache in [&plain, &cached(&own, zero_head())] {
        cache.save(&path).unwrap();
        let opened = ActivationCache::open(&path).unwrap();
        assert_eq!(opened.fingerprint(), Some(own.fingerprint()));
        assert_eq!(opened.run_kind(), cache.run_kind());
        all_well(readings(&own, &opened));
        all_say(readings(&other, &opened), &[&own.fingerprint().to_string()]);
        let base = as_base(&own, &opened);
        assert_eq!(base.1.is_ok(), cache.run_kind() == Some(RunKind::Plain));
        let known = opened.assume_plain_run_of(other.fingerprint()).unwrap_err();
        assert!(known.to_string().contains(&own.fingerprint().to_string()));
    }

    // What an older version saved.
    plain.save(&path).unwrap();
    rewritten(
        &path,
        |name| !["fingerprint", "run_kind"].contains(&name),
        None,
    );
    let old = ActivationCache::open(&path).unwrap();
    assert_eq!((old.fingerprint(), old.run_kind()), (None, None));
    assert_eq!(
        old.get(Site::Z.at(0)).unwrap(),
        plain.get(Site::Z.at(0)).unwrap()
    );
    let says = ["do not say of which model", "assume_plain_run_of"];
    all_say([as_base(&own, &old)], &says);
    all_say(readings(&own, &old), &says);
    let values = Values::from_caches(std::slice::from_ref(&old), Site::MlpOut.at(1)).unwrap();
    all_say(donations(&own, &values), &says);
    all_well(donations(&own, &values.of_other_model()));
    let assumed = old.assume_plain_run_of(own.fingerprint()).unwrap();
    all_well([as_base(&own, &assumed)]);
    all_well(readings(&own, &assumed));
}

#[test]
fn t2_files_that_say_it_wrongly_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cache.safetensors");
    let own = model(0);
    let cases: [(&str, Option<&[i64]>, &str); 6] = [
        ("run_kind", None, "run_kind"),
        ("fingerprint", None, "fingerprint"),
        ("run_kind", Some(&[3]), "[0], [1] or [2]"),
        ("run_kind", Some(&[0, 0]), "[0], [1] or [2]"),
        ("fingerprint", Some(&[1, 2, 3]), "3 numbers"),
        ("fingerprint", Some(&[1, 2, 3, 1 << 32]), "4294967296"),
    ];
    for (tensor, values, part) in cases {
        cached(&own, ()).save(&path).unwrap();
        let replace = values.map(|values| (tensor, values));
        rewritten(&path, |name| name != tensor, replace);
        let message = ActivationCache::open(&path).unwrap_err().to_string();
        assert!(message.contains(part), "{message}");
    }
    // The right fingerprint on activations of another width: no panic.
    cached(&own, ()).save(&path).unwrap();
    let wider = Transformer::random(
        Config {
            d_model: 12,
            ..config()
        },
        0,
    )
    .unwrap();
    let names = wider.fingerprint().to_string();
    let parts: Vec<i64> = (0..4)
        .map(|i| i64::from(u32::from_str_radix(&names[8 * i..8 * i + 8], 16).unwrap()))
        .collect();
    rewritten(&path, |_| true, Some(("fingerprint", &parts)));
    let forged = ActivationCache::open(&path).unwrap();
    assert_eq!(forged.fingerprint(), Some(wider.fingerprint()));
    for (name, result) in readings(&wider, &forged)
        .into_iter()
        .chain([as_base(&wider, &forged)])
    {
        let error = result.expect_err(name);
        assert!(matches!(error, Error::Shape { .. }), "{name}: {error}");
    }
}
