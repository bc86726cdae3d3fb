//! JSON, CSV, npy, and how files are written.

use ndarray::{Array1, Array2, ArrayD, IxDyn, array};
use patchlens::report::{About, Absent, Axis, Labelled, Palette};
use proptest::prelude::*;

use crate::{about, hostile};

#[test]
fn json_reads_back_equal() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("result.json");
    let texts = Array2::from_shape_fn((3, 8), |(i, j)| format!(" {i}\n{j}"));
    let mut result = hostile()
        .with_std_error(Array2::from_elem((3, 8), 0.1))
        .unwrap()
        .with_texts(texts.clone())
        .unwrap();
    result.about.baselines.insert("nan".into(), f32::NAN);
    result.about.partial = true;
    result.about = result.about.model("tiny");
    result = result.with_color_range(-1.5..=7.0).unwrap();
    result.about.palette = Palette::Sequential;
    result.save(&path).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains("null") && text.contains("\"-inf\""));
    let back = Labelled::open_json(&path).unwrap();
    assert_eq!(back.about.counts, result.about.counts);
    assert!(back.about.baselines["nan"].is_nan());
    assert_eq!(back.texts().unwrap(), texts.into_dyn());
    assert_ne!(
        back.clone().with_texts(Array2::default((3, 8))).unwrap(),
        back
    );
    // NaN differs from itself in a map of plain numbers; compare the rest as a whole.
    let without_nan = |mut of: Labelled| {
        of.about.baselines.remove("nan");
        of
    };
    assert_eq!(without_nan(back.clone()), without_nan(result));
    let mut other = back.clone();
    other.about.seed = None;
    assert_ne!(without_nan(other), without_nan(back));
}

#[test]
fn json_that_does_not_fit_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let good = hostile().to_json().unwrap();
    for (text, expected) in [
        (good.replacen("L2", "L1\", \"L2", 1), "expected [4, 8]"),
        (
            good.replacen("null", "null, 1.0", 1),
            "25 numbers; expected the shape [3, 8]",
        ),
        (good.replacen("null", "\"many\"", 1), "did not match"),
        (
            good.replacen("\"axes\"", "\"oxes\"", 1),
            "missing field `axes`",
        ),
        (good[..good.len() / 2].to_string(), "EOF"),
    ] {
        let path = folder.path().join("bad.json");
        std::fs::write(&path, text).unwrap();
        let error = Labelled::open_json(&path).unwrap_err().to_string();
        assert!(
            error.contains(expected) && error.contains("bad.json"),
            "{error}\n  lacks {expected}"
        );
    }
    let missing = Labelled::open_json(folder.path().join("none.json"))
        .unwrap_err()
        .to_string();
    assert!(missing.contains("none.json"), "{missing}");
}

proptest! {
    #[test]
    fn json_keeps_every_bit(bits in proptest::collection::vec(any::<u32>(), 1..40)) {
        let values: Array1<f32> = bits.iter().map(|&b| f32::from_bits(b)).collect();
        let axes = vec![Axis::heads(values.len())];
        let result = Labelled::new(values.clone(), axes, About::default()).unwrap();
        let back: Labelled = serde_json::from_str(&result.to_json().unwrap()).unwrap();
        for (a, b) in values.iter().zip(back.values()) {
            prop_assert!(a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan());
        }
    }
}

#[test]
fn csv_has_one_row_per_cell_and_no_formula() {
    let table = hostile()
        .with_std_error(Array2::from_elem((3, 8), 0.25))
        .unwrap();
    let text = table.to_csv().unwrap();
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    assert_eq!(
        reader.headers().unwrap(),
        vec!["layer", "pos", "value", "std_error", "absent"]
    );
    let rows: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
    assert_eq!(rows.len(), 24);
    for (row, value) in rows.iter().zip(table.values()) {
        let read: f32 = row[2].parse().unwrap();
        assert!(read == *value || read.is_nan() && value.is_nan(), "{row:?}");
        assert_eq!(&row[3], "0.25");
        assert!(!row[1].starts_with(['=', '+', '-', '@']), "{row:?}");
        assert!(!row[1].contains(char::is_control), "{row:?}");
    }
    let texts = array![[" Mary", "=1"]].mapv(String::from);
    let axes = vec![Axis::layers(1), Axis::heads(2)];
    let table = Labelled::new(array![[1.0, 2.0]], axes, about()).unwrap();
    let table = table.with_texts(texts).unwrap().to_csv().unwrap();
    assert_eq!(table, "layer,head,value,text\nL0,H0,1,·Mary\nL0,H1,2,'=1\n");
    assert_eq!(&rows[0][1], "·Mary@0");
    assert_eq!(&rows[2][1], "\",\"@2");
    assert_eq!(&rows[3][1], "'=cmd|' /C calc'!A0@3");
    assert_eq!((&rows[1][2], &rows[0][2]), ("NaN", "-0"));
    let scales = Labelled::new(array![1.0], vec![Axis::numbers("x", &[-1.5])], about()).unwrap();
    assert!(
        scales.to_csv().unwrap().contains("\n-1.5,1\n"),
        "numbers stay numbers"
    );
}

