//! The safetensors header and file.

use super::*;

#[test]
fn bad_headers() {
    check(&[
        (
            "no weights",
            |d| fs::remove_file(d.join(FILE)).unwrap(),
            &["model.safetensors: ", "No such file"],
        ),
        (
            "a folder",
            |d| {
                fs::remove_file(d.join(FILE)).unwrap();
                fs::create_dir(d.join(FILE)).unwrap();
            },
            &["model.safetensors: a folder; expected a regular file"],
        ),
        (
            "empty",
            |d| fs::write(d.join(FILE), "").unwrap(),
            &["model.safetensors: a file of 0 bytes; expected a safetensors file"],
        ),
        (
            "a git LFS pointer",
            |d| fs::write(d.join(FILE), "version https://git-lfs.github.com/spec/v1").unwrap(),
            &["model.safetensors: a pointer of Git LFS; expected the file"],
        ),
        (
            "an absurd header length",
            |d| edit_bytes(&d.join(FILE), |b| b[7] = 0xff),
            &[
                "model.safetensors: a header length of 18",
                "expected a header within the file",
            ],
        ),
        (
            "a header length cut short",
            |d| {
                edit_bytes(&d.join(FILE), |b| {
                    let length = u64::from_le_bytes(b[..8].try_into().unwrap()) - 9;
                    b[..8].copy_from_slice(&length.to_le_bytes());
                });
            },
            &[
                "model.safetensors: header with ",
                "EOF while parsing",
                "expected a JSON object of tensors",
            ],
        ),
        (
            "a header of 16 MB",
            |d| {
                fs::write(
                    d.join(FILE),
                    [&(17_u64 << 20).to_le_bytes()[..], &vec![b' '; 17 << 20]].concat(),
                )
                .unwrap();
            },
            &[
                "model.safetensors: a header length of 17825792",
                "at most 16777216",
            ],
        ),
        (
            "no JSON",
            |d| join(&d.join(FILE), "weights", &[]),
            &[
                "model.safetensors: header with expected value",
                "expected a JSON object",
            ],
        ),
        (
            "no UTF-8",
            |d| edit_bytes(&d.join(FILE), |b| b[10] = 0xff),
            &["model.safetensors: header with ", "expected a JSON object"],
        ),
        (
            "deep nesting",
            |d| join(&d.join(FILE), &"[".repeat(100_000), &[]),
            &["model.safetensors: header with ", "expected a JSON object"],
        ),
        (
            "a truncated file",
            |d| edit_bytes(&d.join(FILE), |b| b.truncate(b.len() - 1)),
            &[
                "model.safetensors: tensor `transformer.wte.weight`: found data at bytes 2792..3056; \
               expected to end within the 3055 bytes",
                "truncated",
            ],
        ),
        (
            "bytes left over",
            |d| edit_bytes(&d.join(FILE), |b| b.push(0)),
            &["model.safetensors: 3057 bytes of data; expected 3056 bytes, as the header says"],
        ),
        (
            "an offset beyond the file",
            |d| edit_header(d, |h| h[WTE]["data_offsets"][1] = json!(1_u64 << 40)),
            &[
                "model.safetensors: tensor `transformer.wte.weight`: found data at bytes 2792..1099511627776; \
               expected to end within",
            ],
        ),
        (
            "a negative offset",
            |d| edit_header(d, |h| h[WTE]["data_offsets"][0] = json!(-4)),
            &[
                "model.safetensors: header with `transformer.wte.weight`: ",
                "-4",
            ],
        ),
        (
            "a range backwards",
            |d| edit_header(d, |h| h[WTE]["data_offsets"] = json!([2792, 100])),
            &[
                "model.safetensors: tensor `transformer.wte.weight`: found data at bytes 2792..100; \
               expected 264 bytes for F32 of shape [11, 6]",
            ],
        ),
        (
            "overlapping tensors",
            |d| {
                edit_header(d, |h| {
                    h["transformer.wpe.weight"]["data_offsets"] = json!([2668, 2788]);
                });
            },
            &[
                "model.safetensors: tensor `transformer.wpe.weight`: found data at bytes 2668..2788; \
               expected to start at byte 2672",
            ],
        ),
        (
            "a hole",
            |d| edit_header(d, |h| h[WTE]["data_offsets"][0] = json!(2796)),
            &[
                "model.safetensors: tensor `transformer.wte.weight`: found data at bytes 2796..3056; \
               expected to start at byte 2792",
            ],
        ),
        (
            "two names for one range",
            |d| {
                edit_header(d, |h| {
                    h[WTE] = h["transformer.wpe.weight"].clone();
                });
            },
            &[
                "model.safetensors: tensor `transformer.wte.weight`: found data at bytes 2672..2792; \
               expected to start at byte 2792",
            ],
        ),
        (
            "a shape unlike its bytes",
            |d| edit_header(d, |h| h[WTE]["shape"] = json!([11, 7])),
            &[
                "model.safetensors: tensor `transformer.wte.weight`: found data at bytes 2792..3056; \
               expected 308 bytes for F32 of shape [11, 7]",
            ],
        ),
        (
            "a dtype unlike its bytes",
            |d| edit_header(d, |h| h[WTE]["dtype"] = json!("F16")),
            &[
                "tensor `transformer.wte.weight`: found data",
                "expected 132 bytes for F16",
            ],
        ),
        (
            "a shape that overflows",
            |d| edit_header(d, |h| h[WTE]["shape"] = json!([1_u64 << 62, 64])),
            &[
                "tensor `transformer.wte.weight`: found data",
                "that fits in memory for F32 of shape [4611686018427387904, 64]",
            ],
        ),
        (
            "a negative size",
            |d| edit_header(d, |h| h[WTE]["shape"] = json!([-11, 6])),
            &[
                "model.safetensors: header with `transformer.wte.weight`: ",
                "-11",
            ],
        ),
        (
            "an unknown dtype",
            |d| edit_header(d, |h| h[WTE]["dtype"] = json!("Q4_K")),
            &[
                "model.safetensors: header with `transformer.wte.weight`: unknown variant `Q4_K`",
                "`BF16`",
            ],
        ),
        (
            "no offsets",
            |d| {
                edit_header(d, |h| {
                    h[WTE].as_object_mut().unwrap().remove("data_offsets");
                });
            },
            &[
                "model.safetensors: header with `transformer.wte.weight`: missing field `data_offsets`",
            ],
        ),
        (
            "a name twice",
            |d| {
                let (header, data) = split(&d.join(FILE));
                let text = Value::Object(header.clone()).to_string();
                let again = format!("{{\"{WTE}\":{},{}", header[WTE], &text[1..]);
                join(&d.join(FILE), &again, &data);
            },
            &["model.safetensors: header with `transformer.wte.weight` occurs twice"],
        ),
    ]);
}
