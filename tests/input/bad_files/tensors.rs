//! Tensors that do not fit the config.

use super::*;

#[test]
fn bad_tensors() {
    check(&[
        (
            "a missing tensor",
            |d| {
                edit_tensors(d, |t| {
                    t.retain(|t| t.name != "transformer.h.1.mlp.c_fc.bias");
                });
            },
            &[
                "model.safetensors: tensor `transformer.h.1.mlp.c_fc.bias`: found nothing; \
               expected a tensor of shape [10] (config.json: n_layer 2",
            ],
        ),
        (
            "a bias mistaken for a mask",
            |d| {
                edit_tensors(d, |t| {
                    t.retain(|t| t.name != "transformer.h.0.attn.c_attn.bias");
                });
            },
            &[
                "tensor `transformer.h.0.attn.c_attn.bias`: found nothing; expected a tensor of shape [18]",
            ],
        ),
        (
            "more layers in the config",
            |d| set(d, "n_layer", json!(3)),
            &[
                "tensor `transformer.h.2.ln_1.weight`: found nothing",
                "n_layer 3",
            ],
        ),
        (
            "10^9 layers",
            |d| set(d, "n_layer", json!(1_000_000_000)),
            &[
                "tensor `transformer.h.2.ln_1.weight`: found nothing",
                "n_layer 1000000000",
            ],
        ),
        (
            "fewer layers in the config",
            |d| set(d, "n_layer", json!(1)),
            &[
                "model.safetensors: tensor `transformer.h.1.",
                "found an unknown tensor of shape",
                "expected only tensors of a GPT-2 (config.json: n_layer 1,",
            ],
        ),
        (
            "another vocabulary in the config",
            |d| set(d, "vocab_size", json!(12)),
            &[
                "model.safetensors: tensor `transformer.wte.weight`: found shape [11, 6]; expected shape [12, 6]",
            ],
        ),
        (
            "a transposed weight",
            |d| edit_tensor(d, "transformer.h.0.mlp.c_fc.weight", |t| t.shape.reverse()),
            &[
                "tensor `transformer.h.0.mlp.c_fc.weight`: found shape [10, 6]; expected shape [6, 10]",
            ],
        ),
        (
            "an axis too many",
            |d| edit_tensor(d, "transformer.ln_f.bias", |t| t.shape.insert(0, 1)),
            &["tensor `transformer.ln_f.bias`: found shape [1, 6]; expected shape [6]"],
        ),
        (
            "an unknown tensor",
            |d| edit_tensors(d, |t| t.push(RawTensor::zeros("score.weight", &[2, 6]))),
            &[
                "model.safetensors: tensor `score.weight`: found an unknown tensor of shape [2, 6]; expected only",
            ],
        ),
        (
            "a mask of a layer that isn't there",
            |d| edit_tensors(d, |t| t.push(RawTensor::zeros("h.2.attn.bias", &[5, 5]))),
            &["tensor `h.2.attn.bias`: found an unknown tensor of shape [5, 5]"],
        ),
        (
            "a prefixed head",
            |d| {
                edit_tensors(d, |t| {
                    t.push(RawTensor::zeros("transformer.lm_head.weight", &[11, 6]));
                });
            },
            &["tensor `transformer.lm_head.weight`: found an unknown tensor"],
        ),
        (
            "with and without prefix",
            |d| edit_tensors(d, |t| t.push(RawTensor::zeros("wte.weight", &[11, 6]))),
            &[
                "model.safetensors: tensor `wte.weight`: found the tensor twice: it is \
               `transformer.wte.weight` in ",
                "expected each tensor once",
            ],
        ),
        (
            "integers",
            |d| edit_tensor(d, "transformer.ln_f.bias", |t| t.dtype = "I32".to_string()),
            &["tensor `transformer.ln_f.bias`: found dtype I32; expected dtype F32, F16 or BF16"],
        ),
        (
            "NaN",
            |d| {
                edit_tensor(d, "transformer.h.1.mlp.c_proj.weight", |t| {
                    t.bytes[4 * 13..4 * 14].copy_from_slice(&f32::NAN.to_le_bytes());
                });
            },
            &[
                "model.safetensors: tensor `transformer.h.1.mlp.c_proj.weight`: found NaN at [2, 1]; expected finite numbers",
            ],
        ),
        (
            "infinity in F16",
            |d| {
                edit_tensor(d, "transformer.ln_f.weight", |t| {
                    t.dtype = "F16".to_string();
                    t.bytes = vec![0, 0x3c, 0, 0x3c, 0, 0x3c, 0, 0x3c, 0, 0x3c, 0, 0x7c];
                });
            },
            &["tensor `transformer.ln_f.weight`: found inf at [5]; expected finite numbers"],
        ),
        (
            "a head unlike the embedding",
            |d| edit_tensors(d, |t| t.push(RawTensor::zeros("lm_head.weight", &[11, 6]))),
            &[
                "model.safetensors: tensor `lm_head.weight`: found values unlike `wte.weight`'s, first at [0, 0]; \
               expected equal bits",
                "tie_word_embeddings",
            ],
        ),
        (
            "a head of another shape",
            |d| edit_tensors(d, |t| t.push(RawTensor::zeros("lm_head.weight", &[12, 6]))),
            &["tensor `lm_head.weight`: found shape [12, 6]; expected shape [11, 6]"],
        ),
        (
            "a head's bias of another shape",
            |d| edit_tensors(d, |t| t.push(RawTensor::zeros("lm_head.bias", &[6]))),
            &["tensor `lm_head.bias`: found shape [6]; expected shape [11]"],
        ),
        (
            "no head of its own",
            |d| set(d, "tie_word_embeddings", json!(false)),
            &[
                "tensor `lm_head.weight`: found nothing",
                "tie_word_embeddings false",
            ],
        ),
    ]);
}