#[test]
fn npy_is_what_numpy_writes() {
    // numpy.save of numpy.arange(6, dtype="<f4").reshape(2, 3), of its first row and of one number.
    let header = |shape: &str| {
        let dict = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}");
        let mut bytes = b"\x93NUMPY\x01\x00\x76\x00".to_vec();
        bytes.extend(format!("{dict:117}\n").bytes());
        assert_eq!(bytes.len(), 128);
        bytes
    };
    let names = ["a", "b", "c"];
    for shape in [vec![], vec![3], vec![2, 3]] {
        let n: usize = shape.iter().product();
        let values: Vec<f32> = (0..n).map(|i| i as f32).collect();
        let axes = shape
            .iter()
            .zip(names)
            .map(|(&n, name)| Axis::new(name, (0..n).map(|i| i.to_string())));
        let array = ArrayD::from_shape_vec(IxDyn(&shape), values.clone()).unwrap();
        // The order of the elements in memory must not show.
        let array = array.t().as_standard_layout().into_owned().reversed_axes();
        let result = Labelled::new(array, axes.collect(), about()).unwrap();
        let shape = match shape.as_slice() {
            [] => "()",
            [_] => "(3,)",
            _ => "(2, 3)",
        };
        let mut expected = header(shape);
        expected.extend(values.iter().flat_map(|v| v.to_le_bytes()));
        assert_eq!(result.to_npy(), expected, "{shape}");
    }
}

#[test]
fn saving_is_atomic_and_knows_its_formats() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["r.xlsx", "r"] {
        let error = hostile()
            .save(folder.path().join(name))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("`.html`, `.csv`, `.json`, `.npy`"),
            "{error}"
        );
        assert!(
            error.contains("`.svg`") && error.contains("`.png`"),
            "{error}"
        );
    }
    let path = folder.path().join("result.CSV");
    std::fs::write(&path, "old").unwrap();
    hostile().save(&path).unwrap();
    assert!(
        std::fs::read_to_string(&path)
            .unwrap()
            .starts_with("layer,pos,value,absent\n")
    );
    // A folder in the way: the rename fails, and no temporary file stays behind.
    let taken = folder.path().join("taken.json");
    std::fs::create_dir(&taken).unwrap();
    let error = hostile().save(&taken).unwrap_err().to_string();
    assert!(error.contains("taken.json"), "{error}");
    let missing = folder.path().join("no/such/folder.json");
    assert!(
        hostile()
            .save(&missing)
            .unwrap_err()
            .to_string()
            .contains("folder.json")
    );
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode();
        let usual = folder.path().join("usual");
        std::fs::write(&usual, "").unwrap();
        assert_eq!(
            mode(&path),
            mode(&usual),
            "readable for those who may read other new files"
        );
    }
}

/// One cell of every kind of absence.
fn absences() -> Labelled {
    use Absent::{NoPath, NoSamples, NotANumber, NotRun};
    let reasons = array![
        None,
        Some(NoPath),
        Some(NotRun),
        Some(NoSamples),
        Some(NotANumber),
        None
    ];
    let mut values = Array1::from_elem(6, f32::NAN);
    values[0] = 1.5;
    let axes = vec![Axis::new("cell", ["a", "b", "c", "d", "e", "f"])];
    let table = Labelled::new(values, axes, about()).unwrap();
    table.with_absent(reasons).unwrap()
}

#[test]
fn absences_stay_apart_in_files() {
    let table = absences();
    let text = table.to_json().unwrap();
    let back: Labelled = serde_json::from_str(&text).unwrap();
    assert_eq!(back, table);
    let other = Labelled::new(table.values().to_owned(), table.axes().to_vec(), about()).unwrap();
    assert_ne!(other, table, "reasons count");
    assert_eq!(
        table.to_csv().unwrap(),
        "cell,value,absent\na,1.5,\nb,,no path\nc,,not run\nd,,no samples\ne,NaN,NaN\nf,NaN,NaN\n"
    );
    // A file of an older version has `null` alone.
    let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json["absent"]["no_path"], serde_json::json!([1]));
    assert_eq!(json["absent"]["not_a_number"], serde_json::json!([4, 5]));
    json.as_object_mut().unwrap().remove("absent");
    let old: Labelled = serde_json::from_value(json.clone()).unwrap();
    assert_eq!(old.absent()[[0]], None);
    assert_eq!(old.absent()[[4]], Some(Absent::Unstated));
    assert!(old.to_string().contains("n/a: 5 cells"), "{old}");
    let back: Labelled = serde_json::from_str(&old.to_json().unwrap()).unwrap();
    assert_eq!(back, old);
    for (absent, expected) in [
        (
            serde_json::json!({"no_path": [6]}),
            "found 6; expected the index of one of 6 cells",
        ),
        (
            serde_json::json!({"no_path": [0]}),
            "found 1.5; expected NaN",
        ),
        (serde_json::json!({"lost": [1]}), "unknown variant `lost`"),
    ] {
        json["absent"] = absent;
        let error = serde_json::from_value::<Labelled>(json.clone()).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[test]
fn absences_stay_apart_for_the_eye() {
    let table = absences();
    let printed = table.to_string();
    let words = ["no path", "not run", "no samples", "NaN"];
    for (word, n) in words.into_iter().zip([1, 1, 1, 2]) {
        let cells = if n == 1 { "1 cell" } else { "2 cells" };
        assert!(printed.contains(&format!("{word}: {cells} (")), "{printed}");
        assert!(table.to_html().unwrap().contains(word));
        #[cfg(feature = "pictures")]
        assert!(table.to_svg().unwrap().contains(&format!(">{word}</text>")));
    }
    let map = Labelled::new(
        table
            .values()
            .to_owned()
            .into_shape_with_order((2, 3))
            .unwrap(),
        vec![Axis::layers(2), Axis::heads(3)],
        about(),
    );
    let reasons = table.absent().to_owned().into_shape_with_order((2, 3));
    let map = map.unwrap().with_absent(reasons.unwrap()).unwrap();
    let printed = map.to_string();
    for word in words {
        assert!(printed.contains(&format!(" {word}")), "{printed}");
    }
}
