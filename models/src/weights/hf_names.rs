//! Hugging Face's names for the tensors that GGUF names.

use crate::config::Architecture;

/// The name that a checkpoint of `architecture` has for the tensor that GGUF calls `name`.
///
/// `prefix` is `model.`, or nothing where the bare decoder was saved. `None` for tensors that such a checkpoint
/// does not have, stacks of experts among them ([`expert_name`]).
pub(super) fn name(architecture: Architecture, prefix: &str, name: &str) -> Option<String> {
    match name {
        "token_embd.weight" => return Some(format!("{prefix}embed_tokens.weight")),
        "output.weight" => return Some("lm_head.weight".to_owned()),
        "output.bias" => return Some("lm_head.bias".to_owned()),
        "output_norm.weight" => return Some(format!("{prefix}norm.weight")),
        "output_norm.bias" => return Some(format!("{prefix}norm.bias")),
        _ => {}
    }
    let (layer, part, kind) = split(name)?;
    let module = match (part, architecture) {
        ("ffn_up", Architecture::Starcoder2) => "mlp.c_fc",
        ("ffn_down", Architecture::Starcoder2) => "mlp.c_proj",
        ("ffn_gate_inp", Architecture::Qwen3Moe) => "mlp.gate",
        ("ffn_gate", _) => "mlp.gate_proj",
        ("ffn_up", _) => "mlp.up_proj",
        ("ffn_down", _) => "mlp.down_proj",
        ("attn_norm", _) => "input_layernorm",
        ("ffn_norm", _) => "post_attention_layernorm",
        ("attn_q", _) => "self_attn.q_proj",
        ("attn_k", _) => "self_attn.k_proj",
        ("attn_v", _) => "self_attn.v_proj",
        ("attn_output", _) => "self_attn.o_proj",
        ("attn_q_norm", _) => "self_attn.q_norm",
        ("attn_k_norm", _) => "self_attn.k_norm",
        _ => return None,
    };
    Some(format!("{prefix}layers.{layer}.{module}.{kind}"))
}

/// The name of one expert's matrix out of the stack that GGUF calls `name` (`blk.N.ffn_{gate,up,down}_exps.weight`).
pub(super) fn expert_name(prefix: &str, name: &str, expert: usize) -> Option<String> {
    let (layer, part, kind) = split(name)?;
    let module = match part {
        "ffn_gate_exps" => "gate_proj",
        "ffn_up_exps" => "up_proj",
        "ffn_down_exps" => "down_proj",
        _ => return None,
    };
    Some(format!("{prefix}layers.{layer}.mlp.experts.{expert}.{module}.{kind}"))
}

/// `blk.LAYER.PART.KIND` taken apart; KIND is `weight` or `bias`.
fn split(name: &str) -> Option<(usize, &str, &str)> {
    let (layer, rest) = name.strip_prefix("blk.")?.split_once('.')?;
    let (part, kind) = rest.rsplit_once('.')?;
    matches!(kind, "weight" | "bias").then_some(())?;
    Some((layer.parse().ok()?, part, kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_architecture() {
        let cases = [
            (Architecture::Llama, "token_embd.weight", "model.embed_tokens.weight"),
            (Architecture::Llama, "output.weight", "lm_head.weight"),
            (Architecture::Llama, "blk.3.attn_output.weight", "model.layers.3.self_attn.o_proj.weight"),
            (Architecture::Llama, "blk.3.ffn_down.weight", "model.layers.3.mlp.down_proj.weight"),
            (Architecture::Qwen2, "blk.0.attn_q.bias", "model.layers.0.self_attn.q_proj.bias"),
            (Architecture::Qwen3, "blk.0.attn_k_norm.weight", "model.layers.0.self_attn.k_norm.weight"),
            (Architecture::Qwen3Moe, "blk.0.ffn_gate_inp.weight", "model.layers.0.mlp.gate.weight"),
            (Architecture::Starcoder2, "blk.9.ffn_up.bias", "model.layers.9.mlp.c_fc.bias"),
            (Architecture::Starcoder2, "blk.9.ffn_norm.bias", "model.layers.9.post_attention_layernorm.bias"),
            (Architecture::Starcoder2, "output_norm.bias", "model.norm.bias"),
        ];
        for (architecture, gguf, hf) in cases {
            assert_eq!(name(architecture, "model.", gguf).as_deref(), Some(hf));
        }
        for none in ["blk.0.ffn_up_exps.weight", "blk.x.attn_q.weight", "blk.0.attn_q.scale", "rope_freqs.weight", ""] {
            assert_eq!(name(Architecture::Llama, "model.", none), None);
        }
        let expert = expert_name("model.", "blk.2.ffn_down_exps.weight", 17);
        assert_eq!(expert.as_deref(), Some("model.layers.2.mlp.experts.17.down_proj.weight"));
    }
}
